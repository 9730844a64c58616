"""Tests of ``tvlars.jax``; without JAX the whole folder is skipped."""

import pytest

pytest.importorskip("jax", reason="tvlars.jax needs JAX: pip install '.[jax]' in the source folder")
pytest.importorskip("optax", reason="tvlars.jax needs optax: pip install '.[jax]' in the source folder")
