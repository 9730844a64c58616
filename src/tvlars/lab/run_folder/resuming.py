"""State of a run in its folder, found before anything is written there: New, GoOn or Finished."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tvlars._reading import is_regular
from tvlars.lab.config import TrainConfig
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.errors import UsageError
from tvlars.lab.files.lock import LOCK, locked
from tvlars.lab.imported import is_theirs
from tvlars.lab.run_folder.checkpoints import checkpoint
from tvlars.lab.run_folder.checkpoints.state_check import check_progress
from tvlars.lab.run_folder.identity import FINGERPRINT, check_data, check_data_of, check_same, check_same_plan, identity
from tvlars.lab.run_folder.loaded_run import RunResult, Tested, load_run
from tvlars.lab.run_folder.record import CONFIG, MODEL, PLAN, new_folder, read_object
from tvlars.lab.run_folder.rows import EpochRow, StepRow, epochs_done
from tvlars.lab.run_folder.status import Status
from tvlars.plan import Plan


@dataclass(frozen=True)
class New:
    """The run begins. ``epochs`` is the number of epochs to repeat, which ended before the first checkpoint."""

    epochs: int = 0


@dataclass(frozen=True)
class GoOn:
    """The run resumes from a checkpoint."""

    path: Path
    manifest: checkpoint.Manifest
    progress: dict[str, Any]
    epochs: list[EpochRow]
    """Rows of all complete epochs."""
    steps: list[StepRow]
    """Rows of the current epoch."""

    @property
    def place(self) -> Path:
        """Folder of the checkpoint under its final name."""
        return self.path.with_name(self.path.name.partition(".")[0])


@dataclass(frozen=True)
class Finished:
    """The run has finished."""

    result: RunResult


@contextlib.contextmanager
def opened(
    config: TrainConfig, plan: Plan, data: Fingerprint, folder: Path | None, tell: Callable[[str], None]
) -> Iterator[tuple[Path, New | GoOn | Finished]]:
    """Hold the lock of the run's folder; the value is the folder and the result of :func:`look`.

    ``folder`` exists; None stands for ``config.out`` if that exists and ``config.resume`` is set, else a new folder.
    Raises ``LockedError`` if another process works in it.
    """
    if folder is None:
        goes_on = config.resume and config.out is not None and config.out.is_dir()
        folder = config.out if goes_on and config.out is not None else new_folder(config.out, config.label())
    _check_folder(folder, config, plan, data)  # before the lock, which is a file: a folder of others stays as it is
    with locked(folder):
        yield folder, look(folder, config, plan, data, tell)


def look(
    folder: Path, config: TrainConfig, plan: Plan, data: Fingerprint, tell: Callable[[str], None] = lambda text: None
) -> New | GoOn | Finished:
    """Return the state of a run in ``folder``, which exists; nothing is written.

    ``tell`` is called with a sentence about each damaged checkpoint and about data that could not be compared.

    Raises:
        UsageError: the folder holds something else, another run, or a run on other data; its checkpoints are all
            damaged, of an unknown version, or impossible for this run; or the run finished and its results are missing.
    """
    _check_folder(folder, config, plan, data)
    if config.resume and (result := _finished(folder, config, plan)) is not None:
        return Finished(result)
    found = checkpoint.newest(folder, tell)
    if found is None:
        return New(epochs_done(folder) if config.resume else 0)
    path, manifest = found
    stored = manifest.run.get(FINGERPRINT)
    for part in ("config", "plan"):
        if not isinstance(manifest.run.get(part), dict):
            raise UsageError(f"{path} must say what run it is of, but its manifest has no {part}")
    wanted = f"{path} must be a checkpoint of this run, but its"
    check_same(manifest.run, config, plan, stored, wanted, lambda: check_data(path, stored, data, tell))
    file = checkpoint.progress_file(path, manifest)
    progress = checkpoint.read_progress(path, manifest)
    epochs, steps = check_progress(file, progress, manifest.step, manifest.processes, config, plan)
    return GoOn(path, manifest, progress, epochs, steps)


def _check_folder(folder: Path, config: TrainConfig, plan: Plan, data: Fingerprint) -> None:
    """Raise ``UsageError`` unless ``folder`` is empty or holds this run on the data ``data``."""
    wanted = "out must be a new or empty folder, or that of this run"
    try:
        there = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"out must be a folder that can be read, got {str(folder)!r}: {error.strerror}") from error
    stored, steps = (read_object(folder / name) for name in (CONFIG, PLAN))
    if not stored:
        # Checkpoints name their run themselves; a run that was killed at once has left no more than these two files.
        if checkpoint.those_in(folder) or there <= {LOCK, f"{CONFIG}.part"}:
            return
        raise UsageError(f"{wanted}, but {str(folder)!r} holds something else")
    try:
        found = identity(TrainConfig.from_mapping(stored), plan)
    except UsageError as error:
        versions = read_object(folder / "environment.json").get("versions")
        of = f", written by tvlars {versions['tvlars']}" if isinstance(versions, dict) and "tvlars" in versions else ""
        why = str(error).split(" Known: ")[0].removesuffix(":")
        raise UsageError(f"{wanted}, but {str(folder / CONFIG)!r} cannot be read{of}: {why}") from error
    for name, entry in (("steps", "total_steps"), ("steps_per_epoch", "steps_per_epoch")):
        found["plan"][name] = steps.get(entry, found["plan"][name])
    kept = read_object(folder / MODEL).get(FINGERPRINT)
    wanted = f"{wanted}, but in {str(folder)!r} the"
    check_same(found, config, plan, kept, wanted, lambda: check_data_of(folder, data))
    check_same_plan(steps, plan, wanted)


def _finished(folder: Path, config: TrainConfig, plan: Plan) -> RunResult | None:
    """Return the results of a finished run; None if it has not finished, or if a checkpoint can restore its record."""
    if not is_regular(folder / "summary.json", folder):
        return None
    run = load_run(folder)
    kept = checkpoint.those_in(folder)
    if run.complete and run.config is not None and (is_regular(folder / "weights.pt") or not kept):
        columns = [run.epochs[field.name].tolist() for field in fields(EpochRow)]
        rows = [EpochRow(int(epoch), int(step), *values) for epoch, step, *values in zip(*columns, strict=True)]
        tested = None
        if run.validated and config.test:
            tested = Tested(*(math.nan if x is None else x for x in (run.test_loss, run.test_accuracy)))
        return RunResult(folder, config, plan, rows, run.evaluations, tested, run.best_epoch)
    if run.status == Status.FINISHED and not kept:
        raise UsageError(
            f"out must hold a run that can go on, but {str(folder)!r} has finished, lacks some of its results and has "
            "no checkpoint: move it away to begin anew"
        )
    return None


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise ``UsageError`` in place of errors inside: the checkpoint ``path`` does not fit the run that loads it.

    Errors of the user's own code, as of an optimizer's ``load_state_dict``, stay as they are.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        if isinstance(error, UsageError) or is_theirs(error):
            raise
        said = ascii(" ".join(str(error).split())[:120])  # the error may quote text of the file
        raise UsageError(f"{path} must be a checkpoint of this run, but does not fit it: {said}") from error
