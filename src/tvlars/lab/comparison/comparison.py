"""A comparison of optimizers: its runs, its tables and sentences, and its files.

Pandas and the statistics are imported only when tables are made, after the runs.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, get_type_hints

from tvlars._notebook import Line, page, paragraph, picture
from tvlars._reading import read_json, reason
from tvlars._words import counted
from tvlars.lab.comparison.chance import classes_of
from tvlars.lab.comparison.colors import colors_of
from tvlars.lab.comparison.family import ALL, Declared, check_family, check_margin
from tvlars.lab.comparison.held_out import NOTHING_HELD_OUT
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import write_whole
from tvlars.lab.registered.record import digest_entry
from tvlars.lab.run_folder.loaded_run import load_run, read_correct
from tvlars.lab.run_folder.record import CONFIG, read_object, write_json
from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Measure

if TYPE_CHECKING:
    import pandas as pd

    from tvlars.lab.comparison.paper import ComparisonTable, PaperTable


@dataclass(frozen=True)
class RunRow:
    """One run of a comparison. ``status`` is finished or diverged; losses are means, ``seconds`` exclude tests.

    ``test_images`` is the number of test images, None if it is unknown.
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
    validation_accuracy: float | None = None
    """Accuracy on the validation images, if there are any."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Extra measures by name, such as "test_f1"."""


