"""Loggers of a run: TensorBoard, Weights & Biases, MLflow, and any object with the methods of Lightning's ``Logger``.

They are given every row that the record gets, as KIND/COLUMN at its optimizer step, and the options of the run. Their
files lie in the run folder unless their own environment variables name another place. A logger that fails does not end
the run: the user is told once, and that logger is given nothing more.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tvlars._checks import one_line
from tvlars._reading import is_inside
from tvlars.lab.config import LOGGERS
from tvlars.lab.errors import MovedFolderError, PreemptedError, UsageError
from tvlars.lab.imported import load_object, said_path, where_raised

STATE = "loggers.json"
"""File with the ids of a run at its loggers, and the last step of each kind of rows that they were given."""
OWN = ("tensorboard", "wandb", "mlflow.db", "mlflow-artifacts")
"""Files and folders of loggers in a run folder."""
METHODS = ("log_metrics", "log_hyperparams", "save", "finalize")
NEEDED = {
    "tensorboard": (("tensorboard",), "lab"),
    "wandb": (("wandb", "lightning"), "loggers"),
    "mlflow": (("mlflow", "lightning"), "loggers"),
}
"""Packages of each logger, and the extra that has them."""
MOST_METRICS = 1000
"""Metrics that MLflow takes at once."""

Rows = list[tuple[dict[str, float], int]]
"""Metrics by name, and the optimizer step of each row."""


def check_loggers(names: Iterable[str]) -> None:
    """Raise ``UsageError`` if a logger of the option ``log`` is not installed or cannot be imported."""
    for name in names:
        if name in NEEDED:
            packages, extra = NEEDED[name]
            for package in packages:
                if find_spec(package) is None:
                    raise UsageError(
                        f"log {name} needs the package {package}, which is not installed: pip install '.[{extra}]' in "
                        "the source folder"
                    )
        elif not callable(load_object(name, "log")):
            raise UsageError(f"log must name a function or class of the run folder, got {name!r}, which is not one")


def check_protocol(loggers: Any) -> tuple[Any, ...]:
    """Return loggers of the user as a tuple; raise ``UsageError`` if one lacks a method of Lightning's ``Logger``."""
    if isinstance(loggers, str) or not isinstance(loggers, Iterable):
        raise UsageError(f"loggers must be a list of loggers, got {loggers!r:.80}")
    for one in (found := tuple(loggers)):
        _check_methods(one)
    return found


def _check_methods(logger: Any) -> None:
    if isinstance(logger, type) or (lacking := [name for name in METHODS if not hasattr(logger, name)]):
        got = f"the class {logger.__name__}" if isinstance(logger, type) else f"a {type(logger).__name__}"
        raise UsageError(
            f"loggers must be objects with the methods of Lightning's Logger ({', '.join(METHODS)}), got {got}"
            + ("" if isinstance(logger, type) else f", which has no {lacking[0]}")
        )


class RunLogger:
    """One logger of a run: the user's own ``logger``, or one that a subclass makes."""

    remembers = False
    """True if the run continues under its id when it resumes, so that rows must not be given twice."""

    def __init__(self, name: str, logger: Any = None) -> None:
        self.name, self.logger, self.failed = name, logger, False

    def open(self, folder: Path, start: int, run_id: str | None) -> None:
        """Make the logger of a run that has taken ``start`` steps, and has an id if it is known already."""

    @property
    def run_id(self) -> str | None:
        """Id under which the run continues when it resumes."""
        return None

    def describe(self, options: dict[str, Any]) -> None:
        """Give the logger the options of the run, once in a run."""
        with contextlib.suppress(NotImplementedError):  # Fabric's CSVLogger has no place for them
            self.logger.log_hyperparams(options)

    def write(self, rows: Rows) -> None:
        """Give the logger some rows."""
        for metrics, step in rows:
            self.logger.log_metrics(metrics, step)
        self.logger.save()

    def close(self, finished: bool, options: dict[str, Any], results: dict[str, float], step: int) -> None:
        """End the log of a run."""
        self.logger.finalize("success" if finished else "failed")


class ByPath(RunLogger):
    """A logger that a function or class of the user makes from the run folder."""

    def open(self, folder: Path, start: int, run_id: str | None) -> None:
        self.logger = load_object(self.name, "log")(folder)
        _check_methods(self.logger)


