"""Masks of a tree of parameters: leaves with a trust ratio and weight decay, and learning rates of the others."""

from __future__ import annotations

import operator
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_flatten_with_path, tree_map_with_path

from tvlars._roles import is_adapted, is_bias, is_norm, is_table, is_vector, words
from tvlars.jax._types import Mask, Scalar, check_number

EMBEDDINGS = ("embedding", "embeddings")
NOT_ADAPTED = ("scale", "offset", "b")
EQUINOX_NORMALIZATION = ("BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm")
EQUINOX_WEIGHTED = ("Linear", "Conv", "ConvTranspose", "Embedding", "GRUCell", "LSTMCell")


def layer_mask(params: Any) -> Any:
    """Return True for leaves with a trust ratio and weight decay, False for biases, norms, scales, tokens and tables.

    This is the rule of :func:`tvlars.layer_groups` for trees of Flax (Linen dictionaries, NNX states and modules),
    Haiku, Equinox and other libraries. Instead of module types, it uses the names of a leaf and of its parents, in
    this order:

    1. Everything under ``batch_stats``, and every leaf of an Equinox normalization module (batch, group, layer, RMS
       norm): False, whatever its name. The weights of Equinox's linear, convolution, embedding and recurrent modules:
       True, except for position embeddings.
    2. ``scale``, ``offset``, ``b`` and every name with bias, of any shape: False. This also separates the stacked norms
       and biases of a scan from weights.
    3. ``kernel``, ``embedding``, ``w``: True, except for embeddings of positions and special tokens, such as
       ``position_embeddings``, and embeddings with one row.
    4. All other leaves of a norm (``ln_1``, ``RMSNorm_0``), leaves with the name of a scale, a token or a position
       embedding (``gamma``, ``cls_token``, ``pos_embedding``), and vectors, without counting dimensions of size 1:
       False.
    5. All others: True.

    Pass the function to an optimizer, ``mask=layer_mask``, not its result: the optimizer then calls it with the tree
    that it uses, which NNX wraps differently at the start and at each step.

    Args:
        params: a tree of arrays; leaves of other types are False. None stays None.

    Returns:
        A tree of the same structure with a bool for each leaf.

    Raises:
        ValueError: ``params`` is a step count, since ``optax.inject_hyperparams`` calls every function as a schedule.
    """
    if jax.tree_util.all_leaves([params]) and not jnp.issubdtype(getattr(params, "dtype", float), jnp.floating):
        raise ValueError(
            f"params must be a tree of parameters, got {params!r}: "
            'optax.inject_hyperparams needs static_args=("mask", "weight_decay_mask") if a mask is a function'
        )
    norms, weighted = _equinox(EQUINOX_NORMALIZATION), _equinox(EQUINOX_WEIGHTED)
    lengths = _equinox(("WeightNorm",))
    beside: dict[tuple[str, ...], set[str]] = {}  # names of the leaves of each node
    for path, _ in tree_flatten_with_path(params)[0]:
        names = _names(path)
        beside.setdefault(names[:-1], set()).update(names[-1:])

    def decide(path: tuple[Any, ...], node: Any) -> Any:
        if isinstance(node, norms):
            return jax.tree.map(lambda _: False, node)
        if isinstance(node, weighted):
            holder = type(node).__name__
            return tree_map_with_path(lambda below, leaf: told((*path, *below), leaf, holder), node)
        if isinstance(node, lengths):  # its leaves beside a layer are the norms of the layer's weights

            def below(inner: tuple[Any, ...], one: Any) -> Any:
                return decide((*path, *inner), one) if _names(inner)[:1] == ("layer",) else False

            return tree_map_with_path(below, node, is_leaf=lambda one: isinstance(one, (*norms, *weighted)))
        return told(path, node)

    def told(path: tuple[Any, ...], leaf: Any, holder: str = "") -> bool:
        names = _names(path)
        return _is_adapted(names, leaf, beside.get(names[:-1], set()), holder)

    return tree_map_with_path(decide, params, is_leaf=lambda node: isinstance(node, (*norms, *weighted, *lengths)))


