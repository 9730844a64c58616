"""The trials of one optimizer: chosen by Optuna, trained here one after the other, kept in a file.

What a trial was is in the journal when it begins, and how it ended when it ends: a process that is killed loses no
trial. One that was going on then does not count, and its options are tried again, from its newest checkpoint; where
it was over and that was not in the journal yet, it is not trained again.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tvlars._reading import read_bytes, reason
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.experiments.job import read_status
from tvlars.lab.experiments.tuning.journal import check_records, check_study
from tvlars.lab.experiments.tuning.space import Space, point_key, suggest
from tvlars.lab.files.disk import sync
from tvlars.lab.run_folder.record import read_object, write_json
from tvlars.lab.run_folder.rows import EpochRow, epochs_done
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.train import train
from tvlars.plan import Plan

REFUSED = "refused"
"""The attribute of a trial whose run could not be done as it was: it has the reason."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that are part of the budget; one that diverged is complete, with accuracy 0."""
PRUNE_TRIALS = 4
"""So many trials are run to their end before others are compared with them."""
PRUNE_SHARE = 1 / 3
"""So much of a trial's epochs is run before it is compared with others."""


@dataclass(frozen=True)
class Trial:
    """One trial. ``status`` is finished, pruned or diverged (accuracy 0), or else interrupted or refused, and does not
    count."""

    number: int
    status: str
    params: dict[str, Any]
    accuracy: float | None
    epochs: int
    folder: str

    @property
    def counts(self) -> bool:
        """Whether it is part of the budget."""
        return self.status in ("finished", "pruned", "diverged")


def best_of(trials: list[Trial]) -> Trial | None:
    """The trial with the highest accuracy after its last epoch; None where none has got there."""
    return max((one for one in trials if one.status == "finished"), key=lambda one: one.accuracy or 0.0, default=None)


