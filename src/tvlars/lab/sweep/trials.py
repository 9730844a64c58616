"""The trials of one optimizer: chosen by Optuna, trained here one after the other, kept in a file.

What a trial was is in the journal when it begins, and how it ended when it ends: a process that is killed loses no
trial. One that was going on then does not count, and its options are tried again, from its newest checkpoint.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.engine import train
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.progress import Reporter
from tvlars.lab.record import EpochRow, write_json
from tvlars.lab.sweep.board import epochs_done
from tvlars.lab.sweep.space import Space, suggest
from tvlars.lab.sweep.worker import clear_false_start
from tvlars.plan import Plan

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that are part of the budget; one that diverged is complete, with accuracy 0."""
PRUNE_TRIALS = 4
"""So many trials are run to their end before others are compared with them."""
PRUNE_SHARE = 1 / 3
"""So much of a trial's epochs is run before it is compared with others."""


@dataclass(frozen=True)
class Trial:
    """One trial. ``status`` is finished, pruned, diverged (accuracy 0), or interrupted, which does not count."""

    number: int
    status: str
    params: dict[str, Any]
    accuracy: float | None
    epochs: int
    folder: str


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
    grid: list[dict[str, Any]] | None = None
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warmup = math.ceil(self.epochs * PRUNE_SHARE)
        pruner = optuna.pruners.MedianPruner(PRUNE_TRIALS, warmup) if self.prune else optuna.pruners.NopPruner()
        self.study = optuna.create_study(
            storage=self.storage, study_name=self.optimizer, direction="maximize", pruner=pruner, load_if_exists=True
        )
        self._take_up()

    def _take_up(self) -> None:
        """What was going on when the process was killed fails, and is tried again; a grid is queued once."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        again = {trial.user_attrs.get("again_of") for trial in self.study.trials}
        for trial in self.study.get_trials(states=(TrialState.FAIL,)):
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if params and trial.number not in again:
                attributes = {**trial.user_attrs, "again_of": trial.number}
                self.study.enqueue_trial(params, user_attrs=attributes)
        for point in self.grid or []:
            self.study.enqueue_trial(point, skip_if_exists=True)

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun."""
        return [_trial(one) for one in self.study.trials if one.state != TrialState.WAITING]

    @property
    def counted(self) -> int:
        """Trials that are part of the budget."""
        return len(self.study.get_trials(deepcopy=False, states=COUNTED))

    def best(self) -> Trial | None:
        """The trial with the highest accuracy after its last epoch; None where none has got there."""
        found = [trial for trial in self.trials if trial.status == "finished"]
        return max(found, key=lambda trial: trial.accuracy or 0.0, default=None)

    def run_next(self, config: Any, data: ImageData, reporter: Reporter) -> Trial:
        """Run one more trial.

        Args:
            config: makes the ``TrainConfig`` of chosen options in a folder.
            data: the data set.
            reporter: shows the run.

        Raises:
            UsageError: as ``train`` does; the trial does not count then.
        """
        counted = self.counted
        startup = min(10, max(4, self.budget // 3))
        # A sampler of its own for each trial, so that a study that goes on draws what it would have drawn.
        self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + counted, n_startup_trials=startup)
        trial = self.study.ask()
        params = suggest(trial, self.space)
        name = str(trial.user_attrs.get("folder", f"{self.optimizer}-{trial.number:03d}"))
        trial.set_user_attr("folder", name)
        run: TrainConfig = config(self.optimizer, params, self.folder / name)
        clear_false_start(self.folder / name)
        watcher = TrialReporter(trial, run.epochs, reporter)
        try:
            accuracy = train(run, data=data, reporter=watcher).test_accuracy
            if math.isnan(accuracy):
                raise UsageError(f"data must have labels to tune by, and {run.data} has none")
        except optuna.TrialPruned:
            _say_pruned(self.folder / name)
            self._tell(trial, name, state=TrialState.PRUNED)
        except DivergedError:
            trial.set_user_attr("diverged", True)
            self._tell(trial, name, 0.0)
        except UsageError:
            self._tell(trial, name, state=TrialState.FAIL)
            raise
        else:
            self._tell(trial, name, accuracy)
        return _trial(self.study.trials[trial.number])

    def _tell(self, trial: optuna.Trial, name: str, value: float | None = None, state: Any = None) -> None:
        trial.set_user_attr("epochs", epochs_done(self.folder / name))
        self.study.tell(trial, value, state)


class TrialReporter(Reporter):
    """Tells Optuna the accuracy after each epoch, and ends the run where it is to be pruned."""

    def __init__(self, trial: optuna.Trial, epochs: int, inner: Reporter) -> None:
        self.trial, self.epochs, self.inner = trial, epochs, inner
        self.pruned = False

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path) -> None:
        for epoch, accuracy in _measured(folder):  # of a trial that goes on
            self.trial.report(accuracy, epoch)
        self.inner.start(config, plan, lines, folder)

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
    except (ValueError, KeyError, AssertionError, TypeError, OSError) as error:
        raise UsageError(f"{str(journal)!r} must be the journal of a tuning, but cannot be read: {error}") from error


def open_storage(journal: Path) -> optuna.storages.BaseStorage:
    """The file that studies are kept in; whoever calls holds the folder's lock."""
    if journal.is_file():
        content = journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # the machine stopped while a line was written
            journal.write_bytes(whole)
    backend = JournalFileBackend(str(journal), lock_obj=cast(Any, _Held()))
    return optuna.storages.JournalStorage(backend)


class _Held:
    """The lock of the journal: a folder's lock is held, and goes with the process, as Optuna's own would not."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing."""


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
    diverged = bool(trial.user_attrs.get("diverged"))
    names = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}
    last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    return Trial(
        trial.number,
        "diverged" if diverged else names.get(trial.state, "interrupted"),
        dict(trial.params),
        trial.value if trial.state == TrialState.COMPLETE else last,
        int(trial.user_attrs.get("epochs", 0)),
        str(trial.user_attrs.get("folder", "")),
    )


def _measured(folder: Path) -> list[tuple[int, float]]:
    """Epochs and test accuracies that a run folder has rows of."""
    found = []
    try:
        with open(folder / "epochs.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.append((int(row["epoch"]), float(row["test_accuracy"])))
    except (OSError, ValueError, KeyError, TypeError):
        return found
    return [(epoch, accuracy) for epoch, accuracy in found if math.isfinite(accuracy)]


def _say_pruned(folder: Path) -> None:
    """The loop knows of no pruning: for it the run has failed."""
    file = folder / "summary.json"
    with contextlib.suppress(OSError, ValueError):
        write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "status": "pruned"})
