"""Stages of a search: the initial trials, and the trials of rounds that widen the space.

If the best trial lies at the edge of its space, better options may lie beyond the edge. Then all arms get equally many
further trials: beyond the edge for an arm whose best trial lies there; for the other arms near their best trial, or
where the sampler chooses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.tuning.space import SLACK, Choice, Range, Space, point_key, rounded, sobol_points

OUTER = 0.1
"""Share of a range, on its scale, that counts as the edge at each end; 1/n for n < 10 trials."""
FEWEST = 2
"""Fewest trials per arm in a round."""
Valid = Callable[[dict[str, Any]], bool]
"""True if a run can have these options."""
LOW, HIGH = "low", "high"


@dataclass(frozen=True)
class Stage:
    """A set of ``count`` trials of one arm that are added together.

    ``points`` are the options of the trials; None if the sampler chooses them. ``ranges`` are the parts of ranges
    beyond the given space from which the sampler chooses.
    """

    count: int
    points: tuple[dict[str, Any], ...] | None = None
    ranges: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def space(self, whole: Space) -> Space:
        """Return the space from which the sampler chooses, for a search in the space ``whole``."""
        return {
            name: replace(one, low=self.ranges[name][0], high=self.ranges[name][1])
            if name in self.ranges and isinstance(one, Range)
            else one
            for name, one in whole.items()
        }

    def fits(self, space: Space) -> bool:
        """Return whether the stage has the options of a space, and new parts only for ranges."""
        ranges = {name for name, one in space.items() if isinstance(one, Range)}
        return ranges >= set(self.ranges) and all(set(point) == set(space) for point in self.points or ())

    def holds(self, name: str, value: Any) -> bool:
        """Return whether a stored value of an option belongs to this stage, within the tolerance of ranges."""
        if type(value) not in (int, float):
            return False
        if name in self.ranges:
            low, high = self.ranges[name]
            slack = SLACK * max(abs(low), abs(high))
            if low - slack <= value <= high + slack:
                return True
        return any(point.get(name) == value for point in self.points or ())

    def as_json(self) -> dict[str, Any]:
        """Return the stage for tune.json."""
        return {"ranges": {name: list(ends) for name, ends in self.ranges.items()}, "points": self.points}

    @classmethod
    def from_json(cls, count: int, value: Any) -> Stage:
        """Return the stage from the output of :meth:`as_json`.

        Raises:
            ValueError, TypeError, KeyError: ``value`` is not a stage.
        """
        ranges = {str(name): (_number(low), _number(high)) for name, (low, high) in value["ranges"].items()}
        points = None if value["points"] is None else tuple(dict(point) for point in value["points"])
        if points is not None and len(points) != count:
            raise ValueError(f"it has {len(points)} points instead of {count}")
        for one in itertools.chain.from_iterable(point.values() for point in points or ()):
            if not isinstance(one, str):
                _number(one)
        return cls(count, points, ranges)


def _number(value: Any) -> Any:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r:.60} is no number")
    return value


@dataclass(frozen=True)
class Edge:
    """Chosen value of an option that lies at an end of the tried values: better values may lie beyond."""

    option: str
    value: float
    side: str
    """"low" or "high"."""
    low: float
    high: float

    def __str__(self) -> str:
        side, end = ("lower", self.low) if self.side == LOW else ("upper", self.high)
        rule = " (its outer tenth, or 1/n for n < 10 trials)" * (self.value != end)
        return f"{self.option} {self.value:.4g} lies at the {side} end of {self.low:.4g} to {self.high:.4g}{rule}"

    def as_json(self) -> dict[str, Any]:
        """Return the edge for tune.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Edge:
        """Return the edge from the output of :meth:`as_json`; raise an error for other values."""
        numbers = [_number(value[name]) for name in ("value", "low", "high")]
        if value["side"] not in (LOW, HIGH):
            raise ValueError(f"{value['side']!r:.60} is no side")
        return cls(str(value["option"])[:80], numbers[0], value["side"], numbers[1], numbers[2])


