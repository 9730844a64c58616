"""Options of a tuning: common options of all runs, the arms, the search space, and the budget."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tvlars.lab.comparison.family import ALL, check_family, family_option, margin_option
from tvlars.lab.config import MAX_SEED, OPTIMIZERS, OPTIONS, TrainConfig, names_of, plays_a_part
from tvlars.lab.data import ImageData
from tvlars.lab.errors import UsageError, listed, unknown
from tvlars.lab.experiments.arms import Arm, as_options, short_spellings
from tvlars.lab.experiments.compare_config import SAME_FOR_ALL, Stored, check_varied
from tvlars.lab.imported import said_path, spelled_path
from tvlars.lab.options import Is, check, given, option

SAMPLERS = ("tpe", "qmc", "grid")
HELD_OUT = 0.1
"""Share of the training images held out for validation if neither options nor data define a validation part."""


@dataclass(frozen=True)
class TuneConfig(Stored):
    """Options of a tuning: every arm has the same number of trials with the first tuning seed. Its best trials are run
    again with the other tuning seeds, and the options with the best mean are then run with fresh seeds.

    Trials are ranked by the accuracy on validation images, or for a user's task by its loss or chosen measure on
    validation samples. Trials never read the test set; the runs with fresh seeds read it at their end.

    Raises:
        UsageError: a value is unknown or out of its range.
    """

    base: TrainConfig = field(default_factory=TrainConfig)
    """Options of all runs; its optimizer, arm, seed, out and resume are ignored."""
    optimizers: tuple[str, ...] = option(
        (),
        "optimizers to tune: {choices}, or import paths (default: tvlars lars lamb; with arms: none)",
        choices=OPTIMIZERS,
        closed=False,
    )
    trials: int = option(16, "trials of each arm (default: 16), with pruned and diverged ones", within=(1, 10_000))
    sampler: str = option(
        "tpe", "how trials are chosen: tpe (default), qmc (scrambled Sobol points), grid", choices=SAMPLERS
    )
    tune_seeds: tuple[int, ...] = option(
        (1000,), "seeds of trials: all use the first, the best are run again with the others", within=(0, MAX_SEED)
    )
    seeds: tuple[int, ...] = option((0, 1, 2), "fresh seeds for the reported runs", within=(0, MAX_SEED))
    space: tuple[str, ...] = option(
        (),
        "search space of an option, for all arms that have it or for one: LOW:HIGH, LOW:HIGH:log, A,B,C or, for values "
        "a factor apart, LOW:HIGH:xFACTOR (x2, xsqrt2); lr is always searched, by default three octaves below and "
        "above the planned value",
    )
    family: str = family_option()
    margin: float | None = margin_option()
    prune: bool = option(
        True, "stop a trial after a third of its epochs or later if it is worse than the median of earlier trials"
    )
    rerun: int = option(3, "best trials of each arm that are run again with the other tuning seeds", within=(1, 10_000))
    widen: int = option(
        0,
        "most rounds of further trials for all arms (a quarter of --trials each, at least 2) while the best trial of "
        "one lies at an end of its space; a round widens the space there (default: 0, only an alarm)",
        within=(0, 100),
    )
    spent: tuple[str, ...] = option((), "earlier trials outside of this folder, which count too: ARM=N each")
    arms: tuple[Arm, ...] = ()
    """Named settings of optimizers, tuned in addition to ``optimizers``; the options of an arm are not searched."""
    out: Path | None = option(
        None, "folder, continued if it exists (default: below runs/, named tune- with data and batch size)"
    )

    def __post_init__(self) -> None:
        check(self)
        self._take_arms()
        self._check_arms()
        self.before()
        if both := [seed for seed in self.tune_seeds if seed in self.seeds]:
            raise UsageError(f"seeds must be fresh ones, got {both[0]}, which is a seed of the trials")
        if self.base.lr is not None:
            raise UsageError(
                f"lr must not be given for tuning, which searches it: set its range with space, got {self.base.lr}"
            )
        if self.base.validation == 0:
            raise UsageError("validation must be > 0 for tuning, whose trials are ranked on validation images, got 0")
        if not self.base.test:
            raise UsageError("test must be true for tuning: its trials never read the test set, its reported runs do")
        if (self.base.devices or 1) > 1 or (self.base.nodes or 1) > 1:
            raise UsageError("devices must be 1 for tuning, whose trials are run in one process")
        if self.base.shard:
            raise UsageError("shard must not be given for tuning, whose trials are run in one process")
        if self.family != ALL:
            check_family(self.family, [self.run(arm, {}, self.seeds[0]).arm_name for arm in self.all_arms()])

    def _check_arms(self) -> None:
        """Check that arms set only options that may differ between compared runs."""
        for arm in self.arms:
            for name in arm.options:
                check_varied(arm.name, name, (*SAME_FOR_ALL, *names_of(Is.SEVERAL)), "arms")
            self.run(arm, {}, self.tune_seeds[0])

    def before(self) -> dict[str, int]:
        """Return the numbers of earlier trials in ``spent``, by key of the arm.

        Raises:
            UsageError: a text is not ARM=N, or its arm is not tuned or appears twice.
        """
        names = {spelling: arm.key for arm in self.all_arms() for spelling in (arm.name, said_path(arm.key), arm.key)}
        found: dict[str, int] = {}
        for text in self.spent:
            name, _, number = str(text).rpartition("=")
            if not (name and re.fullmatch(r"[0-9]{1,6}", number)):
                raise UsageError(f"spent must be ARM=N, a number of earlier trials, as in lars=12, got {text!r}")
            if (key := names.get(name) or names.get(spelled_path(name))) is None:
                raise unknown("arm of spent among those tuned", name, short_spellings(names))
            if key in found:
                raise UsageError(f"spent must name {name} only once, got it again in {text!r}")
            found[key] = int(number)
        return found

    def folder(self) -> Path:
        """Return the folder of the tuning."""
        return self.out or Path("runs") / f"tune-{self.base.data_label()}-b{self.base.batch_size}"

    def with_validation(self, data: ImageData) -> TuneConfig:
        """Return the config, with a tenth of the training images held out if no validation part is defined."""
        if self.base.validation is not None or data.validated:
            return self
        return replace(self, base=replace(self.base, validation=HELD_OUT))

    def trial(self, arm: Arm | str, params: dict[str, Any], seed: int | None = None) -> TrainConfig:
        """Return the config of a trial of ``arm`` with the options ``params``, which does not read the test set.

        ``seed`` is one of the tuning seeds; None (default): the first.
        """
        run = self.run(arm, params, self.tune_seeds[0] if seed is None else seed)
        return replace(run, test=False, test_share=None)

    def run(self, arm: Arm | str, params: dict[str, Any], seed: int) -> TrainConfig:
        """Return the config of one run: options of the base that the optimizer has, then options of the arm, then
        ``params`` and ``seed``. If ``arm`` is text, it is the key of an arm, or the name of an optimizer."""
        if isinstance(arm, str):
            arm = next((one for one in self.all_arms() if one.key == arm), None) or Arm.of(arm)
        settings = {**arm.options, **params}
        values = {f.name: getattr(self.base, f.name) for f in fields(TrainConfig)}
        values |= as_options(arm.optimizer, settings, self.base.optimizer_options) if settings else {}
        schedule = str(values["schedule"])
        for name, one in OPTIONS.items():
            chosen = name in settings or values[name] != getattr(self.base, name)
            searched = chosen and not ("schedule" in params and one.schedules and name not in arm.options)
            if not searched and not plays_a_part(name, arm.optimizer, schedule):
                values[name] = one.default
        values.update(optimizer=arm.optimizer, arm=None if arm.plain else arm.name, seed=seed, out=None, resume=False)
        return TrainConfig(**values)

    def idle(self) -> list[str]:
        """Return a note on each option of the base that has no effect for some arms."""
        notes, arms = [], self.all_arms()
        for name in given(self.base):
            without = [
                arm.key
                for arm in arms
                if not plays_a_part(name, arm.optimizer, arm.options.get("schedule", self.base.schedule))
            ]
            if without and len(without) == len(arms):
                raise UsageError(f"{name} must be an option of some optimizer, but is none of {listed(without)}")
            if without:
                notes.append(f"{name} has no effect in runs of {listed(without)}")
        return notes
