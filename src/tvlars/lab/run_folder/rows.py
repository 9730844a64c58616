"""Rows of a run's CSV files: one class per file, and functions to write, mend and read them.

CSV, since any program can read it and rows can be appended while others read.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, astuple, dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvlars._reading import is_regular, read_bytes, read_text, reason
from tvlars.lab.files.disk import write_whole

if TYPE_CHECKING:
    import pandas as pd

METRICS, SHARPNESS = "metrics.csv", "sharpness.csv"
TEST_SHARE = "test_random_share_accuracy"
"""Column of the accuracy on a random share of the test images (``test_share``); those on all have other columns."""
RUNNING = "running"
"""Name of batch norm's running statistics."""
LEAST_STD, LEAST_RANK = 0.1, 2.0
"""Bounds below which a representation is called collapsed."""
RESULTS = ("test_loss", "test_accuracy", "validation_loss", "validation_accuracy")
"""Columns of results on held-out images after an epoch."""


@dataclass(frozen=True)
class StepRow:
    """One optimizer step, in steps.csv. ``lr`` is that of adapted layers and includes ``phi`` (or the schedule)."""

    step: int
    epoch: float
    loss: float
    train_accuracy: float
    lr: float
    phi: float


@dataclass(frozen=True)
class EpochRow:
    """One epoch, in epochs.csv: means over its steps, results on held-out images, speed and time without the test.

    Results are those on validation images if there are some, those on test images otherwise; the others are NaN. After
    an epoch without evaluation (``validate_every``) all are NaN.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    images_per_second: float
    seconds: float
    validation_loss: float = math.nan
    validation_accuracy: float = math.nan

    @property
    def evaluated(self) -> bool:
        """True if there are results."""
        return not all(math.isnan(getattr(self, name)) for name in RESULTS)

    @property
    def validated(self) -> bool:
        """True if the results are those on validation images."""
        return math.isnan(self.test_loss) and not math.isnan(self.validation_loss)


@dataclass(frozen=True)
class SharpnessRow:
    """Sharpness of the training loss at ``step``, without augmentation, in evaluation mode (see tvlars.sharpness).

    ``hessian_max`` is the top eigenvalue to 2 %; ``*_error`` are standard errors; ``worst_case`` and ``average_case``
    are the adaptive forms at ρ = 0.5 and 0.1; ``keskar`` is in percent, at ε = 1e-3.

    ``statistics`` of batch norm are "fresh" (estimated anew) or "running"; ``at`` says what the row was measured for,
    as in "step 7; loss 0.5"; ``epoch`` is the one that the step is in. ``hessian_max_at_initial_norm`` is
    ``hessian_max`` with the weights whose scale has no effect at their initial norms; NaN if there are none, if the
    norms are unknown, or with running statistics, which do not follow the weights.
    """

    epoch: int
    step: int
    samples: int
    loss: float
    hessian_max: float
    hessian_trace: float
    hessian_trace_error: float
    worst_case: float
    average_case: float
    average_case_error: float
    keskar: float
    seconds: float
    statistics: str = RUNNING
    at: str = ""
    hessian_max_at_initial_norm: float = math.nan

    @staticmethod
    def completed(cells: Mapping[str, str]) -> dict[str, str]:
        """Return the cells of a line by column, with those that an earlier version did not write."""
        return {"statistics": RUNNING, "at": f"epoch {cells['epoch']}", "hessian_max_at_initial_norm": "nan", **cells}


@dataclass(frozen=True)
class NoiseRow:
    """Gradient noise scale at ``step`` in samples, with its 95 % interval (see tvlars.noise_scale)."""

    epoch: int
    step: int
    noise_scale: float
    low: float
    high: float
    trace: float
    gradient_square: float


@dataclass(frozen=True)
class RepresentationRow:
    """Statistics of features (backbone) and embeddings (projector) of two views of held-out images, after an epoch.

    Images are those for validation if there are some, else test images.

    ``*_std`` is ``feature_std`` of :mod:`tvlars.lab.ssl.representation`, ``*_rank`` is ``effective_rank`` there;
    ``alignment`` and ``uniformity`` are those of embeddings.
    """

    epoch: int
    step: int
    samples: int
    loss: float
    feature_std: float
    feature_rank: float
    embedding_std: float
    embedding_rank: float
    alignment: float
    uniformity: float

    def collapse(self) -> str | None:
        """Return a sentence about a collapse, None if there is none."""
        for what, std, rank in (
            ("features", self.feature_std, self.feature_rank),
            ("embeddings", self.embedding_std, self.embedding_rank),
        ):
            if std < LEAST_STD:
                return f"the {what} are nearly the same for all images (standard deviation {std:.2g}, 1 is none lost)"
            if rank < LEAST_RANK:
                return f"the {what} vary in fewer than two directions (effective rank {rank:.2f})"
        return None


@dataclass(frozen=True)
class MetricsRow:
    """Values of the metrics after an epoch, in metrics.csv; :func:`metrics_row` adds a column for each."""

    epoch: int
    step: int


def metrics_row(epoch: int, step: int, values: Mapping[str, float]) -> MetricsRow:
    """Return the row of an epoch with a column for each of ``values``."""
    kind = make_dataclass("MetricsRow", [(name, float) for name in values], bases=(MetricsRow,), frozen=True)
    made: MetricsRow = kind(epoch, step, *values.values())
    return made


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """Return the values in metrics.csv of a run folder by epoch, as far as they can be read."""
    found: dict[int, dict[str, float]] = {}
    with contextlib.suppress(OSError, ValueError):
        header, lines = read_cells(folder / METRICS)
        for line in lines:
            row = dict(zip(header, map(float, line), strict=True))
            found[int(row.pop("epoch"))] = {name: value for name, value in row.items() if name != "step"}
    return found


def columns(kind: type) -> list[str]:
    """Return the names of a row class's columns."""
    return [field.name for field in fields(kind)]


