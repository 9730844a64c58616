"""Scripts of benchmarks/ import each other as a script's neighbours do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of thousands of epochs would compile the model to see whether that pays."""

    def choose_compile(*arguments: Any, **options: Any) -> tuple[bool, str]:
        return False, ""

    monkeypatch.setattr("tvlars.lab.training.prepare.choose_compile", choose_compile)
