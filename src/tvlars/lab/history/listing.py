"""Lists of runs: filtered, sorted, as a data frame, and as a table that fits the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvlars.lab.console import print_table, say
from tvlars.lab.errors import UsageError
from tvlars.lab.files.marked import mark
from tvlars.lab.history.conditions import TIME, Condition, column_of, local_time
from tvlars.lab.history.reading import LeftOut, Row, natural, read_runs
from tvlars.lab.imported import is_import_path, said_path

if TYPE_CHECKING:
    import pandas as pd

FIRST = ("folder", "status")
"""First columns of every list."""
CSV_HEAD = ",".join(FIRST)
MAIN = ("arm", "optimizer", "model", "data", "batch_size", "lr", "seed", "epochs_done")
MEASURED = ("validation_", "test_")
"""Prefixes of results on images that are not used for training."""
ACCURACIES = ("validation_accuracy", "test_accuracy")
NO_SETTING = (
    *("epochs", "out", "resume", "data_dir", "accelerator", "compile", "log", "tensorboard", "devices", "nodes"),
    *("shard", "timeout", "rendezvous", "checkpoint_every", "checkpoint_keep", "profile"),
)
"""Options that the table shows only on request: options that do not affect results, and values that are visible in
the columns folder and epochs."""
GOES_FIRST = ("started", "data", "model")
"""Columns that are dropped first on a narrow terminal, after other settings."""
GOES_LAST = ("epochs_done", "status", "batch_size", "seed", "validation_accuracy")
"""Columns that are dropped next, if there is no room even with folders and arms folded over several lines."""


@dataclass(frozen=True)
class Listing:
    """Runs below some folders, one row each.

    ``settings`` and ``results`` are names of columns; ``of`` is the number of runs before filtering.
    """

    rows: list[Row]
    settings: list[str]
    results: list[str]
    left_out: LeftOut
    of: int
    notes: list[str] = field(default_factory=list)
    """Sentences on conditions that no run meets."""

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [*self.settings, *self.results]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Listing:
        """Read all runs below ``folders``, each run folder once.

        Raises:
            UsageError: a folder does not exist.
        """
        left_out = LeftOut()
        by_place: dict[Path, Row] = {}
        settings: dict[str, None] = dict.fromkeys(FIRST)
        results: dict[str, None] = {}
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"runs must be in an existing folder, got {str(folder)!r}, which is not there")
            for row in read_runs(folder, left_out):
                settings.update(dict.fromkeys(row.settings))
                results.update(dict.fromkeys(row.results))
                by_place.setdefault(Path(row.get("folder")).resolve(), row)
        rows = list(by_place.values())
        return cls(rows, list(settings), [name for name in results if name not in settings], left_out, len(rows))

    def where(self, conditions: Sequence[str]) -> Listing:
        """Return the runs that meet all conditions; see :class:`tvlars.lab.history.conditions.Condition`."""
        rows, notes = self.rows, list(self.notes)
        for text in conditions if rows else ():
            condition = Condition.parse(text, self.columns)
            meeting = condition.filter(self.rows)
            if not meeting:
                values = sorted({text_of(condition.column, row) or "none" for row in self.rows}, key=natural)
                more = f" and {len(values) - 8} other values" if len(values) > 8 else ""
                notes.append(f"no run meets {condition.said()}: there are {', '.join(values[:8])}{more}")
            places = set(map(id, meeting))
            rows = [row for row in rows if id(row) in places]
        return replace(self, rows=rows, notes=notes)

    def sorted(self, by: Sequence[str]) -> Listing:
        """Return the runs sorted by columns, descending after ``-``; empty cells come last."""
        rows = list(self.rows)
        for text in reversed(by if rows else ()):
            name = column_of(text.removeprefix("-"), self.columns)
            full = [row for row in rows if row.get(name) is not None]
            numbers, down = all(isinstance(row.get(name), (int, float)) for row in full), text.startswith("-")
            full.sort(key=partial(_key, name, numbers), reverse=down)
            rows = full + [row for row in rows if row.get(name) is None]
        return replace(self, rows=rows)

    def only(self, columns: Sequence[str]) -> Listing:
        """Return the runs with only these columns after folder and status."""
        chosen = [column_of(name, self.columns) for name in columns] if self.of else []
        return replace(self, settings=list(dict.fromkeys((*FIRST, *chosen))), results=[])

    def csv(self) -> str:
        """Return one row per run as CSV, with all digits; cells without a value are empty."""
        text = io.StringIO(newline="")
        written = csv.writer(text, lineterminator="\n")
        written.writerow(self.columns)
        written.writerows([row.get(name) for name in self.columns] for row in self.rows)
        return text.getvalue()

    def json(self) -> str:
        """Return the runs as JSON: "runs" has one object per run, "left_out" the lines on other folders."""
        runs = [{name: row.get(name) for name in self.columns} for row in self.rows]
        return json.dumps({"made_by": mark("runs"), "left_out": self.left_out.lines(), "runs": runs}, indent=1) + "\n"

    def print(self, columns: Sequence[str] = ()) -> None:
        """Print a table that fits the terminal, and lines on values shared by all runs and on left-out columns.

        Columns are ``columns``, or by default the settings that differ and the main results.
        """
        if self.rows:
            names, alike = self._chosen(columns)
            self._print(names, fit=not columns)
            if alike:
                say(f"all of them: {', '.join(alike)}")
        number = "1 run" if self.of == 1 else f"{self.of} runs"
        some = f"{len(self.rows)} of " * (len(self.rows) != self.of)
        say(f"{some}{number}", *self.notes, *self.left_out.lines())

    def _chosen(self, columns: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the columns of the table, and the settings shared by all runs, which are left out, in words."""
        if columns:
            return list(dict.fromkeys(("folder", *(column_of(name, self.columns) for name in columns)))), []
        names, alike = ["folder"], []
        main = [name for name in ("status", *MAIN) if any(row.get(name) is not None for row in self.rows)]
        if "arm" in main:
            main.remove("optimizer")  # the arm's cells have it
        others = [name for name in self.settings if name not in (*FIRST, *MAIN, *NO_SETTING)]
        for name in (*main, *others):
            # Values of the plan follow from the settings, so they get no columns.
            cells = {repr(row.get(name) if name in main else row.config.get(name)) for row in self.rows}
            if len(cells) > 1 or (len(self.rows) == 1 and name in main):
                names.append(name)
            elif name in main:
                alike.append(f"{title_of(name)} {text_of(name, self.rows[0])}".removeprefix("status "))
        further = [name for name in self.results if name.startswith(MEASURED) and not name.endswith("_loss")]
        tasks = any(all(row.get(name) is None for name in ACCURACIES) for row in self.rows)  # runs without accuracy
        losses = [name.replace("accuracy", "loss") for name in ACCURACIES] if tasks else []
        named = [*ACCURACIES, *losses, *(name for name in further if name not in ACCURACIES)]
        measured = [name for name in named if any(row.get(name) is not None for row in self.rows)]
        return [*names, *measured, TIME], alike

    def _print(self, names: list[str], fit: bool) -> None:
        others = [name for name in reversed(names) if name not in (*FIRST, *MAIN, *ACCURACIES, TIME)]
        others.sort(key=lambda name: name in self.results)  # settings go first
        rows = [{title_of(name): text_of(name, row) for name in names} for row in self.rows]
        left = [title_of(name) for name in names if isinstance(self.rows[0].get(name), str)]
        drop, last = ([*map(title_of, some)] if fit else [] for some in ((*others, *GOES_FIRST), GOES_LAST))
        print_table(rows, drop, last, left, end="; --columns chooses, --format csv has all")


