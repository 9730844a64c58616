"""Optimizers by name, and small problems to run them on, in JAX and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import tvlars
import tvlars.jax

# name -> (function of tvlars.jax, arguments that act quickly); the PyTorch class takes the same ones.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lars": ("lars", dict(learning_rate=0.5, weight_decay=0.01, trust_coefficient=0.02)),
    "lars-plain": ("lars", dict(learning_rate=0.5, momentum=0.0)),
    "lars-nesterov": ("lars", dict(learning_rate=0.5, weight_decay=0.01, trust_coefficient=0.02, nesterov=True)),
    "lars-clipped": ("lars", dict(learning_rate=0.5, weight_decay=0.1, trust_coefficient=0.02, norm_clip=1.5)),
    "tvlars": (
        "tvlars",
        dict(
            learning_rate=0.5,
            weight_decay=0.01,
            trust_coefficient=0.02,
            delay_factor=0.4,
            delay=4,
            alpha=0.7,
            gamma_min=0.01,
        ),
    ),
    "tvlars-nesterov": (
        "tvlars",
        dict(learning_rate=0.5, trust_coefficient=0.02, delay_factor=0.4, delay=4, nesterov=True),
    ),
    "tvlars-ratio": (
        "tvlars",
        dict(
            learning_rate=0.5,
            weight_decay=0.01,
            trust_coefficient=0.02,
            delay_factor=0.4,
            delay=4,
            norm_clip=2.0,
            phi_scope="ratio",
        ),
    ),
    "lamb": ("lamb", dict(learning_rate=0.02)),
    "lamb-betas": ("lamb", dict(learning_rate=0.02, betas=(0.0, 0.95), eps=1e-3, weight_decay=0.0)),
    "lamb-uncorrected": ("lamb", dict(learning_rate=0.02, bias_correction=False, norm_clip=2.0)),
}

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "conv": {"kernel": (3, 3, 2, 4)},
    "norm": {"scale": (4,)},
    "dense": {"kernel": (8, 6)},
    "zero": {"kernel": (4, 4)},
    "temperature": {"value": ()},
}


def make(name: str, **changes: Any) -> optax.GradientTransformation:
    """The optimizer ``name``; without changes always the same one, so that JAX compiles its update once."""
    return changed(name, **changes) if changes else usual(name)


@cache
def usual(name: str) -> optax.GradientTransformation:
    return changed(name)


def changed(name: str, **changes: Any) -> optax.GradientTransformation:
    kind, arguments = OPTIMIZERS[name]
    build: Callable[..., optax.GradientTransformation] = getattr(tvlars.jax, kind)
    return build(**{**arguments, **changes})


def make_torch(name: str, params: Any, lr: float | None = None) -> torch.optim.Optimizer:
    kind, arguments = OPTIMIZERS[name]
    rest = {key: value for key, value in arguments.items() if key != "learning_rate"}
    cls: Callable[..., torch.optim.Optimizer] = getattr(tvlars, kind.upper())
    return cls(params, lr=arguments["learning_rate"] if lr is None else lr, **rest)


def parameters(seed: int = 0, dtype: Any = np.float32) -> dict[str, dict[str, np.ndarray]]:
    """A tree as Flax has it: kernels of four and two dimensions, a vector, a scalar, and a layer of zeros."""
    rng = np.random.default_rng(seed)
    tree = {layer: {k: rng.standard_normal(s) for k, s in leaves.items()} for layer, leaves in SHAPES.items()}
    tree["zero"]["kernel"] *= 0
    return jax.tree.map(lambda x: np.asarray(x, dtype), tree)


def gradients(step: int, dtype: Any = np.float32) -> dict[str, dict[str, np.ndarray]]:
    """Gradients that depend on the step alone; that of a layer is zero at step 3 (0-based)."""
    tree = parameters(1000 + step, dtype)
    tree["zero"]["kernel"] = np.random.default_rng(step).standard_normal((4, 4)).astype(dtype)
    if step == 3:
        tree["dense"]["kernel"] *= 0
    return tree


def run(
    optimizer: optax.GradientTransformation, params: Any, steps: int, state: Any = None, first: int = 0
) -> tuple[Any, Any, list[Any]]:
    """Parameters and state after some steps on :func:`gradients`, and the parameters after each of them."""
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params) if state is None else state
    update = jax.jit(optimizer.update)
    seen = []
    for step in range(first, first + steps):
        grads = jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype), gradients(step, np.float64), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return params, state, seen


@cache
def plain(name: str) -> list[Any]:
    """The parameters after each of ten steps of an optimizer without a mask; compiled once for all tests."""
    return run(make(name), parameters(), 10)[2]


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-6, start: Any = None) -> None:
    """Equal to ``tolerance``: relative, or of the leaf's scale, now or at ``start``, where an element has vanished."""

    def check(a: Any, e: Any, *first: Any) -> None:
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        scale = max(np.abs(x).max(initial=0.0) for x in (e, *first))
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * scale)

    jax.tree.map(check, actual, expected, *(() if start is None else (start,)))


def assert_equal(actual: Any, expected: Any) -> None:
    """The same structure, dtypes and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(e))
