"""Tests of ``tvlars.jax``; without JAX the whole folder is skipped."""

import pytest

pytest.importorskip("jax", reason="tvlars.jax needs JAX: pip install 'tvlars[jax]'")
pytest.importorskip("optax", reason="tvlars.jax needs optax: pip install 'tvlars[jax]'")
