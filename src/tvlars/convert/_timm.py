"""timm's ``Lars`` and ``Lamb``, as classes and by their names in ``create_optimizer_v2``."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from tvlars._checks import check_flag, check_number
from tvlars.convert._recipe import (
    Difference,
    Given,
    Options,
    Recipe,
    Translation,
    check_momentum,
    checked_betas,
    never_zero,
    passed_on,
    unknown,
    without_eps,
)
from tvlars.convert._sums import SumOfNorms
from tvlars.optim import LAMB, LARS


def _lars(theirs: Options) -> Translation:
    check_momentum("timm", theirs)
    check_flag("always_adapt", theirs["always_adapt"])
    return SumOfNorms(
        "timm",
        theirs,
        "trust_coeff",
        adapted=theirs["weight_decay"] != 0 or theirs["always_adapt"],
        clip="trust_clip",
        clips_one=True,
        at_zero_gradient="takes q = 1 and a step of lr beta w",
    ).translate()


TIMM_LARS = Recipe(
    title="timm Lars",
    optimizer=LARS,
    defaults=dict(
        lr=1.0,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        trust_coeff=0.001,
        eps=1e-8,
        trust_clip=False,
        always_adapt=False,
        foreach=None,
    ),
    translate=_lars,
)


def _lamb(theirs: Options) -> Translation:
    _check_lamb(theirs)
    adapted, betas = theirs["weight_decay"] != 0 or theirs["always_adapt"], checked_betas("betas", theirs["betas"])
    options = dict(
        lr=theirs["lr"],
        betas=betas,
        eps=never_zero(theirs["eps"]),
        weight_decay=theirs["weight_decay"],
        bias_correction=theirs["bias_correction"],
        layer_adaptation=adapted,
        **passed_on(theirs),
    )
    differences, notes = list[Difference](), without_eps("timm", theirs["eps"])
    if theirs["max_grad_norm"] is not None:
        limit = theirs["max_grad_norm"]
        notes.append(
            "before each step, over all parameters of this optimizer, "
            f"torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g['params']], {limit:g})"
        )
        differences.append(_clipping(limit))
    if theirs["decoupled_decay"] and theirs["weight_decay"]:
        differences.append(_decoupled(theirs))
        options["weight_decay"] = 0.0
    if not theirs["grad_averaging"] and betas[0]:
        larger = 1 / (1 - betas[0])
        if adapted:  # q r does not change with the scale of r, so only β must be scaled
            options["weight_decay"] /= larger
            differences.append(_not_averaged(larger))
        else:
            options["lr"] = theirs["lr"] * larger
    if theirs["trust_clip"] and adapted:
        sentence = (
            "trust_clip=True bounds q at 1 in timm, but here q has no bound: the same while |w| <= |r|; above that, "
            "our steps are |w|/|r| times theirs."
        )
        differences.append(Difference(sentence))
    if theirs["caution"]:
        sentence = (
            "caution=True skips elements whose m_hat and g differ in sign in timm, and divides the others by their "
            "share; here all elements are used unchanged."
        )
        differences.append(Difference(sentence))
    return Translation(options, differences, notes)


def _clipping(limit: float) -> Difference:
    sentence = (
        f"max_grad_norm = {limit:g} is part of timm's step, but not of ours: call clip_grad_norm_, as noted. It adds "
        f"1e-6 to the norm, so clipped gradients are smaller here by at most the fraction {1e-6 / limit:.0e}."
    )
    return Difference(sentence, 1e-6 / limit)


def _decoupled(theirs: Options) -> Difference:
    lr, share, where = float(theirs["lr"]), "lr beta", ""
    now = 1 - lr * theirs["weight_decay"]
    if theirs["corrected_weight_decay"]:
        max_lr = float(theirs["max_lr_snapshot"])
        share, where = "lr^2 beta/max_lr", f" (max_lr = {max_lr:g}, the constructor's lr)"
        now = 1 - lr**2 * theirs["weight_decay"] / max_lr
    return Difference(
        f"decoupled_decay multiplies weights by 1 - {share}{where} before the trust ratio in timm; here weight_decay "
        f"is 0, and weights are not scaled. Multiply them by this factor ({now:g} at lr = {lr:g}) before each step."
    )


def _not_averaged(larger: float) -> Difference:
    return Difference(
        f"grad_averaging=False makes m_hat {larger:g} times as large in timm, which q cancels (weight_decay, if it is "
        f"part of r, is therefore {1 / larger:g} of theirs here). If |w| = 0, and so q = 1, their step is {larger:g} "
        "times as large."
    )


def _check_lamb(theirs: Options) -> None:
    """Raise ``ValueError`` if an option is out of range."""
    for name in ("lr", "weight_decay", "eps"):
        check_number(name, theirs[name])
    if theirs["max_grad_norm"] is not None:
        check_number("max_grad_norm", theirs["max_grad_norm"], open_low=True)
    for name, default in TIMM_LAMB.defaults.items():
        if isinstance(default, bool):
            check_flag(name, theirs[name])
    if theirs["corrected_weight_decay"]:
        why = "the constructor's, by which corrected_weight_decay divides"
        check_number("lr", theirs["max_lr_snapshot"], open_low=True, unit=why)


TIMM_LAMB = Recipe(
    title="timm Lamb",
    optimizer=LAMB,
    defaults=dict(
        lr=1e-3,
        bias_correction=True,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.01,
        grad_averaging=True,
        max_grad_norm=1.0,
        trust_clip=False,
        always_adapt=False,
        caution=False,
        decoupled_decay=False,
        corrected_weight_decay=False,
        foreach=None,
    ),
    translate=_lamb,
    fixed=frozenset({"max_grad_norm"}),
    copies={"max_lr_snapshot": "lr"},
)

CLASSES = {"lars": TIMM_LARS, "lamb": TIMM_LAMB}

OPTS: dict[str, tuple[Recipe, Options]] = {
    "lars": (TIMM_LARS, {}),
    "larc": (TIMM_LARS, dict(trust_clip=True)),
    "nlars": (TIMM_LARS, dict(nesterov=True)),
    "nlarc": (TIMM_LARS, dict(nesterov=True, trust_clip=True)),
    "lamb": (TIMM_LAMB, {}),
    "lambc": (TIMM_LAMB, dict(trust_clip=True)),
    "lambw": (TIMM_LAMB, dict(decoupled_decay=True)),
    "lambcw": (TIMM_LAMB, dict(trust_clip=True, decoupled_decay=True)),
    "lambcd": (TIMM_LAMB, dict(decoupled_decay=True, corrected_weight_decay=True)),
    "clamb": (TIMM_LAMB, dict(caution=True)),
    "clambw": (TIMM_LAMB, dict(caution=True, decoupled_decay=True)),
}
"""Names of ``create_optimizer_v2``, with the options that they set."""

FACTORY: Options = dict(
    filter_bias_and_bn=True,
    layer_decay=None,
    layer_decay_min_scale=0.0,
    layer_decay_no_opt_scale=None,
    param_group_fn=None,
    fallback_list=(),
    fallback_no_weight_decay=False,
)
"""Arguments of ``create_optimizer_v2`` that are not the optimizer's; the last two act only on hybrid optimizers."""


