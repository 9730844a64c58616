"""The run folder: what a run was and what was measured, written so that a crash loses an epoch at most.

config.json        every option of the run
plan.json          learning rate and schedule that came of it
model.json         what the model was built from, mean and deviation of its images, the fingerprint of its data
environment.json   versions, hardware, command
epochs.csv         a row per epoch
steps.csv          a row per optimizer step
summary.json       how it ended
test-correct.bits  which test images are classified right after the last epoch, a bit each in their order
weights.pt         final weights, a state dict
weights-before.pt  those that were there when a run began anew
sharpness.csv, noise.csv, layer-stats/    where they were asked for, see lab.measure
checkpoints/       what a run needs to go on, see checkpoints/checkpoint.py
evaluations.json, representation.csv, views.png    of self-supervised learning, see lab.ssl
"""

from __future__ import annotations

import datetime
import io
import json
import os
import shutil
from collections.abc import Callable
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
from tvlars.lab.files.place import Place
from tvlars.lab.run_folder.environment import environment
from tvlars.lab.run_folder.rows import EpochRow, StepRow, as_csv, cells, columns, cut, mend_steps
from tvlars.lab.run_folder.status import Status
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.plan import Plan

ASIDE = "weights-before.pt"
"""Where weights lie that were there when a run began anew."""
CONFIG, PLAN, MODEL = "config.json", "plan.json", "model.json"
CORRECT = "test-correct.bits"
ENDS = ("summary.json", "evaluations.json", CORRECT)
"""What is written at a run's end."""
MEASUREMENTS = ("sharpness.csv", "noise.csv", "representation.csv")


def new_folder(out: Path | None, label: str) -> Path:
    """Make and return the folder ``out``, or one below runs/ named after the time and ``label``.

    Raises ``UsageError`` where it holds something already, or cannot be made.
    """
    if out is None:
        out = base = Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{label}"
        count = 1
        while out.exists():
            count += 1
            out = base.with_name(f"{base.name}-{count}")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"out must be a new or empty folder, and {str(out)!r} holds something already")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out must be a folder that can be written, got {str(out)!r}: {error.strerror}") from error
    return out