@dataclass(frozen=True)
class Explored:
    """Part of the space that the search of one arm has covered.

    Args:
        space: the given space.
        stages: all stages so far.
        tried: options of all trials that count.
        listed: True for a grid, whose edges are the outermost values tried.
    """

    space: Space
    stages: Sequence[Stage]
    tried: Sequence[dict[str, Any]]
    listed: bool

    def names(self) -> list[str]:
        """Return the names of numeric options."""
        return [name for name, one in self.space.items() if isinstance(one, Range) or one.numeric]

    def values(self, name: str) -> list[Any]:
        """Return the values of an option in order: the tried values of a grid, else the values of the list."""
        one = self.space[name]
        listed = one.values if isinstance(one, Choice) and not self.listed else [point[name] for point in self.tried]
        return sorted(set(listed))

    def whole(self, name: str) -> Range:
        """Return a range including all parts that stages have added."""
        one = self.space[name]
        assert isinstance(one, Range)
        ends = [stage.ranges[name] for stage in self.stages if name in stage.ranges]
        return replace(one, low=min([one.low, *(end[0] for end in ends)]), high=max([one.high, *(e[1] for e in ends)]))

    def edges(self, best: dict[str, Any], valid: Valid) -> list[Edge]:
        """Return the options of ``best`` that lie at an end, except where a value beyond the end is not ``valid``."""
        found = []
        for name in self.names():
            value, one = best[name], self.space[name]
            if self.listed or isinstance(one, Choice):
                values = self.values(name)
                if len(values) < 2:
                    continue
                low, high = values[0], values[-1]
                sides = [LOW] * (value == low) + [HIGH] * (value == high)
            else:
                whole, outer = self.whole(name), min(max(OUTER, 1 / len(self.tried)), 0.5)
                low, high, share = whole.low, whole.high, whole.share(value)
                sides = [LOW] * (share < outer) + [HIGH] * (share > 1 - outer)
            for side in sides:
                if valid({**best, name: self.beyond(name, side)}):
                    found.append(Edge(name, value, side, low, high))
        return found

    def beyond(self, name: str, side: str) -> Any:
        """Return the next value beyond an end: one more step of the list, or a tenth of the range."""
        one = self.space[name]
        if not self.listed and isinstance(one, Range):
            return _stretched(self.whole(name), side, OUTER, one)
        return _after(self.values(name), side, self._is_log(name))

    def can_widen(self, edge: Edge) -> bool:
        """Return whether the space can be widened at an edge; a list of values that a sampler uses cannot."""
        return self.listed or isinstance(self.space[edge.option], Range)

    def _is_log(self, name: str) -> bool:
        """Return whether the scale of an option is logarithmic, according to its range, else to its values."""
        one, values = self.space[name], self.values(name)
        return one.log if isinstance(one, Range) else values[0] > 0 and values[-1] >= 2 * values[0]

    def further_points(
        self, count: int, best: dict[str, Any], outward: Sequence[tuple[str, str]], valid: Valid
    ) -> list[dict[str, Any]]:
        """Return ``count`` more points of a grid, or fewer if there are no more.

        The points lie beyond ``outward``, pairs of an option and a side, with the spacing of the grid; else between
        ``best`` and its neighbours; else beyond all ends. Each point differs from ``best`` in one option.
        """
        done = {point_key(self.space, point) for point in self.tried}
        values = {name: self.values(name) for name in self.names()}
        found: list[dict[str, Any]] = []

        def take(name: str, value: Any) -> bool:
            point = {**best, name: value}
            key = point_key(self.space, point)
            if value is None or key in done or not valid(point):
                return False
            done.add(key)
            found.append(point)
            values[name] = sorted({*values[name], value})
            return True

        def go(ways: Iterable[Any], following: Callable[[Any], tuple[str, Any]]) -> None:
            left = list(ways)
            while left and len(found) < count:
                left = [way for way in left if len(found) < count and take(*following(way))]

        def outwards(way: tuple[str, str]) -> tuple[str, Any]:
            name, side = way
            return name, _after(values[name], side, self._is_log(name))

        def inwards(name: str) -> tuple[str, Any]:
            return name, _between(values[name], best[name], self._is_log(name))

        go(outward, outwards)
        go(values, inwards)
        go(itertools.product(values, (HIGH, LOW)), outwards)
        return found

    def further_ranges(
        self, share: float, best: dict[str, Any], outward: Sequence[tuple[str, str]], valid: Valid
    ) -> dict[str, tuple[Any, Any]]:
        """Return the ranges beyond ``outward``: a ``share`` of the given ranges wide, or less to stay ``valid``."""
        found = {}
        for name, side in outward:
            one = self.space[name]
            if not isinstance(one, Range):
                continue
            whole, step = self.whole(name), 1 if one.whole else 0
            for part in (share, share / 2, share / 4, share / 8):
                end = _stretched(whole, side, part, one)
                if valid({**best, name: end}):
                    found[name] = (end, whole.low - step) if side == LOW else (whole.high + step, end)
                    break
        return found


