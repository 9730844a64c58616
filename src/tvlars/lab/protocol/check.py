"""Check of a protocol before any run: number and cost of the runs, data, and seeds that the comparisons need."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tvlars._words import counted
from tvlars.lab.comparison.family import ALL, Declared, check_family, pairs_of
from tvlars.lab.comparison.paired import POWER, seeds_needed
from tvlars.lab.config import TrainConfig, names_of
from tvlars.lab.data import ImageData
from tvlars.lab.errors import UsageError, listed
from tvlars.lab.experiments.grid import Grid
from tvlars.lab.experiments.studies.config import StudyConfig
from tvlars.lab.experiments.studies.runs import at_end, points_of
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.folder import identity
from tvlars.lab.experiments.tuning.objective import Objective
from tvlars.lab.experiments.tuning.tune import spaces_of
from tvlars.lab.given import Given, take
from tvlars.lab.imported import said_path
from tvlars.lab.options import Is
from tvlars.lab.protocol.parse import family_of
from tvlars.lab.registered.deviations import options_of_run
from tvlars.lab.registered.record import Planned, digest_of
from tvlars.lab.training.prepare import Prepared, data_of, prepare

SHOWN = ("arm", "seed", "batch_size", "steps")
"""Options of runs that are not repeated in the table of arms."""


@dataclass(frozen=True)
class ArmPlan:
    """Planned runs of an arm."""

    arm: str
    space: str
    """Learning rates, or the search space."""
    trials: int
    """Number of runs for the choice of options, including reruns with other tuning seeds."""
    runs: int
    """Number of reported runs."""
    images: int
    """Training images that all these runs process, repetitions included."""


@dataclass(frozen=True)
class Check:
    """Number and cost of a protocol's runs, and notes to read before the runs start."""

    content: dict[str, Any]
    planned: Planned
    arms: tuple[ArmPlan, ...]
    notes: tuple[str, ...]
    comparisons: int
    """Number of pairs of arms in the declared family."""

    @property
    def digest(self) -> str:
        """Digest of the protocol."""
        return digest_of(self.content)

    @property
    def runs(self) -> int:
        """Number of all runs, including trials."""
        return sum(arm.trials + arm.runs for arm in self.arms)

    @property
    def images(self) -> int:
        """Training images that all runs process, repetitions included."""
        return sum(arm.images for arm in self.arms)

    def seeds_needed(self) -> int | None:
        """Return the number of seeds that the power calculation requires; None if the protocol has none."""
        power = {str(name).replace("-", "_"): value for name, value in (self.content.get("power") or {}).items()}
        if not power:
            return None
        target = {"power": power.get("power", POWER), "comparisons": max(self.comparisons, 1)}
        try:
            return seeds_needed(power["difference"], power["deviation"], **target)
        except ValueError as error:
            raise UsageError(f"power: {error}") from error

    def lines(self, speed: float | None = None) -> list[str]:
        """Return the check as lines of text.

        Args:
            speed: training images per second of all processes together, to compute hours; None (default): no hours.
        """
        content, width = self.content, max(len(arm.arm) for arm in self.arms)
        hours = f", {self.images / speed / 3600:.2g} hours at {speed:,.0f} images/s" if speed else ""
        lines = [
            f"protocol {content['name']}, digest {self.digest}",
            f"question {' '.join(content['question'].split())}",
            f"command  {content['command']}",
        ]
        for arm in self.arms:
            trials = f"{counted(arm.trials, 'trial')}, " if arm.trials else ""
            space = f"; {arm.space}" * bool(arm.space)
            lines.append(
                f"arm      {arm.arm:<{width}}  {trials}{counted(arm.runs, 'run')}, {_million(arm.images)} images{space}"
            )
        lines.append(f"in all   {counted(self.runs, 'run')}, {_million(self.images)} images{hours}")
        if self.comparisons:
            margin = content.get("margin")
            equivalence = f", margin {margin:g} points" if margin is not None else ""
            lines.append(f"family   {family_of(content)}: {counted(self.comparisons, 'comparison')}{equivalence}")
        seeds = len(content["seeds"])
        if (needed := self.seeds_needed()) is not None:
            power = content["power"]
            lines.append(
                f"power    {needed} seeds find a difference of {power['difference']:g} points at a deviation of "
                f"{power['deviation']:g} with {power.get('power', POWER):.0%}; there are {seeds}"
            )
        stopping = content["stopping"]
        if isinstance(stopping, dict):
            stopping = " or ".join(f"{value:g} {name}" for name, value in stopping.items())
        lines.append(f"stopping {' '.join(str(stopping).split())}")
        lines += [f"{part:<8} {' '.join(content[part].split())}" for part in ("cuts", "measure") if content.get(part)]
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _million(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def check(content: dict[str, Any], config: Any) -> Check:
    """Return the runs of a protocol and their numbers; data are loaded, but nothing is trained.

    Raises:
        UsageError: an option does not fit the data, nothing is held out for validation, or budgets differ.
    """
    if isinstance(config, TuneConfig):
        planned, arms, notes = _of_tuning(content, config)
        names = [[arm.arm for arm in arms]]
    else:
        planned, arms, notes, names = _of_runs(content, config)
    family, pairs = family_of(content), 0
    if content.get("family") is not None:
        check_family(family, [arm.arm for arm in arms])
        pairs = sum(len(pairs_of(family, some)) for some in names)
        if not pairs:
            said = listed(arm.arm for arm in arms)
            raise UsageError(f"family must have pairs of arms, but {family} has none of {said}")
    made = Check(content, planned, tuple(arms), (), pairs)
    needed, seeds = made.seeds_needed(), len(content["seeds"])
    if needed is not None and needed > seeds:
        notes.append(f"{counted(seeds, 'seed is', 'seeds are')} fewer than the {needed} of the power calculation")
    stopping = content["stopping"]
    if isinstance(stopping, dict) and stopping.get("runs", made.runs) < made.runs:
        notes.append(f"stopping after {stopping['runs']} runs leaves out some of the {made.runs} planned runs")
    return replace(made, notes=tuple(notes))


def _of_runs(content: dict[str, Any], config: Any) -> tuple[Planned, list[ArmPlan], list[str], list[list[str]]]:
    """Return the planned runs of a command without a search, and the arms of each table that will be tested."""
    notes = list(config.notes) if isinstance(config, Grid) else []
    found: list[Prepared] = []
    loaded: dict[str, ImageData] = {}
    for run in _runs_of(config):
        key = repr([getattr(run, name) for name in (*names_of(Is.LOADS), "validation", "validation_seed", "crop")])
        if key not in loaded:
            loaded.clear()  # keep only one data set, since data may be large
            loaded[key] = data_of(run, take(run).data)
            notes += _held_out(run, loaded[key])
        try:
            found.append(prepare(run, Given(loaded[key]), here=False))
        except UsageError as error:
            raise UsageError(f"{run.label()}: {error}") from error
    by_arm: dict[str, list[Prepared]] = {}
    for one in found:
        by_arm.setdefault(one.config.arm_name, []).append(one)
    counts = {arm: len(some) for arm, some in by_arm.items()}
    if content.get("budgets") == "unequal":
        said = listed(f"{arm} {count}" for arm, count in counts.items())
        notes.append(f"budgets are unequal, as declared: {said} runs")
    else:
        _check_equal(counts, "runs")
    arms = [
        ArmPlan(arm, _rates(some), 0, len(some), sum(one.plan.total_steps * one.plan.batch_size for one in some))
        for arm, some in by_arm.items()
    ]
    runs, tested = [one.config for one in found], content["command"] in ("compare", "sweep")
    declared, names = (_declared(content), _tested(runs)) if tested else ({}, [list(by_arm)])
    planned = Planned(content["command"], tuple(map(options_of_run, runs)), declared=declared)
    return planned, arms, list(dict.fromkeys(notes)), names


def _tested(runs: list[TrainConfig]) -> list[list[str]]:
    """Return the arms' names on pages for each batch size, data set and length, which are tested separately."""
    from tvlars.lab.report.arms import arm_names  # and with it pandas

    parts: dict[tuple[Any, ...], list[TrainConfig]] = {}
    for run in runs:
        key = (run.data, run.image_size, run.task, run.length, run.keep_best, run.batch_size)
        parts.setdefault(key, []).append(run)
    return [arm_names(some) for some in parts.values()]


def _runs_of(config: Any) -> Iterable[TrainConfig]:
    """Return the configs of all runs of a command without a search."""
    if isinstance(config, Grid):
        return config.runs
    if isinstance(config, StudyConfig):
        data = data_of(config.base, take(config.base).data)
        return [at_end(point.config, data) for point in points_of(config, data)]
    runs: list[TrainConfig] = config.runs()
    return runs


def _rates(runs: Iterable[Prepared]) -> str:
    rates = dict.fromkeys(f"{one.plan.lr:g}" for one in runs if one.plan.lr == one.plan.lr)
    return f"lr {', '.join(rates)}" if rates else ""


def _of_tuning(content: dict[str, Any], config: TuneConfig) -> tuple[Planned, list[ArmPlan], list[str]]:
    """Return the trials and the reported runs of a tuning."""
    given = take(config.base)
    data = data_of(replace(config.base, validation=None, validation_seed=0), given.data)
    config = config.with_validation(data)
    given = Given(data_of(config.base, data))
    spaces, notes = spaces_of(config, given)
    again = min(config.rerun, config.trials) * (len(config.tune_seeds) - 1)
    before, arms, runs = config.before(), [], []
    spent: dict[str, int] = {}
    first = None
    for arm in config.all_arms():
        one = prepare(config.trial(arm, {}), given, here=False)
        first = first or one
        images = one.plan.total_steps * one.plan.batch_size
        space = "; ".join(f"{name} {values}" for name, values in spaces[arm.key].items())
        trials, seeds = config.trials + again, len(config.seeds)
        arms.append(ArmPlan(one.config.arm_name, space, trials, seeds, images * (trials + seeds)))
        spent[arms[-1].arm] = trials + before.get(arm.key, 0)
        runs += [options_of_run(config.run(arm, {}, seed)) for seed in config.seeds]
    _check_equal(spent, "trials")
    if config.widen:
        more = max(2, -(-config.trials // 4))
        notes.append(f"spaces may be widened in {config.widen} rounds of {more} further trials for each arm")
    objective = Objective.of(first.config, first.task) if first is not None else Objective()
    said = identity(config, spaces, objective)
    declared = {name: said[name] for name in ("base", "sampler", "prune", "tune_seeds", "space", "arms")}
    declared = json.loads(json.dumps({**declared, **_declared(content)}, default=str))
    return Planned("tune", tuple(runs), True, declared, config.trials, config.widen), arms, [*config.idle(), *notes]


def _declared(content: dict[str, Any]) -> dict[str, Any]:
    """Return family and margin in the form of the folder's files."""
    family = family_of(content) if content.get("family") is not None else ALL
    return {"margin": None, **Declared(family, content.get("margin")).as_json()}


def _held_out(run: TrainConfig, data: ImageData) -> list[str]:
    """Return a note if nothing is held out; raise ``UsageError`` if the protocol does not declare this."""
    if data.validated:
        return []
    if run.validation is None:
        raise UsageError(
            f"validation must hold out images for choices, since {said_path(run.data)} has no validation images: use "
            "validation: 0.1, or validation: 0 to declare that there are none"
        )
    return ["nothing is held out for validation, as declared: choices are made on test images"]


def _check_equal(counts: dict[str, int], what: str) -> None:
    """Raise ``UsageError`` unless all arms have the same number of runs or trials."""
    if len(set(counts.values())) > 1:
        most = Counter(counts.values()).most_common(1)[0][0]
        said = listed(f"{arm} has {count}" for arm, count in counts.items() if count != most)
        raise UsageError(f"arms must have equal budgets, but most have {most} {what}, and {said}")
