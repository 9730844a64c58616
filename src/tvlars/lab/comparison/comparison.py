"""A comparison of optimizers: its runs, its tables and sentences, and its files.

Pandas and the statistics are imported where tables are made: a comparison begins without them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from tvlars._reading import read_json, reason
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import write_whole
from tvlars.lab.run_folder.loaded_run import read_correct
from tvlars.lab.run_folder.record import write_json
from tvlars.lab.run_folder.status import Status

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunRow:
    """One run of a comparison. ``status`` is finished or diverged; losses are means, ``seconds`` without tests.

    ``test_images`` is how many the accuracy is of; None where that is not known.
    """

    optimizer: str
    batch_size: int
    seed: int
    lr: float
    status: str
    test_accuracy: float | None = None
    test_loss: float | None = None
    train_loss: float | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    note: str = ""
    folder: str = ""
    test_images: int | None = None


@dataclass
class Comparison:
    """Results of a comparison, read from or written to its folder."""

    folder: Path
    command: str
    runs: list[RunRow] = field(default_factory=list)
    measure: str = "test accuracy"
    """Name of ``test_accuracy``; with self-supervised learning "linear-probe accuracy"."""
    _differences: pd.DataFrame | None = field(default=None, init=False, repr=False, compare=False)
    """Differences that belong to a larger family of comparisons."""

    @property
    def diverged(self) -> list[RunRow]:
        """The runs that were stopped since their loss was not finite."""
        return [run for run in self.runs if run.status == Status.DIVERGED]

    def table(self) -> pd.DataFrame:
        """One row per optimizer and batch size, see :func:`tvlars.lab.comparison.statistics.table`; arm is "optimizer".

        With ``against_highest``, ``p_adjusted`` and ``verdict`` of :func:`tvlars.lab.comparison.verdict.with_verdicts`.
        """
        from tvlars.lab.comparison import statistics
        from tvlars.lab.comparison.verdict import with_verdicts

        rows = with_verdicts(statistics.table(self._frame()), self.differences())
        return rows.rename(columns={"arm": "optimizer"})

    def differences(self) -> pd.DataFrame:
        """One row per pair of optimizers and batch size, see :func:`tvlars.lab.comparison.statistics.differences`.

        p-values are adjusted for all pairs, and significance is judged by seeds and test images.
        """
        from tvlars.lab.comparison import statistics

        return statistics.differences(self._frame()) if self._differences is None else self._differences

    def answers(self) -> list[str]:
        """The result in a sentence for each batch size."""
        from tvlars.lab.comparison import statistics
        from tvlars.lab.comparison.verdict import answers

        return answers(statistics.table(self._frame()), self.differences(), self.measure)

    def _frame(self) -> pd.DataFrame:
        """The runs, with the predictions that their folders keep."""
        frame = _as_frame(self.runs).rename(columns={"optimizer": "arm"})
        return frame.assign(correct=[self._correct(run) for run in self.runs])

    def _correct(self, run: RunRow) -> Any:
        """Test images that a run has right; None where that is not kept, or not of the accuracy that stands here."""
        images, accuracy = run.test_images, run.test_accuracy
        if run.status != Status.FINISHED or not run.folder or not images or accuracy is None or images != images:
            return None
        return read_correct(self.folder / run.folder, int(images), accuracy)

    def save(self) -> None:
        """Write comparison.json and results.csv into the folder."""
        runs = [asdict(run) for run in self.runs]
        write_json(self.folder / "comparison.json", {"command": self.command, "measure": self.measure, "runs": runs})
        write_whole(self.folder / "results.csv", _as_frame(self.runs).to_csv(index=False).encode())

    @classmethod
    def load(cls, folder: Path | str) -> Comparison:
        """Read a comparison back from its folder.

        Raises:
            UsageError: comparison.json is missing, damaged or not that of a comparison.
        """
        folder = Path(folder)
        file = folder / "comparison.json"
        try:
            stored = read_json(file, folder)
            rows = [_row(run) for run in stored["runs"]]
            command, measure = str(stored["command"]), str(stored.get("measure", "test accuracy"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{str(file)!r} must be that of a comparison, but cannot be read: {reason(error)}"
            ) from error
        return cls(folder, command, rows, measure)


def _as_frame(runs: list[RunRow]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(map(asdict, runs), columns=[f.name for f in fields(RunRow)])


def _row(values: Any) -> RunRow:
    """The row of a run as it stands in comparison.json.

    Raises:
        ValueError: it is none.
    """
    row = RunRow(**values)
    for name, kind in get_type_hints(RunRow).items():
        value = getattr(row, name)
        whole = type(value) is int and isinstance(0.0, kind)  # a number without digits after the point
        if isinstance(value, bool) or not (whole or isinstance(value, kind)):
            raise ValueError(f"{name} of a run is {value!r:.60}")
    if row.test_accuracy is not None and not (math.isnan(row.test_accuracy) or 0 <= row.test_accuracy <= 1):
        raise ValueError(f"test_accuracy of a run is {row.test_accuracy!r:.60}, no fraction")
    if row.test_images is not None and row.test_images < 1:
        raise ValueError(f"test_images of a run is {row.test_images!r:.60}")
    if row.status == Status.FINISHED and row.test_accuracy is None:
        raise ValueError("a run has finished without a test_accuracy")
    return row
