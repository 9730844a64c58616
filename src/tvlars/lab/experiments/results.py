"""Results of a sweep: one row per run, the table over seeds, and the page.

Pandas and the report are imported only after the runs, so that a sweep starts quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvlars._notebook import page, paragraph
from tvlars.lab.comparison.comparison import Comparison, RunRow
from tvlars.lab.comparison.family import ALL
from tvlars.lab.config import MEANS, TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.workers.process import last_lines
from tvlars.lab.files.disk import write_whole
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.loaded_run import LoadedRun, load_run
from tvlars.lab.run_folder.rows import no_rows
from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Measure

if TYPE_CHECKING:
    import pandas as pd

FILE, PAGE = "results.csv", "report.html"
MEASURED = ("test_accuracy", "test_loss", "train_loss", "images_per_second", "seconds", "validation_accuracy")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep. ``status`` is finished, diverged, failed, or not done.

    ``attempts`` counts the attempts of this call; 0 if the run was already done.
    """

    name: str
    config: TrainConfig
    status: Status = Status.NOT_DONE
    attempts: int = 0
    note: str = ""
    lr: float | None = None
    """Learning rate; the planned one if the options set none."""


@dataclass
class SweepResult:
    """Results of a sweep, whose files are in ``folder``.

    ``family`` and ``margin`` are the declared comparisons and the margin of equivalence.
    ``unwritten`` has the reason why results.csv or report.html could not be written; the same call writes them later.
    """

    folder: Path
    runs: list[SweepRun]
    family: str = ALL
    margin: float | None = None
    unwritten: dict[str, str] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(status)} {status}" for status in Status if self.count(status))
        return f"SweepResult({len(self.runs)} runs: {counts or 'none'}, folder {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return all comparisons and the failed runs as HTML for notebooks."""
        parts = [paragraph(title) * bool(title) + one._repr_html_() for title, one in self.comparisons().items()]
        return page(paragraph(self), *parts, *map(paragraph, self.failures()))

    def count(self, status: Status) -> int:
        """Return the number of runs with this status."""
        return sum(run.status == status for run in self.runs)

    @property
    def failed(self) -> list[SweepRun]:
        """Runs without a result after all attempts."""
        return [run for run in self.runs if run.status == Status.FAILED]

    def load(self) -> list[LoadedRun]:
        """Return all runs, read from their folders; a run without a folder has no rows."""
        return [_load(self.folder / run.name, run) for run in self.runs]

    def comparisons(self) -> dict[str, Comparison]:
        """Return comparisons by title. An arm is an optimizer with the options that differ among its runs.

        Runs with different data sets, tasks or lengths are not compared: each kind has a separate comparison, whose
        title names the difference ("" if there is only one kind). p-values are adjusted for the declared pairs of all
        comparisons together.
        """
        from tvlars.lab.report.parts import parts_of

        columns = [f.name for f in fields(RunRow) if f.name not in ("optimizer", "metrics")]
        found = {}
        for part in parts_of(self.load(), self.family, self.margin):
            rows = [
                RunRow(
                    str(row["arm"]),
                    **{str(name): value for name, value in row.items() if name in columns},
                    metrics=_metrics_of(row, part.measure),
                )
                for row in part.frame.to_dict("records")
            ]
            said = (part.measure, part.protocol, self.family, self.margin)
            found[part.title] = Comparison(self.folder, command_line(), rows, *said)
            found[part.title]._differences = part.differences
        return found

    def comparison(self) -> Comparison:
        """Return the comparison, if :meth:`comparisons` has only one.

        Raises:
            UsageError: there are several comparisons.
        """
        found = self.comparisons()
        if len(found) > 1:
            raise UsageError(
                f"runs that are compared must have the same data set, task and length, got {'; '.join(found)}"
            )
        return next(iter(found.values()), Comparison(self.folder, command_line()))

    def frame(self) -> pd.DataFrame:
        """Return one row per run: options that vary, status, and measurements after the last epoch."""
        import pandas as pd

        rows = [_row(run, found) for run, found in zip(self.runs, self.load(), strict=True)]
        varied = [
            f.name
            for f in fields(TrainConfig)
            if (f.name == "arm" or f.name not in MEANS)
            and f.name not in ("optimizer", "batch_size", "seed", "lr")
            and len({repr(getattr(run.config, f.name)) for run in self.runs}) > 1
        ]
        if not any(row["validation_accuracy"] is not None for row in rows):
            rows = [{name: value for name, value in row.items() if name != "validation_accuracy"} for row in rows]
        options = [{name: getattr(run.config, name) for name in varied} for run in self.runs]
        head = ["run", "optimizer", "batch_size", "lr"]
        frame = pd.DataFrame([{**row, **option} for row, option in zip(rows, options, strict=True)])
        order = [*head, *varied, "seed", *(name for row in rows for name in row if name not in (*head, "seed"))]
        order = list(dict.fromkeys([*(name for name in order if name != "note"), "note"]))
        return frame[order]

    def save(self) -> None:
        """Write results.csv, and report.html if there is something to show.

        A file that cannot be written is noted in ``unwritten``; nothing is lost, since the run folders have all data.
        """
        from tvlars.lab.report import report

        files = Files(self.folder)
        files.write(FILE, lambda: write_table(self.folder / FILE, self.frame()))
        if shown := [run.folder for run in self.load() if len(run.epochs) or len(run.steps)]:
            files.write(PAGE, lambda: report(list(shown), self.folder / PAGE, command=command_line()))
        self.unwritten = files.unwritten

    def failures(self) -> list[str]:
        """Return the note, log file and last output of each failed run as lines of text."""
        lines = []
        for run in self.failed:
            log = self.folder / f"{run.name}.log"
            times = f" ({run.attempts} attempts)" if run.attempts > 1 else ""
            lines.append(f"{run.name} failed{times}: {run.note}; its output is in {log}")
            lines += [f"    {line}" for line in last_lines(log) if not line.endswith(run.note)]
        return lines


