"""Record of a run: a folder with its options and measurements, written so that a crash loses one epoch at most.

config.json        every option of the run
plan.json          learning rate and schedule computed from them
model.json         arguments of the model's builder, mean and deviation of its images, fingerprint of its data
environment.json   versions, hardware, command
epochs.csv         one row per epoch
steps.csv          one row per optimizer step
summary.json       status at the end, and results
test-correct.bits  one bit per test image, in their order: 1 if it is classified right after the last epoch
weights.pt         final weights, a state dict
best-EPOCH.pt      weights of the best epoch by validation, see best.py
weights-before.pt  weights of an earlier attempt, kept when a run began anew
metrics.csv        one row per epoch: extra measures, if there are some
sharpness.csv, noise.csv, layer-stats/    if the options ask for them, see lab.measure
initial-norms.json norms of the initial weights of two dimensions or more, by name, which sharpness is measured at too
checkpoints/       state to resume from, see checkpoints/checkpoint.py
evaluations.json, representation.csv, views.png    of self-supervised learning, see lab.ssl
loggers.json       ids of the run at loggers, whose own files may lie beside it, see loggers.py
"""

from __future__ import annotations

import datetime
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvlars._reading import read_json, reason
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import DIGEST, PASSING, append_whole, digest_of, sync, write_whole
from tvlars.lab.files.lock import LOCK
from tvlars.lab.files.place import Place
from tvlars.lab.run_folder.best import best_file, epochs_kept
from tvlars.lab.run_folder.environment import environment
from tvlars.lab.run_folder.loggers import OWN, STATE, Loggers
from tvlars.lab.run_folder.rows import (
    METRICS,
    SHARPNESS,
    EpochRow,
    StepRow,
    as_csv,
    cells,
    columns,
    cut,
    cut_sharpness,
    mend_steps,
)
from tvlars.lab.run_folder.status import Status
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.plan import Plan

ASIDE = "weights-before.pt"
"""Weights of an earlier attempt, kept when a run began anew."""
CONFIG, PLAN, MODEL, ENVIRONMENT = "config.json", "plan.json", "model.json", "environment.json"
INITIAL_NORMS = "initial-norms.json"
WARNINGS = "warnings"
"""Entry of environment.json, and of each resumption in it, with the sentences that were said as the run began."""
CORRECT = "test-correct.bits"
ENDS = ("summary.json", "evaluations.json", CORRECT)
"""Files written at the end of a run."""
MEASUREMENTS = (SHARPNESS, "noise.csv", "representation.csv", METRICS)


def new_folder(out: Path | None, label: str) -> Path:
    """Make and return the folder ``out``, or one below runs/ named after the time and ``label``.

    Raises ``UsageError`` if it holds something already or cannot be made.
    """
    if out is None:
        out = base = Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{label}"
        count = 1
        while out.exists():
            count += 1
            out = base.with_name(f"{base.name}-{count}")
    try:
        # A run that was refused as its model or optimizer was built has left its lock.
        if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
            raise UsageError(f"out must be a new or empty folder, and {str(out)!r} holds something already")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out must be a folder that can be written, got {str(out)!r}: {error.strerror}") from error
    return out


