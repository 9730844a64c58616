"""Grids: YAML files with the common options of all runs, and the options that vary."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tvlars.lab.config import OPTIONS, TrainConfig, plays_a_part
from tvlars.lab.errors import UsageError, listed, unknown
from tvlars.lab.experiments.arms import Arm, as_options, check_names_differ, file_name, is_argument
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.imported import said_path
from tvlars.lab.optimizers import optimizer_name
from tvlars.lab.options import option_name

MOST_RUNS = 10_000
"""Most runs of a grid; a larger grid is taken for a mistake."""
PARTS = ("base", "grid", "arms")
FIXED = ("optimizer", "schedule", "arm")
"""Options that decide which other options have an effect."""


@dataclass(frozen=True)
class Grid:
    """Runs of a grid, seeds outermost, so that an interrupted sweep is still fair."""

    name: str
    runs: tuple[TrainConfig, ...]
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""

    @classmethod
    def read(cls, file: Path | str) -> Grid:
        """Return the grid of a YAML file, named after the file.

        Raises:
            UsageError: the file cannot be read, or is not a grid; the message names the place.
        """
        file = Path(file)
        values = read_yaml(file)
        try:
            return cls.from_mapping(values, file.stem)
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from error

    @classmethod
    def from_mapping(cls, values: Any, name: str = "grid") -> Grid:
        """Return a grid from ``{"base": {option: value}, "grid": {option: [values]}}``.

        ``base`` sets options of ``TrainConfig``. ``grid`` maps each option to a list of values, or to a mapping from
        optimizers to lists if the values differ between optimizers. If ``grid`` is a list of mappings, their runs are
        joined. The part ``arms`` replaces optimizers: ``{"warm": {"optimizer": "lars", "warmup_epochs": 1}}``, or text
        for an arm as on the command line, ``{"warm": "lars,warmup-epochs=1"}``.

        Raises:
            UsageError: a name is unknown, a value is bad, or a name or run appears twice.
        """
        if not isinstance(values, dict) or not values:
            raise UsageError("a grid must be a mapping with base and grid, as in grid: {lr: [4, 8], seed: [0, 1]}")
        for key in values:
            if key not in PARTS:
                raise unknown("part of a grid", key, PARTS)
        base = _options(values.get("base") or {}, "base")
        parts, arms = values.get("grid") or {}, parse_arms(values.get("arms") or {})
        runs: list[TrainConfig] = []
        notes: dict[str, None] = {}
        for part in parts if isinstance(parts, list) and parts else [parts]:
            made, said = _Part(base, _options(part, "grid"), arms).expand()
            if len(runs) + len(made) > MOST_RUNS:
                raise UsageError(f"a grid must have {MOST_RUNS:,} runs at most, got more")
            runs += made
            notes.update(dict.fromkeys(said))
        names: dict[str, TrainConfig] = {}
        for run in runs:
            if (other := names.setdefault(run_name(run), run)) is not run:
                raise UsageError(
                    f"a grid must have every run once, but {run.label()} appears twice {_same(run, other)}"
                )
        seeds = list(dict.fromkeys(run.seed for run in runs))
        return cls(name, tuple(sorted(runs, key=lambda run: seeds.index(run.seed))), tuple(notes))


def _same(run: TrainConfig, other: TrainConfig) -> str:
    """Return in words why two runs have the same name."""
    means = [f.name for f in fields(TrainConfig) if getattr(run, f.name) != getattr(other, f.name)]
    if not means:
        return "with equal options"
    return f"and differs only in {listed(means)}, which does not change the results of a run"


def parse_arms(values: Any) -> list[Arm]:
    """Return the arms of a file: a mapping from names to text, or to options that include optimizer."""
    if not isinstance(values, dict):
        raise UsageError(
            f"arms must be a mapping, as in cold: {{optimizer: lars, warmup_epochs: 0}}, got {values!r:.60}"
        )
    found = []
    for name, value in values.items():
        if isinstance(value, str):
            found.append(Arm.parse(f"{name}={value}"))
            continue
        if not isinstance(value, dict) or "optimizer" not in value:
            raise UsageError(f"arm {name} must be a mapping with optimizer, or text as lars,lr=8, got {value!r:.60}")
        optimizer = optimizer_name(value["optimizer"], f"optimizer of arm {name}")
        options = {str(key).replace("-", "_"): one for key, one in value.items() if key != "optimizer"}
        for key, one in options.items():
            options[key] = one if is_argument(optimizer, key) else OPTIONS[key].convert(one)
        found.append(Arm(str(name), optimizer, options))
    return found


def _options(values: Any, what: str) -> dict[str, Any]:
    """Return option names and values of a part of the file."""
    if not isinstance(values, dict):
        raise UsageError(f"{what} must be a mapping of options, as in lr: {_example(what)}, got {values!r:.60}")
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = option_name(OPTIONS, key, what)
        if name in found:
            raise UsageError(f"{name} appears twice in {what}")
        found[name] = value
    return found


def _example(what: str) -> str:
    return "[4, 8]" if what == "grid" else "4"


class _Part:
    """One mapping of a grid, together with the base."""

    def __init__(self, base: dict[str, Any], grid: dict[str, Any], arms: list[Arm]) -> None:
        self.base = {name: OPTIONS[name].convert(value) for name, value in base.items()}
        for name, value in self.base.items():
            if isinstance(value, (list, dict)):
                raise UsageError(f"{name} of base must be one value, got {value!r:.60}: put several values into grid")
        if both := [name for name in grid if name in base and not isinstance(grid[name], dict)]:
            raise UsageError(f"{both[0]} must be in base or in grid, but is in both")
        if arms and "optimizer" in {**base, **grid}:
            raise UsageError("optimizer must not be given in base or grid if there are arms, which name theirs")
        self.named = bool(arms)
        names = _values("optimizer", grid.pop("optimizer", [base.get("optimizer", "tvlars")]))
        self.arms = arms or [Arm(file_name(name), name) for name in map(optimizer_name, names)]
        check_names_differ([arm.name for arm in self.arms], "arms" if arms else "optimizers")
        self.set_by_arm = {
            arm.name: as_options(arm.optimizer, arm.options, base.get("optimizer_options")) if arm.options else {}
            for arm in self.arms
        }
        self.common: dict[str, list[Any]] = {}
        self.own: dict[str, dict[str, list[Any]]] = {}
        for name, value in grid.items():
            if isinstance(value, dict):
                self.own[name] = {self._name_of(key, name): _values(name, some) for key, some in value.items()}
            else:
                self.common[name] = _values(name, value)
        self.used: set[str] = set()
        self.idle: dict[str, dict[str, None]] = {}

    def _name_of(self, key: Any, option: str) -> str:
        """Return the name of the arm that has the name ``key``, or whose optimizer has it."""
        for arm in self.arms:
            if key == arm.name or (not self.named and key in (arm.optimizer, said_path(arm.optimizer))):
                return arm.name
        raise unknown(f"{'arm' if self.named else 'optimizer'} of {option}", key, [arm.name for arm in self.arms])

    def expand(self) -> tuple[list[TrainConfig], list[str]]:
        """Return the runs, and a sentence on each option that has no effect in some of them."""
        runs = []
        for arm in self.arms:
            for schedule in self._values_of("schedule", arm) or ["auto"]:
                found = {name: self._values_of(name, arm, schedule) for name in OPTIONS if name not in FIXED}
                axes = {name: values for name, values in found.items() if values is not None}
                if math.prod(len(values) for values in axes.values()) > MOST_RUNS:
                    raise UsageError(f"a grid must have {MOST_RUNS:,} runs at most, got more")
                for combination in itertools.product(*axes.values()):
                    values = {"optimizer": arm.optimizer, "schedule": schedule}
                    values |= {"arm": arm.name} if self.named else {}
                    values |= dict(zip(axes, combination, strict=True))
                    runs.append(at_home(TrainConfig.from_mapping(values)))
        notes = []
        for name, idle in self.idle.items():
            if name not in self.used:
                where = "base" if name in self.base else "grid"
                raise UsageError(f"{name} of {where} must be an option of some run, but is none of {listed(idle)}")
            more = ", which are not repeated for its values" if name in self.common else ""
            notes.append(f"{name} has no effect in runs of {listed(idle)}{more}")
        return runs, notes

    def _values_of(self, name: str, arm: Arm, schedule: str = "auto") -> list[Any] | None:
        """Return the values of an option for an arm under a schedule; None if the option stays at its default."""
        if arm.name in self.own.get(name, {}):
            return self.own[name][arm.name]
        if name in self.set_by_arm[arm.name]:
            self.used.add(name)
            return [self.set_by_arm[arm.name][name]]
        found = self.common.get(name, [self.base[name]] if name in self.base else None)
        if found is None:
            return None
        plays = plays_a_part(name, arm.optimizer, schedule)
        default = [None] if name != "schedule" else ["auto", "sigmoid"]
        if plays or all(one in default for one in found):
            self.used.add(name)
        else:
            said = arm.name if schedule == "auto" else f"{arm.name} with schedule {schedule}"
            self.idle.setdefault(name, {})[said] = None
        return found if plays else None


def _values(name: str, value: Any) -> list[Any]:
    """Return the values of one option; a single value may be given without a list."""
    if OPTIONS[name].many:
        raise UsageError(f"{name} must be in base, since it is the same for all runs, but is in grid")
    values = [OPTIONS[name].convert(one) for one in (value if isinstance(value, list) else [value])]
    if not values:
        raise UsageError(f"{name} of grid must have at least one value, got none")
    if bad := [one for one in values if not isinstance(one, (str, int, float, bool, Path, type(None)))]:
        raise UsageError(
            f"{name} of grid must be a list of values, or of values for each optimizer, got {bad[0]!r:.60}"
        )
    if len({repr(one) for one in values}) != len(values):
        raise UsageError(f"{name} of grid must not repeat, got {', '.join(map(str, values))}")
    return values