def further_stage(
    explored: Explored,
    count: int,
    best: dict[str, Any] | None,
    edges: Sequence[Edge],
    valid: Valid,
    sampler: str,
    seed: int,
    arm: str,
) -> Stage:
    """Return ``count`` further trials of an arm whose best trial lies at ``edges``; ``best`` is None if none finished.

    If no trial finished, the further trials have lower learning rates, or lower values of the first numeric option.

    Raises:
        UsageError: the space has no more points.
    """
    names = explored.names()
    outward = [(edge.option, edge.side) for edge in edges if explored.can_widen(edge)]
    if best is None and names:
        first = "lr" if "lr" in names else names[0]
        best, outward = min(explored.tried, key=lambda point: point[first]), [(first, LOW)]
    if best is None or not names:
        raise UsageError(f"widen must be 0 if no searched option is a number, as for {arm}")
    if explored.listed:
        points = explored.further_points(count, best, outward, valid)
        if len(points) < count:
            raise UsageError(f"widen must be 0 for {arm}, whose space has {len(points)} further points, not {count}")
        return Stage(count, tuple(points))
    stage = Stage(count, None, explored.further_ranges(count / explored.stages[0].count, best, outward, valid))
    if sampler == "qmc":
        points = sobol_points(stage.space(explored.space), count, seed, arm, explored.tried)
        return replace(stage, points=tuple(points))
    return stage


def trials_of_round(trials: int) -> int:
    """Return the number of further trials per arm in a round: a quarter of ``trials``, at least 2."""
    return max(FEWEST, math.ceil(trials / 4))


def _stretched(whole: Range, side: str, share: float, given: Range) -> Any:
    """Return the end of ``whole``, moved outwards by a share of the width of the ``given`` range."""
    if given.log:
        factor = (given.high / given.low) ** share
        end = whole.low / factor if side == LOW else whole.high * factor
    else:
        width = (given.high - given.low) * share
        end = whole.low - width if side == LOW else whole.high + width
    if not given.whole:
        return end
    return min(math.floor(end), whole.low - 1) if side == LOW else max(math.ceil(end), whole.high + 1)


def _after(values: Sequence[Any], side: str, log: bool) -> Any:
    """Return the value one more step beyond the last value on a side; None if there is no step."""
    if len(values) < 2:
        return None
    last, before = (values[0], values[1]) if side == LOW else (values[-1], values[-2])
    value = last * last / before if log else last + (last - before)
    if all(isinstance(one, int) for one in values):
        return min(math.floor(value), last - 1) if side == LOW else max(math.ceil(value), last + 1)
    return rounded(value)


def _between(values: Sequence[Any], best: Any, log: bool) -> Any:
    """Return the middle between ``best`` and its farther neighbour; None if there is none."""
    place = values.index(best)
    gaps = []
    for other in (*values[max(place - 1, 0) : place], *values[place + 1 : place + 2]):
        middle = math.sqrt(best * other) if log else (best + other) / 2
        size = abs(math.log(other / best)) if log else abs(other - best)
        if all(isinstance(one, int) for one in values):
            middle = round(middle)
        else:
            middle = rounded(middle)
        if middle not in (best, other):
            gaps.append((-float(f"{size:.4g}"), middle))
    return min(gaps)[1] if gaps else None