class Record:
    """Writer of a run folder, which exists.

    If the disk is full, rows wait in memory, ``tell`` is called with a sentence, and the run continues. If the folder
    was moved or replaced, every method raises ``MovedFolderError`` and writes nothing. Any other ``OSError`` names the
    file that cannot be written.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder, tell
        self.loggers: Loggers | None = None
        """Given every row too, once :meth:`open_loggers` has been called."""
        self._place = Place(folder)
        self._waiting: dict[str, list[Any]] = {}
        self._said = False

    def check_place(self) -> None:
        """Raise ``MovedFolderError`` if the run folder is no longer the one that the run began in."""
        self._place.check()

    def begin(
        self,
        config: TrainConfig,
        plan: Plan,
        model: dict[str, Any],
        facts: dict[str, Any],
        norms: dict[str, float] | None = None,
    ) -> None:
        """Write the files that describe the run, before its first step; environment.json includes ``facts``, and
        initial-norms.json the ``norms``."""
        self.check_place()
        # The config first: it marks the folder as the run's own, whose other files may then be cleared.
        write_json(self.folder / CONFIG, json.loads(config.to_json()))
        _clear(self.folder)
        self._describe(config, plan, model)
        write_json(self.folder / ENVIRONMENT, {**environment(), **facts})
        if norms:
            write_json(self.folder / INITIAL_NORMS, norms)
        for name, kind in (("steps.csv", StepRow), ("epochs.csv", EpochRow)):
            write_whole(self.folder / name, as_csv([columns(kind)]))

    def reopen(
        self,
        config: TrainConfig,
        plan: Plan,
        model: dict[str, Any],
        facts: dict[str, Any],
        step: int,
        epochs: list[EpochRow],
        steps: list[StepRow],
        due: Sequence[str] = (),
    ) -> list[str]:
        """Prepare the folder for a run that resumes after ``step``: rows of later steps are removed.

        ``epochs`` are the rows of all complete epochs, ``steps`` those of the current one. config.json and plan.json
        are written again if they are missing. ``due`` is the sharpness that is measured after ``step``. Returns one
        sentence if rows are missing, for the user.
        """
        self.check_place()
        for name in ENDS:
            (self.folder / name).unlink(missing_ok=True)
        self._describe(config, plan, model)
        write_whole(self.folder / "epochs.csv", as_csv([columns(EpochRow), *map(cells, epochs)]))
        missing = mend_steps(self.folder / "steps.csv", step, steps)
        for name in MEASUREMENTS:
            if name != SHARPNESS:
                cut(self.folder / name, len(epochs))
        cut_sharpness(self.folder / SHARPNESS, step, len(epochs), due)
        first = read_object(self.folder / ENVIRONMENT)
        before = first.get("resumed", [])
        said = [f"steps.csv lacks {missing} of the first {step} rows"] if missing else []
        facts = {**facts, WARNINGS: [*facts.get(WARNINGS, ()), *said]}
        resumed = [*(before if isinstance(before, list) else []), {"step": step, **environment(), **facts}]
        write_json(self.folder / ENVIRONMENT, {**first, "resumed": resumed})
        return said

    def _describe(self, config: TrainConfig, plan: Plan, model: dict[str, Any]) -> None:
        values = {
            CONFIG: json.loads(config.to_json()),
            PLAN: plan.as_dict(),
            MODEL: {**model, DIGEST: digest_of(model)},
        }
        for name, value in values.items():
            # model.json is written in any case: this run knows its model, and the file may be damaged.
            if name == MODEL or not read_object(self.folder / name):
                write_json(self.folder / name, value)

    def open_loggers(self) -> None:
        """Open the loggers of the run, whose folder is complete; under the ids of loggers.json if it resumes."""
        self.check_place()
        if self.loggers is not None and self.loggers.all:
            self.loggers.open(read_object(self.folder / STATE))
            self._keep_loggers()

    def _keep_loggers(self) -> None:
        if self.loggers is not None and (state := self.loggers.state()):
            try:
                write_json(self.folder / STATE, state)
            except OSError as error:
                if error.errno not in PASSING:
                    raise

    def add(self, steps: list[StepRow], epoch: EpochRow | None = None) -> None:
        """Append rows of steps, and the row of the epoch that they complete."""
        self._append("steps.csv", steps)
        if epoch is not None:
            self._append("epochs.csv", [epoch])

    def add_measurement(self, name: str, row: Any) -> None:
        """Append one row to the file ``name``; the first row writes the header too."""
        self._append(name, [row])

    def flush(self, durable: bool = False) -> None:
        """Write all waiting rows; with ``durable`` also sync the files, so that rows survive a crash of the machine."""
        self.check_place()
        for name, rows in self._waiting.items():
            if rows:
                new = not (self.folder / name).is_file()
                lines = [columns(type(rows[0]))] * new + [cells(row) for row in rows]
                append_whole(self.folder / name, as_csv(lines))
                rows.clear()
        if self._said:
            self.tell("all waiting rows are written, none is lost")
            self._said = False
        if durable:
            for name in self._waiting:
                if (self.folder / name).is_file():
                    sync(self.folder / name)

    def add_evaluations(self, found: dict[str, Evaluated]) -> None:
        """Write evaluations.json anew, with all evaluations in ``found``."""
        self.check_place()
        write_json(self.folder / "evaluations.json", {name: asdict(one) for name, one in found.items()})
        if self.loggers is not None and found:
            name, newest = list(found.items())[-1]
            self.loggers.add_values(f"evaluations/{name}", asdict(newest))
            self._keep_loggers()

    def finish(self, status: Status, **summary: Any) -> None:
        """Write summary.json: status and results; then end the loggers, which may take long."""
        self.check_place()
        write_json(self.folder / "summary.json", {"status": status, **summary})
        if self.loggers is not None:
            results = {name: value for name, value in summary.items() if isinstance(value, float)}
            self.loggers.close(status == Status.FINISHED, results)

    def save_correct(self, correct: Tensor) -> None:
        """Write one bit per test image: 1 if it is classified right."""
        self.check_place()
        write_whole(self.folder / CORRECT, np.packbits(correct.numpy()).tobytes())

    def save_weights(self, state_dict: dict[str, Any], best: int | None = None) -> None:
        """Write weights.pt, or best-EPOCH.pt if ``best`` is the best epoch, atomically."""
        file = self.folder / "weights.pt" if best is None else best_file(self.folder, best)
        content = io.BytesIO()
        torch.save({name: value.detach().cpu() for name, value in state_dict.items()}, content)
        self.check_place()
        write_whole(file, content.getvalue())

    def _append(self, name: str, rows: list[Any]) -> None:
        self._append_to_file(name, rows)
        if self.loggers is not None:
            self.loggers.add(Path(name).stem, rows)
            self._keep_loggers()

    def _append_to_file(self, name: str, rows: list[Any]) -> None:
        self._waiting.setdefault(name, []).extend(rows)
        try:
            self.flush()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            if not self._said:
                said = f"cannot write {error.filename}: {error.strerror}"
                self.tell(f"{said}; rows wait in memory, and the run continues")
            self._said = True


def _nothing(*_: Any, **__: Any) -> list[str]:
    return []


class NoRecord(Record):
    """Record that writes nothing, for all processes but the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loggers = None  # those of the first process are given all rows

    tell = check_place = begin = reopen = open_loggers = add = add_measurement = _nothing  # type: ignore[assignment]
    add_evaluations = flush = finish = save_correct = save_weights = _nothing  # type: ignore[assignment]