@dataclass
class Comparison:
    """Results of a comparison, read from or written to its folder."""

    folder: Path
    command: str
    runs: list[RunRow] = field(default_factory=list)
    measure: Measure = field(default_factory=Measure)
    """Measure by which runs are compared: an accuracy, "linear-probe accuracy" in self-supervised learning, or the
    measure of a user's task."""
    protocol: str = NOTHING_HELD_OUT
    """Sentence about the images that were held out, see :func:`tvlars.lab.comparison.held_out.held_out`."""
    family: str = ALL
    """Tested pairs: "all", an arm to compare with each other arm, or pairs as in "a:b,a:c"."""
    margin: float | None = None
    """Margin of equivalence in points of accuracy, None for 0.3; for a user's task in the unit of its measure, None for
    no test of equivalence."""
    _differences: pd.DataFrame | None = field(default=None, init=False, repr=False, compare=False)
    """Differences that were adjusted within a larger family of comparisons."""

    @property
    def diverged(self) -> list[RunRow]:
        """Runs that were stopped because their loss was not finite."""
        return [run for run in self.runs if run.status == Status.DIVERGED]

    def table(self) -> ComparisonTable:
        """Return one row per optimizer and batch size, a data frame that prints as a table of text.

        Columns are as in :func:`tvlars.lab.comparison.statistics.table`, with "optimizer" instead of "arm", and for the
        difference from the best mean ``against_best`` and, as in :meth:`differences`, ``p_adjusted``,
        ``equivalence_p_adjusted``, ``effect_size``, ``seeds_needed`` and ``verdict``. For a user's task with the
        measure NAME, the columns NAME, NAME_interval and NAME_seeds replace the accuracy.
        """
        from tvlars.lab.comparison.paper import ComparisonTable
        from tvlars.lab.comparison.statistics import named_columns

        made = ComparisonTable(named_columns(self.rows(), self.measure).rename(columns={"arm": "optimizer"}))
        made.attrs["measure"] = self.measure
        return made

    def rows(self) -> pd.DataFrame:
        """Return the table with the columns of :func:`tvlars.lab.comparison.verdict.with_verdicts`, for any measure."""
        from tvlars.lab.comparison import statistics
        from tvlars.lab.comparison.verdict import with_verdicts

        return with_verdicts(statistics.table(self._frame()), self.differences(), self.measure)

    def to_latex(self, label: str = "tab:comparison", caption: str | None = None, *, pairs: bool = False) -> str:
        r"""Return a LaTeX table of the arms, or of their differences, which needs ``\usepackage{booktabs}``.

        The table of arms has the mean accuracy ± half the width of its 95 % interval over seeds, the best one bold at
        each batch size, and the number of seeds; the table of pairs has the columns of :meth:`differences`.

        Args:
            label: the table's ``\label``.
            caption: the table's caption; None (default): a caption on settings, interval and verdicts.
            pairs: True for the table of paired differences.
        """
        return self._paper(pairs).latex(label, caption)

    def to_markdown(self, caption: str | None = None, *, pairs: bool = False) -> str:
        """Return the table of :meth:`to_latex` in Markdown as GitHub renders it, with the caption below it.

        Args:
            caption: the text below; None (default): a caption on settings, interval and verdicts.
            pairs: True for the table of paired differences.
        """
        return self._paper(pairs).markdown(caption)

    def __str__(self) -> str:
        """Return the table and the results in sentences."""
        return "\n".join([str(self.table()), *self.answers(), *self.remarks(), self.protocol])

    def __repr__(self) -> str:
        arms = ", ".join(dict.fromkeys(run.optimizer for run in self.runs))
        return f"Comparison({arms or 'nothing'}: {counted(len(self.runs), 'run')}, folder {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return table, sentences and curves as HTML for notebooks."""
        said = map(paragraph, (*self.answers(), *self.remarks(), self.protocol))
        return page(str(self.table()._repr_html_()), *said, self._picture())

    def _picture(self) -> str:
        """Return the mean of each arm over its seeds as SVG, by batch size if there are several, else by epoch."""
        points: dict[str, dict[int, list[float]]] = {run.optimizer: {} for run in self.runs}
        title, x = self.measure.title, "batch size"
        done = [run for run in self.runs if run.status == Status.FINISHED]
        if len({run.batch_size for run in done}) > 1:
            scale = 1 if self.measure.of_task else 100
            for row in self.rows().to_dict("records"):
                points[row["arm"]][row["batch_size"]] = [scale * row["accuracy"]]
        else:
            x = "epoch"
            for run in done:
                with contextlib.suppress(UsageError):  # its folder no longer exists
                    title, values = load_run(self.folder / run.folder).over_epochs()
                    for epoch, value in values.items():
                        points[run.optimizer].setdefault(epoch, []).append(value)
        colors = colors_of({arm: arm for arm in points})
        means = {arm: [fmean(some) for some in mine.values()] for arm, mine in points.items()}
        lines = [Line(list(mine), means[arm], arm, colors[arm][0]) for arm, mine in points.items()]
        return picture(lines, title, x, log="x" * (x == "batch size"))

    def _paper(self, pairs: bool) -> PaperTable:
        from tvlars.lab.comparison.paper import pairs_table, paper_table

        if pairs:
            return pairs_table(self.differences(), self.measure)
        settings = [read_object(self.folder / run.folder / CONFIG) for run in self.runs if run.folder]
        return paper_table(self.rows(), self.measure, settings, self.differences())

    def with_family(self, family: str, margin: float | None = None) -> Comparison:
        """Return the same runs with another declared family of comparisons, and another margin of equivalence.

        Args:
            family: "all", an arm to compare with each other arm, or pairs as in "tvlars:lars,tvlars:lamb".
            margin: > 0, see :attr:`margin`.

        Raises:
            UsageError: the family names no arm of the runs, or the margin is not > 0.
        """
        check_family(family, [run.optimizer for run in self.runs])
        return replace(self, family=family, margin=check_margin(margin))

    def differences(self) -> pd.DataFrame:
        """Return one row per pair of optimizers and batch size, with its tests.

        Columns: see :func:`tvlars.lab.comparison.statistics.differences`. They include better, worse, difference,
        interval and margin (fractions: 0.005 is 0.5 points), effect_size (Hedges' g_z), p_adjusted (Holm, of the
        declared family), equivalence_p_adjusted, seeds_needed, and verdict.
        """
        from tvlars.lab.comparison import statistics

        if self._differences is None:
            return statistics.differences(self._frame(), self.family, self.margin)
        return self._differences

    def answers(self) -> list[str]:
        """Return the results, one sentence per batch size."""
        from tvlars.lab.comparison import statistics
        from tvlars.lab.comparison.verdict import answers

        classes = classes_of(self.folder / run.folder for run in self.runs if run.folder)
        return answers(statistics.table(self._frame()), self.differences(), self.measure, classes)

    def remarks(self) -> list[str]:
        """Return sentences on limits of the numbers: seeds without a result, few seeds or images, untuned rates."""
        from tvlars.lab.comparison import statistics, verdict

        frame = self._frame()
        configs = {run.optimizer: read_object(self.folder / run.folder / CONFIG) for run in self.runs if run.folder}
        return verdict.remarks(statistics.table(frame), frame, self.measure) + verdict.untuned(configs)

    def _frame(self) -> pd.DataFrame:
        """Return the runs with the predictions in their folders."""
        frame = _as_frame(self.runs).rename(columns={"optimizer": "arm"})
        if self.measure.of_task:
            return frame.assign(value=[self._value(run) for run in self.runs], better=self.measure.better)
        return frame.assign(correct=[self._correct(run) for run in self.runs])

    def _value(self, run: RunRow) -> float:
        """Return the measure of a run of a user's task, NaN if there is none."""
        found = run.test_loss if self.measure.column == "test_loss" else run.metrics.get(self.measure.column)
        return math.nan if found is None else found

    def _correct(self, run: RunRow) -> Any:
        """Return which test images a run classified correctly; None if unknown, or for another kind of accuracy."""
        images, accuracy = run.test_images, run.test_accuracy
        if run.status != Status.FINISHED or not run.folder or not images or accuracy is None or images != images:
            return None
        return read_correct(self.folder / run.folder, int(images), accuracy)

    def save(self) -> None:
        """Write comparison.json and results.csv into the folder."""
        runs = [asdict(run) for run in self.runs]
        said = {"command": self.command, "measure": self.measure.name, "protocol": self.protocol}
        said |= {"better": self.measure.better} if self.measure.better is not None else {}
        said |= Declared(self.family, self.margin).as_json() | digest_entry(self.folder)
        write_json(self.folder / "comparison.json", {**said, "runs": runs})
        frame = _as_table(self.runs)
        if frame["validation_accuracy"].isna().all():
            frame = frame.drop(columns="validation_accuracy")
        write_whole(self.folder / "results.csv", frame.to_csv(index=False).encode())

    @classmethod
    def load(cls, folder: Path | str) -> Comparison:
        """Read a comparison from its folder.

        Raises:
            UsageError: comparison.json is missing or damaged.
        """
        folder = Path(folder)
        file = folder / "comparison.json"
        try:
            stored = read_json(file, folder)
            rows = [_row(run) for run in stored["runs"]]
            command, better = str(stored["command"]), stored.get("better")
            if better not in (None, "min", "max"):
                raise ValueError(f"better is {better!r:.60}")
            measure = Measure(str(stored.get("measure", "test accuracy")), better)
            protocol = str(stored.get("protocol", NOTHING_HELD_OUT))
            declared = Declared.of(stored)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{str(file)!r} must be the file of a comparison, but cannot be read: {reason(error)}"
            ) from error
        return cls(folder, command, rows, measure, protocol, declared.family, declared.margin)