class TensorBoard(RunLogger):
    """Event files in the folder ``tensorboard`` of the run; steps that are repeated are removed from them."""

    def open(self, folder: Path, start: int, run_id: str | None) -> None:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        class InFolder(TensorBoardLogger):
            @property
            def log_dir(self) -> str:  # as it is: Fabric expands variables in it
                return str(folder / "tensorboard")

        self.logger = InFolder(folder, purge_step=start + 1 if start else None)

    def describe(self, options: dict[str, Any]) -> None:
        """Leave options to :meth:`close`: TensorBoard shows them together with results."""

    def close(self, finished: bool, options: dict[str, Any], results: dict[str, float], step: int) -> None:
        if finished and results:
            self.logger.log_hyperparams(options, results, step)
        super().close(finished, options, results, step)


class Wandb(RunLogger):
    """A run at Weights & Biases, or in the folder ``wandb`` of the run where WANDB_MODE is offline."""

    remembers = True
    ours = True
    """False if the run was begun by the user, who ends it."""

    def open(self, folder: Path, start: int, run_id: str | None) -> None:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        self.ours = wandb.run is None  # else WandbLogger continues in that run
        name, place = os.environ.get("WANDB_NAME", folder.name), os.environ.get("WANDB_DIR", folder)
        project = os.environ.get("WANDB_PROJECT", "tvlars")
        # Console output of the run is that of the terminal, where wandb would stand between it and the bar.
        settings: Any = {} if "WANDB_CONSOLE" in os.environ else {"settings": wandb.Settings(console="off")}
        self.logger = WandbLogger(name, place, id=run_id, project=project, **settings)
        self.logger.experiment  # noqa: B018  begins the run

    @property
    def run_id(self) -> str | None:
        return str(self.logger.version)

    def close(self, finished: bool, options: dict[str, Any], results: dict[str, float], step: int) -> None:
        super().close(finished, options, results, step)
        if self.ours:
            self.logger.experiment.finish(exit_code=0 if finished else 1)