def _metrics_of(row: dict[Any, Any], measure: Measure) -> dict[str, float]:
    """Return the extra measures of a run, including the measure of a user's task."""
    found = dict(row["metrics"]) if isinstance(row["metrics"], dict) else {}
    if measure.of_task and measure.column != "test_loss" and isinstance(value := row["value"], float):
        found.setdefault(measure.column, value)
    return found


def write_table(file: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all.

    Raises:
        OSError: the table could not be written; an existing file is unchanged.
    """
    write_whole(file, frame.to_csv(index=False).encode("utf-8", errors="replace"))


class Files:
    """Files made from other files: if one cannot be written, ``unwritten`` has the reason, and work continues.

    Args:
        folder: folder of the files.
        tell: called with a sentence on each file that cannot be written.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.tell = folder, tell
        self.unwritten: dict[str, str] = {}

    def write(self, name: str, how: Callable[[], object]) -> None:
        """Write one file with the function ``how``."""
        try:
            how()
            self.unwritten.pop(name, None)
        except (OSError, UsageError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
            sentence = f"cannot write {self.folder / name}: {reason}"
            if self.unwritten.get(name) != sentence:
                self.tell(sentence)
            self.unwritten[name] = sentence


def _load(folder: Path, run: SweepRun) -> LoadedRun:
    try:
        return replace(load_run(folder), config=run.config)
    except UsageError:
        empty = no_rows(())
        return LoadedRun(folder, run.config, run.status, empty, empty, empty, empty, plan={"lr": run.lr})


def _row(run: SweepRun, found: LoadedRun) -> dict[str, Any]:
    from tvlars.lab.report.arms import measured_in

    whole = run.status == Status.FINISHED and found.complete
    measured = measured_in(found) if whole else dict.fromkeys(MEASURED)
    extra = measured.pop("metrics", None) or {}
    head = {"run": run.name, **{name: getattr(run.config, name) for name in ("optimizer", "batch_size")}, "lr": run.lr}
    return {
        **head,
        "seed": run.config.seed,
        "status": run.status,
        "epochs": len(found.epochs),
        **measured,
        **extra,
        "note": run.note,
    }
