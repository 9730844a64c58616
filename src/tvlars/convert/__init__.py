"""Conversion of another library's optimizer to ours: settings with the same trajectory, or the reasons why none has.

One file per library describes its optimizers; ``_sums`` has the form of LARS that most libraries share.
"""

from __future__ import annotations

from typing import Any

from tvlars._checks import check_flag
from tvlars.convert._conversion import Conversion, constructor_arguments, group_options
from tvlars.convert._groups import Parameters, ours_of_each, probes
from tvlars.convert._optax import CLASSES as OPTAX
from tvlars.convert._optax import check_masks
from tvlars.convert._others import APEX_LARC, LIGHTLY, PYTORCH_OPTIMIZER, SOLO_LEARN, unwrap_sgd
from tvlars.convert._published import CLASSES as PUBLISHED
from tvlars.convert._recipe import Recipe, plain, unknown
from tvlars.convert._timm import CLASSES as TIMM
from tvlars.convert._timm import by_name

__all__ = ["Conversion", "convert"]

SEVERAL = {"optax": OPTAX, "published": PUBLISHED, "timm": TIMM}
ONE = {
    "apex-larc": APEX_LARC,
    "lightly": LIGHTLY,
    "pytorch-optimizer": PYTORCH_OPTIMIZER,
    "solo-learn": SOLO_LEARN,
}
SOURCES = sorted([*SEVERAL, *ONE])


def convert(source: str, *, strict: bool = False, **theirs: Any) -> Conversion:
    """Return arguments and groups of our optimizer for the arguments of another library's optimizer.

    The result is the nearest setting. ``exact`` is True if its trajectory is the same up to rounding; otherwise
    ``differences`` gives the exact reasons.

    Args:
        source: "timm", "lightly", "apex-larc", "solo-learn", "optax", "pytorch-optimizer", or "published" for the
            code of the TVLARS paper's authors.
        strict: raise an error if no setting gives the same trajectory. Default False.
        **theirs: the other library's arguments by name; missing arguments have that library's defaults. Further names:

            - ``optimizer``: name of the optimizer if a library has several: "lars" (the default; for "published"
              "tvlars") or "lamb". For "apex-larc", the ``torch.optim.SGD`` that LARC wraps, or without it SGD's own
              arguments.
            - ``opt``: for timm, a name for ``create_optimizer_v2``, with this function's arguments.
            - ``params``: first argument of the other constructor: a model, parameters, or groups with options.
              Required for groups with options (only options that the other optimizer reads per group count), and for
              optax's masks other than True or False: dictionaries by parameter name, or functions of such a
              dictionary. Otherwise optional.

    Raises:
        ValueError: a source or an argument is unknown, missing or out of range, no setting is near, or there are
            differences and ``strict`` is True.

    Example:
        >>> conversion = convert("timm", opt="nlars", lr=4.8, weight_decay=1e-6)
        >>> print(conversion)
        >>> optimizer = conversion.build(model)
    """
    check_flag("strict", strict)
    recipe, arguments = _recipe(source, {name: plain(value) for name, value in theirs.items()})
    params = arguments.pop("params", None)
    options = recipe.complete(arguments)
    given = None if params is None else Parameters.of(params)

    asked = probes() if given is None else given
    each = [
        (p.ndim, ours)
        for entry in asked.entries
        for (_, p), ours in zip(entry.named, ours_of_each(recipe, options, asked, entry), strict=True)
    ]
    weights = next((ours for ndim, ours in each if ndim > 1), each[0][1])
    biases = next((ours for ndim, ours in each if ndim <= 1), weights)
    defaults = constructor_arguments(weights.options)
    differences = {why.sentence: why.size for _, ours in each for why in ours.differences}
    notes = [note for entry in asked.entries for note in recipe.of_group(options, entry.extras).notes]
    notes += [note for _, ours in each for note in ours.notes]
    rate = options.get("learning_rate")
    conversion = Conversion(
        theirs=recipe.title,
        optimizer=recipe.optimizer,
        arguments=defaults,
        weights=group_options(weights.options, defaults),
        biases=group_options(biases.options, defaults),
        differences=tuple(differences),
        tolerance=max(differences.values(), default=0.0),
        notes=tuple(dict.fromkeys([*recipe.notes, *notes])),
        lr_schedule=(lambda step: float(rate(step))) if callable(rate) else None,
        _recipe=recipe,
        _options=options,
        _params=given,
    )
    if strict and not conversion.exact:
        raise ValueError(f"no setting of {recipe.optimizer.__name__} gives {recipe.title}: {' '.join(differences)}")
    return conversion


def _recipe(source: str, arguments: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of the chosen optimizer of ``source``, and the remaining arguments."""
    if source == "apex-larc":
        return unwrap_sgd(arguments)
    if source in ONE:
        return ONE[source], arguments
    if source not in SEVERAL:
        raise unknown("source", source, SOURCES)
    if source == "timm" and "opt" in arguments:
        if "optimizer" in arguments:
            raise ValueError("optimizer must not be given with opt, create_optimizer_v2's name of an optimizer")
        return by_name(str(arguments.pop("opt")), arguments)
    if source == "optax":
        check_masks(arguments)
    name = str(arguments.pop("optimizer", "tvlars" if source == "published" else "lars"))
    if name not in SEVERAL[source]:
        raise unknown(f"optimizer of {source}", name, SEVERAL[source])
    return SEVERAL[source][name], arguments
