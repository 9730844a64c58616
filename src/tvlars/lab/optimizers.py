"""Optimizers by name or import path: their classes, and the arguments of their classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from tvlars.lab.arguments import arguments_of, check_arguments, parse_arguments
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.imported import is_import_path, load_object, path_of, refused, said_path, spelled_path
from tvlars.optim import LAMB, LARS, TVLARS

CLASSES: dict[str, type[Optimizer]] = {
    "tvlars": TVLARS,
    "lars": LARS,
    "lamb": LAMB,
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
}
OWN_OPTIONS = ("lr", "weight_decay", "momentum", "nesterov")
"""Arguments of imported optimizers that are options of a run of the same name."""
SET_BY_PLAN = (*OWN_OPTIONS, "trust_coefficient", "delay_factor", "delay", "alpha", "gamma_min", "phi_scope")
"""Arguments of the optimizers known by name that are options of a run, or follow from them."""
NO_ARGUMENTS = ("params", "total_steps", "defaults")


def optimizer_name(value: Any, what: str = "optimizer") -> str:
    """Return the name of an optimizer in its normal spelling: a known one, or an import path.

    For a class or function, it is the import path. Nothing is imported, so that a run can be read after its optimizer
    was removed.

    Raises:
        UsageError: ``value`` is neither; the message lists the known names with the nearest first.
    """
    if inspect.isclass(value) or inspect.isroutine(value):
        return path_of(value, what)
    if isinstance(value, str) and value in CLASSES:
        return value
    if is_import_path(value):
        return spelled_path(value)
    if isinstance(value, str) and value.endswith(".py"):
        raise UsageError(f"{what} must name an object in the file, as in {value}:name, got {value!r}")
    error = unknown(what, value, CLASSES)
    raise UsageError(f"{error} Or an import path, as torch.optim.NAdam or ./file.py:name.")


def is_known(name: str) -> bool:
    """Return True if the optimizer ``name`` is known by name, without an import path."""
    return name in CLASSES


def load_optimizer(name: str) -> Any:
    """Return the class of an optimizer, or the function that builds it.

    Raises:
        UsageError: the object does not exist, or cannot train a model here.
        Exception: whatever the user's own module raises.
    """
    if name in CLASSES:
        return CLASSES[name]
    found = load_object(name, "optimizer")
    said = said_path(name)
    if not callable(found):
        raise UsageError(f"optimizer must be a class or a function, but {said} is {_kind(found)}")
    if isinstance(found, type):
        if lacking := [part for part in ("step", "state_dict", "load_state_dict") if not hasattr(found, part)]:
            raise UsageError(f"optimizer must be an optimizer's class, but {said} has no {lacking[0]}()")
        if needs_closure(found):
            raise UsageError(
                f"optimizer must take steps without a closure, but {said}.step(closure) evaluates the loss itself"
            )
        if next(iter(inspect.signature(found).parameters), "") == "optimizer":
            raise UsageError(
                f"optimizer must be built from parameters, but {said} is built around another optimizer: "
                "write a function of (model, plan) that returns it, and name that as ./file.py:function"
            )
    elif not _takes_two(found):
        raise UsageError(f"optimizer must be a class or a function of (model, plan), but {said} takes other arguments")
    return found


def _takes_two(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin may have no signature
        return True
    return True


def needs_closure(optimizer: Any) -> bool:
    """Return True if ``step`` of an optimizer or optimizer class needs a closure."""
    try:
        parameters = dict(inspect.signature(optimizer.step).parameters)
    except (TypeError, ValueError):
        return False
    parameters.pop("self", None)
    required = [p for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return bool(required)


def arguments_of_optimizer(name: str) -> dict[str, inspect.Parameter]:
    """Return the arguments by name that ``optimizer_options`` may give to an optimizer; none for a function."""
    found = _signature(name)
    left_out = (*NO_ARGUMENTS, *(SET_BY_PLAN if is_known(name) else OWN_OPTIONS))
    return {argument: one for argument, one in found.items() if argument not in left_out}


def has_argument(name: str, argument: str) -> bool:
    """Return True if the class of an optimizer has this argument."""
    return argument in _signature(name)


def _signature(name: str) -> dict[str, inspect.Parameter]:
    found = load_optimizer(name)
    return arguments_of(found) if isinstance(found, type) else {}


def is_class(name: str) -> bool:
    """Return True if an optimizer is a class, False if a function builds it."""
    return isinstance(load_optimizer(name), type)


def default_of(name: str, argument: str) -> float | None:
    """Return the default of a number in the class of an optimizer; None if it has none."""
    parameter = _signature(name).get(argument)
    value = None if parameter is None else parameter.default
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def is_schedule_free(optimizer: Any) -> bool:
    """Return True if an optimizer, or a class, has ``train()`` and ``eval()``: it averages weights by itself."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def has_own_schedule(name: str) -> bool:
    """Return True if the schedule "auto" is constant for an optimizer, since the optimizer is schedule-free."""
    return not is_known(name) and is_schedule_free(load_optimizer(name))


def options_of_optimizer(name: str, text: str | None) -> dict[str, Any]:
    """Return the arguments in ``optimizer_options`` of an optimizer, checked against its signature.

    Raises:
        UsageError: a text cannot be read, or the optimizer has no such argument, or another option sets it.
    """
    given = parse_arguments(text or "", "optimizer_options")
    said, known = said_path(name), arguments_of_optimizer(name)
    if given and not is_class(name):
        raise UsageError(f"optimizer_options must not be given for {said}, a function of (model, plan), got {text!r}")
    for argument in given:
        if argument not in known and argument in SET_BY_PLAN and has_argument(name, argument):
            raise UsageError(f"optimizer_options must not have {argument} of {said}, which is an option of its own")
    check_arguments(given, known, said)
    return given


def check_own_options(name: str, given: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if options of a run are ``given`` that the class of an imported optimizer does not have."""
    if is_class(name):
        known = [argument for argument in _signature(name) if argument not in NO_ARGUMENTS]
        check_arguments(given, known, said_path(name))


def build_imported(name: str, groups: Iterable[Any], arguments: Mapping[str, Any]) -> Any:
    """Return an optimizer made by an imported class.

    Raises:
        UsageError: a class of an installed package refuses its arguments.
        Exception: whatever the user's own class raises.
    """
    given = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
    with refused(f"optimizer {said_path(name)} cannot be made with {given or 'its defaults'}"):
        return load_optimizer(name)(groups, **arguments)


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r:.40}"
