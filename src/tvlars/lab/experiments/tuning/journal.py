"""Journal of Optuna's studies: opened, and checked as untrusted input.

A record is one line of JSON. Optuna executes none of it, but trusts its content, and the options of a trial become
options of a run. So every record and every trial must be one that a tuning can write.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tvlars._reading import parse_json, read_bytes, reason
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.tuning.objective import Objective
from tvlars.lab.experiments.tuning.search import begun, chosen
from tvlars.lab.experiments.tuning.space import TUNABLE, Space
from tvlars.lab.experiments.tuning.stages import Stage
from tvlars.lab.experiments.tuning.trial import Trial
from tvlars.lab.files.disk import sync
from tvlars.lab.imported import is_import_path
from tvlars.lab.optimizers import is_known

OPERATIONS = range(32)
"""Valid numbers of operations; Optuna uses about ten."""


def open_storage(journal: Path) -> optuna.storages.BaseStorage:
    """Return the storage of a journal; the caller holds the folder's lock."""
    if os.path.lexists(journal):
        content = read_bytes(journal, journal.parent)
        check_records(content)
        whole = content.rfind(b"\n") + 1
        if whole != len(content):  # the process stopped while a line was written
            os.truncate(journal, whole)  # needs no disk space, and cannot lose another line
            sync(journal)
    return optuna.storages.JournalStorage(_Journal(journal))


def kept(
    storage: optuna.storages.BaseStorage, objective: Objective, folder: Path, again: Sequence[int] = ()
) -> dict[str, list[Trial]]:
    """Return the trials of each arm by key, with their reruns in ``folder`` for the seeds ``again``."""
    return {study.study_name: begun(study, objective, folder, again) for study in _studies(storage)}


def check_trials(
    storage: optuna.storages.BaseStorage,
    spaces: Mapping[str, Space],
    objective: Objective,
    optimizers: Mapping[str, str],
    stages: Mapping[str, Sequence[Stage]],
) -> None:
    """Raise ``ValueError`` if a tuning cannot have written a trial.

    Args:
        storage: storage of the studies.
        spaces: search spaces of this call, by key of the arm.
        objective: value that ranks trials.
        optimizers: optimizer of each arm that has another name.
        stages: rounds that widened the spaces, by key of the arm.
    """
    for study in _studies(storage):
        name = study.study_name
        check_study(study, spaces.get(name), objective, optimizers.get(name, name), stages.get(name, ()))


@contextlib.contextmanager
def damage_said(journal: Path) -> Iterator[None]:
    """Turn any error into one sentence that says that the journal cannot be read."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # Optuna raises errors of many types for damaged files
        raise UsageError(
            f"{str(journal)!r} must be the journal of a tuning, but cannot be read: {reason(error)}"
        ) from error


def _studies(storage: optuna.storages.BaseStorage) -> list[optuna.Study]:
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


class _Journal(JournalFileBackend):
    """A journal file with only complete records: an incomplete one is removed, or it would join the next one."""

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
    """Lock that does nothing: this process holds the folder's lock, which a killed process cannot leave behind."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        """Do nothing."""


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


def check_study(
    study: optuna.Study, space: Space | None, objective: Objective, optimizer: str, stages: Sequence[Stage]
) -> None:
    """Raise ``ValueError`` if a tuning cannot have written a trial of a study.

    Args:
        study: the study of one arm.
        space: search space of the arm; None if this call does not tune the arm: then any tunable option and any
            argument of an imported class is valid.
        objective: value that ranks trials.
        optimizer: optimizer of the arm.
        stages: rounds that widened the space.
    """
    name = study.study_name
    if not (is_known(optimizer) or is_import_path(optimizer)):
        raise ValueError(f"{name[:60]!r} is no optimizer")
    if study.directions != [optuna.study.StudyDirection[objective.direction.upper()]]:
        raise ValueError(f"the study of {name} does not {objective.direction} one value")
    for trial in study.get_trials(deepcopy=False):
        try:
            _check_options(optimizer, chosen(trial), space, stages)
            _check_values(trial, objective)
        except ValueError as error:
            raise ValueError(f"trial {trial.number} of {name}: {error}") from error


def _check_options(optimizer: str, options: dict[str, Any], space: Space | None, stages: Sequence[Stage]) -> None:
    for name, value in options.items():
        if space is None:
            searched = name in TUNABLE or (not is_known(optimizer) and name.isidentifier())
        else:
            searched = name in space
        if not searched:
            raise ValueError(f"{str(name)[:60]!r} is not searched")
        if not isinstance(value, (str, int, float)):
            raise ValueError(f"{name} is {value!r:.60}")
        if space is not None and not (space[name].holds(value) or any(one.holds(name, value) for one in stages)):
            raise ValueError(f"{name} is {value!r:.60}, and {space[name]} is searched")


def _check_values(trial: FrozenTrial, objective: Objective) -> None:
    values: list[tuple[Any, Any]] = list(trial.intermediate_values.items())
    if trial.state == TrialState.COMPLETE and not (trial.user_attrs.get("diverged") and trial.value == objective.worst):
        values.append((max(trial.intermediate_values, default=1), trial.value))
    for epoch, value in values:
        if type(epoch) is not int or epoch < 1 or not objective.is_valid(value):
            raise ValueError(f"its {objective.measure} after epoch {epoch!r:.60} is {value!r:.60}")
