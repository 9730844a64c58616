"""TVLARS, LARS and LAMB of the code published with the TVLARS paper, as settings of our optimizers."""

from __future__ import annotations

from tvlars._checks import check_flag, check_number
from tvlars.convert._recipe import REQUIRED, Given, Options, Recipe, Translation, checked_betas, never_zero, without_eps
from tvlars.optim import LAMB, LARS, TVLARS

FILTERS = ("weight_decay_filter", "lars_adaptation_filter")


def _lars(theirs: Options) -> Translation:
    check_number("lr", theirs["lr"])
    check_number("weight_decay", theirs["weight_decay"])
    check_number("momentum", theirs["momentum"], high=1.0, open_high=True)
    check_number("eta", theirs["eta"], open_low=True)
    options = {name: theirs[name] for name in ("lr", "momentum", "weight_decay", "layer_adaptation")}
    return Translation({**options, "trust_coefficient": theirs["eta"], "unit_ratio_at_zero": True})


def _tvlars(theirs: Options) -> Translation:
    check_number("lmbda", theirs["lmbda"])
    options = dict(delay_factor=theirs["lmbda"], delay=0.0, alpha=0.1, gamma_min=0.0, norm_clip=10.0, phi_scope="ratio")
    return Translation({**_lars(theirs).options, **options})


def _filters(theirs: Options, given: Given) -> list[Options]:
    """Apply the two filters, which switch off weight decay and adaptation for tensors of one dimension."""
    for name in FILTERS:
        check_flag(name, theirs[name])
    spares_decay, spares_ratio = (theirs[name] for name in FILTERS)
    return [
        {
            **theirs,
            "layer_adaptation": not (p.ndim == 1 and spares_ratio),
            **({"weight_decay": 0.0} if p.ndim == 1 and spares_decay else {}),
        }
        for _, p in given.named
    ]


_LARS = dict(
    lr=REQUIRED, weight_decay=5e-4, momentum=0.9, eta=0.001, weight_decay_filter=False, lars_adaptation_filter=False
)


def _lamb(theirs: Options) -> Translation:
    check_number("lr", theirs["lr"])
    check_number("weight_decay", theirs["weight_decay"])
    check_number("eps", theirs["eps"])
    check_flag("adam", theirs["adam"])
    options = dict(
        lr=theirs["lr"],
        betas=checked_betas("betas", theirs["betas"]),
        eps=never_zero(theirs["eps"]),
        weight_decay=theirs["weight_decay"],
        bias_correction=False,
        norm_clip=10.0,
        layer_adaptation=not theirs["adam"],
    )
    return Translation(options, notes=without_eps("the published code", theirs["eps"]))


CLASSES = {
    "tvlars": Recipe("published TVLARS", TVLARS, {**_LARS, "lmbda": 0.001}, _tvlars, _filters),
    "lars": Recipe("published LARS", LARS, _LARS, _lars, _filters),
    "lamb": Recipe(
        "published LAMB",
        LAMB,
        dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0, adam=False),
        _lamb,
        fixed=frozenset({"adam"}),
    ),
}
