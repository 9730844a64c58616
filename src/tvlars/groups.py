"""Parameter groups by role: which layers are adapted and decayed, and which are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any, cast, overload

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized

from tvlars._checks import check_number
from tvlars._notebook import folded, page, pre
from tvlars._roles import is_adapted, is_table, is_vector
from tvlars._words import counted
from tvlars.optim._flattened import refuse_flat_parameters
from tvlars.plan import Plan

FORMS = "layer_groups(model, plan), or layer_groups(model, weight_decay=1e-4, lr=16.0, bias_norm_lr_scale=0.03)"

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
WEIGHT = r"weight(_(v|orig|[ih][hr]_l\d+(_reverse)?|[ih]h))?|(in|[qkv])_proj_weight"
"""Names of weights in these modules, also with the hooks of ``weight_norm``, ``spectral_norm`` and pruning."""


class LayerGroups(list[dict[str, Any]]):
    """Two parameter groups for any torch optimizer; ``str()`` lists the layers of each."""

    def __repr__(self) -> str:
        counts = (len(group["params"]) for group in self)
        return f"LayerGroups({' + '.join(map(str, counts))} layers)"

    def __str__(self) -> str:
        return "\n".join(line for title, layers in self._sections() for line in (title, *layers))

    def _repr_html_(self) -> str:
        """Return both groups with their layers folded, for notebooks."""
        return page(*(folded(title, pre("\n".join(layers))) for title, layers in self._sections()))

    def _sections(self) -> Iterator[tuple[str, list[str]]]:
        """Yield for each group a title with its numbers, and one line per layer."""
        for group in self:
            adapted, params, names = group["layer_adaptation"], group["params"], group["param_names"]
            title = "adapted and decayed" if adapted else "neither (biases, norms, tokens, ...)"
            lr = f", lr {group['lr']:g}" if "lr" in group else ""
            decay = f"weight decay {group['weight_decay']:g}{lr}"
            numbers = counted(len(params), "layer"), counted(sum(p.numel() for p in params), "parameter")
            title = f"{title}: {', '.join([*numbers, decay])}"
            width = max(map(len, names), default=0)
            yield title, [f"  {name:<{width}}  {tuple(p.shape)}" for name, p in zip(names, params, strict=True)]


def _numbers_by_keyword(function: Callable[..., LayerGroups]) -> Callable[..., LayerGroups]:
    """Refuse numbers that are given by position, since swapped ones would go unnoticed."""

    @wraps(function)
    def call(model: Any, plan: Any = None, *others: Any, **keywords: Any) -> LayerGroups:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {_short(model)}; write {FORMS}")
        if others or not (plan is None or isinstance(plan, Plan)):
            got = ", ".join(map(_short, (plan, *others)))
            raise TypeError(
                f"after the model, layer_groups takes a plan or keyword arguments, got {got}; write {FORMS}"
            )
        return function(model, plan, **keywords)

    return call


@overload
def layer_groups(
    model: nn.Module, plan: Plan, *, adapt: str | Iterable[str] = (), exclude: str | Iterable[str] = ()
) -> LayerGroups: ...


@overload
def layer_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    lr: float | None = None,
    bias_norm_lr_scale: float | None = None,
    adapt: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
) -> LayerGroups: ...


@_numbers_by_keyword
def layer_groups(
    model: nn.Module,
    plan: Plan | None = None,
    *,
    weight_decay: float | None = None,
    lr: float | None = None,
    bias_norm_lr_scale: float | None = None,
    adapt: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
) -> LayerGroups:
    """Make two parameter groups for a layer-wise optimizer, by the role of each parameter.

    1. Adapted and decayed: the weights of linear, convolution, embedding, attention and recurrent modules, the matrices
       of LoRA, and every other matrix or stack of matrices that a module holds itself, such as those of experts.
    2. Neither (``layer_adaptation=False``, weight decay 0):

      - biases, and every parameter of a normalization module: torch's, or a class whose name contains norm (GRN,
         RMSNorm, ChannelNorm);
       - scales, shifts and gates (``gamma``, ``layer_scale``, ``logit_scale``), the magnitudes of weight norm, and
         Mamba's ``A_log``;
       - class and other special tokens, position embeddings and tables of relative positions, also where an
         ``nn.Embedding`` with such a name holds them, or has a single row;
       - every parameter of a module other than those of 1. that is a vector once dimensions of size 1 are dropped, or
         whose first dimension is 1, for the batch;
       - every parameter that ``no_weight_decay()`` of a module names, as timm's do, or with the attribute
         ``_no_weight_decay``.

    If the type of the module leaves the role open, names decide, then shapes; ``adapt`` and ``exclude`` correct them.
    A parametrized weight has the role of the tensor that it replaces. A parameter with ``requires_grad=False`` is left
    out; one that several modules share is used once, where it appears first.

    The numbers come from a plan, or are given by keyword::

        layer_groups(model, plan)
        layer_groups(model, weight_decay=1e-4, lr=16.0, bias_norm_lr_scale=0.03)

    Args:
        model: the module whose parameters are to be trained.
        plan: result of :func:`tvlars.plan`; provides ``weight_decay``, ``lr`` and ``bias_norm_lr_scale``.
        weight_decay: β >= 0 of the first group; required without a plan.
        lr: learning rate >= 0 of the first group; None (default) leaves it to the optimizer.
        bias_norm_lr_scale: >= 0, the second group's lr is lr * bias_norm_lr_scale. Default 1.0. Layers that are not
            adapted have no trust ratio, so with an lr of 1 and more they need a much smaller one: Barlow Twins uses
            0.024, :func:`tvlars.plan` gives a measured value. Needs ``lr`` unless it is 1.
        adapt: shell patterns of parameter names, such as ``"head.*"``, to put into the first group whatever the rule
            says: one string or several.
        exclude: patterns of names to put into the second group.

    Returns:
        A list of two groups with names, for ``LARS(groups, lr)`` and every torch optimizer; its ``str()``
        lists the layers of each.

    Raises:
        TypeError: the numbers were given by position, or both by a plan and by keyword.
        ValueError: a number is out of its range, a pattern matches no trainable parameter or one name is in both,
            the model has nothing to train, a lazy module has not seen its first input yet, or the model is wrapped in
            ``FullyShardedDataParallel`` (FSDP1), whose flat shards are no layers.

    Example:
        >>> p = plan(batch_size=4096, dataset_size=60_000, epochs=15)
        >>> groups = layer_groups(model, p)
        >>> print(groups)
    """
    weight_decay, lr, scale = _numbers(plan, weight_decay, lr, bias_norm_lr_scale)
    refuse_flat_parameters("layer_groups", model.parameters())

    trainable = list(_trainable(model))
    if not trainable:
        raise ValueError(f"model must have a parameter with requires_grad=True, got none in {type(model).__name__}")
    chosen = _chosen([name for name, _, _ in trainable], adapt, exclude)
    named: tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]] = ([], [])
    for name, parameter, adapted in trainable:
        named[0 if chosen.get(name, adapted) else 1].append((name, parameter))

    groups = LayerGroups()
    for adapted, layers in zip((True, False), named, strict=True):
        groups.append(
            {
                "params": [parameter for _, parameter in layers],
                "param_names": [name for name, _ in layers],
                "weight_decay": weight_decay if adapted else 0.0,
                "layer_adaptation": adapted,
                **({} if lr is None else {"lr": lr if adapted else lr * scale}),
            }
        )
    return groups


def _numbers(
    plan: Plan | None, weight_decay: float | None, lr: float | None, scale: float | None
) -> tuple[float, float | None, float]:
    """Return weight decay, lr and scale of the second group's lr, checked; from a plan or as given."""
    if plan is not None:
        given = dict(weight_decay=weight_decay, lr=lr, bias_norm_lr_scale=scale)
        if twice := [f"{name}={value!r}" for name, value in given.items() if value is not None]:
            raise TypeError(
                f"layer_groups takes a plan or numbers, got both (plan and {', '.join(twice)}): "
                f"plan(..., {', '.join(twice)}) makes a plan with them"
            )
        return plan.weight_decay, plan.lr, plan.bias_norm_lr_scale
    if weight_decay is None:
        raise TypeError(f"layer_groups needs a plan or weight_decay, got neither; write {FORMS}")
    check_number("weight_decay", weight_decay)
    if scale is not None:
        check_number("bias_norm_lr_scale", scale)
    if lr is not None:
        check_number("lr", lr)
    elif scale not in (None, 1.0):
        raise ValueError(f"lr must be given if bias_norm_lr_scale is {scale!r}, got None")
    return weight_decay, lr, 1.0 if scale is None else scale


