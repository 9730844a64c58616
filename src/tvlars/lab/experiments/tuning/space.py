"""Search spaces: a range or some values of each option, for each optimizer."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvlars.lab.arguments import parse_literal, split_outside
from tvlars.lab.config import OPTIONS, names_of, plays_a_part
from tvlars.lab.errors import UsageError, listed, unknown
from tvlars.lab.experiments.arms import is_argument, owner_of
from tvlars.lab.imported import said_path
from tvlars.lab.options import Is

if TYPE_CHECKING:
    import optuna

TUNABLE = names_of(Is.TUNABLE)
"""Options of an optimizer, its schedule and the training; task, data and epochs are the same for all trials."""
SLACK = 1e-5
"""Relative tolerance of a range's ends, which tune.json has with six digits."""
OCTAVES = 3
"""Octaves below and above the plan's lr that are searched by default."""


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``, sampled on a logarithmic scale if ``log``; integers if ``whole``."""

    low: Any
    high: Any
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' (logarithmic)' if self.log else ''}"

    @property
    def ends(self) -> tuple[Any, ...]:
        """The outermost values."""
        return self.low, self.high

    def points(self, count: int) -> list[Any]:
        """Return ``count`` values spread evenly over the range with its ends, or its middle if ``count`` is 1."""
        shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
        if self.log:
            found = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            found = [self.low + (self.high - self.low) * share for share in shares]
        found = [min(max(value, self.low), self.high) for value in found]
        return [round(value) for value in found] if self.whole else found

    def differ(self, count: int) -> int:
        """Return the number of different values among ``count`` points."""
        return len(set(map(self.key, self.points(count))))

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return the value that the sampler chooses for a trial."""
        choose: Any = trial.suggest_int if self.whole else trial.suggest_float
        return choose(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Return whether a stored value is in the range, up to the tolerance."""
        slack = SLACK * max(abs(self.low), abs(self.high))
        return type(value) in (int, float) and bool(self.low - slack <= value <= self.high + slack)

    @staticmethod
    def key(value: Any) -> str:
        """Return equal texts for equal values: twelve digits, up to which machines agree."""
        return f"{value:.12g}"


@dataclass(frozen=True)
class Choice:
    """Several values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def points(self, count: int) -> list[Any]:
        """Return all values; ``count`` plays no part."""
        return list(self.values)

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return the value that the sampler chooses for a trial."""
        return trial.suggest_categorical(name, self.values)

    def holds(self, value: Any) -> bool:
        """Return whether a stored value is one of them."""
        return any(type(value) is type(one) and value == one for one in self.values)

    @staticmethod
    def key(value: Any) -> str:
        """Return equal texts for equal values."""
        return repr(value)


Space = dict[str, Range | Choice]
"""Range or values by name of the option."""


def parse_spaces(
    texts: Iterable[str], optimizers: Sequence[str], schedule: str, rates: dict[str, float]
) -> tuple[dict[str, Space], list[str]]:
    """Return the space of each optimizer, and notes for the user.

    Args:
        texts: ``OPTION=LOW:HIGH``, ``OPTION=LOW:HIGH:log`` or ``OPTION=a,b,c`` each, for all optimizers that have the
            option; with ``OPTIMIZER.`` in front for one alone, instead of the space for all.
        optimizers: names of the optimizers to tune.
        schedule: schedule of the base, which decides which options an optimizer has.
        rates: learning rate of each optimizer's plan: three octaves around it are searched if lr is not given.

    Raises:
        UsageError: a text is not of this form, or its option is unknown, not tunable, or of no optimizer.
    """
    common: Space = {}
    own: dict[str, Space] = {optimizer: {} for optimizer in optimizers}
    for text in texts:
        owner, name, found = _parse(text, optimizers)
        there = own[owner] if owner else common
        if name in there:
            raise UsageError(
                f"--space must have {name} once{f' for {owner}' if owner else ''}, got it again in {text!r}"
            )
        there[name] = found
    spaces: dict[str, Space] = {}
    for optimizer in optimizers:
        rate, given = rates[optimizer], common | own[optimizer]
        lr: Space = {} if math.isnan(rate) else {"lr": Range(rate / 2**OCTAVES, rate * 2**OCTAVES, log=True)}
        schedules = _schedules(optimizer, schedule, given)
        mine = {
            name: one
            for name, one in given.items()
            if name in own[optimizer] or any(plays_a_part(name, optimizer, kind) for kind in schedules)
        }
        spaces[optimizer] = mine if "lr" in mine else lr | mine
        if not spaces[optimizer]:
            raise UsageError(
                f"--space must have an option of {said_path(optimizer)}, whose plan leaves lr open, as "
                "warmup-epochs=0:2, or lr=LOW:HIGH if it reads plan.lr"
            )
    notes = []
    for name in common:
        without = [optimizer for optimizer in optimizers if name not in spaces[optimizer]]
        if len(without) == len(optimizers):
            raise UsageError(f"--space must have options of the optimizers, but {name} plays no part in any of them")
        if without:
            notes.append(f"{name} plays no part in runs of {listed(without)}, and is not searched there")
    return spaces, notes


def _schedules(optimizer: str, schedule: str, space: Space) -> Sequence[str]:
    """Return the schedules that are searched, or that of the base if none is."""
    searched = "schedule" in space and plays_a_part("schedule", optimizer, "auto")
    return space["schedule"].ends if searched else [schedule]


def _parse(text: str, optimizers: Sequence[str]) -> tuple[str, str, Range | Choice]:
    left, equals, right = text.partition("=")
    owner, name = "", left.replace("-", "_")
    form = "--space must be OPTION=LOW:HIGH, OPTION=LOW:HIGH:log or OPTION=a,b,c"
    if not (equals and name and right) or left.startswith("."):
        raise UsageError(f"{form}, got {text!r}")
    if "." in left:
        by_name = {spelling: one for one in optimizers for spelling in (said_path(one), one)}
        said, name = owner_of(left, by_name, "optimizer among those tuned", form)
        owner = by_name[said]
        if is_argument(owner, name):
            return owner, name, _of_argument(left, right)
    if name not in TUNABLE:
        if name in OPTIONS:
            raise UsageError(
                f"--space must have options that may differ between trials, and {name} is the same for all"
            )
        raise unknown("option to tune", name, TUNABLE)
    if ":" not in right or OPTIONS[name].kind is str:  # a colon may be part of an import path
        values = tuple(OPTIONS[name].parse(part.strip()) for part in right.split(","))
        if len(set(values)) != len(values):
            raise UsageError(f"--space {left} must not repeat values, got {right!r}")
        return owner, name, Choice(values)
    return owner, name, _range(left, name, right)


def _range(left: str, name: str, right: str) -> Range:
    match = re.fullmatch(r"([^:]+):([^:]+)(:log)?", right)
    try:
        ends = (OPTIONS[name].parse(match[1]), OPTIONS[name].parse(match[2])) if match else None
    except UsageError as error:
        raise UsageError(f"--space {left}: {error}") from error
    if match is None or ends is None or not all(isinstance(end, (int, float)) for end in ends):
        raise UsageError(
            f"--space {left} must be LOW:HIGH or LOW:HIGH:log, or values with commas between, got {right!r}"
        )
    return _ordered(left, right, *ends, log=match[3] is not None)


def _of_argument(left: str, right: str) -> Range | Choice:
    """Return the space of an argument of an optimizer's class, whose values are literals."""
    parts = split_outside(right, ":")
    log = len(parts) == 3 and parts[2] == "log"
    ends = [parse_literal(part) for part in parts[:2]]
    numbers = all(type(end) in (int, float) for end in ends)
    if len(parts) > 1:
        if not numbers or (len(parts) == 3 and not log) or len(parts) > 3:
            raise UsageError(f"--space {left} must be LOW:HIGH or LOW:HIGH:log, or values with commas, got {right!r}")
        low, high = ends if all(type(end) is int for end in ends) else map(float, ends)
        return _ordered(left, right, low, high, log)
    values = tuple(parse_literal(part) for part in split_outside(right, ","))
    if bad := [value for value in values if type(value) not in (int, float, bool, str)]:
        raise UsageError(f"--space {left} must have numbers, words, true or false as values, got {bad[0]!r}")
    if len(set(map(repr, values))) != len(values):
        raise UsageError(f"--space {left} must not repeat values, got {right!r}")
    return Choice(values)


def _ordered(left: str, right: str, low: Any, high: Any, log: bool) -> Range:
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
        raise UsageError(f"--space {left} must have LOW < HIGH{', both > 0 with :log' if log else ''}, got {right!r}")
    return Range(low, high, log, isinstance(low, int))


def grid_points(space: Space, trials: int, optimizer: str) -> list[dict[str, Any]]:
    """Return a grid of exactly ``trials`` points: all values of choices, times equally many points of each range.

    Raises:
        UsageError: there is no such grid, or its points repeat; the message says which numbers of trials have one.
    """
    choices = math.prod(len(one.values) for one in space.values() if isinstance(one, Choice))
    ranges = {name: one for name, one in space.items() if isinstance(one, Range)}
    points = round((trials / choices) ** (1 / len(ranges))) if ranges else 1
    some = choices * points ** len(ranges) == trials and points >= 1
    repeat = [name for name, one in ranges.items() if some and one.differ(points) < points]
    if repeat or not some:
        fits = [n for n in range(1, 6 if ranges else 2) if all(one.differ(n) == n for one in ranges.values())]
        said = ", ".join(str(choices * n ** len(ranges)) for n in fits[:4]) + " and so on" * (len(fits) > 4)
        text = f"trials must be the points of a grid, for {optimizer} {said}, got {trials}"
        for name in repeat[:1]:
            text += f": of {points} points of {name}, {space[name]}, all but {ranges[name].differ(points)} repeat"
        raise UsageError(text)
    axes = [one.points(points) for one in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*axes)]


def point_key(space: Space, point: dict[str, Any]) -> tuple[str, ...]:
    """Return equal keys for equal points."""
    return tuple(one.key(point[name]) if name in point else "" for name, one in space.items())


def corners(space: Space) -> list[dict[str, Any]]:
    """Return points with one option at an outermost value each: if all are valid, so is the whole space."""
    middle = {name: one.points(1)[0] for name, one in space.items()}
    return [middle | {name: value} for name, one in space.items() for value in one.ends]