def _clear(folder: Path) -> None:
    """Remove the files of an earlier attempt at the run, which ended before its first checkpoint."""
    for name in (*ENDS, *MEASUREMENTS, INITIAL_NORMS, STATE):
        (folder / name).unlink(missing_ok=True)
    for epoch in epochs_kept(folder):
        best_file(folder, epoch).unlink()
    if os.path.lexists(folder / "weights.pt"):  # kept, since training them took time
        os.replace(folder / "weights.pt", folder / ASIDE)
    for name in ("layer-stats", *OWN):
        if (folder / name).is_symlink() or (folder / name).is_file():
            (folder / name).unlink()
        shutil.rmtree(folder / name, ignore_errors=True)


def initial_norms(folder: Path) -> dict[str, float]:
    """Return the norms of the initial weights by name, empty if an earlier version did not keep them."""
    return {
        name: float(norm)
        for name, norm in read_object(folder / INITIAL_NORMS).items()
        if type(norm) in (int, float) and 0 < norm < math.inf
    }


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write ``values`` to ``file`` as JSON, atomically."""
    write_whole(file, (json.dumps(values, indent=1, default=str) + "\n").encode())


def warnings_in(environment: dict[str, Any], newest: bool = False) -> list[str]:
    """Return the warnings that a run gave as it began and each time it resumed, or the last time alone (``newest``).

    Args:
        environment: content of environment.json.
    """
    resumed = environment.get("resumed")
    starts = [environment, *(resumed if isinstance(resumed, list) else [])]
    found = [one.get(WARNINGS) for one in (starts[-1:] if newest else starts) if isinstance(one, dict)]
    return list(dict.fromkeys(str(text)[:500] for some in found if isinstance(some, list) for text in some))


def read_object(file: Path, problems: list[str] | None = None) -> dict[str, Any]:
    """Return the JSON object in a file, empty if it cannot be read; the reason is appended to ``problems``."""
    said = "holds no object"
    try:
        if isinstance(found := read_json(file, file.parent), dict):
            return found
    except FileNotFoundError:
        said = "is missing"
    except (OSError, ValueError) as error:
        said = f"cannot be read: {reason(error)}"
    if problems is not None:
        problems.append(f"{file.name} {said}")
    return {}
