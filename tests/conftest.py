"""Shared by all tests: optimizers by name, and small problems to run them on."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.command import borrow_server, lend_server
from tvlars import LAMB, LARS, TVLARS

os.environ["TVLARS_CACHE"] = "/dev/null/none"  # a folder that cannot be: no speed of this machine decides in tests

# A new optimizer gets the whole contract suite by one line here: name -> (class, arguments that act quickly).
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "lars": (LARS, dict(lr=0.5, momentum=0.9, weight_decay=0.01, trust_coefficient=0.02)),
    "lars-nesterov": (LARS, dict(lr=0.5, momentum=0.9, weight_decay=0.01, trust_coefficient=0.02, nesterov=True)),
    "tvlars": (
        TVLARS,
        dict(
            lr=0.5, momentum=0.9, weight_decay=0.01, trust_coefficient=0.02, delay_factor=0.4, delay=4, gamma_min=0.01
        ),
    ),
    "tvlars-ratio": (
        TVLARS,
        dict(lr=0.5, weight_decay=0.01, trust_coefficient=0.02, delay_factor=0.4, delay=4, phi_scope="ratio"),
    ),
    "lamb": (LAMB, dict(lr=0.02, weight_decay=0.01)),
    "lamb-uncorrected": (LAMB, dict(lr=0.02, weight_decay=0.01, bias_correction=False, norm_clip=2.0)),
}
PATHS: dict[str, dict[str, Any]] = {
    "for-loop": dict(foreach=False),
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
    "default": {},
}


TOGETHER = ("tests/jax/", "tests/lab/measure/")
"""Folders whose tests share what takes long: updates that JAX has compiled, a fixture of the session."""


def pytest_configure(config: pytest.Config) -> None:
    """Commands under test are forked from one process, whichever worker runs them."""
    if hasattr(config, "workerinput"):
        borrow_server()
    elif getattr(config.option, "numprocesses", None):
        lend_server()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests come first, each for whichever worker is free; the others, and those that share a fixture of their
    module, stay together, large groups before small ones, so that no worker begins a long one when others are done."""
    if not hasattr(config, "workerinput"):
        return
    groups: dict[pytest.Item, str] = {}
    for item in items:
        if folders := [folder for folder in TOGETHER if item.location[0].startswith(folder)]:
            groups[item] = folders[0]
            continue
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        shares = any(one.scope == "module" for found in fixtures for one in found)
        if shares or item.get_closest_marker("slow") is None:
            groups[item] = item.location[0]
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    sizes = Counter(groups.values())

    def turn(item: pytest.Item) -> tuple[bool, int, str]:
        group = groups.get(item, "")
        return item.get_closest_marker("slow") is None, -sizes[group], group

    items.sort(key=turn)


def pytest_collection() -> None:
    """Collect no garbage while tests are imported: modules stay, and each search among them takes seconds."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """End the session where groups have no effect: fixtures would be made again and again."""
    gc.freeze()
    gc.enable()
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if getattr(session.config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist must group tests, but this version of pytest keeps their names")


@pytest.fixture(autouse=True, scope="session")
def hangup() -> None:
    """Let SIGHUP act, which ``nohup`` has ignored: tests send it."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_acts() -> None:
    """A job in the background of a shell ignores SIGINT, and would hand that down to the commands under test."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


Make = Callable[..., torch.optim.Optimizer]


@pytest.fixture(params=list(OPTIMIZERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(PATHS))
def path(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PATHS[request.param]


@pytest.fixture
def make(name: str, path: dict[str, Any]) -> Make:
    """Makes the optimizer of this test on given parameters: ``make(params, **other_arguments)``."""

    def build(params: Any, **arguments: Any) -> torch.optim.Optimizer:
        cls, defaults = OPTIMIZERS[name]
        return cls(params, **{**defaults, **path, **arguments})

    return build


def tensors(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Parameters of many shapes: 4-d, 2-d, 1-d, 0-d, and one of zeros."""
    g = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, ...]] = [(4, 3, 3, 3), (6, 5), (7,), (), (1,)]
    values = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes] + [torch.zeros(3, 3)]
    return [nn.Parameter(value.to(dtype)) for value in values]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    """Gradients that depend on the step alone, so that runs can be compared."""
    for p, gradient in zip(params, _gradients(tuple(p.shape for p in params), step), strict=True):
        p.grad = gradient.to(p.dtype, copy=True)


@lru_cache(maxsize=64)
def _gradients(shapes: tuple[torch.Size, ...], step: int) -> list[Tensor]:
    """Draw them once for the tests that follow each other, since drawing takes longer than a step."""
    g = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> list[Tensor]:
    """Take the steps and return copies of the parameters."""
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
    return [p.detach().clone() for p in params]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, for tests of pages."""
    if (chromium_path := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=chromium_path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()
