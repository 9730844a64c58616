"""Tests of ``tvlars.jax``; without JAX the whole folder is skipped."""

import pytest

jax = pytest.importorskip("jax", reason="tvlars.jax needs JAX: pip install '.[jax]' in the source folder")
pytest.importorskip("optax", reason="tvlars.jax needs optax: pip install '.[jax]' in the source folder")

jax.config.update("jax_num_cpu_devices", 2)  # for test_sharded.py, before JAX makes any array
jax.config.update("jax_disable_most_optimizations", True)  # to compile takes longer than the few steps of a test