def cells(row: Any) -> list[Any]:
    """Return the cells of a row, floats as text of seven digits."""
    return [f"{value:.7g}" if isinstance(value, float) else value for value in astuple(row)]


def as_csv(lines: Iterable[list[Any]]) -> bytes:
    """Return lines of cells as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def read_cells(file: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header of a CSV file and the cells of each line below it; an empty file has no header."""
    lines = read_text(file, file.parent, errors="replace").splitlines()
    header, *rows = [line.split(",") for line in lines] or [[]]
    return header, rows


def epochs_done(folder: Path) -> int:
    """Return the number of rows in epochs.csv of a run folder."""
    try:
        return max(read_bytes(folder / "epochs.csv", folder).count(b"\n") - 1, 0)
    except OSError:
        return 0


# -- mending: a run resumes after a step, and writes rows of later steps again -----------------------------------------


def mend_steps(file: Path, last: int, known: list[StepRow]) -> int:
    """Keep one whole row per step up to ``last``, add the ``known`` ones, and return how many steps have none."""
    header = columns(StepRow)
    there: dict[int, list[Any]] = {row.step: cells(row) for row in known}
    lines = read_cells(file)[1] if is_regular(file, file.parent) else []
    for step, line in _until(last, "step", header, lines):
        if step >= 1:
            there.setdefault(step, line)
    write_whole(file, as_csv([header, *(there[step] for step in sorted(there))]))
    return last - len(there)


def cut(file: Path, last: int) -> None:
    """Keep the whole rows of measurements up to the epoch ``last``."""
    if is_regular(file, file.parent):
        header, lines = read_cells(file)
        write_whole(file, as_csv([header, *(line for _, line in _until(last, "epoch", header, lines))]))


def cut_sharpness(file: Path, step: int, epochs: int, due: Collection[str] = ()) -> None:
    """Keep the whole rows up to ``step``, in the columns of today, without what is measured again: at the end of an
    epoch after ``epochs``, or ``due`` at ``step``."""
    if is_regular(file, file.parent):
        header, lines = read_cells(file)
        found = [
            SharpnessRow.completed(dict(zip(header, line, strict=True)))
            for _, line in _until(step, "step", header, lines)
        ]
        names = columns(SharpnessRow)
        again = {*due, *(f"epoch {row['epoch']}" for row in found if int(row["epoch"]) > epochs)}
        for row in found:
            row["at"] = "; ".join(one for one in row["at"].split("; ") if one not in again)
        write_whole(file, as_csv([names, *([row.get(name, "nan") for name in names] for row in found if row["at"])]))


def _until(last: int, column: str, header: list[str], lines: list[list[str]]) -> list[tuple[int, list[str]]]:
    """Return pairs of count and line for whole lines whose count in ``column`` is ``last`` or less."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, IndexError):
            count = int(line[header.index(column)])
            if len(line) == len(header) and count <= last:
                found.append((count, line))
    return found


# -- reading ----------------------------------------------------------------------------------------------------------


def read_rows(file: Path, kind: type, problems: list[str], optional: bool = False) -> pd.DataFrame:
    """Return the rows up to the first damaged one; columns that an earlier version did not write are NaN.

    Each problem adds a sentence to ``problems``; a missing file is none if it is ``optional``.
    """
    import pandas as pd  # a run that is trained writes rows and reads none

    wanted = {field.name: field.type == "int" for field in fields(kind)}
    texts = {field.name for field in fields(kind) if field.type == "str"}
    added = {field.name for field in fields(kind) if field.default is not MISSING}
    """Columns that not every run has."""
    try:
        names, lines = read_cells(file)
        if not names:
            raise ValueError("it is empty")
        if len(set(names)) < len(names):
            raise ValueError("it has a column twice")
        if lacking := [name for name in ("step", "epoch") if name not in names]:
            raise ValueError(f"it has no column {lacking[0]}")
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError):
            problems.append(f"{file.name} cannot be read: {reason(error)}")
        elif not optional:
            problems.append(f"{file.name} is missing")
        return no_rows(wanted)
    counts = [i for i, name in enumerate(names) if name == "epoch" or wanted.get(name)]
    rows: list[list[Any]] = []
    step, last = names.index("step"), 0.0
    for number, line in enumerate(lines, 2):
        try:
            # Spreadsheets and pandas write NaN as an empty cell.
            row: list[Any] = [
                cell[:200] if name in texts else float(cell if cell or name not in added else "nan")
                for name, cell in zip(names, line, strict=True)
            ]
            if not all(0 <= row[i] < 2**53 for i in counts) or row[step] <= last:
                raise ValueError
        except ValueError:
            what = "being written" if number == len(lines) + 1 else "damaged"
            problems.append(f"{file.name} is {what} at line {number}: {len(rows)} rows are read")
            break
        last = row[step]
        rows.append(row)
    frame = pd.DataFrame(rows, columns=names)
    if missing := [name for name in wanted if name not in names]:
        if lacking := [name for name in missing if name not in added]:
            problems.append(f"{file.name} is of an older version, it lacks {', '.join(lacking)}")
        frame = frame.assign(**dict.fromkeys(missing, math.nan))
    return frame.astype({name: int for name in ("step", "epoch") if wanted[name]})


def no_rows(columns: Iterable[str]) -> pd.DataFrame:
    """Return an empty frame with these columns."""
    import pandas as pd

    return pd.DataFrame(columns=list(columns))
