"""Which leaves of a tree of parameters are layers to adapt and decay, and what becomes of the others."""

from __future__ import annotations

import operator
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_map_with_path

from tvlars.jax._types import Mask, Scalar, check_number

ADAPTED = ("kernel", "embedding")
NOT_ADAPTED = ("scale", "offset", "b")
EQUINOX_NORMALIZATION = ("BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm")


def layer_mask(params: Any) -> Any:
    """True for every leaf that is to be adapted and decayed, False for biases and norm parameters.

    What :func:`tvlars.layer_groups` tells by module type is told by the name of a leaf here, the last in its path, for
    trees of Flax (Linen dictionaries, NNX states and modules) and any other, in this order:

    1. Every leaf of an Equinox normalization module (batch, group, layer, RMS norm), and everything under
       ``batch_stats``: False, whatever its name.
    2. ``kernel``, ``embedding``: True.
    3. ``scale``, ``offset``, ``b`` and every name that contains "bias", of whatever shape: False.
    4. Any other name (``weight`` of an Equinox layer, a class token, a layer scale): True from two dimensions on.

    Give it to an optimizer as it is, ``mask=layer_mask``, rather than its result: it is then asked about the very tree
    that the optimizer sees, which NNX wraps in one way at the start and in another at each step.

    Args:
        params: a tree of arrays; anything else among its leaves is False. None stays None.

    Returns:
        A tree of the same structure with a bool for each leaf.

    Raises:
        ValueError: ``params`` is the step count of a schedule, since ``optax.inject_hyperparams`` takes every function
            for one.
    """
    if jax.tree_util.all_leaves([params]) and not jnp.issubdtype(getattr(params, "dtype", float), jnp.floating):
        raise ValueError(
            f"params must be a tree of parameters, got {params!r}: "
            'optax.inject_hyperparams wants static_args=("mask", "weight_decay_mask") where a mask is a function'
        )
    norms = _equinox_normalization()

    def decide(path: tuple[Any, ...], node: Any) -> Any:
        if isinstance(node, norms):
            return jax.tree.map(lambda _: False, node)
        return _is_adapted([_name(key) for key in path], node)

    return tree_map_with_path(decide, params, is_leaf=lambda node: isinstance(node, norms))


def _is_adapted(names: list[str | None], leaf: Any) -> bool:
    if "batch_stats" in names:
        return False
    if len(names) > 1 and names[-1] == "value":  # what holds the array in a variable of NNX
        names = names[:-1]
    own = next((name for name in reversed(names) if name is not None), "")
    if own in ADAPTED:
        return True
    if own in NOT_ADAPTED or "bias" in own:
        return False
    return getattr(leaf, "ndim", 0) >= 2


def _name(key: Any) -> str | None:
    """What a key of a path is called, None for an index."""
    name = getattr(key, "key", getattr(key, "name", None))
    return name if isinstance(name, str) else None


def _equinox_normalization() -> tuple[type, ...]:
    equinox = sys.modules.get("equinox")  # where it has not been imported, no tree holds its modules
    if equinox is None:
        return ()
    return tuple(getattr(equinox.nn, name) for name in EQUINOX_NORMALIZATION if hasattr(equinox.nn, name))


# -- masks in a chain -------------------------------------------------------------------------------------


def masked(inner: optax.GradientTransformation, mask: Mask | None) -> optax.GradientTransformation:
    """``inner`` where the mask is True; everywhere without a mask."""
    return inner if mask is None else optax.masked(inner, mask)


def scale_unadapted(mask: Mask | None, bias_norm_lr_scale: Scalar) -> optax.GradientTransformation:
    """Multiply the updates where the mask is False."""
    if mask is None:
        return optax.identity()
    return optax.masked(optax.scale(bias_norm_lr_scale), _complement(mask))


def _complement(mask: Mask) -> Mask:
    leaves = jax.tree.leaves(mask)
    if leaves and all(map(callable, leaves)):  # an Equinox module of booleans may be callable itself
        return lambda params: jax.tree.map(operator.not_, mask(params))
    return jax.tree.map(operator.not_, mask)


def check_mask(mask: Mask | None, weight_decay_mask: Mask | None, bias_norm_lr_scale: Any, learning_rate: Any) -> None:
    """Raise ValueError for what is no mask, and for a scale that is out of range or has no mask; warn where a large
    learning rate stays raw."""
    for name, tree in (("mask", mask), ("weight_decay_mask", weight_decay_mask)):
        for leaf in jax.tree.leaves(tree):
            if not (callable(leaf) or isinstance(leaf, bool) or getattr(leaf, "dtype", None) == jnp.bool_):
                raise ValueError(
                    f"{name} must be a tree of booleans or a function from parameters to one, as layer_mask; "
                    f"got {leaf!r} in it"
                )
    check_number("bias_norm_lr_scale", bias_norm_lr_scale)
    if not isinstance(bias_norm_lr_scale, (int, float)):  # injected, and may change
        return
    if bias_norm_lr_scale != 1.0:
        if mask is None:
            raise ValueError(f"mask must be given where bias_norm_lr_scale is {bias_norm_lr_scale!r}, got None")
        return
    known = not (callable(learning_rate) or isinstance(learning_rate, jax.core.Tracer))
    if mask is not None and known and (lr := float(learning_rate)) > 1.0:
        warnings.warn(
            f"parameters that the mask leaves unadapted (biases, norms) take learning_rate = {lr:g} as it "
            "is, without a trust ratio of about 1e-3. Give them less, for example bias_norm_lr_scale=0.03.",
            stacklevel=3,
        )