def _chosen(names: list[str], adapt: str | Iterable[str], exclude: str | Iterable[str]) -> dict[str, bool]:
    """Return the names that match a pattern: True if adapted."""
    chosen: dict[str, bool] = {}
    for argument, patterns, adapted in (("adapt", adapt, True), ("exclude", exclude, False)):
        several = (
            [patterns] if isinstance(patterns, str) else list(patterns) if isinstance(patterns, Iterable) else [None]
        )
        if not all(isinstance(pattern, str) for pattern in several):
            raise TypeError(f"{argument} must be one pattern of parameter names or several, got {patterns!r}")
        for pattern in several:
            found = [name for name in names if fnmatchcase(name, pattern)]
            if not found:
                raise ValueError(
                    f"{argument} must match a trainable parameter, got {pattern!r}, which matches none of "
                    f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                )
            for name in found:
                if chosen.setdefault(name, adapted) != adapted:
                    raise ValueError(f"adapt and exclude must not match the same parameter, got {name} in both")
    return chosen


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float, str)) else type(value).__name__


def _trainable(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield every trainable parameter once, as name, parameter, and True if it is adapted."""
    seen: set[int] = set()
    parametrized: dict[int, tuple[nn.Module, str]] = {}
    undecayed: set[str] = set()
    for prefix, module in model.named_modules():
        undecayed |= _undecayed(prefix, module)
        if is_parametrized(module):
            lists = cast(nn.ModuleDict, module.parametrizations)
            parametrized.update({id(held): (module, name) for name, held in lists.items()})
        siblings = module._parameters.keys()
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            if is_lazy(parameter):
                raise ValueError(f"model must have seen an input, but {name} is not initialized yet")
            seen.add(id(parameter))
            around, own = prefix.split(".")[::-1], name.rpartition(".")[2]
            if name in undecayed or getattr(parameter, "_no_weight_decay", False):
                yield name, parameter, False
            elif id(module) in parametrized:
                holder, tensor = parametrized[id(module)]
                magnitude = _is_magnitude(module, own, parameter)
                yield name, parameter, not magnitude and _is_adapted(holder, around[2:], tensor, parameter, siblings)
            else:
                yield name, parameter, _is_adapted(module, around, own, parameter, siblings)


def _is_magnitude(parametrizations: nn.Module, own: str, parameter: Tensor) -> bool:
    """Return True for the magnitude of weight norm, or another vector among the tensors of a parametrized weight."""
    if any(isinstance(step, _WeightNorm) for step in parametrizations.children()):
        return own == "original0"
    return own != "original" and is_vector(parameter.shape)


def _undecayed(prefix: str, module: nn.Module) -> set[str]:
    """Return the names from ``no_weight_decay()`` of a module, as in timm: parameters without weight decay."""
    ask = getattr(module, "no_weight_decay", None)
    return {f"{prefix}.{name}" if prefix else name for name in ask()} if callable(ask) else set()


def _is_adapted(
    module: nn.Module, around: Sequence[str], own: str, parameter: Tensor, siblings: Collection[str]
) -> bool:
    """Return True if the parameter ``own`` of ``module`` is adapted; ``around`` are the module's and parents' names."""
    called, parent = [*around, "", ""][:2]
    if isinstance(module, NORMALIZATION):
        return False
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and own == "weight":
        if is_vector(parameter.shape):  # one learned token, or a bias for each of many things
            return False
        return not is_table((called, parent, type(module).__name__))
    if isinstance(module, WEIGHTED) and re.fullmatch(WEIGHT, own):
        return True
    if isinstance(module, (nn.ParameterList, nn.ParameterDict)) and called in ("weights", "params", "parameters"):
        called = parent
    return is_adapted((own, called, type(module).__name__), parameter.shape, siblings)
