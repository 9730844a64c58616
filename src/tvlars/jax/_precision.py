"""Arithmetic in float32 for parameters and state in bfloat16 or float16.

In bfloat16, optax's own transformations would round μ = 0.9 to 0.8984 and β₂ = 0.999 to 1, and norms would lose digits.
The stored state is still rounded, as in the PyTorch classes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return ``inner`` computed in at least float32; the state has the parameters' dtypes, updates the gradients'.

    A leaf whose gradient is None, or that is not floating point, is not changed, and neither is its state.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        for leaf in jax.tree.leaves(params):
            if jnp.issubdtype(_dtype(leaf), jnp.complexfloating):
                raise TypeError(f"params must be real floating point arrays, got one of {_dtype(leaf)}")
        return inner.init(jax.tree.map(_floating, params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params must be given to update(gradients, state, params), got None")
        u = jax.tree.map(_widened, updates)
        w = jax.tree.map(lambda u, w: None if u is None else _widened(w), u, params, is_leaf=_is_none)
        new, new_state = inner.update(u, jax.tree.map(_in_float32, state), w, **extra)
        return _like(new, updates), _like(new_state, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _like(tree: Any, reference: Any) -> Any:
    """Return ``tree`` in the dtypes of ``reference``, with the leaf of ``reference`` where ``tree`` has None."""
    return jax.tree.map(
        lambda old, new: old if new is None else jnp.asarray(new, _dtype(old)), reference, tree, is_leaf=_is_none
    )


def _widened(x: Any) -> Any:
    return _in_float32(_floating(x))


def _floating(x: Any) -> Any:
    return x if jnp.issubdtype(_dtype(x), jnp.floating) else None


def _in_float32(x: Any) -> Any:
    dtype = _dtype(x)
    half = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
    return x.astype(jnp.float32) if half else x


def _dtype(x: Any) -> Any:
    """Return the dtype of a leaf; object for a leaf that is not an array, such as a function in an Equinox module."""
    if isinstance(x, float):
        return jnp.result_type(x)
    return getattr(x, "dtype", jnp.dtype("O"))


def _is_none(x: Any) -> bool:
    return x is None
