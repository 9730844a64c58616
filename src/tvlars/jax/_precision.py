"""Arithmetic in float32 for parameters and state that are kept in bfloat16 or float16.

In bfloat16 optax's own links would take μ = 0.9 for 0.8984 and β₂ = 0.999 for 1, and norms would lose digits. What is
left is the rounding of the state as it is stored, which the PyTorch classes have too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """``inner``, computed in at least float32; its state keeps the parameters' dtypes, its updates the gradients'.

    A leaf whose gradient is None, and one that is not floating point, is left alone, and so is its state.
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
    """``tree`` in the dtypes of ``reference``, and the leaf of ``reference`` itself where ``tree`` has None."""
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
    """The dtype of a leaf; that of an object for a leaf that is no array, such as a function of an Equinox module."""
    if isinstance(x, float):
        return jnp.result_type(x)
    return getattr(x, "dtype", jnp.dtype("O"))


def _is_none(x: Any) -> bool:
    return x is None
