"""What a tuning is made of: the options of all runs, what is searched, and how much may be spent on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tvlars.lab.config import MAX_SEED, OPTIMIZERS, OPTIONS, TrainConfig
from tvlars.lab.errors import UsageError, listed, unknown
from tvlars.lab.options import as_path, given

SAMPLERS = ("tpe", "grid")
CHECKPOINT_EVERY = "5m"


@dataclass(frozen=True)
class TuneConfig:
    """Every optimizer gets the same number of trials with one seed; the best options of each are run with others.

    Raises:
        UsageError: a value is unknown or out of its range (when it is made).
    """

    base: TrainConfig = field(default_factory=TrainConfig)
    """Options of all runs; optimizer, seed, out and resume are not taken from it."""
    optimizers: tuple[str, ...] = ("tvlars", "lars", "lamb")
    trials: int = 16
    """For each optimizer; one that is pruned or diverges counts."""
    sampler: str = "tpe"
    tune_seed: int = 1000
    """Of all trials."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs that are reported."""
    space: tuple[str, ...] = ()
    """What is searched besides lr, as in "momentum=0.8:0.95", see ``tuning.space``."""
    prune: bool = True
    out: Path | None = None
    """Folder, gone on with where it exists (default: runs/tune- and the data's name and the batch size)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", as_path("out", self.out))
        for name in ("optimizers", "seeds", "space"):
            values = getattr(self, name)
            if isinstance(values, (str, dict)) or not isinstance(values, Iterable):
                raise UsageError(f"{name} must be a list, got {values!r}")
            object.__setattr__(self, name, tuple(values))
        for optimizer in self.optimizers:
            if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
                raise unknown("optimizer", optimizer, OPTIMIZERS)
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, SAMPLERS)
        for name in ("optimizers", "seeds"):
            values = getattr(self, name)
            if not values:
                raise UsageError(f"{name} must name at least one, got none")
            if len(set(map(repr, values))) != len(values):
                raise UsageError(f"{name} must not repeat, got {', '.join(map(str, values))}")
        ranges = {"trials": (1, 10_000), "tune_seed": (0, MAX_SEED), "seeds": (0, MAX_SEED)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if not isinstance(one, int) or isinstance(one, bool) or not low <= one <= high:
                    raise UsageError(f"{name} must be an integer from {low} to {high}, got {one!r}")
        if self.tune_seed in self.seeds:
            raise UsageError(
                f"seeds must be fresh ones, got {self.tune_seed}, that of the trials which options are chosen by"
            )
        if self.base.lr is not None:
            raise UsageError(
                f"lr must not be given for tuning, which searches it: say where with space, got {self.base.lr}"
            )
        if (self.base.devices or 1) > 1 or (self.base.nodes or 1) > 1:
            raise UsageError("devices must be 1 for tuning, whose trials are run in one process")
        if self.base.shard:
            raise UsageError("shard must not be given for tuning, whose trials are run in one process")

    def folder(self) -> Path:
        """Where it is kept."""
        return self.out or Path("runs") / f"tune-{self.base.data_label()}-b{self.base.batch_size}"

    def run(self, optimizer: str, params: dict[str, Any], seed: int, out: Path | None = None) -> TrainConfig:
        """The config of one run with a ``seed``, written to ``out``: the base as far as the optimizer has its options,
        and those that were chosen, ``params``."""
        values = {f.name: getattr(self.base, f.name) for f in fields(TrainConfig)} | params
        schedule = str(values["schedule"])
        for name, one in OPTIONS.items():
            searched = name in params and not ("schedule" in params and one.schedule)
            if not searched and not one.plays_a_part(optimizer, schedule):
                values[name] = one.default
        values.update(optimizer=optimizer, seed=seed, out=out, resume=out is not None)
        values["checkpoint_every"] = values["checkpoint_every"] or CHECKPOINT_EVERY
        return TrainConfig(**values)

    def idle(self) -> list[str]:
        """What is to be said of options of the base that some optimizers do not have."""
        notes = []
        for name in given(self.base):
            without = [one for one in self.optimizers if not OPTIONS[name].plays_a_part(one, self.base.schedule)]
            if without and len(without) == len(self.optimizers):
                raise UsageError(f"{name} must be an option of some optimizer, and is none of {listed(without)}")
            if without:
                notes.append(f"{name} plays no part in runs of {listed(without)}")
        return notes
