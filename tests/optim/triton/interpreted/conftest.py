"""The Triton kernels on CPU tensors, in Triton's interpreter; ``test_interpreted.py`` starts these tests.

To run them directly: ``TRITON_INTERPRET=1 pytest tests/optim/triton/interpreted``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tvlars.optim.triton import availability, launcher

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETING:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure() -> None:
    """Half of the interpreter's time goes into replacing Triton's functions again for each call of a helper."""
    if not INTERPRETING:
        return
    from triton.runtime import interpreter

    patch, known = interpreter._patch_lang, set()

    class Kept:
        def restore(self) -> None:
            """Nothing but the interpreter runs in this process."""

    def replace_once(function: Any) -> Kept:
        if id(function.__globals__) not in known:
            known.add(id(function.__globals__))
            patch(function)
        return Kept()

    interpreter._patch_lang = replace_once
    options = interpreter.interpreter_builder.options
    if not options.debug:  # a check of every sum of integers would be worked out and then dropped
        interpreter.interpreter_builder.options = replace(options, sanitize_overflow=False)


@dataclass
class Launches:
    """The launches of a test."""

    kernels: list[tuple[str, int]] = field(default_factory=list)
    """Name and number of programs."""
    wanted: bool = True
    """True if a test must launch a kernel, since it would otherwise compare other paths with each other."""

    def names(self) -> list[str]:
        return [name for name, _ in self.kernels]


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """CPU tensors take the kernels; chunks are small, so that small layers have several."""
    done, kernels = Launches(), launcher._kernels

    def counted(kernel: Any) -> Any:
        class Counted:
            def __getitem__(self, grid: tuple[int]) -> Any:
                done.kernels.append((kernel.__name__, grid[0]))
                return kernel[grid]

        return Counted()

    def counting(*arguments: Any) -> Any:
        norms, update, dtype = kernels(*arguments)
        return counted(norms), counted(update), dtype

    monkeypatch.setattr(availability, "DEVICE_TYPES", ["cuda", "cpu"])
    monkeypatch.setattr(launcher, "_kernels", counting)
    for name, value in (("BLOCK", 256), ("CHUNK", 512), ("PARTS", 4)):
        monkeypatch.setattr(launcher, name, value)
    availability.why_not.cache_clear()
    yield done
    assert bool(done.kernels) == done.wanted
