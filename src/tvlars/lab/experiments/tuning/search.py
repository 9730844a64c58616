"""Trials of one arm: chosen by Optuna, done one at a time, and kept in a journal.

The journal records the options of a trial at its start, and its status at its end. So no trial is lost if the process
is killed: the running trial resumes. All values are from validation data. They are read from the trial's run folder,
so that they depend neither on the process that trains the trial nor on interruptions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tvlars._reading import is_inside
from tvlars.lab.experiments.arms import file_name
from tvlars.lab.experiments.job import OVER, read_status
from tvlars.lab.experiments.tuning.objective import Objective
from tvlars.lab.experiments.tuning.space import Choice, Range, Space, point_key
from tvlars.lab.experiments.tuning.stages import Explored, Stage
from tvlars.lab.experiments.tuning.trial import Rerun, Trial
from tvlars.lab.run_folder.record import read_object, write_json
from tvlars.lab.run_folder.rows import epochs_done
from tvlars.lab.run_folder.status import Status

REFUSED = "refused"
"""Attribute of a trial whose run was refused; its value is the reason."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that count for the budget; a diverged trial is complete, with the worst value."""
PRUNE_TRIALS = 4
"""Number of trials that run to their end before pruning starts."""
PRUNE_SHARE = 1 / 3
"""Share of a trial's epochs after which it may be pruned."""