class Record:
    """Writes a run folder, which exists. If the disk is full, rows wait for room, the run goes on, and ``tell`` hears.

    Where the folder is no longer the one that it was, every method raises ``MovedFolderError`` and writes nothing. An
    ``OSError`` says what cannot be written.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder, tell
        self.place: Place | None = Place(folder)
        self._waiting: dict[str, list[Any]] = {}
        self._said = False

    def check_place(self) -> None:
        """Raise ``MovedFolderError`` where the run folder is no longer the one that the run began in."""
        if self.place is not None:
            self.place.check()

    def begin(self, config: TrainConfig, plan: Plan, model: dict[str, Any], facts: dict[str, Any]) -> None:
        """Write what the run is, before its first step; ``facts`` go into environment.json with the rest."""
        self.check_place()
        # The config first: it tells whose the folder is, and whatever else is there may then be cleared.
        write_json(self.folder / CONFIG, json.loads(config.to_json()))
        _clear(self.folder)
        self._describe(config, plan, model)
        write_json(self.folder / "environment.json", {**environment(), **facts})
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
    ) -> list[str]:
        """Go on after ``step``: rows of later steps are taken out, since they come again.

        ``epochs`` are the rows of all complete epochs, ``steps`` those of the current one; config, plan and model are
        written where they are missing. Returns what is to be said of missing rows, a sentence each.
        """
        self.check_place()
        for name in ENDS:
            (self.folder / name).unlink(missing_ok=True)
        self._describe(config, plan, model)
        write_whole(self.folder / "epochs.csv", as_csv([columns(EpochRow), *map(cells, epochs)]))
        missing = mend_steps(self.folder / "steps.csv", step, steps)
        for name in MEASUREMENTS:
            cut(self.folder / name, len(epochs))
        first = read_object(self.folder / "environment.json")
        before = first.get("resumed", [])
        resumed = [*(before if isinstance(before, list) else []), {"step": step, **environment(), **facts}]
        write_json(self.folder / "environment.json", {**first, "resumed": resumed})
        return [f"steps.csv lacks {missing} of the {step} rows before"] if missing else []

    def _describe(self, config: TrainConfig, plan: Plan, model: dict[str, Any]) -> None:
        values = {CONFIG: json.loads(config.to_json()), PLAN: asdict(plan), MODEL: {**model, DIGEST: digest_of(model)}}
        for name, value in values.items():
            # What the model is, this very run knows best, whatever has become of the file.
            if name == MODEL or not read_object(self.folder / name):
                write_json(self.folder / name, value)

    def add(self, steps: list[StepRow], epoch: EpochRow | None = None) -> None:
        """Append the rows of some steps, and of the epoch that they complete."""
        self._append("steps.csv", steps)
        if epoch is not None:
            self._append("epochs.csv", [epoch])

    def add_measurement(self, name: str, row: Any) -> None:
        """Append one row to ``name``, which gets its header with the first."""
        self._append(name, [row])

    def flush(self, durable: bool = False) -> None:
        """Write all rows that are waiting; with ``durable`` all rows survive whatever happens to the machine."""
        self.check_place()
        for name, rows in self._waiting.items():
            if rows:
                new = not (self.folder / name).is_file()
                lines = [columns(type(rows[0]))] * new + [cells(row) for row in rows]
                append_whole(self.folder / name, as_csv(lines))
                rows.clear()
        if self._said:
            self.tell("rows that were waiting for the disk are written, none is lost")
            self._said = False
        if durable:
            for name in self._waiting:
                if (self.folder / name).is_file():
                    sync(self.folder / name)

    def add_evaluations(self, found: dict[str, Evaluated]) -> None:
        """Write all evaluations that there are."""
        self.check_place()
        write_json(self.folder / "evaluations.json", {name: asdict(one) for name, one in found.items()})

    def finish(self, status: Status, **summary: Any) -> None:
        """Write how the run ended."""
        self.check_place()
        write_json(self.folder / "summary.json", {"status": status, **summary})

    def save_correct(self, correct: Tensor) -> None:
        """Write which test images are classified right, a bit each."""
        self.check_place()
        write_whole(self.folder / CORRECT, np.packbits(correct.numpy()).tobytes())

    def save_weights(self, state_dict: dict[str, Any]) -> None:
        """Write weights.pt, whole or not at all."""
        content = io.BytesIO()
        torch.save({name: value.detach().cpu() for name, value in state_dict.items()}, content)
        self.check_place()
        write_whole(self.folder / "weights.pt", content.getvalue())

    def _append(self, name: str, rows: list[Any]) -> None:
        self._waiting.setdefault(name, []).extend(rows)
        try:
            self.flush()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            if not self._said:
                self.tell(f"cannot write {error.filename}: {error.strerror}; rows wait for room, and the run goes on")
            self._said = True


def _nothing(*_: Any, **__: Any) -> list[str]:
    return []


class NoRecord(Record):
    """That of a process that writes nothing, since the first one does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, None

    begin = reopen = add = add_measurement = add_evaluations = flush = _nothing  # type: ignore[assignment]
    finish = save_correct = save_weights = _nothing  # type: ignore[assignment]


def _clear(folder: Path) -> None:
    """Take away what this very run left that was cut off before its first checkpoint."""
    for name in (*ENDS, *MEASUREMENTS):
        (folder / name).unlink(missing_ok=True)
    if os.path.lexists(folder / "weights.pt"):  # whatever they are, they have cost something
        os.replace(folder / "weights.pt", folder / ASIDE)
    for name in ("layer-stats", "tensorboard"):
        if (folder / name).is_symlink():
            (folder / name).unlink()
        shutil.rmtree(folder / name, ignore_errors=True)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write ``values`` to ``file``, whole or not at all."""
    write_whole(file, (json.dumps(values, indent=1, default=str) + "\n").encode())


def read_object(file: Path, problems: list[str] | None = None) -> dict[str, Any]:
    """Return the JSON object in a file; empty where there is none or it cannot be read, which ``problems`` hear of."""
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
