"""The run folder: what a run was and what was measured, written so that a crash loses an epoch at most.

    config.json        every option of the run
    plan.json          learning rate and schedule that came of it
    model.json         what the model was built from, mean and deviation of its images
    environment.json   versions, hardware, command
    epochs.csv         a row an epoch
    steps.csv          a row an optimizer step
    summary.json       how it ended
    weights.pt         final weights, a state dict
    sharpness.csv, noise.csv, layer-stats/    where they were asked for, see lab.diagnostics
    checkpoints/       what a run needs to go on, see lab.checkpoint
    evaluations.json, representation.csv, views.png    of self-supervised learning, see lab.ssl

CSV, since a row can be appended and read while the run goes on, by anything.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import platform
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tvlars.lab.checkpoint import FOLDER
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.ssl.probes import Evaluated
from tvlars.plan import Plan


@dataclass(frozen=True)
class StepRow:
    """One optimizer step. ``lr`` is what adapted layers took, ``phi`` (or the schedule) included."""

    step: int
    epoch: float
    loss: float
    train_accuracy: float
    lr: float
    phi: float


@dataclass(frozen=True)
class EpochRow:
    """One epoch: means over its steps, accuracy on the test set after it, speed without the test."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    images_per_second: float
    seconds: float


ENDS = ("summary.json", "evaluations.json")
"""What is written at a run's end."""
MEASUREMENTS = ("sharpness.csv", "noise.csv", "representation.csv")


def new_folder(out: Path | None, label: str) -> Path:
    """Make and return the folder ``out``, or one below runs/ named after the time and ``label``.

    Raises:
        UsageError: ``out`` holds something already, or cannot be made.
    """
    if out is None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        base = Path("runs") / f"{stamp}-{label}"
        out, count = base, 1
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
    """Writes a run folder. Rows are on disk when ``add`` returns.

    Args:
        folder: the run folder, which exists.
        config: of the run.
        plan: that came of it.
        model: what model.json is to hold.
        facts: what environment.json is to hold besides.
        resumed: (step, epoch) where a run goes on that has a record: rows of later steps, and of this epoch and
            later ones, are taken out, since they come again. None (default): a new record.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        plan: Plan,
        model: dict[str, Any],
        facts: dict[str, Any],
        resumed: tuple[int, int] | None = None,
    ) -> None:
        self.folder = folder
        self._headed: set[str] = set()
        now = {**environment(), **facts}
        if resumed is not None:
            self._reopen(*resumed, now)
            return
        _clear(folder)
        write_json(folder / "model.json", model)
        write_json(folder / "config.json", json.loads(config.to_json()))
        write_json(folder / "plan.json", asdict(plan))
        write_json(folder / "environment.json", now)
        for name, kind in (("steps.csv", StepRow), ("epochs.csv", EpochRow)):
            self._head(name, kind)

    def _reopen(self, step: int, epoch: int, now: dict[str, Any]) -> None:
        for name in ENDS:
            (self.folder / name).unlink(missing_ok=True)
        _cut(self.folder / "steps.csv", "step", step)
        for name in ("epochs.csv", *MEASUREMENTS):
            _cut(self.folder / name, "epoch", epoch - 1)
        self._headed.update(name for name in MEASUREMENTS if (self.folder / name).is_file())
        try:
            first = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            first = {}
        first = first if isinstance(first, dict) else {}
        before = first.get("resumed", [])
        write_json(self.folder / "environment.json", {**first, "resumed": [*before, {"step": step, **now}]})

    def add(self, steps: list[StepRow], epoch: EpochRow | None = None) -> None:
        """Append the rows of some steps, and of the epoch that they complete."""
        self._append("steps.csv", steps)
        if epoch is not None:
            self._append("epochs.csv", [epoch])

    def add_measurement(self, name: str, row: Any) -> None:
        """Append one row to ``name``, which gets its header with the first."""
        if name not in self._headed:
            self._head(name, type(row))
        self._append(name, [row])

    def add_evaluations(self, found: dict[str, Evaluated]) -> None:
        """Write all evaluations that there are."""
        write_json(self.folder / "evaluations.json", {name: asdict(one) for name, one in found.items()})

    def finish(self, status: str, **summary: Any) -> None:
        """Write how the run ended: ``status`` is finished, interrupted, preempted, diverged or failed."""
        write_json(self.folder / "summary.json", {"status": status, **summary})

    def save_weights(self, state_dict: dict[str, Any]) -> None:
        """Write weights.pt, whole or not at all."""
        part, content = self.folder / "weights.pt.part", io.BytesIO()
        torch.save({name: value.detach().cpu() for name, value in state_dict.items()}, content)
        part.write_bytes(content.getbuffer())  # an error of the disk is an OSError here, and not where torch writes
        os.replace(part, self.folder / "weights.pt")

    def _head(self, name: str, kind: type) -> None:
        self._headed.add(name)
        with open(self.folder / name, "w", newline="") as file:
            csv.writer(file).writerow([f.name for f in fields(kind)])

    def _append(self, name: str, rows: list[Any]) -> None:
        with open(self.folder / name, "a", newline="") as file:
            csv.writer(file).writerows([_cell(value) for value in asdict(row).values()] for row in rows)


class NoRecord(Record):
    """That of a process that writes nothing, since the first one does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._headed = set()

    def add_evaluations(self, found: dict[str, Evaluated]) -> None:
        """Nothing."""

    def finish(self, status: str, **summary: Any) -> None:
        """Nothing."""

    def save_weights(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""

    def _head(self, name: str, kind: type) -> None:
        """Nothing."""

    def _append(self, name: str, rows: list[Any]) -> None:
        """Nothing."""


def _clear(folder: Path) -> None:
    """Take away what a run left that was cut off before its first checkpoint."""
    for name in (*ENDS, *MEASUREMENTS, "weights.pt"):
        (folder / name).unlink(missing_ok=True)
    for name in ("layer-stats", "tensorboard", FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)


def _cut(file: Path, column: str, last: int) -> None:
    """Leave the rows of a CSV file whose ``column`` is at most ``last``; a row that is not whole goes too."""
    if not file.is_file():
        return
    header, *lines = file.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    names = header.split(",")
    kept = [header]
    for line in lines:
        cells = dict(zip(names, line.split(","), strict=False))
        try:
            if len(cells) == len(names) and int(cells[column]) <= last:
                kept.append(line)
        except (KeyError, ValueError):
            continue
    part = file.with_suffix(file.suffix + ".part")
    part.write_bytes("".join(f"{line}\r\n" for line in kept).encode())
    os.replace(part, file)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write ``values`` to ``file``, whole or not at all."""
    part = file.with_suffix(file.suffix + ".part")
    part.write_text(json.dumps(values, indent=1, default=str) + "\n")
    os.replace(part, file)


def environment() -> dict[str, Any]:
    """Versions, hardware and the command: what somebody needs who wants the same numbers again."""
    versions = {}
    for name in ("tvlars", "torch", "torchvision", "lightning-fabric", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": command_line(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def command_line() -> str:
    """The command that was typed, as it can be typed again."""
    program = Path(sys.argv[0]).name
    program = "python -m tvlars" if program == "__main__.py" else program
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


def _cell(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value
