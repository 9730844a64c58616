"""The core needs torch alone, and tvlars.jax says what it needs."""

from __future__ import annotations

import subprocess
import sys


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_core_imports_no_jax() -> None:
    done = python("import sys, tvlars; sys.exit(bool({'jax', 'optax', 'flax', 'equinox'} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr


def test_without_the_extra_one_sentence_says_so() -> None:
    hide = """
import importlib.abc, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "optax":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
import tvlars
import tvlars.jax
"""
    done = python(hide)
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1]
        == "ImportError: tvlars.jax needs optax: pip install '.[jax]' in the source folder"
    )
