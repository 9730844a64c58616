"""The optimizers in timm's registry, for ``create_optimizer_v2`` and for its training script.

    from tvlars.integrations.timm import register

    register()
    optimizer = timm.optim.create_optimizer_v2(
        model, "tvlars", lr=16.0, weight_decay=1e-4, bias_norm_lr_scale=0.03, total_steps=30_000
    )

timm's unchanged ``train.py`` with these names, and without a schedule in addition to φ:

    python -m tvlars.integrations.timm train.py --opt tvlars --lr 16 --weight-decay 1e-4 \\
        --sched constant --warmup-epochs 0 --opt-kwargs total_steps=30000 bias_norm_lr_scale=0.03 ...
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from timm.optim._optim_factory import OptimInfo, default_registry
from torch import Tensor

from tvlars import optim
from tvlars._checks import check_number
from tvlars._roles import is_adapted, is_vector
from tvlars.optim._options import check_params
from tvlars.optim.layerwise import LayerwiseOptimizer

Groups = list[dict[str, Any]]


class _Divided(LayerwiseOptimizer):
    """Optimizer that divides its groups by the role of parameters."""

    def __init__(self, params: Iterable[Any], *arguments: Any, bias_norm_lr_scale: float = 1.0, **options: Any) -> None:
        check_params(params)
        lr = arguments[0] if arguments else options.get("lr")
        super().__init__(_by_role(params, lr, bias_norm_lr_scale), *arguments, **options)


class TVLARS(_Divided, optim.TVLARS):
    """:class:`tvlars.TVLARS` with groups divided by the role of parameters."""


class LARS(_Divided, optim.LARS):
    """:class:`tvlars.LARS` with groups divided by the role of parameters."""


class LAMB(_Divided, optim.LAMB):
    """:class:`tvlars.LAMB` with groups divided by the role of parameters."""


NAMES: dict[str, tuple[type[LayerwiseOptimizer], str]] = {
    "tvlars": (TVLARS, "Time-varying LARS: no warm-up, the learning rate decays along a sigmoid (tvlars)"),
    "tvlars-lars": (LARS, "Layer-wise adaptive rate scaling, as in Barlow Twins (tvlars)"),
    "tvlars-lamb": (LAMB, "Layer-wise adaptive moments (tvlars)"),
}
"""Names that :func:`register` adds. timm's own "lars" and "lamb", which are other variants, do not change."""


def register() -> None:
    """Add "tvlars", "tvlars-lars" and "tvlars-lamb" to timm's registry. Calling the function again has no effect.

    timm makes groups only by weight decay, so these optimizers divide the groups further. The following parameters
    get no trust ratio (``layer_adaptation=False``) and, with ``bias_norm_lr_scale``, a smaller learning rate:

    - vectors, without counting dimensions of size 1 (biases, norms, layer scales), and tensors of three dimensions
      whose first is 1 (class tokens, position embeddings);
    - if some groups have weight decay, all parameters of groups without it, such as those that the model's
      ``no_weight_decay()`` names;
    - if groups have names, parameters that :func:`tvlars.layer_groups` recognizes by name.

    A group that sets ``layer_adaptation`` itself is not changed. To divide by module types too, call the factory with
    ``param_group_fn=lambda model: layer_groups(model, plan)``.
    """
    known = default_registry.list_optimizers()
    for name, (cls, description) in NAMES.items():
        if name not in known:
            default_registry.register(
                OptimInfo(
                    name=name,
                    opt_class=cls,
                    description=description,
                    has_eps=cls is LAMB,
                    has_betas=cls is LAMB,
                    has_momentum=cls is not LAMB,
                )
            )


def _by_role(params: Iterable[Any], lr: float | Tensor | None, bias_norm_lr_scale: float) -> Groups:
    """Return the groups of ``params``, each divided into parameters with and without a trust ratio; the latter have
    their own learning rate."""
    check_number("bias_norm_lr_scale", bias_norm_lr_scale)
    entries = list(params)
    divided: Groups = []
    groups: Groups = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
    some_decay = any(group.get("weight_decay") for group in groups)
    for group in groups:
        if "layer_adaptation" in group:
            divided.append(group)
            continue
        listed = group["params"]
        layers = [listed] if isinstance(listed, Tensor) else list(listed)
        names = group.get("param_names")
        spared = some_decay and group.get("weight_decay") == 0
        rate: Any = group.get("lr", lr)
        if bias_norm_lr_scale != 1.0 and rate is None:
            raise ValueError(f"lr must be given if bias_norm_lr_scale is {bias_norm_lr_scale!r}, got None")
        for adapted in (True, False):
            chosen = [i for i, layer in enumerate(layers) if _is_adapted(layer, names and names[i], spared) is adapted]
            if not chosen:
                continue
            part = {**group, "params": [layers[i] for i in chosen], "layer_adaptation": adapted}
            if names is not None:
                part["param_names"] = [names[i] for i in chosen]
            if not adapted and bias_norm_lr_scale != 1.0:
                part["lr"] = rate * bias_norm_lr_scale
            divided.append(part)
    return divided


def _is_adapted(layer: Tensor | tuple[str, Tensor], name: str | None, spared: bool) -> bool:
    if not isinstance(layer, Tensor):  # named parameters are pairs
        name, layer = layer
    if spared or name is not None:
        return not spared and is_adapted(cast(str, name).split(".")[:-3:-1], layer.shape)
    return not is_vector(layer.shape) and not (layer.ndim == 3 and layer.shape[0] == 1)


def main() -> None:
    """Run a script, such as timm's ``train.py``, with the optimizers registered: ``SCRIPT ARGUMENTS...``."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tvlars.integrations.timm SCRIPT [ARGUMENTS...]")
    register()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))  # as python SCRIPT would
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