def by_name(opt: str, arguments: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of a name of ``create_optimizer_v2``, and the arguments in the form of the recipe.

    Raises:
        ValueError: the name is unknown, or the arguments require groups that only timm can make.
    """
    if opt.lower() not in OPTS:
        raise unknown("opt of timm that is a LARS or LAMB", opt, OPTS)
    base, preset = OPTS[opt.lower()]
    defaults = {**base.defaults, "weight_decay": 0.0, **preset, **FACTORY}
    if base is TIMM_LARS:
        defaults["momentum"] = 0.9
    arguments = dict(arguments)
    if "model_or_params" in arguments:
        arguments["params"] = arguments.pop("model_or_params")
    if base is TIMM_LAMB:
        arguments.pop("momentum", None)  # create_optimizer_v2 accepts it for every opt, but LAMB has no momentum
    if arguments.get("lr", 0) is None:
        del arguments["lr"]
    if arguments.get("layer_decay") is not None:
        raise ValueError(
            "layer_decay must be None, since it sets the lr of each layer by timm's order of the model's layers: make "
            "these groups with timm.optim.param_groups_layer_decay, and pass them as params"
        )
    if callable(group := arguments.pop("param_group_fn", None)):
        if not isinstance(arguments.get("params"), nn.Module):
            raise ValueError("params must be the model if param_group_fn is given, which makes groups of the model")
        arguments["params"] = list(group(arguments["params"]))
        arguments["weight_decay"] = arguments.get("weight_decay", 0.0)
    recipe = replace(
        base,
        title=f"timm opt={opt.lower()!r}",
        defaults=defaults,
        rule=_filter_bias_and_bn,
        fixed=base.fixed | set(FACTORY),
    )
    return recipe, arguments


def _filter_bias_and_bn(theirs: Options, given: Given) -> list[Options]:
    """Switch off decay, and so adaptation, for vectors, biases and parameters that the model names, but like timm only
    if a model is given."""
    check_flag("filter_bias_and_bn", theirs["filter_bias_and_bn"])
    if given.model is None:
        return [theirs] * len(given.named)
    spared: Iterable[str] = getattr(given.model, "no_weight_decay", tuple)()

    def filtered(name: str, ndim: int) -> bool:
        vector = theirs["filter_bias_and_bn"] and (ndim <= 1 or name.endswith(".bias"))
        return vector or any(fnmatch.fnmatch(name, pattern) for pattern in spared)

    return [{**theirs, "weight_decay": 0.0} if filtered(name, p.ndim) else theirs for name, p in given.named]
