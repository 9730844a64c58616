"""Grids: YAML files with the options that all runs have in common, and those that vary."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tvlars.lab.config import OPTIMIZERS, OPTIONS, TrainConfig
from tvlars.lab.errors import UsageError, listed, unknown
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.options import option_name

MOST_RUNS = 10_000
"""A grid with more runs is a mistake."""
FIXED = ("optimizer", "schedule")
"""Options that decide whether others play a part."""


@dataclass(frozen=True)
class Grid:
    """Runs of a grid, seeds outermost, so that an interrupted sweep is a fair one."""

    name: str
    runs: tuple[TrainConfig, ...]
    notes: tuple[str, ...] = ()
    """Notes for the user, a sentence each."""

    @classmethod
    def read(cls, file: Path | str) -> Grid:
        """Return the grid of a YAML file; its name is that of the file.

        Raises:
            UsageError: the file cannot be read, or is no grid; the message says where.
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

        ``base`` has options of ``TrainConfig``. ``grid`` has a list of values for each option, or a mapping from
        optimizers to lists if their values differ; a list of such mappings gives the runs of all of them.

        Raises:
            UsageError: a name is unknown, a value is bad, or something is there twice.
        """
        if not isinstance(values, dict) or not values:
            raise UsageError("a grid must be a mapping with base and grid, as in grid: {lr: [4, 8], seed: [0, 1]}")
        for key in values:
            if key not in ("base", "grid"):
                raise unknown("part of a grid", key, ("base", "grid"))
        base = _options(values.get("base") or {}, "base")
        parts = values.get("grid") or {}
        runs: list[TrainConfig] = []
        notes: dict[str, None] = {}
        for part in parts if isinstance(parts, list) and parts else [parts]:
            made, said = _Part(base, _options(part, "grid")).expand()
            if len(runs) + len(made) > MOST_RUNS:
                raise UsageError(f"a grid must have {MOST_RUNS:,} runs at most, got more")
            runs += made
            notes.update(dict.fromkeys(said))
        names: dict[str, TrainConfig] = {}
        for run in runs:
            if (other := names.setdefault(run_name(run), run)) is not run:
                raise UsageError(
                    f"a grid must have every run once, but {run.label()} is there twice {_same(run, other)}"
                )
        seeds = list(dict.fromkeys(run.seed for run in runs))
        return cls(name, tuple(sorted(runs, key=lambda run: seeds.index(run.seed))), tuple(notes))


def _same(run: TrainConfig, other: TrainConfig) -> str:
    """Return in which way two runs of one name are the same."""
    means = [f.name for f in fields(TrainConfig) if getattr(run, f.name) != getattr(other, f.name)]
    if not means:
        return "with equal options"
    return f"and differs in {listed(means)} alone, by which the same run is done in another way"


def _options(values: Any, what: str) -> dict[str, Any]:
    """Return option names and values of a part of the file."""
    if not isinstance(values, dict):
        raise UsageError(f"{what} must be a mapping of options, as in lr: {_example(what)}, got {values!r:.60}")
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = option_name(OPTIONS, key, what)
        if name in found:
            raise UsageError(f"{name} is there twice in {what}")
        found[name] = value
    return found


def _example(what: str) -> str:
    return "[4, 8]" if what == "grid" else "4"


class _Part:
    """One mapping of a grid, together with the base."""

    def __init__(self, base: dict[str, Any], grid: dict[str, Any]) -> None:
        self.base = {name: OPTIONS[name].convert(value) for name, value in base.items()}
        for name, value in self.base.items():
            if isinstance(value, (list, dict)):
                raise UsageError(f"{name} of base must be one value, got {value!r:.60}: several belong in grid")
        if both := [name for name in grid if name in base and not isinstance(grid[name], dict)]:
            raise UsageError(f"{both[0]} must be in base or in grid, but is in both")
        self.optimizers = _values("optimizer", grid.pop("optimizer", [base.get("optimizer", "tvlars")]))
        for optimizer in self.optimizers:
            if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
                raise unknown("optimizer", optimizer, OPTIMIZERS)
        self.common: dict[str, list[Any]] = {}
        self.own: dict[str, dict[str, list[Any]]] = {}
        for name, value in grid.items():
            if isinstance(value, dict):
                for optimizer in value:
                    if optimizer not in self.optimizers:
                        raise unknown(f"optimizer of {name}", optimizer, self.optimizers)
                self.own[name] = {optimizer: _values(name, some) for optimizer, some in value.items()}
            else:
                self.common[name] = _values(name, value)
        self.used: set[str] = set()
        self.idle: dict[str, dict[str, None]] = {}

    def expand(self) -> tuple[list[TrainConfig], list[str]]:
        """Return the runs, and a sentence on each option that plays no part in some of them."""
        runs = []
        for optimizer in self.optimizers:
            for schedule in self._values_of("schedule", optimizer) or ["auto"]:
                found = {name: self._values_of(name, optimizer, schedule) for name in OPTIONS if name not in FIXED}
                axes = {name: values for name, values in found.items() if values is not None}
                if math.prod(len(values) for values in axes.values()) > MOST_RUNS:
                    raise UsageError(f"a grid must have {MOST_RUNS:,} runs at most, got more")
                for combination in itertools.product(*axes.values()):
                    values = {"optimizer": optimizer, "schedule": schedule, **dict(zip(axes, combination, strict=True))}
                    runs.append(at_home(TrainConfig.from_mapping(values)))
        notes = []
        for name, idle in self.idle.items():
            if name not in self.used:
                where = "base" if name in self.base else "grid"
                raise UsageError(f"{name} of {where} must be an option of some run, and is none of {listed(idle)}")
            more = ", which are not multiplied by it" if name in self.common else ""
            notes.append(f"{name} plays no part in runs of {listed(idle)}{more}")
        return runs, notes

    def _values_of(self, name: str, optimizer: str, schedule: str = "auto") -> list[Any] | None:
        """Return the values of an option for an optimizer under a schedule; None if it stays at its default."""
        if optimizer in self.own.get(name, {}):
            return self.own[name][optimizer]
        found = self.common.get(name, [self.base[name]] if name in self.base else None)
        if found is None:
            return None
        plays = OPTIONS[name].plays_a_part(optimizer, schedule)
        default = [None] if name != "schedule" else ["auto", "sigmoid"]
        if plays or all(one in default for one in found):
            self.used.add(name)
        else:
            arm = optimizer if schedule == "auto" else f"{optimizer} with schedule {schedule}"
            self.idle.setdefault(name, {})[arm] = None
        return found if plays else None


def _values(name: str, value: Any) -> list[Any]:
    """Return the values of one option; a single value need not stand in a list."""
    if OPTIONS[name].many:
        raise UsageError(f"{name} must be in base, since it is the same for all runs, got it in grid")
    values = [OPTIONS[name].convert(one) for one in (value if isinstance(value, list) else [value])]
    if not values:
        raise UsageError(f"{name} of grid must have one value at least, got none")
    if bad := [one for one in values if not isinstance(one, (str, int, float, bool, Path, type(None)))]:
        raise UsageError(
            f"{name} of grid must be a list of values, or of values for each optimizer, got {bad[0]!r:.60}"
        )
    if len({repr(one) for one in values}) != len(values):
        raise UsageError(f"{name} of grid must not repeat, got {', '.join(map(str, values))}")
    return values
