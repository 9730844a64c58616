"""The file that studies are kept in, as Optuna writes it, and as a stranger may have written it.

A record is a line of JSON. Optuna executes none of it, and believes all of it: a folder that a trial names is trained
in. So every record, and every trial, has to be such as a tuning writes.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tvlars._reading import parse_json, read_bytes, reason
from tvlars.lab.config import OPTIMIZERS
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.tuning.search import begun, chosen
from tvlars.lab.experiments.tuning.space import TUNABLE, Space
from tvlars.lab.experiments.tuning.trial import Trial
from tvlars.lab.files.disk import sync

OPERATIONS = range(32)
"""Numbers of operations, of which Optuna knows about ten."""


@dataclass(frozen=True)
class Kept:
    """What is kept of one optimizer: what its tuning is (where it says so), and its trials."""

    said: dict[str, Any]
    trials: list[Trial]


def open_storage(journal: Path) -> optuna.storages.BaseStorage:
    """Return the storage of a journal; whoever calls holds the folder's lock."""
    if os.path.lexists(journal):
        content = read_bytes(journal, journal.parent)
        check_records(content)
        whole = content.rfind(b"\n") + 1
        if whole != len(content):  # the machine stopped while a line was written
            os.truncate(journal, whole)  # which needs no room, and loses no other line whatever happens
            sync(journal)
    return optuna.storages.JournalStorage(_Journal(journal))


def kept(storage: optuna.storages.BaseStorage) -> dict[str, Kept]:
    """By optimizer, what is there."""
    return {study.study_name: Kept(study.user_attrs, begun(study)) for study in _studies(storage)}


def check_trials(storage: optuna.storages.BaseStorage, spaces: Mapping[str, Space]) -> None:
    """Raise ``ValueError`` where there is a trial that no tuning writes; ``spaces`` are those that are searched now."""
    for study in _studies(storage):
        check_study(study, spaces.get(study.study_name))


@contextlib.contextmanager
def damage_said(journal: Path) -> Iterator[None]:
    """Say in one sentence that a journal cannot be read."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # Optuna believes what it reads, and has many for what is not so
        raise UsageError(
            f"{str(journal)!r} must be the journal of a tuning, but cannot be read: {reason(error)}"
        ) from error


def _studies(storage: optuna.storages.BaseStorage) -> list[optuna.Study]:
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


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


def check_records(content: bytes) -> None:
    """Raise ``ValueError`` unless every whole line is a record."""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            record = parse_json(line.decode())
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get("worker_id"), str):
            raise ValueError(f"line {number} is no record")
        operation = record.get("op_code")
        if type(operation) is not int or operation not in OPERATIONS:
            raise ValueError(f"line {number} has the operation {operation!r:.60}")


def check_study(study: optuna.Study, space: Space | None) -> None:
    """Raise ``ValueError`` unless all trials of a study are such as a tuning writes.

    Args:
        study: of one optimizer.
        space: what is searched for it; None where it is not tuned now, and options are those that may be tuned.
    """
    name = study.study_name
    if name not in OPTIMIZERS:
        raise ValueError(f"{name[:60]!r} is no optimizer")
    if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise ValueError(f"the study of {name} does not maximize one value")
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        try:
            _check_trial(name, trial, trials, TUNABLE if space is None else tuple(space))
            for option, value in chosen(trial).items():
                if space is not None and not space[option].holds(value):
                    raise ValueError(f"{option} is {value!r:.60}, and {space[option]} is searched")
        except ValueError as error:
            raise ValueError(f"trial {trial.number} of {name}: {error}") from error


def _check_trial(optimizer: str, trial: FrozenTrial, trials: list[FrozenTrial], options: Iterable[str]) -> None:
    attributes, fixed = trial.user_attrs, trial.system_attrs.get("fixed_params", {})
    folder = attributes.get("folder", f"{optimizer}-000")
    if not isinstance(folder, str) or not re.fullmatch(rf"{re.escape(optimizer)}-\d{{3,9}}", folder, re.ASCII):
        raise ValueError(f"folder is {folder!r:.60}")
    if type(attributes.get("epochs", 0)) is not int:
        raise ValueError(f"epochs is {attributes['epochs']!r:.60}")
    before = attributes.get("again_of")
    if before is not None and not (type(before) is int and 0 <= before < trial.number and before < len(trials)):
        raise ValueError(f"it goes on from trial {before!r:.60}")
    if not isinstance(fixed, dict):
        raise ValueError(f"fixed_params is {fixed!r:.60}")
    for name, value in {**fixed, **trial.params}.items():
        if name not in options:
            raise ValueError(f"{str(name)[:60]!r} is not searched")
        if not isinstance(value, (str, int, float)):
            raise ValueError(f"{name} is {value!r:.60}")
    accuracies: list[tuple[Any, Any]] = list(trial.intermediate_values.items())
    if trial.state == TrialState.COMPLETE:
        accuracies.append((max(trial.intermediate_values, default=1), trial.value))
    for epoch, accuracy in accuracies:
        if type(epoch) is not int or epoch < 1 or not isinstance(accuracy, (int, float)) or not 0 <= accuracy <= 1:
            raise ValueError(f"its accuracy after epoch {epoch!r:.60} is {accuracy!r:.60}")