@dataclass
class Search:
    """The trials of one optimizer.

    Args:
        optimizer: its name, that of the study.
        space: what is searched.
        folder: where every trial has its run folder.
        storage: where the study is kept.
        budget: trials that count, for the sampler.
        seed: of the sampler; trials with equal numbers draw alike for all optimizers.
        epochs: of every trial.
        prune: whether a trial that is worse than the median of those before it is given up.
        said: what the tuning is, kept with the study.
        grid: the points to try, for the sampler "grid"; None: TPE chooses.
    """

    optimizer: str
    space: Space
    folder: Path
    storage: optuna.storages.BaseStorage
    budget: int
    seed: int
    epochs: int
    prune: bool
    said: dict[str, Any]
    grid: list[dict[str, Any]] | None = None
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warmup = math.ceil(self.epochs * PRUNE_SHARE)
        pruner = optuna.pruners.MedianPruner(PRUNE_TRIALS, warmup) if self.prune else optuna.pruners.NopPruner()
        self.study = optuna.create_study(
            storage=self.storage, study_name=self.optimizer, direction="maximize", pruner=pruner, load_if_exists=True
        )
        for name, value in self.said.items():
            if name not in self.study.user_attrs:
                self.study.set_user_attr(name, value)
        self._take_up()
        self._queue_grid()

    def _take_up(self) -> None:
        """What was going on when the process was killed fails, and is tried again; what was refused is not."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        again = {trial.user_attrs.get("again_of") for trial in self.study.trials}
        for trial in self.study.get_trials(states=(TrialState.FAIL,)):
            params = _chosen(trial)
            if params and trial.number not in again and REFUSED not in trial.user_attrs:
                place = {name: trial.user_attrs[name] for name in ("folder",) if name in trial.user_attrs}
                self.study.enqueue_trial(params, user_attrs={**place, "again_of": trial.number})

    def _queue_grid(self) -> None:
        """Queue the points of a grid that have neither been run nor are queued."""
        there = {
            point_key(self.space, _chosen(trial))
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state != TrialState.FAIL
        }
        for point in self.grid or []:
            if point_key(self.space, point) not in there:
                self.study.enqueue_trial(point)

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun."""
        return _begun(self.study)

    @property
    def counted(self) -> int:
        """Trials that are part of the budget."""
        return len(self.study.get_trials(deepcopy=False, states=COUNTED))

    def best(self) -> Trial | None:
        """The trial with the highest accuracy after its last epoch; None where none has got there."""
        return best_of(self.trials)

    def run_next(self, config: Any, data: ImageData, reporter: Reporter) -> Trial:
        """Run one more trial.

        Args:
            config: makes the ``TrainConfig`` of chosen options in a folder.
            data: the data set.
            reporter: shows the run.

        Raises:
            UsageError: as ``train`` does; the trial does not count then, and is not queued again.
            RuntimeError: a grid has no point left, which would be a defect: TPE is not to choose one.
        """
        counted = self.counted
        if self.grid is not None and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            raise RuntimeError(
                f"no point of the grid of {self.optimizer} is waiting, after {counted} of {self.budget} trials"
            )
        startup = min(10, max(4, self.budget // 3))
        # A sampler of its own for each trial, so that a study that goes on draws what it would have drawn.
        self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + counted, n_startup_trials=startup)
        trial = self.study.ask()
        params = suggest(trial, self.space)
        taken_up = "folder" in trial.user_attrs
        name = str(trial.user_attrs.get("folder", f"{self.optimizer}-{trial.number:03d}"))
        trial.set_user_attr("folder", name)
        run: TrainConfig = config(self.optimizer, params, self.folder / name)
        watcher = TrialReporter(trial, run.epochs, reporter, self._reported(trial))
        try:
            if taken_up and self._is_pruned(trial, watcher, self.folder / name):
                raise optuna.TrialPruned
            accuracy = train(run, data=data, reporter=watcher).test_accuracy
        except optuna.TrialPruned:
            watcher.catch_up(self.folder / name)
            _say_pruned(self.folder / name)
            self._tell(trial, name, state=TrialState.PRUNED)
        except DivergedError:
            trial.set_user_attr("diverged", True)
            self._tell(trial, name, 0.0)
        except UsageError as error:
            trial.set_user_attr(REFUSED, str(error))
            self._tell(trial, name, state=TrialState.FAIL)
            raise
        else:
            watcher.catch_up(self.folder / name)
            self._tell(trial, name, watcher.exact(run.epochs, accuracy))
        return _trial(self.study.trials[trial.number])

    def _reported(self, trial: optuna.Trial) -> dict[int, float]:
        """By epoch, the accuracies that were reported of a trial before it was cut off."""
        trials = self.study.get_trials(deepcopy=False)
        reported: dict[int, float] = {}
        before = trial.user_attrs.get("again_of")
        while before is not None:
            reported = {**trials[before].intermediate_values, **reported}
            before = trials[before].user_attrs.get("again_of")
        return reported

    def _is_pruned(self, trial: optuna.Trial, watcher: TrialReporter, folder: Path) -> bool:
        """Whether a trial was given up, or was to be after its last epoch, when it was cut off.

        Where others have come to their end since then, as with a grid, there is no telling the latter any more.
        """
        if read_status(folder) == "pruned":
            return True
        trials, measured = self.study.get_trials(deepcopy=False), watcher.measured(folder)
        since = trials[trial.user_attrs["again_of"] :]
        if not measured or measured[-1][0] >= self.epochs or any(one.state == TrialState.COMPLETE for one in since):
            return False
        there = copy.deepcopy(trials[trial.number])
        there.intermediate_values = dict(measured)
        return self.study.pruner.prune(self.study, there)

    def _tell(self, trial: optuna.Trial, name: str, value: float | None = None, state: Any = None) -> None:
        trial.set_user_attr("epochs", epochs_done(self.folder / name))
        self.study.tell(trial, value, state)


class TrialReporter(Reporter):
    """Tells Optuna the accuracy after each epoch, and ends the run where it is to be pruned.

    Args:
        trial: the trial.
        epochs: those that it has.
        inner: shows the run.
        reported: accuracies by epoch, of a trial that goes on; run folders have rounded ones.
    """

    def __init__(self, trial: optuna.Trial, epochs: int, inner: Reporter, reported: dict[int, float]) -> None:
        self.trial, self.epochs, self.inner, self.reported = trial, epochs, inner, reported
        self.begun = self.pruned = False

    def exact(self, epoch: int, accuracy: float) -> float:
        """An accuracy of a run folder as it was reported; what is equal to the median must not become less."""
        reported = self.reported.get(epoch, accuracy)
        return reported if math.isclose(reported, accuracy, rel_tol=1e-6) else accuracy

    def measured(self, folder: Path) -> list[tuple[int, float]]:
        """Epochs and test accuracies that a run folder has rows of."""
        return [(epoch, self.exact(epoch, accuracy)) for epoch, accuracy in _measured(folder)]

    def catch_up(self, folder: Path) -> None:
        """Tell what was measured before; nothing where that has been told."""
        if not self.begun:
            self.begun = True
            for epoch, accuracy in self.measured(folder):
                self.trial.report(accuracy, epoch)

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        self.catch_up(folder)
        self.inner.start(config, plan, lines, folder, step)

    def step(self, row: Any) -> None:
        self.inner.step(row)

    def epoch(self, row: EpochRow) -> None:
        self.inner.epoch(row)
        if not math.isfinite(row.test_accuracy):
            return
        self.trial.report(row.test_accuracy, row.epoch)
        if row.epoch < self.epochs and self.trial.should_prune():
            self.pruned = True
            raise optuna.TrialPruned

    def note(self, text: str) -> None:
        self.inner.note(text)

    def end(self, status: str) -> None:
        self.inner.end("finished" if self.pruned else status)


@contextlib.contextmanager
def damage_said(journal: Path) -> Any:
    """Say in one sentence that a journal cannot be read."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # Optuna believes what it reads, and has many for what is not so
        raise UsageError(
            f"{str(journal)!r} must be the journal of a tuning, but cannot be read: {reason(error)}"
        ) from error


def open_storage(journal: Path) -> optuna.storages.BaseStorage:
    """The file that studies are kept in; whoever calls holds the folder's lock."""
    if os.path.lexists(journal):
        content = read_bytes(journal, journal.parent)
        check_records(content)
        whole = content.rfind(b"\n") + 1
        if whole != len(content):  # the machine stopped while a line was written
            os.truncate(journal, whole)  # which needs no room, and loses no other line whatever happens
            sync(journal)
    return optuna.storages.JournalStorage(_Journal(journal))


@dataclass(frozen=True)
class Kept:
    """What is kept of one optimizer: what its tuning is (where it says so), and its trials."""

    said: dict[str, Any]
    trials: list[Trial]


def check_trials(storage: optuna.storages.BaseStorage, spaces: Mapping[str, Space]) -> None:
    """Raise ``ValueError`` where there is a trial that no tuning writes; ``spaces`` are those that are searched now."""
    for name in optuna.get_all_study_names(storage):
        check_study(optuna.load_study(study_name=name, storage=storage), spaces.get(name))


def kept(storage: optuna.storages.BaseStorage) -> dict[str, Kept]:
    """By optimizer, what is there."""
    studies = [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
    return {study.study_name: Kept(study.user_attrs, _begun(study)) for study in studies}


class _Journal(JournalFileBackend):
    """The file: a record is there whole or not at all, since the next one would be glued to a part of one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        super().__init__(str(file), lock_obj=cast(Any, _Held()))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = self.file.stat().st_size
        try:
            super().append_logs(logs)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.truncate(self.file, size)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror or str(error), str(self.file)) from error
            raise


class _Held:
    """The lock of the journal: a folder's lock is held, and goes with the process, as Optuna's own would not."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing."""


def _begun(study: optuna.Study) -> list[Trial]:
    return [_trial(one) for one in study.get_trials(deepcopy=False) if one.state != TrialState.WAITING]


def _chosen(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The options of a trial, those that it was queued with among them."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
    status = {
        TrialState.COMPLETE: "diverged" if trial.user_attrs.get("diverged") else "finished",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "refused" if REFUSED in trial.user_attrs else "interrupted",
    }
    last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    return Trial(
        trial.number,
        status.get(trial.state, "interrupted"),
        dict(trial.params),
        trial.value if trial.state == TrialState.COMPLETE else last,
        int(trial.user_attrs.get("epochs", 0)),
        str(trial.user_attrs.get("folder", "")),
    )


def _measured(folder: Path) -> list[tuple[int, float]]:
    """Epochs and test accuracies that a run folder has whole rows of."""
    found: list[tuple[int, float]] = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = read_bytes(folder / "epochs.csv", folder)
        text = content[: content.rfind(b"\n") + 1].decode()  # a line that was cut off may have part of a number
        for row in csv.DictReader(io.StringIO(text, newline="")):
            found.append((int(row["epoch"]), float(row["test_accuracy"])))
    return [(epoch, accuracy) for epoch, accuracy in found if math.isfinite(accuracy)]


def _say_pruned(folder: Path) -> None:
    """The loop knows of no pruning: for it the run has failed, or it does not say how it ended where it was killed."""
    file = folder / "summary.json"
    with contextlib.suppress(OSError):
        write_json(file, {**read_object(file), "status": "pruned"})
