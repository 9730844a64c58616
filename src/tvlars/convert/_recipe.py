"""What an optimizer of another library is described by: its arguments, its rules, and what its options become here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from tvlars._checks import check_flag, check_number
from tvlars.optim.base import LayerwiseOptimizer

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
    """Parameters with their names ("" where unknown), and what they were given as: a model, pairs, or groups."""

    named: Sequence[tuple[str, Tensor]]
    model: nn.Module | None = None
    grouped: bool = False


def as_given(theirs: Options, given: Given) -> list[Options]:
    """The rule of an optimizer that treats all parameters of a group alike."""
    return [theirs] * len(given.named)


@dataclass(frozen=True)
class Recipe:
    """One optimizer of another library.

    ``rule`` gives the options that each parameter has under their rule, still in their words; it may add
    ``layer_adaptation``. ``translate`` turns such options into ours.
    """

    title: str
    optimizer: type[LayerwiseOptimizer]
    defaults: Mapping[str, Any]
    translate: Callable[[Options], Translation]
    rule: Callable[[Options, Given], list[Options]] = as_given

    def complete(self, arguments: Options) -> Options:
        """Their arguments with their defaults.

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
        return options


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


def passed_on(theirs: Options) -> Options:
    """Those of their options that mean the same here."""
    return {name: theirs[name] for name in PASSED_ON if name in theirs}


def check_betas(names: str, *betas: Any) -> None:
    """Raise ValueError unless both betas are in [0, 1)."""
    if len(betas) != 2:
        raise ValueError(f"{names} must be two numbers, got {betas!r}")
    for i, beta in enumerate(betas, 1):
        check_number(f"{names}[{i - 1}]", beta, high=1.0, open_high=True)


def never_zero(eps: float) -> float:
    """LAMB's eps is > 0 here, and 1e-30 is lost beside any √v̂ of float32: as good as 0, but for 0/0."""
    return eps or 1e-30