class MLflow(RunLogger):
    """A run at MLFLOW_TRACKING_URI, or in the SQLite store ``mlflow.db`` of the run folder."""

    remembers = True

    def open(self, folder: Path, start: int, run_id: str | None) -> None:
        import logging

        import mlflow
        from lightning.pytorch.loggers import MLFlowLogger

        uri, place = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            here = folder.resolve()
            if "?" in str(here):
                raise ValueError(f"a SQLite store of MLflow cannot lie in {str(here)!r}: set MLFLOW_TRACKING_URI")
            uri, place = f"sqlite:///{here / 'mlflow.db'}", (here / "mlflow-artifacts").as_uri()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tvlars")
        for name in ("mlflow.store.db.utils", "lightning.pytorch.loggers.mlflow"):  # they tell of each new store
            logging.getLogger(name).setLevel(logging.ERROR)
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call, unused-ignore]
        try:
            self.logger = MLFlowLogger(experiment, folder.name, uri, artifact_location=place, run_id=run_id)
            self.logger.experiment.update_run(self.logger.run_id, status="RUNNING")
        finally:  # MLFlowLogger sets it for the whole process and its children
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type, unused-ignore]

    @property
    def run_id(self) -> str | None:
        return str(self.logger.run_id)

    def write(self, rows: Rows) -> None:
        """Give MLflow many rows at once: its store takes some 30 ms each time."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [
            Metric(re.sub(r"[^\w/. -]", "", name), value, now, step)
            for row, step in rows
            for name, value in row.items()
        ]
        for i in range(0, len(metrics), MOST_METRICS):
            self.logger.experiment.log_batch(self.logger.run_id, metrics=metrics[i : i + MOST_METRICS])


KINDS: dict[str, type[RunLogger]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": MLflow}
assert tuple(KINDS) == LOGGERS


class Loggers:
    """All loggers of a run.

    Args:
        folder: the run folder.
        names: those of the option ``log``.
        given: the user's own.
        options: config and plan of the run.
        start: optimizer steps that the run has taken.
        tell: called with a sentence about a logger that has failed.
        check_place: raises ``MovedFolderError`` if the run folder is no longer there.

    Raises:
        UsageError: a file of a logger is a link that leaves the run folder.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        given: Sequence[Any],
        options: dict[str, Any],
        start: int,
        tell: Callable[[str], None],
        check_place: Callable[[], None],
    ) -> None:
        self.folder, self.options, self.start, self.step = folder, options, start, start
        self.tell, self.check_place = tell, check_place
        self.all = [KINDS[name](name) if name in KINDS else ByPath(name) for name in names]
        self.all += [RunLogger(type(logger).__name__, logger) for logger in given]
        for name in (STATE, *OWN) if self.all else ():
            if not is_inside(folder / name, folder):
                raise UsageError(f"{folder / name} must lie in the run folder, but is a link that leaves it")
        self._before: dict[str, Any] = {}
        self._state: dict[str, Any] = {}
        self._scalars: dict[int, dict[str, float]] = {}

    def open(self, state: dict[str, Any]) -> None:
        """Open all loggers; ``state`` is the content of loggers.json.

        Raises:
            Exception: a function of the user that makes a logger has failed.
        """
        for one in self.all:
            known = state.get(one.name, {}) if one.remembers else {}
            known = known if isinstance(known, dict) else {}
            run_id = known.get("id") if isinstance(known.get("id"), str) else None
            if isinstance(one, ByPath):
                one.open(self.folder, self.start, None)
            self._try(one, partial(self._open, one, run_id))
            if one.remembers and known:
                self._state[one.name] = known  # kept if it fails
            if one.remembers and not one.failed:
                self._before[one.name] = known.get("steps") if isinstance(known.get("steps"), dict) else {}
                self._state[one.name] = {"id": one.run_id, "steps": dict(self._before[one.name])}

    def _open(self, one: RunLogger, run_id: str | None) -> None:
        if not isinstance(one, ByPath):
            one.open(self.folder, self.start, run_id)
        for name in ("lightning.fabric", "lightning_fabric"):
            # Lightning's loggers write in rank 0 alone, which they would take from an environment of other processes.
            if (module := sys.modules.get(f"{name}.utilities.rank_zero")) is not None:
                module.rank_zero_only.rank = 0
        if run_id is None and (one.remembers or not self.start):
            one.describe(self.options)

    def add(self, kind: str, rows: Iterable[Any]) -> None:
        """Give all loggers rows, as KIND/COLUMN."""
        found: Rows = []
        for row in rows:
            numbers = {k: v for k, v in asdict(row).items() if k != "step" and isinstance(v, (int, float))}
            values = {f"{kind}/{k}": v for k, v in numbers.items() if v == v}  # NaN: of a split that was not tested
            found.append((values, row.step))
            self.step = max(self.step, row.step)
        self._write(kind, found)

    def add_values(self, kind: str, values: dict[str, float]) -> None:
        """Give all loggers values at the current step, as KIND/NAME."""
        found = {f"{kind}/{name}": value for name, value in values.items()}
        self._write(kind, [(found, self.step)] if found else [])

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Keep a value of a layer for the next rows."""
        self._scalars.setdefault(step, {})[tag] = value

    def close(self, finished: bool, results: dict[str, float]) -> None:
        """Give loggers what remains and the results of the run, and end them."""
        self.add_values("results", results if finished else {})
        for one in self.all:
            if one.logger is not None:
                self._try(one, partial(one.close, finished, self.options, results, self.step))
        self.all = []

    def _write(self, kind: str, rows: Rows) -> None:
        layers, self._scalars = self._scalars, {}
        for one in self.all:
            for name, some in (("layers", [(layers[step], step) for step in sorted(layers)]), (kind, rows)):
                last = self._before.get(one.name, {}).get(name)
                new = [row for row in some if not isinstance(last, int) or row[1] > last]
                if new:
                    self._try(one, partial(one.write, new))
                    if one.name in self._state and not one.failed:
                        self._state[one.name]["steps"][name] = new[-1][1]

    def state(self) -> dict[str, Any]:
        """Return the content of loggers.json; empty if no logger remembers runs."""
        return self._state

    def _try(self, one: RunLogger, work: Callable[[], None]) -> None:
        if one.failed:
            return
        self.check_place()
        try:
            work()
        except (MovedFolderError, PreemptedError):
            raise
        except Exception as error:  # of any library; loggers must not end a run
            one.failed = True
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            why = (cause.strerror if isinstance(cause, OSError) else None) or one_line(cause)
            where = f", raised in {said}" if (said := where_raised(error)) else ""
            name = said_path(one.name)
            self.tell(f"the logger {name} ends here, and the run continues without it: {why}{where}")
