"""Search spaces: a range or a list of values for each option of each arm."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvlars.lab.arguments import parse_literal, split_outside
from tvlars.lab.config import OPTIONS, names_of, plays_a_part
from tvlars.lab.errors import UsageError, listed, unknown
from tvlars.lab.experiments.arms import Arm, is_argument, owner_of
from tvlars.lab.imported import said_path
from tvlars.lab.options import Is

if TYPE_CHECKING:
    import optuna

TUNABLE = names_of(Is.TUNABLE)
"""Options that may be tuned, of optimizer, schedule and training; all trials have the same task, data and epochs."""
SLACK = 1e-5
"""Relative tolerance of a range's ends, which have six digits in tune.json."""
FORMS = "LOW:HIGH, LOW:HIGH:log, LOW:HIGH:xFACTOR"
OTHER_RANGE = re.compile(r"([-+.\de]*\d\.?)(?:-|\.\.|to)([\d.][-+.\de]*)")
"""A range in another form than ours, such as 1-10."""
MOST_VALUES = 1000
"""Most values of a list that is given by a factor."""
OCTAVES = 3
"""Octaves below and above the planned lr that are searched by default."""


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
        """Return ``count`` evenly spaced values including both ends, or the middle if ``count`` is 1."""
        return [self.at(i / (count - 1) if count > 1 else 0.5) for i in range(count)]

    def at(self, share: float) -> Any:
        """Return the value at the fraction ``share`` of the way from ``low`` to ``high``, on the range's scale."""
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def share(self, value: float) -> float:
        """Return the fraction of the way from ``low`` to ``high`` at ``value``; :meth:`at` is the inverse."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def differ(self, count: int) -> int:
        """Return the number of different values among ``count`` points."""
        return len(set(map(self.key, self.points(count))))

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return the value that the sampler chooses for a trial."""
        choose: Any = trial.suggest_int if self.whole else trial.suggest_float
        return choose(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Return whether a stored value is in the range, within the tolerance."""
        slack = SLACK * max(abs(self.low), abs(self.high))
        return type(value) in (int, float) and bool(self.low - slack <= value <= self.high + slack)

    @staticmethod
    def key(value: Any) -> str:
        """Return equal texts for equal values: twelve digits, on which machines agree."""
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

    @property
    def numeric(self) -> bool:
        """True if the values are numbers of one type, and so have an order."""
        kinds = {type(value) for value in self.values}
        return kinds in ({int}, {float})

    def points(self, count: int) -> list[Any]:
        """Return all values; ``count`` is ignored."""
        return list(self.values)

    def at(self, share: float) -> Any:
        """Return the value at the fraction ``share`` of the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return the value that the sampler chooses for a trial."""
        return trial.suggest_categorical(name, self.values)

    def holds(self, value: Any) -> bool:
        """Return whether a stored value is one of the values."""
        return any(type(value) is type(one) and value == one for one in self.values)

    @staticmethod
    def key(value: Any) -> str:
        """Return equal texts for equal values."""
        return repr(value)


Space = dict[str, Range | Choice]
"""Range or list of values by name of the option."""


def parse_spaces(
    texts: Iterable[str], arms: Sequence[Arm], schedule: str, rates: dict[str, float]
) -> tuple[dict[str, Space], list[str]]:
    """Return the space of each arm by its key, and notes for the user.

    Args:
        texts: ``OPTION=LOW:HIGH``, ``OPTION=LOW:HIGH:log``, ``OPTION=LOW:HIGH:xFACTOR`` or ``OPTION=a,b,c`` each, for
            all arms that have the option and do not set it; with ``ARM.`` in front for only this arm, in place of the
            space for all.
        arms: the arms to tune.
        schedule: schedule of the base, which decides which options an optimizer has.
        rates: planned learning rate of each arm: three octaves below and above it are searched if lr is not given.

    Raises:
        UsageError: a text has another form, or its option is unknown, not tunable, of no arm, or set by its arm.
    """
    common: Space = {}
    own: dict[str, Space] = {arm.key: {} for arm in arms}
    for text in texts:
        owner, name, found = _parse(text, arms)
        there = own[owner] if owner else common
        if name in there:
            raise UsageError(
                f"--space must have {name} once{f' for {owner}' if owner else ''}, got it again in {text!r}"
            )
        there[name] = found
    spaces: dict[str, Space] = {}
    for arm in arms:
        key, rate = arm.key, rates[arm.key]
        if set_twice := [name for name in arm.options if name in own[key]]:
            raise UsageError(f"--space must not have {set_twice[0]} of {key}, which sets it: remove one of them")
        given = {name: one for name, one in (common | own[key]).items() if name not in arm.options}
        schedules = _schedules(arm, schedule, given)
        mine = {
            name: one
            for name, one in given.items()
            if name in own[key] or any(plays_a_part(name, arm.optimizer, kind) for kind in schedules)
        }
        if "lr" not in mine and "lr" not in arm.options and not math.isnan(rate):
            mine = {"lr": Range(rate / 2**OCTAVES, rate * 2**OCTAVES, log=True), **mine}
        if not mine:
            why, more = "which sets its lr", ""
            if "lr" not in arm.options:
                why, more = "whose plan leaves lr open", ", or lr=LOW:HIGH if it reads plan.lr"
            raise UsageError(f"--space must have an option of {said_path(key)}, {why}, as warmup-epochs=0:2{more}")
        spaces[key] = mine
    notes = []
    for name in common:
        without = [arm.key for arm in arms if name not in spaces[arm.key] and name not in arm.options]
        fixed = [arm.key for arm in arms if name in arm.options]
        if len(without) + len(fixed) == len(arms):
            raise UsageError(f"--space must have options of the optimizers, but {name} has no effect on any of them")
        if without:
            notes.append(f"{name} has no effect in runs of {listed(without)}, and is not searched there")
        if fixed:
            notes.append(f"{name} is set by {listed(fixed)}, and is not searched there")
    return spaces, notes


def _schedules(arm: Arm, schedule: str, space: Space) -> Sequence[str]:
    """Return the searched schedules, or the schedule of the arm or the base if schedule is not searched."""
    searched = "schedule" in space and plays_a_part("schedule", arm.optimizer, "auto")
    return space["schedule"].ends if searched else [str(arm.options.get("schedule", schedule))]


def _parse(text: str, arms: Sequence[Arm]) -> tuple[str, str, Range | Choice]:
    left, equals, right = text.partition("=")
    owner, name = "", left.replace("-", "_")
    form = "--space must be OPTION=LOW:HIGH, OPTION=LOW:HIGH:log, OPTION=LOW:HIGH:xFACTOR or OPTION=a,b,c"
    if not (equals and name and right) or left.startswith("."):
        raise UsageError(f"{form}, got {text!r}")
    if "." in left:
        by_name = {spelling: one for one in arms for spelling in (said_path(one.key), one.key)}
        said, name = owner_of(left, by_name, "arm among those tuned", form)
        owner = by_name[said].key
        if is_argument(by_name[said].optimizer, name):
            return owner, name, _space(left, right, parse_literal)
    if name not in TUNABLE:
        if name in OPTIONS:
            raise UsageError(
                f"--space must have options that may differ between trials, but {name} is the same for all"
            )
        raise unknown("option to tune", name, TUNABLE)
    return owner, name, _space(left, right, OPTIONS[name].parse, OPTIONS[name].kind)


def _space(left: str, right: str, parse: Callable[[str], Any], kind: type | None = None) -> Range | Choice:
    """Return the space of an option of a ``kind``, or of an argument of an optimizer's class, whose kind is unknown."""
    match = re.fullmatch(r"([^:]+):([^:]+)(:log|:x[^:]+)?", right)
    is_range = ":" in right and kind is not str  # a colon may be part of an import path
    other = OTHER_RANGE.fullmatch(right)
    form = "; a range is LOW:HIGH" + (f", as in {left}={other[1]}:{other[2]}" if other else "")
    try:
        values = tuple(map(parse, (match.groups()[:2] if match else ()) if is_range else split_outside(right, ",")))
    except UsageError as error:
        raise UsageError(f"--space {left}: {error}{form if kind in (int, float) else ''}") from error
    kinds = {type(value) for value in values}
    bad = [value for value in values if type(value) not in (int, float, bool, str)] or [right] * bool(other)
    if not values or (is_range and not kinds <= {int, float}):
        raise UsageError(f"--space {left} must be {FORMS}, or values separated by commas, got {right!r}")
    if bad:
        raise UsageError(f"--space {left} must have numbers, words, true or false as values, got {bad[0]!r}{form}")
    if kinds == {int, float}:
        values = tuple(map(float, values))  # numbers of one type have an order and ends
    if is_range and match:
        return _ordered(left, right, values[0], values[1], match[3] or "")
    if len(set(map(repr, values))) != len(values):
        raise UsageError(f"--space {left} must not repeat values, got {right!r}")
    return Choice(values)


def _ordered(left: str, right: str, low: Any, high: Any, way: str) -> Range | Choice:
    """Return the range from ``low`` to ``high``, or the list of values that are a factor apart."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (way and low <= 0):
        both = f", both > 0 with {way[:4] if way == ':log' else ':xFACTOR'}" if way else ""
        raise UsageError(f"--space {left} must have LOW < HIGH{both}, got {right!r}")
    if not way.startswith(":x"):
        return Range(low, high, way == ":log", isinstance(low, int))
    values = values_apart(low, high, way.removeprefix(":x"))
    if not values:
        raise UsageError(
            f"--space {left} must have a factor > 1 that leads from LOW to HIGH in at most {MOST_VALUES} values, for "
            f"example x2 or xsqrt2, got {right!r}"
        )
    kind = round if isinstance(low, int) else rounded
    return Choice(tuple(dict.fromkeys(kind(value) for value in values)))


def values_apart(low: float, high: float, factor: str) -> list[float]:
    """Return values from ``low`` to ``high``, each ``factor`` ("2" or "sqrt2") times the value before; [] if this
    does not reach ``high`` within ``MOST_VALUES`` values."""
    try:
        times = math.sqrt(float(factor.removeprefix("sqrt"))) if factor.startswith("sqrt") else float(factor)
        steps = math.floor(math.log(high / low) / math.log(times) + 0.05) if times > 1 else 0
    except ValueError:
        return []
    return [low * times**step for step in range(steps + 1)] if 1 <= steps < MOST_VALUES else []


def rounded(value: float) -> float:
    """Return a value rounded to six digits."""
    return float(f"{value:.6g}")


def grid_points(space: Space, trials: int, arm: str) -> list[dict[str, Any]]:
    """Return a grid of exactly ``trials`` points: all values of lists, times equally many points of each range.

    Raises:
        UsageError: there is no grid of this size, or its points repeat; the message names sizes that exist.
    """
    choices = math.prod(len(one.values) for one in space.values() if isinstance(one, Choice))
    ranges = {name: one for name, one in space.items() if isinstance(one, Range)}
    points = round((trials / choices) ** (1 / len(ranges))) if ranges else 1
    some = choices * points ** len(ranges) == trials and points >= 1
    repeat = [name for name, one in ranges.items() if some and one.differ(points) < points]
    if repeat or not some:
        fits = [n for n in range(1, 6 if ranges else 2) if all(one.differ(n) == n for one in ranges.values())]
        said = ", ".join(str(choices * n ** len(ranges)) for n in fits[:4]) + " and so on" * (len(fits) > 4)
        text = f"trials must be the number of points of a grid, for {arm} {said}, got {trials}"
        for name in repeat[:1]:
            text += f": of {points} points of {name}, {space[name]}, all but {ranges[name].differ(points)} repeat"
        raise UsageError(text)
    axes = [one.points(points) for one in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*axes)]


def sobol_points(
    space: Space, count: int, seed: int, arm: str, tried: Iterable[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return the first ``count`` different scrambled Sobol points of the space that have not been ``tried``.

    Spaces with the same number of options have the same points relative to their ranges.

    Raises:
        UsageError: the space has too few points.
    """
    from scipy.stats import qmc

    done = {point_key(space, point) for point in tried}
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for power in range(math.ceil(math.log2(count + len(done))), 17):  # the same sequence, longer each time
        for row in qmc.Sobol(len(space), seed=seed).random_base2(power).tolist():
            point = {name: one.at(share) for (name, one), share in zip(space.items(), row, strict=True)}
            if (key := point_key(space, point)) not in done:
                found.setdefault(key, point)
        if len(found) >= count:
            return list(found.values())[:count]
    raise UsageError(f"trials must be <= {len(found)}, the number of points left in the space of {arm}, got {count}")


def point_key(space: Space, point: dict[str, Any]) -> tuple[str, ...]:
    """Return equal keys for equal points."""
    return tuple(one.key(point[name]) if name in point else "" for name, one in space.items())


def corners(space: Space) -> list[dict[str, Any]]:
    """Return points that each have one option at an outermost value: if all are valid, the whole space is."""
    middle = {name: one.points(1)[0] for name, one in space.items()}
    return [middle | {name: value} for name, one in space.items() for value in one.ends]
