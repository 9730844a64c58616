"""Description of an optimizer of another library: its arguments, its rules, and what its options become here."""

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
"""The default of an argument that has none."""

PASSED_ON: Options = dict(foreach=None, fused=None, maximize=False, differentiable=False)
"""Options that mean the same here, with their defaults."""


class Difference(NamedTuple):
    """Why no setting of ours gives the same trajectory, in a sentence.

    ``size`` is the relative difference of a step where gradient norms are 1 or more; infinite where it depends on
    more than that.
    """

    sentence: str
    size: float = math.inf


@dataclass(frozen=True)
class Translation:
    """Options of theirs in our words, ``layer_adaptation`` among them, and what stays different."""

    options: Options
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Given:
    """Parameters with their names ("" where unknown), and the model, where they were given as one."""

    named: Sequence[tuple[str, Tensor]]
    model: nn.Module | None = None


class GroupOptions(NamedTuple):
    """Options that act per group, those that are kept since others than the optimizer may read them, and notes."""

    acting: Options
    kept: Options
    notes: list[str]


def as_given(theirs: Options, given: Given) -> list[Options]:
    """The rule of an optimizer that treats all parameters of a group alike."""
    return [theirs] * len(given.named)


@dataclass(frozen=True)
class Recipe:
    """One optimizer of another library.

    ``rule`` gives the options that each parameter has under their rule, still in their words; it may add
    ``layer_adaptation``. ``translate`` turns such options into ours.

    ``fixed`` are the arguments that a parameter group has no say in there. ``copies`` are options that their
    constructor makes of its arguments, by the argument, and groups have. ``notes`` hold whatever the options are.
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
        """Their arguments with their defaults, and what their constructor makes of them.

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
        """Effect of the options of a group there, beside the constructor's ``options``."""
        ours = {"layer_adaptation", *inspect.signature(self.optimizer).parameters}
        acting = {name: value for name, value in extras.items() if name in options and name not in self.fixed}
        kept = {name: value for name, value in extras.items() if name not in options and name not in ours}
        idle = [name for name in extras if name not in acting and name not in kept]
        notes = [
            f"{name} in a group has no effect in {self.title}, and is left out here"
            for name in idle
            if name not in options or extras[name] != options[name]
        ]
        return GroupOptions(acting, kept, notes)


def unknown(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """The error for a name that is not among ``valid``: the nearest first."""
    names = list(valid)
    near = difflib.get_close_matches(str(name).lower(), names, n=2, cutoff=0.55)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ValueError(f"unknown {kind} {str(name)!r}: {hint}Known: {', '.join(names)}.")


def check_momentum(who: str, theirs: Options, refuses_nesterov: bool = True) -> None:
    """Check lr, momentum, dampening, weight decay and nesterov, by their rules and by ours.

    Raises:
        ValueError: one is out of its range; momentum or dampening of 1 and more have no counterpart here.
    """
    check_number("lr", theirs["lr"])
    check_number("weight_decay", theirs["weight_decay"])
    check_number("momentum", theirs["momentum"], high=1.0, open_high=True)
    check_number("dampening", theirs["dampening"], high=1.0, open_high=True)
    check_flag("nesterov", theirs["nesterov"])
    if refuses_nesterov and theirs["nesterov"] and (theirs["momentum"] == 0 or theirs["dampening"] != 0):
        raise ValueError(f"momentum must be > 0 and dampening 0 where nesterov=True, as {who} itself demands")


def plain(value: Any) -> Any:
    """``value`` as Python's number where it is a scalar of NumPy, JAX and the like, which torch's kernels refuse."""
    if isinstance(value, Tensor) or getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    return value.item()


def passed_on(theirs: Options) -> Options:
    """Return the options of theirs that mean the same here.

    Raises:
        ValueError: one is no flag.
    """
    options = {name: theirs[name] for name in PASSED_ON if name in theirs}
    for name, value in options.items():
        check_flag(name, value, optional=PASSED_ON[name] is None)
    return options


def checked_betas(name: str, betas: Any) -> tuple[float, float]:
    """Raises ValueError unless ``betas`` are two numbers in [0, 1)."""
    try:
        first, second = map(plain, betas)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers, got {betas!r}") from None
    for i, beta in enumerate((first, second)):
        check_number(f"{name}[{i}]", beta, high=1.0, open_high=True)
    return first, second


def never_zero(eps: float) -> float:
    """LAMB's eps is > 0 here, and 1e-30 is lost beside any √v̂ of float32: as good as 0, but for 0/0."""
    return eps or 1e-30


def without_eps(who: str, eps: float) -> list[str]:
    """Note on what :func:`never_zero` changes."""
    if eps:
        return []
    return [
        f"eps = 0 divides 0 by 0 in {who} where all gradients of an element were 0 so far, and makes its weight NaN, "
        "which the norms of its layer carry on; here it stays finite"
    ]