def _as_frame(runs: list[RunRow]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(map(asdict, runs), columns=[f.name for f in fields(RunRow)])


def _as_table(runs: list[RunRow]) -> pd.DataFrame:
    """Return the runs with one column per extra measure."""
    import pandas as pd

    frame = _as_frame(runs)
    return pd.concat([frame.drop(columns="metrics"), pd.DataFrame(frame["metrics"].tolist())], axis=1)


def _is_measure(name: Any, value: Any) -> bool:
    return re.fullmatch(r"(test|validation)_\w+", name) is not None and type(value) in (int, float)


def _row(values: Any) -> RunRow:
    """Return the row of a run in comparison.json; raise ``ValueError`` if it is invalid."""
    row = RunRow(**values)
    if not isinstance(row.metrics, dict) or not all(_is_measure(*item) for item in row.metrics.items()):
        raise ValueError(f"metrics of a run are {row.metrics!r:.60}")
    for name, kind in get_type_hints(RunRow).items():
        value = getattr(row, name)
        if name == "metrics":
            continue
        whole = type(value) is int and isinstance(0.0, kind)  # JSON has no decimal point in whole numbers
        if isinstance(value, bool) or not (whole or isinstance(value, kind)):
            raise ValueError(f"{name} of a run is {value!r:.60}")
    for name in ("test_accuracy", "validation_accuracy"):
        value = getattr(row, name)
        if value is not None and not (math.isnan(value) or 0 <= value <= 1):
            raise ValueError(f"{name} of a run is {value!r:.60}, not a fraction")
    if row.test_images is not None and row.test_images < 1:
        raise ValueError(f"test_images of a run is {row.test_images!r:.60}")
    if row.status == Status.FINISHED and row.test_accuracy is None:
        raise ValueError("a run has finished without a test_accuracy")
    return row
