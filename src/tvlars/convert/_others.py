"""LARS of lightly, apex (LARC around SGD), solo-learn and pytorch-optimizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tvlars._checks import check_flag
from tvlars.convert._recipe import REQUIRED, Given, Options, Recipe, Translation, check_momentum
from tvlars.convert._sums import SumOfNorms
from tvlars.optim import LARS


def _lightly(theirs: Options) -> Translation:
    check_momentum("lightly", theirs)
    adapted = theirs["weight_decay"] != 0
    return SumOfNorms("lightly", theirs, "trust_coefficient", adapted).translate()


LIGHTLY = Recipe(
    title="lightly LARS",
    optimizer=LARS,
    defaults=dict(
        lr=REQUIRED,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        trust_coefficient=0.001,
        eps=1e-8,
    ),
    translate=_lightly,
)


def _solo_learn(theirs: Options) -> Translation:
    check_momentum("solo-learn", theirs)
    return SumOfNorms("solo-learn", theirs, "eta", theirs["layer_adaptation"], clip="clip_lr").translate()


def _solo_learn_rule(theirs: Options, given: Given) -> list[Options]:
    check_flag("exclude_bias_n_norm", theirs["exclude_bias_n_norm"])
    return [
        _unadapted(theirs) if p.ndim == 1 and theirs["exclude_bias_n_norm"] else {**theirs, "layer_adaptation": True}
        for _, p in given.named
    ]


SOLO_LEARN = Recipe(
    title="solo-learn LARS",
    optimizer=LARS,
    defaults=dict(
        lr=REQUIRED,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        eta=1e-3,
        eps=1e-8,
        clip_lr=False,
        exclude_bias_n_norm=False,
    ),
    translate=_solo_learn,
    rule=_solo_learn_rule,
)


def _apex(theirs: Options) -> Translation:
    check_momentum("torch's SGD", theirs)
    return SumOfNorms(
        "apex", theirs, "trust_coefficient", adapted=True, clip="clip", decays_before_it_turns=True
    ).translate()


APEX_LARC = Recipe(
    title="apex LARC around SGD",
    optimizer=LARS,
    defaults=dict(
        trust_coefficient=0.02,
        clip=True,
        eps=1e-8,
        lr=1e-3,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        maximize=False,
        foreach=None,
        differentiable=False,
        fused=None,
    ),
    translate=_apex,
    fixed=frozenset({"trust_coefficient", "clip", "eps", "differentiable"}),
)
"""LARC's own arguments, and the arguments of the wrapped SGD."""


def unwrap_sgd(arguments: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe, and LARC's arguments with the wrapped SGD replaced by its options and groups.

    Raises:
        ValueError: LARC wraps another optimizer than SGD, or an option of SGD is given twice.
    """
    if "optimizer" not in arguments:
        return APEX_LARC, arguments
    arguments = dict(arguments)
    inner = arguments.pop("optimizer")
    if type(inner) is not torch.optim.SGD:
        what = inner if isinstance(inner, str) else type(inner).__name__
        raise ValueError(
            f"optimizer must be a torch.optim.SGD, since LARS is SGD with the trust ratio of LARC, got {what}"
        )
    twice = sorted(set(arguments) & {"params", *inner.defaults})
    if twice:
        raise ValueError(f"{twice[0]} must not be given with optimizer, which sets it")
    options = {name: value for name, value in inner.defaults.items() if name in APEX_LARC.defaults}
    recipe = replace(APEX_LARC, notes=_momentum_so_far(inner))
    return recipe, {**arguments, **options, "params": inner.param_groups}


def _momentum_so_far(sgd: torch.optim.SGD) -> tuple[str, ...]:
    """Return a note on how to carry over the momentum buffers of an SGD that has taken steps."""
    if all(state.get("momentum_buffer") is None for state in sgd.state.values()):
        return ()
    damped = any(group["dampening"] for group in sgd.param_groups)
    divided = ", divided by 1 - dampening of its group," if damped else ""
    return (
        "this SGD has taken steps, but momentum buffers start at 0 here: to carry them over, set "
        f'optimizer.state[p]["momentum_buffer"] to a copy of sgd.state[p]["momentum_buffer"]{divided} for each p in '
        "sgd.state",
    )


def _pytorch_optimizer(theirs: Options) -> Translation:
    check_momentum("pytorch-optimizer", theirs, refuses_nesterov=False)
    return SumOfNorms(
        "pytorch-optimizer",
        theirs,
        "trust_coefficient",
        theirs["layer_adaptation"],
        at_zero_gradient=None,
        buffer_from_zeros=True,
    ).translate()


def _pytorch_optimizer_rule(theirs: Options, given: Given) -> list[Options]:
    return [{**theirs, "layer_adaptation": True} if p.ndim > 1 else _unadapted(theirs) for _, p in given.named]


PYTORCH_OPTIMIZER = Recipe(
    title="pytorch-optimizer LARS",
    optimizer=LARS,
    defaults=dict(
        lr=1e-3,
        weight_decay=0.0,
        momentum=0.9,
        dampening=0.0,
        trust_coefficient=1e-3,
        nesterov=False,
        foreach=None,
        maximize=False,
    ),
    translate=_pytorch_optimizer,
    rule=_pytorch_optimizer_rule,
    fixed=frozenset({"maximize"}),
)


def _unadapted(theirs: Options) -> Options:
    return {**theirs, "layer_adaptation": False, "weight_decay": 0.0}