@dataclass
class Search:
    """Search of one arm.

    Args:
        arm: key of the arm, also the name of the study.
        space: range or values of each searched option.
        folder: folder of the trials' run folders.
        storage: storage of the study.
        stages: numbers of trials, with their points unless a sampler chooses them: first the initial trials, then the
            trials of each round that widened the space.
        seed: seed of the sampler; trials with the same number draw the same random numbers for all arms.
        epochs: epochs of every trial.
        prune: whether to stop a trial that is worse than the median of earlier trials.
        objective: value that ranks and prunes trials.
        again: tuning seeds other than the first, for reruns of the best trials.
        listed: True for a grid.
    """

    arm: str
    space: Space
    folder: Path
    storage: optuna.storages.BaseStorage
    stages: list[Stage]
    seed: int
    epochs: int
    prune: bool
    objective: Objective
    again: tuple[int, ...] = ()
    listed: bool = False
    study: optuna.Study = field(init=False)
    current: optuna.Trial | None = field(init=False, default=None)
    """The running trial."""

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warmup = math.ceil(self.epochs * PRUNE_SHARE)
        pruner = optuna.pruners.MedianPruner(PRUNE_TRIALS, warmup) if self.prune else optuna.pruners.NopPruner()
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=self.arm,
            direction=optuna.study.StudyDirection[self.objective.direction.upper()],
            pruner=pruner,
            load_if_exists=True,
        )
        self._cut_off: list[optuna.Trial] = []
        for trial in self._all(TrialState.RUNNING):
            if set(trial.params) == set(self.space):
                # Optuna has no public API to resume a trial; its own integrations do it this way.
                self._cut_off.append(optuna.Trial(self.study, trial._trial_id))
            else:  # killed while its options were drawn: they will be drawn again
                self.study.tell(trial.number, state=TrialState.FAIL)
        self._reruns: dict[tuple[str, int], Rerun] = {}
        self._queue_points()

    @property
    def budget(self) -> int:
        """Number of trials of all stages."""
        return sum(stage.count for stage in self.stages)

    def add(self, stage: Stage) -> None:
        """Add the trials of a round that widens the space."""
        self.stages.append(stage)
        self._queue_points()

    def _queue_points(self) -> None:
        """Queue the points of all stages, except points that have been run or are queued already."""
        there = {point_key(self.space, chosen(one)) for one in self._all() if one.state != TrialState.FAIL}
        for point in (point for stage in self.stages for point in stage.points or ()):
            if point_key(self.space, point) not in there:
                self.study.enqueue_trial(point)

    def explored(self) -> Explored:
        """Return the space, stages and trials so far."""
        return Explored(self.space, self.stages, [one.params for one in self.trials if one.counts], self.listed)

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    @property
    def trials(self) -> list[Trial]:
        """All trials that have started, with their reruns."""
        return begun(self.study, self.objective, self.folder, self.again, self._reruns)

    @property
    def counted(self) -> int:
        """Number of trials that count for the budget."""
        return len(self._all(*COUNTED))

    def begin(self) -> tuple[dict[str, Any], Path]:
        """Start the next trial, or resume an interrupted one; return its options and its run folder.

        Raises:
            RuntimeError: no point is queued for a stage with points, which would be a bug: TPE must not choose one.
        """
        self._checked = 0
        if self._cut_off:
            self.current = self._cut_off.pop(0)
        else:
            counted = self.counted
            stage = self._stage_of(counted)
            if stage.points is not None and not self._all(TrialState.WAITING):
                raise RuntimeError(
                    f"the search of {self.arm} has no queued point after {counted} of {self.budget} trials"
                )
            # Each trial has its own sampler, so that a resumed study draws the same options as an uninterrupted one.
            startup = min(10, max(4, self.stages[0].count // 3))
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + counted, n_startup_trials=startup)
            self.current = self.study.ask()
            queued = chosen(self._all()[self.current.number]) if stage.points is not None else {}
            for name, one in stage.space(self.space).items():
                self._with(name, one, queued.get(name)).suggest(self.current, name)
        return self.current.params, self.folder / folder_name(self.study, self.current)

    def _stage_of(self, counted: int) -> Stage:
        """Return the stage of the trial after ``counted`` others."""
        for stage in self.stages:
            if counted < stage.count:
                return stage
            counted -= stage.count
        return self.stages[-1]

    def _with(self, name: str, one: Range | Choice, queued: Any) -> Range | Choice:
        """Return the space of an option, extended so that Optuna accepts the ``queued`` value.

        If points are queued, Optuna gets a list of numbers as a range, since a range can be widened, but a category
        cannot. Studies of earlier versions keep their categories.
        """
        if type(queued) not in (int, float):
            return one
        if isinstance(one, Choice):
            if not one.numeric or self.is_category(name):
                return one
            one = Range(min(one.values), max(one.values), whole=isinstance(queued, int))
        return Range(min(one.low, queued), max(one.high, queued), one.log, one.whole)

    def is_category(self, name: str) -> bool:
        """Return whether the study stores the values of an option as categories."""
        kinds = [one.distributions[name] for one in self._all() if name in one.distributions]
        return any(isinstance(kind, optuna.distributions.CategoricalDistribution) for kind in kinds)

    def is_hopeless(self) -> bool:
        """Report each new value in the trial's folder to Optuna once; return True to give the trial up."""
        trial, folder = self._going()
        known = self.study.trials[trial.number].intermediate_values
        if read_status(folder) == Status.PRUNED:
            return True
        if epochs_done(folder) <= self._checked:
            return False
        for epoch, value in self.objective.after_epochs(folder).items():
            if epoch <= self._checked or not math.isfinite(value):
                continue
            if epoch not in known:
                trial.report(value, epoch)
            self._checked = epoch
            if epoch < self.epochs and trial.should_prune():
                return True
        return False

    def end(self, status: Status, note: str = "") -> Trial | None:
        """Record how the running trial ended, and return it; return None if the next call resumes it.

        A trial that ended by itself, but should have been stopped before, is recorded as pruned.
        """
        trial, folder = self._going()
        if status == Status.REFUSED:
            trial.set_user_attr(REFUSED, note)
            self._tell(trial, state=TrialState.FAIL)
        elif status == Status.PRUNED or (status in OVER and self.is_hopeless()):
            _say_pruned(folder)
            self._tell(trial, state=TrialState.PRUNED)
        elif status in OVER:
            value = self.objective.worst if status == Status.DIVERGED else self.objective.final(folder)
            if status == Status.DIVERGED or (value is not None and not math.isfinite(value)):
                trial.set_user_attr("diverged", True)
                value = self.objective.worst
            self._tell(trial, value)
        else:
            return None
        self.current = None
        return _trial(self.study, self.study.trials[trial.number], self.objective)

    def _going(self) -> tuple[optuna.Trial, Path]:
        assert self.current is not None
        return self.current, self.folder / folder_name(self.study, self.current)

    def _tell(self, trial: optuna.Trial, value: float | None = None, state: Any = None) -> None:
        self.study.tell(trial.number, value, state)


def begun(
    study: optuna.Study,
    objective: Objective,
    folder: Path,
    again: Sequence[int] = (),
    known: dict[tuple[str, int], Rerun] | None = None,
) -> list[Trial]:
    """Return all trials of a study that have started, with their reruns in ``folder`` for the seeds ``again``.

    Finished reruns are cached in ``known``.
    """
    known = {} if known is None else known
    found = []
    for one in study.get_trials(deepcopy=False):
        if one.state == TrialState.WAITING:
            continue
        trial = _trial(study, one, objective)
        for seed in again if trial.status == Status.FINISHED else ():
            key = (trial.folder, seed)
            if key not in known and (rerun := _read_rerun(folder, trial, seed)) is not None:
                known[key] = rerun
        reruns = tuple(known[trial.folder, seed] for seed in again if (trial.folder, seed) in known)
        found.append(replace(trial, reruns=reruns))
    return found


def _read_rerun(trials: Path, trial: Trial, seed: int) -> Rerun | None:
    """Return the rerun of a trial with another tuning seed; None if it is not done."""
    folder = trials / rerun_folder(trial, seed)
    status = read_status(folder)
    if status not in OVER or not is_inside(folder, trials):
        return None
    value = None if status == Status.DIVERGED else trial.objective.final(folder)
    if value is None or not math.isfinite(value):
        status, value = Status.DIVERGED, trial.objective.worst
    return Rerun(seed, status, value, epochs_done(folder), folder.name)


def rerun_folder(trial: Trial, seed: int) -> str:
    """Return the name of the run folder for the rerun of a trial with another tuning seed."""
    return f"{trial.folder}-s{seed}"


def chosen(trial: FrozenTrial) -> dict[str, Any]:
    """Return the options of a trial, including queued values."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def folder_name(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> str:
    """Return the name of a trial's run folder, which does not depend on the content of any file."""
    return f"{file_name(study.study_name)}-{trial.number:03d}"


def _trial(study: optuna.Study, trial: FrozenTrial, objective: Objective) -> Trial:
    status = {
        TrialState.COMPLETE: Status.DIVERGED if trial.user_attrs.get("diverged") else Status.FINISHED,
        TrialState.PRUNED: Status.PRUNED,
        TrialState.FAIL: Status.REFUSED if REFUSED in trial.user_attrs else Status.INTERRUPTED,
    }
    last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    return Trial(
        trial.number,
        status.get(trial.state, Status.INTERRUPTED),
        dict(trial.params),
        trial.value if trial.state == TrialState.COMPLETE else last,
        max(trial.intermediate_values, default=0),
        folder_name(study, trial),
        objective,
    )


def _say_pruned(folder: Path) -> None:
    """Write the status pruned to summary.json, where the training loop has written failed, or nothing."""
    file = folder / "summary.json"
    with contextlib.suppress(OSError):
        write_json(file, {**read_object(file), "status": Status.PRUNED})
