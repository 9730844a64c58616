"""Parameter groups by module type: which layers are adapted and decayed, and which are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tvlars._checks import check_number
from tvlars.optim._fsdp1 import refuse_flat_parameters

NORMALIZATION = (
    nn.modules.batchnorm._NormBase,  # every batch norm and instance norm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
WEIGHTED = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)


class LayerGroups(list[dict[str, Any]]):
    """Two parameter groups, as any torch optimizer takes them; ``str()`` prints who went where."""

    def __str__(self) -> str:
        lines = []
        for title, group in zip(("adapted and decayed", "neither (biases, norms)"), self, strict=True):
            count = sum(p.numel() for p in group["params"])
            lr = f", lr {group['lr']:g}" if "lr" in group else ""
            decay = f"weight decay {group['weight_decay']:g}{lr}"
            lines.append(f"{title}: {len(group['params'])} layers, {count:,} parameters, {decay}")
            width = max((len(name) for name in group["param_names"]), default=0)
            for name, p in zip(group["param_names"], group["params"], strict=True):
                lines.append(f"  {name:<{width}}  {tuple(p.shape)}")
        return "\n".join(lines)


def layer_groups(
    model: nn.Module, weight_decay: float, lr: float | None = None, bias_norm_lr_scale: float = 1.0
) -> LayerGroups:
    """Two parameter groups for a layer-wise optimizer, made by module type.

    1. Adapted and decayed: the weights of linear, convolution, embedding, attention and recurrent modules.
    2. Neither (``layer_adaptation=False``, weight decay 0): their biases, and every parameter of a
       normalization module.

    A parameter that a module of another type holds itself (a class token, a layer scale) goes by its number
    of dimensions: two or more are adapted, fewer are not. A parameter with ``requires_grad=False`` is left
    out; one that several modules share is taken once, where it appears first.

    Args:
        model: the module whose parameters are to be trained.
        weight_decay: β >= 0 of the first group.
        lr: learning rate >= 0 of the first group; None (default) leaves it to the optimizer.
        bias_norm_lr_scale: >= 0, the second group's lr is lr * bias_norm_lr_scale. Default 1.0. What is not
            adapted takes its learning rate raw, so with lr of 1 and more give less: Barlow Twins has 0.024,
            :func:`tvlars.plan` gives a measured one. Wants ``lr`` unless it is 1.

    Returns:
        A list of two groups with names, for ``TVLARS(groups, lr)`` and every torch optimizer; its ``str()``
        says who went where.

    Raises:
        ValueError: a number is out of its range, the model has nothing to train, a lazy module has not
            seen its first input yet, or the model is wrapped in ``FullyShardedDataParallel`` (FSDP1), whose flat
            shards are no layers.

    Example:
        >>> groups = layer_groups(model, weight_decay=1e-4, lr=16.0, bias_norm_lr_scale=0.03)
        >>> print(groups)
    """
    check_number("weight_decay", weight_decay)
    check_number("bias_norm_lr_scale", bias_norm_lr_scale)
    if lr is not None:
        check_number("lr", lr)
    elif bias_norm_lr_scale != 1.0:
        raise ValueError(f"lr must be given where bias_norm_lr_scale is {bias_norm_lr_scale!r}, got None")
    refuse_flat_parameters("layer_groups", model.parameters())

    named: tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]] = ([], [])
    for name, parameter, adapted in _trainable(model):
        named[0 if adapted else 1].append((name, parameter))
    if not any(named):
        raise ValueError(f"model must have a parameter with requires_grad=True, got none in {type(model).__name__}")

    groups = LayerGroups()
    for adapted, layers in zip((True, False), named, strict=True):
        groups.append(
            {
                "params": [parameter for _, parameter in layers],
                "param_names": [name for name, _ in layers],
                "weight_decay": weight_decay if adapted else 0.0,
                "layer_adaptation": adapted,
                **({} if lr is None else {"lr": lr if adapted else lr * bias_norm_lr_scale}),
            }
        )
    return groups


def _trainable(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name, parameter and whether it is adapted, for every trainable parameter once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            if is_lazy(parameter):
                raise ValueError(f"model must have seen an input, but {name} is not initialized yet")
            seen.add(id(parameter))
            yield name, parameter, _is_adapted(module, name.rpartition(".")[2], parameter)


def _is_adapted(module: nn.Module, own_name: str, parameter: Tensor) -> bool:
    if isinstance(module, NORMALIZATION):
        return False
    if isinstance(module, WEIGHTED):
        return "bias" not in own_name
    return parameter.ndim >= 2
