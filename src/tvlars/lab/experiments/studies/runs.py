"""Runs of a study: each is done once, in a folder like a sweep's; their results are read as one table."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tvlars._notebook import page, paragraph
from tvlars._reading import is_regular
from tvlars.lab.comparison.chance import failure_bound
from tvlars.lab.comparison.held_out import held_out
from tvlars.lab.comparison.paired import fewest_seeds
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.board import Board, choose_board
from tvlars.lab.experiments.job import OVER
from tvlars.lab.experiments.queue import check_call
from tvlars.lab.experiments.results import SweepResult, SweepRun, write_table
from tvlars.lab.experiments.studies.config import StudyConfig
from tvlars.lab.experiments.sweep import check_one_machine, do_runs
from tvlars.lab.given import Given, check_apart, take
from tvlars.lab.registered.deviations import sentences
from tvlars.lab.registered.record import FILES
from tvlars.lab.run_folder.loaded_run import load_run
from tvlars.lab.run_folder.record import write_json
from tvlars.lab.run_folder.status import Status
from tvlars.lab.training.prepare import data_of

if TYPE_CHECKING:
    import pandas as pd

    from tvlars.lab.report.study import StudyReport

RUNS = "runs"
"""Folder of the runs inside the folder of the study."""
COLUMNS = (
    *("arm", "batch_size", "horizon", "lr", "scale", "seed", "status", "accuracy", "failed"),
    *("steps", "seconds", "folder", "note"),
)


@dataclass(frozen=True)
class Point:
    """A run of a study. ``scale`` is its rate as a multiple of the planned rate; NaN if rates are given."""

    arm: str
    config: TrainConfig
    scale: float


@dataclass(frozen=True)
class Ran:
    """Runs of a study with their results."""

    rows: pd.DataFrame
    """One row per run with ``COLUMNS``. For a run without a result, ``accuracy`` is NaN and ``failed`` is None.
    ``steps`` and ``seconds`` (without tests) are totals of the run."""
    guess: float
    """Chance-level accuracy, 1 / classes."""
    measure: str
    """Name of the accuracy, for example "validation accuracy"."""
    protocol: str
    """Sentence about the images that are held out for validation."""


@dataclass
class StudyResult(ABC):
    """Results of a study, whose files are in ``folder``."""

    folder: Path
    config: Any
    ran: Ran
    arms: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = list(dict.fromkeys(self.runs["arm"]))

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run, with ``COLUMNS``."""
        return self.ran.rows

    @property
    def unfinished(self) -> list[str]:
        """Names of runs without a result."""
        found: list[str] = self.runs.loc[self.runs["failed"].isna(), "folder"].tolist()
        return found

    @property
    def spread(self) -> str:
        """Name of the interval by bootstrap over seeds, which for two seeds is their range."""
        return "range of 2 seeds" if len(self.config.seeds) == 2 else "95 %"

    @abstractmethod
    def answers(self) -> list[str]:
        """Return the results, one sentence per arm."""

    def notes(self) -> list[str]:
        """Return sentences on few seeds, and on missing results."""
        count = len(self.config.seeds)
        said = ["There is only one seed, so there are no intervals."] * (count == 1)
        if 1 < count < fewest_seeds():
            said.append(
                f"A bootstrap interval from {count} seeds is no wider than their range: it contains the true value in "
                f"at most {1 - 2.0 ** (1 - count):.0%} of studies, not in 95 %."
            )
        if missing := self.unfinished:
            said.append(f"{len(missing)} of {len(self.runs)} runs have no result, for example {missing[0]}.")
        return said

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.arms)}: {len(self.runs)} runs, folder {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return the results in sentences, for notebooks."""
        return page(*map(paragraph, str(self).splitlines()))

    def __str__(self) -> str:
        """Return the results in sentences."""
        return "\n".join([*self.answers(), self.ran.protocol, *(f"note: {note}" for note in self.notes())])


Result = TypeVar("Result", bound=StudyResult)


def do_study(
    config: StudyConfig,
    kind: Callable[[Path, Any, Ran], Result],
    save: Callable[[Result], object],
    objects: Mapping[str, Any],
    *,
    workers: int | None,
    retries: int,
    ray: str | None,
    board: Board | None,
) -> Result:
    """Do the remaining runs of a study, and return the results, which are also saved if the study is stopped.

    Args:
        config: options of the study.
        kind: class of the results.
        save: writes the results.
        objects: data, loaders, model and metrics of a user by name; None for those that are not given.
        workers, retries, ray, board: see :func:`tvlars.lab.compare`.

    Raises:
        UsageError: an option is bad, or does not fit the data; nothing has been written.
    """
    check_call(workers, retries)
    base = config.base
    apart = ray is not None or (workers or 1) > 1 or (base.devices or 1) > 1
    check_apart(apart, **objects)
    given = take(base, **objects)
    base = given.named(base)
    check_one_machine(base)
    data = data_of(base, given.data)
    folder, points = _folder(config), points_of(replace(config, base=base), data)
    runs = [replace(one, config=at_end(one.config, data)) for one in points]
    results: list[Result] = []

    def save_all(done: SweepResult) -> None:
        results.append(kind(folder, config, _read(folder / RUNS, runs, done.runs, data)))
        save(results[-1])

    mine = None if apart else Given(data, given.model, None, given.metrics)
    how: dict[str, Any] = dict(workers=workers, retries=retries, ray=ray, board=board or choose_board())
    do_runs([one.config for one in runs], folder / RUNS, mine, save_all, **how)
    return results[-1]


def _folder(config: StudyConfig) -> Path:
    """Return the folder of the study; raise ``UsageError`` if it holds something else."""
    folder = config.folder()
    ours = is_regular(folder / f"{config.kind()}.json") or (folder / RUNS).is_dir()
    new = folder.is_dir() and all(path.name in FILES for path in folder.iterdir())
    if folder.exists() and not ours and not new:
        raise UsageError(f"out must be a new or empty folder, or one of {config.kind()}, got {str(folder)!r}")
    return folder


def at_end(config: TrainConfig, data: ImageData) -> TrainConfig:
    """Return the config of a run that reads the test set only if there are no images for validation."""
    return replace(config, test=not data.validated, out=None)


def points_of(config: StudyConfig, data: ImageData) -> list[Point]:
    """Return the runs of a study, seeds outermost, so that an interrupted study is still fair.

    Args:
        config: options of the study; without ``lrs`` and ``lr_scales`` the planned rate is used.
        data: data of the runs.

    Raises:
        UsageError: an option does not fit the data, or an arm without a planned rate has scales.
    """
    found = []
    for arm in config.compared().runs():
        for run in config.lengths(arm):
            planned = run.plan(len(data.train_labels)).lr
            if rates := config.rates_of(arm.arm_name):
                found += [Point(arm.arm_name, replace(run, lr=rate), math.nan) for rate in rates]
                continue
            for scale in sorted(config.lr_scales or (1.0,)):
                if scale != 1 and math.isnan(planned):
                    raise UsageError(
                        f"lr_scales must be 1 for {arm.arm_name}, which chooses its own rate, got {scale:g}"
                    )
                found.append(Point(arm.arm_name, run if scale == 1 else replace(run, lr=scale * planned), scale))
    return found


def _read(folder: Path, points: list[Point], runs: list[SweepRun], data: ImageData) -> Ran:
    """Return the results of runs, read from their folders."""
    import pandas as pd

    bound, rows = failure_bound(data.classes), []
    for point, run in zip(points, runs, strict=True):
        accuracy, seconds, steps = math.nan, math.nan, math.nan
        if run.status in OVER:
            loaded = load_run(folder / run.name)
            steps, seconds = float(loaded.summary.get("steps", math.nan)), float(loaded.epochs["seconds"].sum())
            if run.status == Status.FINISHED and loaded.accuracy is not None:
                accuracy = loaded.accuracy
        failed = None if run.status not in OVER else run.status == Status.DIVERGED or not accuracy > bound
        head = (point.arm, point.config.batch_size, point.config.steps or math.nan, run.lr, point.scale)
        note = run.note if failed is None else ""  # does not depend on who did the run, or when
        rows.append((*head, run.config.seed, str(run.status), accuracy, failed, steps, seconds, run.name, note))
    first = points[0].config
    images = len(data.validation_labels) if data.validation_labels is not None else 0
    said = held_out(images, test=first.test, keep_best=first.keep_best, every=first.validate_every)
    said = " ".join([said, *sentences([folder.parent])])
    return Ran(pd.DataFrame(rows, columns=list(COLUMNS)), 1 / data.classes, first.accuracy_name(), said)


def accuracies(rows: pd.DataFrame, guess: float, seeds: Iterable[int]) -> np.ndarray[Any, Any]:
    """Return the accuracies (seeds,) of runs that differ only in their seeds.

    A diverged run counts with the accuracy ``guess``; a run without a result is NaN.
    """
    counted = rows.assign(accuracy=rows["accuracy"].mask(rows["status"] == Status.DIVERGED.value, guess))
    return counted.drop_duplicates("seed").set_index("seed")["accuracy"].reindex(list(seeds)).to_numpy(dtype=float)


def resampled(values: np.ndarray[Any, Any], count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return means (..., count) of ``values`` (..., seeds) over seeds that are drawn with replacement.

    The same seeds are drawn for all entries, so that entries stay paired by seed.
    """
    number = values.shape[-1]
    drawn = np.random.default_rng(seed).integers(number, size=(count, number))
    return mean(values[..., drawn])


def mean(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the mean over the last axis of the values that are not NaN; NaN if there are none."""
    with np.errstate(invalid="ignore"):  # 0 / 0
        found: np.ndarray[Any, Any] = np.nansum(values, -1) / (~np.isnan(values)).sum(-1)
    return found


def middle(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the interval that contains the middle share ``level`` of values, which may be infinite."""
    known = sorted(value for value in values if not math.isnan(value))
    if not known:
        return math.nan, math.nan
    ends = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(ends[0]), float(ends[1])


def save_study(
    result: StudyResult, report: StudyReport, files: Mapping[str, pd.DataFrame], tables: Mapping[str, Any], **more: Any
) -> None:
    """Write the results of a study: a JSON file with ``tables`` and ``more``, ``files`` as CSV, and the ``report``."""
    folder, name = result.folder, result.config.kind()
    folder.mkdir(parents=True, exist_ok=True)
    said = {"command": report.command, "measure": result.ran.measure, "protocol": report.protocol, **more}
    said |= {"answers": report.answers, "notes": report.notes}
    write_json(folder / f"{name}.json", {**said, **{table: records(rows) for table, rows in tables.items()}})
    for file, rows in {"results.csv": result.runs, **files}.items():
        write_table(folder / file, rows)
    report.save(folder, name, f"tab:{name}")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for JSON: NaN and infinity, which JSON does not have, become None."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
