"""optax's ``lars`` and ``lamb``: chains of transformations, whose learning rates and masks may be functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tvlars._checks import check_flag, check_number
from tvlars.convert._recipe import (
    REQUIRED,
    Difference,
    Given,
    Options,
    Recipe,
    Translation,
    never_zero,
    without_eps,
)
from tvlars.optim import LAMB, LARS

SCHEDULE_NOTE = (
    "learning_rate is a schedule, so lr is 1 here: create torch.optim.lr_scheduler.LambdaLR(optimizer, "
    "conversion.lr_schedule), and call its step() after each step"
)


def _lars(theirs: Options) -> Translation:
    lr, decay, differences, notes = _rates(theirs)
    check_number("trust_coefficient", theirs["trust_coefficient"], open_low=True)
    check_number("eps", theirs["eps"])
    momentum, eps = theirs["momentum"], theirs["eps"]
    check_number("momentum", momentum, high=1.0, open_high=True)
    check_flag("nesterov", theirs["nesterov"])
    if callable(theirs["learning_rate"]) and momentum:
        sentence = (
            "learning_rate(t) enters the momentum in optax and multiplies it here, so that a direction of step s "
            "counts learning_rate(s)/learning_rate(t) times as much there in step t."
        )
        if not theirs["nesterov"]:
            sentence += (
                f" Setting each group's momentum to {momentum:g} learning_rate(t - 1)/learning_rate(t) before step t "
                "makes both equal."
            )
        differences.append(Difference(sentence))
    if eps and theirs["layer_adaptation"]:
        sentence = (
            f"eps = {eps:g} is added to the denominator of q in optax, but not here: steps of optax are smaller by at "
            f"most the fraction eps/|g + beta w|, {eps:g} if that norm is 1."
        )
        differences.append(Difference(sentence, eps))
    options = dict(
        lr=lr,
        momentum=momentum,
        weight_decay=decay,
        trust_coefficient=theirs["trust_coefficient"],
        nesterov=theirs["nesterov"] and momentum > 0,
        unit_ratio_at_zero=True,
        layer_adaptation=theirs["layer_adaptation"],
    )
    return Translation(options, differences, notes)


def _lars_rule(theirs: Options, given: Given) -> list[Options]:
    decayed = _mask("weight_decay_mask", theirs["weight_decay_mask"], given)
    adapted = _mask("trust_ratio_mask", theirs["trust_ratio_mask"], given)
    return [
        {**theirs, "layer_adaptation": adapts, **({} if decays else {"weight_decay": 0.0})}
        for decays, adapts in zip(decayed, adapted, strict=True)
    ]


_LARS = dict(
    learning_rate=REQUIRED,
    weight_decay=0.0,
    weight_decay_mask=True,
    trust_coefficient=0.001,
    eps=0.0,
    trust_ratio_mask=True,
    momentum=0.9,
    nesterov=False,
)
OPTAX_LARS = Recipe("optax lars", LARS, _LARS, _lars, _lars_rule, fixed=frozenset(_LARS))  # optax has no groups


def _lamb(theirs: Options) -> Translation:
    lr, decay, differences, notes = _rates(theirs)
    for name in ("b1", "b2"):
        check_number(name, theirs[name], high=1.0, open_high=True)
    check_number("eps", theirs["eps"])
    check_number("eps_root", theirs["eps_root"])
    if theirs["eps_root"]:
        sentence = (
            f"eps_root = {theirs['eps_root']:g} is added to v_hat under the root in optax, but not here: "
            "m_hat/sqrt(v_hat) is smaller in optax, by the factor 1/sqrt(1 + eps_root/v_hat) for each element."
        )
        differences.append(Difference(sentence))
    options = dict(
        lr=lr,
        betas=(theirs["b1"], theirs["b2"]),
        eps=never_zero(theirs["eps"]),
        weight_decay=decay,
        layer_adaptation=True,
    )
    return Translation(options, differences, notes + without_eps("optax", theirs["eps"]))


def _lamb_rule(theirs: Options, given: Given) -> list[Options]:
    decayed = _mask("mask", True if theirs["mask"] is None else theirs["mask"], given)
    return [theirs if decays else {**theirs, "weight_decay": 0.0} for decays in decayed]


_LAMB = dict(learning_rate=REQUIRED, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, weight_decay=0.0, mask=None)
OPTAX_LAMB = Recipe("optax lamb", LAMB, _LAMB, _lamb, _lamb_rule, fixed=frozenset(_LAMB))

CLASSES = {"lars": OPTAX_LARS, "lamb": OPTAX_LAMB}


def _rates(theirs: Options) -> tuple[float, float, list[Difference], list[str]]:
    """Return lr and weight decay for those of optax, which may be schedules, with differences and notes."""
    lr, decay, differences, notes = theirs["learning_rate"], theirs["weight_decay"], list[Difference](), list[str]()
    if callable(lr):
        lr = 1.0
        notes.append(SCHEDULE_NOTE)
    if callable(decay):
        decay = float(decay(0))
        sentence = (
            f"weight_decay is a schedule in optax, but a number here: it stays {decay:g}, its value at the first step, "
            "unless you set group['weight_decay'] before each step."
        )
        differences.append(Difference(sentence))
    check_number("learning_rate", lr)
    check_number("weight_decay", decay)
    return lr, decay, differences, notes


def _mask(name: str, mask: Any, given: Given) -> list[bool]:
    """Return the value of a mask for each parameter; a mask is a bool, a dictionary by name, or a function of one.

    Raises:
        ValueError: the mask is none of these or lacks a parameter, or a parameter has no unique name.
    """
    by_name: dict[str, Tensor] = dict(given.named)
    if callable(mask) or isinstance(mask, Mapping):
        _check_names(name, given)
    if callable(mask):
        mask = mask(by_name)
    if isinstance(mask, bool):
        return [mask] * len(given.named)
    if not isinstance(mask, Mapping):
        raise ValueError(
            f"{name} must be True, False, a dictionary by the names of parameters, or a function of such a dictionary "
            f"that returns either, got {type(mask).__name__}"
        )
    for parameter in by_name:
        if not isinstance(mask.get(parameter), bool):
            raise ValueError(
                f"{name} must have True or False for each parameter by its name, got {mask.get(parameter)!r} for "
                f"{parameter!r}"
            )
    return [mask[parameter] for parameter, _ in given.named]


def _check_names(mask: str, given: Given) -> None:
    count = Counter(parameter for parameter, _ in given.named)
    twice = [parameter for parameter, times in count.items() if times > 1]
    if "" in count or twice:
        what = "one without" if "" in count else f"two called {twice[0]!r}"
        raise ValueError(
            f"params must be a model or named parameters if {mask} is a dictionary or a function, got {what}"
        )


def check_masks(arguments: dict[str, Any]) -> None:
    """Raise ``ValueError`` if a mask is a dictionary or a function, but there are no parameters."""
    for name in ("weight_decay_mask", "trust_ratio_mask", "mask"):
        if not isinstance(arguments.get(name, True), (bool, type(None))) and "params" not in arguments:
            raise ValueError(f"params must be given, the model or its named parameters, if {name} is not True or False")