def list_runs(
    folder: Path | str = "runs", *, where: Sequence[str] = (), sort: str | Sequence[str] = ()
) -> pd.DataFrame:
    """Return all runs below a folder as a data frame, one row per run.

    Runs of comparisons, sweeps and tunings are included, each run folder once. Only JSON files are read. Damaged run
    folders are left out, and ``tvlars runs`` lists them; :func:`tvlars.lab.load_run` reports the problems of a folder.

    Args:
        folder: the folder to search, or a run folder.
        where: conditions that runs must meet, such as ``"optimizer=lars"`` or ``"test-accuracy>0.9"``. Operators are
            =, !=, <, <=, > and >=. Numbers are compared as numbers, ``*`` in text matches any characters, and ``none``
            means an empty cell.
        sort: names of columns, the most important first; a ``-`` before a name sorts in descending order.

    Returns:
        Columns: folder, status, all options of the runs (with planned values, such as lr), epochs_done, other entries
        of summary.json (such as test_accuracy), versions, device, and started.

    Raises:
        UsageError: the folder does not exist, or ``where`` or ``sort`` names no column.
    """
    import pandas as pd

    chosen = [where] if isinstance(where, str) else list(where)
    found = Listing.read([Path(folder)]).where(chosen).sorted([sort] if isinstance(sort, str) else list(sort))
    return pd.DataFrame([[row.get(name) for name in found.columns] for row in found.rows], columns=found.columns)


def _key(column: str, numbers: bool, row: Row) -> Any:
    value = row.get(column)
    return value if numbers else natural(str(value))


def text_of(column: str, row: Row) -> str:
    """Return a cell of a run as text for the table."""
    value = row.get(column)
    if column == "epochs_done" and value is not None and value != row.get("epochs"):
        return f"{value} of {row.get('epochs')}"
    if column == "arm":
        optimizer = text_of("optimizer", row)
        return f"{value} ({optimizer})" if value and value != optimizer else optimizer
    return value_text(column, value)


def value_text(column: str, value: Any) -> str:
    """Return a setting or result as text, "" for None."""
    if column == TIME:
        return local_time(value) or ""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):  # includes NumPy's floats
        large = f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"
        return f"{100 * value:.2f} %" if column.endswith("accuracy") else large
    if isinstance(value, int):
        return f"{value:,}" if column.endswith("batch_size") else str(value)
    if column != "folder" and is_import_path(value):
        return said_path(value)
    return value.rpartition("/")[2] or value if column == "data" else str(value)


def title_of(column: str) -> str:
    """Return the name of a column, or of a setting or result, in words."""
    return column.replace("_", " ")
