"""The role of a parameter by its names and its shape: a weight to adapt, or a bias, a scale, a token or a table.

:func:`tvlars.layer_groups` uses it if the type of a module leaves the role open, ``tvlars.jax.layer_mask`` always.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

SCALES = {
    *(
        "scale",
        "scales",
        "scaling",
        "scalings",
        "gamma",
        "gammas",
        "beta",
        "betas",
        "gain",
        "gains",
        "magnitude",
        "alpha",
        "alphas",
    ),
    *("temperature", "temperatures", "tau", "shift", "shifts", "offset", "offsets", "ls", "layerscale", "decay"),
}
POSITIONS = {
    *("pos", "position", "positions", "positional", "posemb", "posembed", "posembedding", "posembeddings"),
    *("relpos", "abspos", "relative", "rope", "wpe", "pe", "freqs"),
}
BESIDE_REL = {"h", "w", "x", "y", "k", "v", "height", "width", "bias", "table", "key", "value", "attention", "attn"}
"""Words with which "rel" means relative positions; alone, "rel" may mean a relation."""
TOKENS = {
    "token",
    "tokens",
    "cls",
    "latent",
    "latents",
    "register",
    "registers",
    "prompt",
    "prompts",
    "query",
    "queries",
}
EMBEDDINGS = {"emb", "embs", "embed", "embeds", "embedding", "embeddings"}
SPECIAL = {
    *("cls", "class", "reg", "register", "dist", "distillation", "mask", "masked", "iou", "query", "prompt", "null"),
    *("pad", "sep", "global", "memory", "mem", "summary", "level", "modality", "type", "object", "special", "seg"),
    "segment",
}
"""Words that, before "token" or "embedding", mean a few special tokens and not a vocabulary."""
WEIGHTS = {"weight", "weights", "kernel", "kernels", "w", "proj", "projection", "matrix"}
TRANSFORMS = ("linear", "conv", "dense", "embedding", "proj")
NORMS = {"ln", "bn", "gn", "grn", "frn", "rms", "abn", "normalization", "normalisation"}
NEUTRAL = {
    "table",
    "tables",
    "vector",
    "factor",
    "factors",
    "param",
    "params",
    "parameter",
    "log",
    "mlp",
    "attn",
    "ffn",
}
GENERIC = {"weight", "weights", "embedding", "embeddings", "embed", "table", "data", "param", "parameter", "value"}
"""Names that say nothing about a parameter, so that the module's names count too."""


@lru_cache(maxsize=65536)
def words(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case: layer, norm, 2 and d for ``LayerNorm2d`` and ``layer_norm_2d``."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))


def is_vector(shape: Sequence[int]) -> bool:
    """Return True for a vector or a number, once dimensions of size 1 are dropped."""
    return sum(size != 1 for size in shape) <= 1


def is_norm(name: str) -> bool:
    """Return True for the name of a normalization: ``RMSNorm``, ``BatchNormAct2d``, ``GRN_0``, ``input_layernorm``."""
    kept = [word for word in words(name) if len(word) > 3 or word in NORMS or word == "norm"]
    return bool(kept) and (kept[-1].endswith(("norm", "norms")) or kept[-1] in NORMS)


def is_position(name: str) -> bool:
    """Return True for the name of a position embedding or a table of relative positions."""
    found = set(words(name))
    if words(name)[-1:] in (("proj",), ("projection",), ("kernel",)):
        return False
    return bool(found & POSITIONS) or ("rel" in found and bool(found & BESIDE_REL))


def is_special_token(name: str) -> bool:
    """Return True for the name of a few learned tokens, such as ``mask_tokens``, and not of a vocabulary."""
    found = words(name)
    return bool(found) and found[-1] in ("token", "tokens") and bool(set(found) & SPECIAL)


def is_transform(name: str) -> bool:
    """Return True for the name of a linear map or an embedding, such as ``MyLinear`` or ``WSConv2d``."""
    return not is_norm(name) and any(word.startswith(TRANSFORMS) for word in words(name))


def is_bias(name: str, siblings: Collection[str] = ()) -> bool:
    """Return True for the name of a bias: it says so, or is ``b`` or ``b1`` beside ``w`` or ``w1``."""
    if any(word.startswith("bias") for word in words(name)):
        return True
    match = re.fullmatch(r"b(_?\d*)", name)
    return match is not None and any(kind + match[1] in siblings for kind in ("w", "W", "weight"))


def is_scale(name: str) -> bool:
    """Return True for the name of a scale, a shift or a logarithm of rates: ``layer_scale_1``, ``A_log``."""
    found = list(words(name))
    if "log" in (found[:1] + found[-1:]):
        return True
    while found and (found[-1] in NEUTRAL or found[-1].isdigit() or len(found[-1]) == 1):
        found.pop()
    return bool(found) and found[-1] in SCALES


def is_table(names: Sequence[str]) -> bool:
    """Return True for an embedding of positions, special tokens, scales or shifts.

    Args:
        names: names of the embedding, of the module that holds it and, if known, of its class.
    """
    own, holder, *kind = names
    if "emb" in holder.lower() and is_position(holder):
        return True
    return any(map(is_position, (own, *kind))) or is_special_token(own) or is_scale(own)


def is_token(name: str) -> bool:
    """Return True for the name of a learned token or an added embedding: ``cls_token``, ``class_embedding``."""
    found = list(words(name))
    while found and (found[-1].isdigit() or len(found[-1]) == 1):
        found.pop()
    if not found:
        return False
    vocabulary = set(found) & EMBEDDINGS or set(found) & {"word", "vocab"}
    if found[-1] in TOKENS and not vocabulary:
        return True
    return bool(set(found) & SPECIAL) and bool(vocabulary) and "token" not in found


def is_low_rank(name: str) -> bool:
    """Return True for the name of a LoRA matrix, which may have rank 1: ``lora_A``, ``lora_down``."""
    found = set(words(name))
    return "lora" in found and bool(found & {"a", "b", "up", "down"})


def is_adapted(names: Sequence[str], shape: Sequence[int], siblings: Collection[str] = ()) -> bool:
    """Return True for a weight, by name and shape alone.

    Args:
        names: names of the parameter, then of the module that holds it and, if known, of the module's class.
        shape: shape of the parameter.
        siblings: names of the module's other parameters.
    """
    own, *around = names
    if any(map(is_norm, around)) or is_bias(own, siblings):
        return False
    if len(shape) >= 2 and (is_low_rank(own) or any(map(is_low_rank, around[:1]))):
        return True
    if own == "D" and any(name in ("A", "A_log") for name in siblings):
        return False  # the skip term of a state space model
    asked = names if own.lower() in GENERIC or own.isdigit() else [own]
    if any(map(is_position, asked)):
        return False
    if own.lower() in ("weight", "kernel", "w") and len(shape) >= 2 and any(map(is_transform, around)):
        return True  # with one input or output, too
    if is_vector(shape) or any(is_scale(name) or is_token(name) for name in asked):
        return False
    # A tensor that is broadcast over the batch is added or prepended: an embedding of a few positions, not a weight.
    return not (len(shape) >= 3 and shape[0] == 1 and not set(words(own)) & WEIGHTS)
