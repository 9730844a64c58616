"""Description of another library's optimizer: arguments, rules, and translation of options to ours."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from tvlars._checks import check_flag, check_number
from tvlars.optim.layerwise import LayerwiseOptimizer

Options = dict[str, Any]

REQUIRED: Any = object()
"""Marker for an argument without a default."""

PASSED_ON: Options = dict(foreach=None, fused=None, maximize=False, differentiable=False)
"""Options with the same meaning in both libraries, and their defaults."""


class Difference(NamedTuple):
    """Reason why no setting gives the same trajectory, as a sentence.

    ``size`` is the relative difference of a step if gradient norms are 1 or more; infinite if it depends on other
    quantities.
    """

    sentence: str
    size: float = math.inf


@dataclass(frozen=True)
class Translation:
    """The other library's options translated to ours, including ``layer_adaptation``, and remaining differences."""

    options: Options
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Given:
    """Parameters with their names ("" if unknown), and the model if one was given."""

    named: Sequence[tuple[str, Tensor]]
    model: nn.Module | None = None


class GroupOptions(NamedTuple):
    """Options that act per group, options that are only kept because other code may read them, and notes."""

    acting: Options
    kept: Options
    notes: list[str]


def as_given(theirs: Options, given: Given) -> list[Options]:
    """Return equal options for all parameters of a group; the rule of most optimizers."""
    return [theirs] * len(given.named)


@dataclass(frozen=True)
class Recipe:
    """One optimizer of another library.

    ``rule`` returns the other library's options for each parameter, and may add ``layer_adaptation``; ``translate``
    converts these options to ours.

    ``fixed`` are arguments that a parameter group cannot change. ``copies`` maps arguments to options of groups that
    the other constructor derives from them. ``notes`` apply to all options.
    """

    title: str
    optimizer: type[LayerwiseOptimizer]
    defaults: Mapping[str, Any]
    translate: Callable[[Options], Translation]
    rule: Callable[[Options, Given], list[Options]] = as_given
    fixed: frozenset[str] = frozenset()
    copies: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def complete(self, arguments: Options) -> Options:
        """Return the arguments, with defaults for missing ones and the options that the other constructor derives.

        Raises:
            ValueError: an argument is unknown or missing.
        """
        for name in arguments:
            if name not in self.defaults:
                raise unknown(f"argument of {self.title}", name, self.defaults)
        options = {**self.defaults, **arguments}
        for name, value in options.items():
            if value is REQUIRED:
                raise ValueError(f"{name} must be given: {self.title} has no default for it")
        return {**options, **{copy: options[name] for copy, name in self.copies.items()}}

    def of_group(self, options: Options, extras: Options) -> GroupOptions:
        """Return the effect of a group's options in the other library, given the constructor's ``options``."""
        ours = {"layer_adaptation", *inspect.signature(self.optimizer).parameters}
        acting = {name: value for name, value in extras.items() if name in options and name not in self.fixed}
        kept = {name: value for name, value in extras.items() if name not in options and name not in ours}
        idle = [name for name in extras if name not in acting and name not in kept]
        notes = [
            f"{name} in a group has no effect in {self.title}, so it is left out"
            for name in idle
            if name not in options or extras[name] != options[name]
        ]
        return GroupOptions(acting, kept, notes)


def unknown(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """Return the error for a name that is not among ``valid``; the message suggests the nearest names first."""
    names = list(valid)
    near = difflib.get_close_matches(str(name).lower(), names, n=2, cutoff=0.55)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ValueError(f"unknown {kind} {str(name)!r}: {hint}Known: {', '.join(names)}.")


def check_momentum(who: str, theirs: Options, refuses_nesterov: bool = True) -> None:
    """Check lr, momentum, dampening, weight decay and nesterov against the rules of both libraries.

    Raises:
        ValueError: a value is out of range; momentum or dampening >= 1 has no counterpart here.
    """
    check_number("lr", theirs["lr"])
    check_number("weight_decay", theirs["weight_decay"])
    check_number("momentum", theirs["momentum"], high=1.0, open_high=True)
    check_number("dampening", theirs["dampening"], high=1.0, open_high=True)
    check_flag("nesterov", theirs["nesterov"])
    if refuses_nesterov and theirs["nesterov"] and (theirs["momentum"] == 0 or theirs["dampening"] != 0):
        raise ValueError(f"momentum must be > 0 and dampening 0 if nesterov=True, as {who} itself requires")


def plain(value: Any) -> Any:
    """Return a scalar of NumPy, JAX or others as Python's number, since torch's kernels refuse it; others unchanged."""
    if isinstance(value, Tensor) or getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    return value.item()


def passed_on(theirs: Options) -> Options:
    """Return the options with the same meaning in both libraries.

    Raises:
        ValueError: a value is not a flag.
    """
    options = {name: theirs[name] for name in PASSED_ON if name in theirs}
    for name, value in options.items():
        check_flag(name, value, optional=PASSED_ON[name] is None)
    return options


def checked_betas(name: str, betas: Any) -> tuple[float, float]:
    """Return ``betas`` as a tuple; raise ``ValueError`` unless they are two numbers in [0, 1)."""
    try:
        first, second = map(plain, betas)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers, got {betas!r}") from None
    for i, beta in enumerate((first, second)):
        check_number(f"{name}[{i}]", beta, high=1.0, open_high=True)
    return first, second


def never_zero(eps: float) -> float:
    """Return eps > 0, which our LAMB requires: 1e-30 in place of 0 changes no √v̂ in float32, but prevents 0/0."""
    return eps or 1e-30


def without_eps(who: str, eps: float) -> list[str]:
    """Return a note on the effect of :func:`never_zero`."""
    if eps:
        return []
    return [
        f"eps = 0 divides 0 by 0 in {who} if all gradients of an element have been 0 so far: its weight becomes NaN, "
        "and then the whole layer; here it stays finite"
    ]