def _is_adapted(names: tuple[str, ...], leaf: Any, siblings: set[str], holder: str) -> bool:
    """Return whether a leaf has a trust ratio, by its names, outermost first; ``holder`` is the Equinox module type."""
    if "batch_stats" in names or not hasattr(leaf, "shape"):
        return False
    parent, called, own = ("", "", "", *names)[-3:]
    if holder == "Embedding" and own == "weight":
        own = "embedding"
    elif holder and own.startswith("weight"):
        return True
    if own == "b" and "lora" in words(called):  # the other matrix is called a
        return True
    if own in NOT_ADAPTED or is_bias(own, siblings):
        return False
    if own in EMBEDDINGS:
        return not (is_vector(leaf.shape) or is_table((called, parent)))
    if own == "kernel" or (own == "w" and not is_norm(called)):
        return True
    return is_adapted((own, called), leaf.shape, siblings)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names along a path, without indices; Haiku joins several names in one key."""
    keys = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    named = [key.rpartition("/")[2] for key in keys if isinstance(key, str) and not key.isdigit()]
    if len(named) > 1 and named[-1] == "value":  # the entry of a variable of NNX with the array
        named.pop()
    return tuple(named)


def _equinox(names: tuple[str, ...]) -> tuple[type, ...]:
    equinox = sys.modules.get("equinox")  # if it has not been imported, no tree contains its modules
    if equinox is None:
        return ()
    return tuple(getattr(equinox.nn, name) for name in names if hasattr(equinox.nn, name))


# -- masks in a chain -------------------------------------------------------------------------------------


def masked(inner: optax.GradientTransformation, mask: Mask | None) -> optax.GradientTransformation:
    """Return ``inner`` for leaves where the mask is True, or for all leaves without a mask."""
    return inner if mask is None else optax.masked(inner, mask)


def scale_unadapted(mask: Mask | None, bias_norm_lr_scale: Scalar) -> optax.GradientTransformation:
    """Return a transformation that multiplies the updates where the mask is False."""
    if mask is None:
        return optax.identity()
    return optax.masked(optax.scale(bias_norm_lr_scale), _complement(mask))


def _complement(mask: Mask) -> Mask:
    leaves = jax.tree.leaves(mask)
    if leaves and all(map(callable, leaves)):  # an Equinox module of booleans may be callable itself
        return lambda params: jax.tree.map(operator.not_, mask(params))
    return jax.tree.map(operator.not_, mask)


def check_mask(mask: Mask | None, weight_decay_mask: Mask | None, bias_norm_lr_scale: Any, learning_rate: Any) -> None:
    """Raise ``ValueError`` for an invalid mask, or a scale that is out of range or has no mask; warn if leaves without
    a trust ratio use a large learning rate."""
    for name, tree in (("mask", mask), ("weight_decay_mask", weight_decay_mask)):
        for leaf in jax.tree.leaves(tree):
            if not (callable(leaf) or isinstance(leaf, bool) or getattr(leaf, "dtype", None) == jnp.bool_):
                raise ValueError(
                    f"{name} must be a tree of booleans or a function that returns one, such as layer_mask, "
                    f"got {leaf!r} in it"
                )
    check_number("bias_norm_lr_scale", bias_norm_lr_scale)
    if not isinstance(bias_norm_lr_scale, (int, float)):  # an injected value may change
        return
    if bias_norm_lr_scale != 1.0:
        if mask is None:
            raise ValueError(f"mask must be given if bias_norm_lr_scale is {bias_norm_lr_scale!r}, got None")
        return
    known = not (callable(learning_rate) or isinstance(learning_rate, jax.core.Tracer))
    if mask is not None and known and (lr := float(learning_rate)) > 1.0:
        warnings.warn(
            f"parameters with mask False (biases, norms) use learning_rate = {lr:g} without a trust ratio of about "
            "1e-3. Reduce their learning rate, for example with bias_norm_lr_scale=0.03.",
            stacklevel=3,
        )
