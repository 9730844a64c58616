"""Options of a tuning: those of all runs, the search space, and the budget."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tvlars.lab.config import MAX_SEED, OPTIMIZERS, OPTIONS, TrainConfig, plays_a_part
from tvlars.lab.data import ImageData
from tvlars.lab.errors import UsageError, listed
from tvlars.lab.experiments.arms import as_options, check_names_differ, file_name
from tvlars.lab.optimizers import optimizer_name
from tvlars.lab.options import check, given, option

SAMPLERS = ("tpe", "grid")
HELD_OUT = 0.1
"""Share of the training images that trials are chosen by if neither options nor data say which images."""


@dataclass(frozen=True)
class TuneConfig:
    """Every optimizer has the same number of trials with one seed; its best options are then run with other seeds.

    Trials are chosen by the accuracy on validation images, for a user's task by its mean loss on validation samples or
    by the measure that it names, and never read the test set; the runs with other seeds do, at their end.

    Raises:
        UsageError: a value is unknown or out of its range (when it is made).
    """

    base: TrainConfig = field(default_factory=TrainConfig)
    """Options of all runs; its optimizer, seed, out and resume are ignored."""
    optimizers: tuple[str, ...] = option(
        ("tvlars", "lars", "lamb"),
        "those tuned, one or more of {choices} or import paths",
        choices=OPTIMIZERS,
        closed=False,
    )
    trials: int = option(
        16, "for each optimizer (default: 16); one that is pruned or diverges counts", within=(1, 10_000)
    )
    sampler: str = option("tpe", "how trials are chosen: tpe (default), grid", choices=SAMPLERS)
    tune_seed: int = option(1000, "of all trials", within=(0, MAX_SEED))
    seeds: tuple[int, ...] = option((0, 1, 2), "fresh ones for the runs that are reported", within=(0, MAX_SEED))
    space: tuple[str, ...] = option(
        (),
        "what is searched, for all optimizers that have the option or for one: LOW:HIGH, LOW:HIGH:log or A,B,C; "
        "lr always is, three octaves above and below the plan's where it is not given",
    )
    prune: bool = option(
        True, "give up trials that are worse than the median of those before, after a third of their epochs"
    )
    out: Path | None = option(
        None, "folder, gone on with where it exists (default: runs/tune- and the data's name and the batch size)"
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "optimizers", tuple(map(optimizer_name, self.optimizers)))
        check_names_differ([file_name(name) for name in self.optimizers], "optimizers")
        if self.tune_seed in self.seeds:
            raise UsageError(
                f"seeds must be fresh ones, got {self.tune_seed}, that of the trials which options are chosen by"
            )
        if self.base.lr is not None:
            raise UsageError(
                f"lr must not be given for tuning, which searches it: say where with space, got {self.base.lr}"
            )
        if self.base.validation == 0:
            raise UsageError("validation must be > 0 for tuning, whose trials are chosen by it, got 0")
        if not self.base.test:
            raise UsageError("test must be true for tuning: its trials never read the test set, its reported runs do")
        if (self.base.devices or 1) > 1 or (self.base.nodes or 1) > 1:
            raise UsageError("devices must be 1 for tuning, whose trials are run in one process")
        if self.base.shard:
            raise UsageError("shard must not be given for tuning, whose trials are run in one process")

    def folder(self) -> Path:
        """Return the folder of the tuning."""
        return self.out or Path("runs") / f"tune-{self.base.data_label()}-b{self.base.batch_size}"

    def with_validation(self, data: ImageData) -> TuneConfig:
        """Return the config with a tenth of the training images held out, if neither it nor ``data`` has validation."""
        if self.base.validation is not None or data.validated:
            return self
        return replace(self, base=replace(self.base, validation=HELD_OUT))

    def trial(self, optimizer: str, params: dict[str, Any]) -> TrainConfig:
        """Return the config of a trial of ``optimizer`` with the chosen ``params``; it does not read the test set."""
        return replace(self.run(optimizer, params, self.tune_seed), test=False)

    def run(self, optimizer: str, params: dict[str, Any], seed: int) -> TrainConfig:
        """Return the config of one run: the options of the base that the optimizer has, the chosen ``params``, and
        ``seed``."""
        values = {f.name: getattr(self.base, f.name) for f in fields(TrainConfig)}
        values |= as_options(optimizer, params, self.base.optimizer_options) if params else {}
        schedule = str(values["schedule"])
        for name, one in OPTIONS.items():
            chosen = name in params or values[name] != getattr(self.base, name)
            searched = chosen and not ("schedule" in params and one.schedules)
            if not searched and not plays_a_part(name, optimizer, schedule):
                values[name] = one.default
        values.update(optimizer=optimizer, seed=seed, out=None, resume=False)
        return TrainConfig(**values)

    def idle(self) -> list[str]:
        """Return a note on each option of the base that some optimizers do not have."""
        notes = []
        for name in given(self.base):
            without = [one for one in self.optimizers if not plays_a_part(name, one, self.base.schedule)]
            if without and len(without) == len(self.optimizers):
                raise UsageError(f"{name} must be an option of some optimizer, and is none of {listed(without)}")
            if without:
                notes.append(f"{name} plays no part in runs of {listed(without)}")
        return notes
