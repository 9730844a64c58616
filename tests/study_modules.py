"""Modules of benchmarks/studies for the tests: they are scripts beside each other, in no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies"


def study_module(name: str) -> ModuleType:
    """Return a module of benchmarks/studies under a name of its own; it finds those beside it while it is imported."""
    spec = importlib.util.spec_from_file_location(f"studies_{name}", STUDIES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        spec.loader.exec_module(found)
    return found
