"""Differences between two runs, or between two comparisons arm by arm, in settings and results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tvlars._notebook import pre
from tvlars._reading import is_regular, open_regular, reason
from tvlars.lab import memory
from tvlars.lab.comparison.comparison import Comparison
from tvlars.lab.config import OPTIONS, TrainConfig
from tvlars.lab.console import broken
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import DIGEST
from tvlars.lab.history.listing import title_of, value_text
from tvlars.lab.history.reading import shown
from tvlars.lab.imported import said_path
from tvlars.lab.options import Is
from tvlars.lab.run_folder.checkpoints.pickles import read_torch_file
from tvlars.lab.run_folder.identity import FINGERPRINT
from tvlars.lab.run_folder.loaded_run import LoadedRun, load_run
from tvlars.lab.run_folder.record import CONFIG, MODEL, read_object
from tvlars.lab.tasks import Measure

if TYPE_CHECKING:
    import pandas as pd

OF_DATA = ("data", "mean", "std", "class_names", "channels", "image_size", "classes", FINGERPRINT, DIGEST)
"""Entries of model.json about the data."""
OF_FOLDER = ("out", "resume", "data_dir")
MACHINE = ("python", "system", "cpu_cores", "torch_threads", "device", "precision", "processes")
WIDE, NARROW = 80, 24
"""Most characters of a value, and of a value that sets the width of its column."""


@dataclass(frozen=True)
class Difference:
    """One line of text: values of ``a`` and ``b`` under a name, and a note.

    ``part`` is settings, plan, model, data, environment or results; for comparisons also "all arms" or an arm.
    """

    part: str
    name: str
    a: str
    b: str
    note: str = ""

    @property
    def same(self) -> bool:
        """True if both values are equal."""
        return self.a == self.b and self.note in ("", "same")


@dataclass(frozen=True)
class RunsDiff:
    """Differences found by :func:`diff_runs`; ``print`` shows them in the form of ``tvlars diff``."""

    a: Path
    b: Path
    rows: list[Difference]

    @property
    def differences(self) -> list[Difference]:
        """Rows whose values differ."""
        return [row for row in self.rows if not row.same]

    def __repr__(self) -> str:
        return f"RunsDiff({len(self.differences)} of {len(self.rows)} rows differ)"

    def _repr_html_(self) -> str:
        """Return the text of ``str()``, for notebooks."""
        return pre(self)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a data frame: part, name, a, b, note, same."""
        import pandas as pd

        columns = [f.name for f in fields(Difference)]
        return pd.DataFrame([{**asdict(row), "same": row.same} for row in self.rows], columns=[*columns, "same"])

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 0) -> str:
        """Return a line per row, or several if it has more than ``width`` columns (0: any); equal values only once."""
        wide = max([len(row.part) for row in self.rows] + [1])
        names = max([len(row.name) for row in self.rows] + [0])
        values = max([len(row.a) for row in self.rows if not row.same and len(row.a) <= NARROW] + [0])
        lines = [f"{'a':<{wide}}  {self.a}", f"{'b':<{wide}}  {self.b}"]
        part = ""
        for row in self.rows:
            head = f"{row.part if row.part != part else '':<{wide}}  {row.name:<{names}}  "
            part, cells = row.part, [row.a, row.b] if row.a + row.b else []
            if row.same:
                cells = [f"same{': ' if row.a else ''}{row.a}"]
            elif row.note:
                cells[-1:] = [f"{cells[-1]}  ({row.note})" if cells else row.note]
            line = (head + "  ".join(f"{cell:<{values}}" for cell in cells)).rstrip()
            if 0 < width < len(line):
                deep = min(len(head), width // 2)
                cells = [head + cells[0], *(" " * deep + cell for cell in cells[1:])]
                line = "\n".join(broken(cell, width, deep + 2) for cell in cells)
            lines.append(line)
        return "\n".join(lines)


def diff_runs(a: Path | str, b: Path | str) -> RunsDiff:
    """Compare two runs, or two comparisons arm by arm, in settings, data, versions and results.

    Args:
        a: folder of a run, or of a comparison.
        b: folder of the same kind.

    Returns:
        One row per setting that differs, or one row "same" per kind of settings, and one row per result.

    Raises:
        UsageError: a folder is neither a run nor a comparison, or one is a run and the other a comparison.
    """
    a, b = Path(a), Path(b)
    kinds = [_kind(name, folder) for name, folder in (("a", a), ("b", b))]
    if kinds[0] != kinds[1]:
        one, other = (a, b) if kinds[0] == "comparison" else (b, a)
        raise UsageError(
            f"a and b must be two runs or two comparisons, but {str(one)!r} is a comparison and {str(other)!r} a run: "
            "name a run folder in it"
        )
    if kinds[0] == "comparison":
        return RunsDiff(a, b, _of_comparisons(Comparison.load(a), Comparison.load(b)))
    first, second = load_run(a), load_run(b)
    return RunsDiff(a, b, [*_facts(first, second), *_results(first, second)])


def _kind(name: str, folder: Path) -> str:
    if not folder.is_dir():
        raise UsageError(f"{name} must be a folder of a run or a comparison, got {str(folder)!r}")
    for file, what in (("sweep.json", "a sweep"), ("tune.json", "a tuning")):
        if is_regular(folder / file, folder):
            raise UsageError(
                f"{name} must be a folder of a run or a comparison, but {str(folder)!r} is one of {what}: name runs in "
                f"it, tvlars runs {folder} lists them"
            )
    return "comparison" if is_regular(folder / "comparison.json", folder) else "run"


# -- settings ---------------------------------------------------------------------------------------------------------


def _facts(a: LoadedRun, b: LoadedRun) -> list[Difference]:
    """Return the rows on settings, plan, model, data and environment."""
    (settings, plan), (others, other_plan) = _plan(a, b), _plan(b, a)
    return [
        *_part("settings", settings, others),
        *_part("plan", plan, other_plan),
        *_part("model", _model(a), _model(b), str(a.environment.get("model", ""))),
        *_data(a, b),
        *_part("environment", _environment(a), _environment(b)),
    ]


def _part(part: str, a: dict[str, Any], b: dict[str, Any], what: str = "") -> list[Difference]:
    """Return one row per value that differs, or one row "same"."""
    rows = [
        Difference(part, name.replace("_", "-") if name in OPTIONS else title_of(name), *texts)
        for name in dict.fromkeys((*a, *b))
        if _differ(a.get(name), b.get(name)) and (texts := _texts(name, a.get(name), b.get(name)))
    ]
    return rows or [Difference(part, "", _short(what), _short(what))]


def _settings(run: LoadedRun) -> dict[str, Any]:
    """Return all options that affect training and measurements; None for a value that the plan chose."""
    stored, defaults = read_object(run.folder / CONFIG), asdict(TrainConfig())
    means = [name for name, one in OPTIONS.items() if one.kinds & (Is.MEANS | Is.MACHINE) and name != "arm"]
    options = {name: value for name, value in {**defaults, **stored}.items() if name not in (*means, *OF_FOLDER)}
    return {name: None if value == "auto" else value for name, value in options.items()}


def _plan(run: LoadedRun, other: LoadedRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings, with planned values for settings that only the other run sets, and the rest of the plan."""
    mine, theirs = _settings(run), _settings(other)
    given = {name for name in mine if mine[name] is not None or theirs.get(name) is not None}
    settings = {name: run.plan.get(name) if value is None else value for name, value in mine.items() if name in given}
    return settings, {name: value for name, value in run.plan.items() if name not in given}


def _model(run: LoadedRun) -> dict[str, Any]:
    facts = {name: value for name, value in read_object(run.folder / MODEL).items() if name not in OF_DATA}
    return {**facts, "description": run.environment.get("model")}


def _data(a: LoadedRun, b: LoadedRun) -> list[Difference]:
    prints: list[Fingerprint | None] = [a.fingerprint(), b.fingerprint()]
    first, second = prints
    texts = [_short(run.environment.get("data", run.config.data if run.config else "")) for run in (a, b)]
    if first is None or second is None:
        which = "both" if first is second else "a" if first is None else "b"
        note = f"their content cannot be compared, since {which} has no fingerprint"
    elif not (note := first.difference(second).replace(" now", " in b").replace("there were", "a has")):
        note = first.uncompared(second) or "same"
    return [Difference("data", "", texts[0], texts[0] if note == "same" else texts[1], note)]


def _environment(run: LoadedRun) -> dict[str, Any]:
    said = run.environment
    versions = said.get("versions")
    sources = said["sources"] if isinstance(said.get("sources"), dict) else {}
    return {
        **({str(name): value for name, value in versions.items()} if isinstance(versions, dict) else {}),
        **{name: said.get(name) for name in MACHINE},
        **{f"source of {said_path(str(name))}": digest for name, digest in sources.items()},
    }


# -- results ----------------------------------------------------------------------------------------------------------


def _results(a: LoadedRun, b: LoadedRun) -> list[Difference]:
    """Return one row per final result, and rows on the equality of loss curves and weights."""
    ends = [{"status": run.status.value, "epochs": len(run.epochs), **_last(run)} for run in (a, b)]
    rows = []
    for name in dict.fromkeys((*ends[0], *ends[1])):
        one, other = (end.get(name) for end in ends)
        if not (_missing(one) and _missing(other)):
            texts = _texts(name, one, other)
            rows.append(Difference("results", title_of(name), texts[0], texts[1], _change(name, one, other)))
    return [*rows, _curves(a, b), _weights(a, b)]


def _last(run: LoadedRun) -> dict[str, Any]:
    """Return the final results of a run: accuracy, the last row of epochs.csv, and seconds of all epochs."""
    found: dict[str, Any] = {}
    summary = {name: value for name, value in run.summary.items() if name not in ("status", "epochs")}
    for name, value in summary.items():
        found.update({f"{name} {n}": one for n, one in value.items()} if isinstance(value, dict) else {name: value})
    if len(run.epochs):
        row = {str(name): value for name, value in run.epochs.iloc[-1].items() if name not in ("epoch", "step")}
        found = {**row, **{name: value for name, value in found.items() if not _missing(value)}}
        found["seconds"] = float(run.epochs["seconds"].sum())
    value = run.value if run.value is not None else math.nan
    evaluated = {f"{name} evaluation, accuracy": one.accuracy for name, one in run.evaluations.items()}
    return {run.measure.column: value, **found, **evaluated}


def _curves(a: LoadedRun, b: LoadedRun) -> Difference:
    """Return the row that names the first step with different losses."""
    steps = min(len(a.steps), len(b.steps))
    if not steps:
        return Difference("results", "loss of each step", "", "", "not there")
    losses = [run.steps["loss"].to_numpy()[:steps] for run in (a, b)]
    differing = np.flatnonzero(losses[0] != losses[1])
    if len(differing):
        first = int(a.steps["step"].iloc[differing[0]])
        texts = [f"{one[differing[0]]:.7g}" for one in losses]
        return Difference("results", "loss of each step", texts[0], texts[1], f"differs from step {first} on")
    counts = [f"{len(run.steps):,} steps" for run in (a, b)]
    note = "same" if counts[0] == counts[1] else f"same in the first {steps:,}"
    return Difference("results", "loss of each step", counts[0], counts[1], note)


def _weights(a: LoadedRun, b: LoadedRun) -> Difference:
    """Return the row on the final weights: equal bits, or ‖a − b‖ / ‖a‖."""
    found, notes = [], []
    for name, run in (("a", a), ("b", b)):
        try:
            with open_regular(run.folder / "weights.pt") as opened:
                found.append(read_torch_file(opened))
        except Exception as error:  # torch raises errors of many types for a damaged file
            if memory.has_ended(error):
                raise
            notes.append(f"{name} has none" if isinstance(error, FileNotFoundError) else f"{name}: {reason(error)}")
    if notes:
        return Difference("results", "weights", "", "", ", ".join(notes))
    one, other = found
    shapes = [{name: value.shape for name, value in weights.items()} for weights in found]
    if shapes[0] != shapes[1]:
        return Difference("results", "weights", "", "", "of other names or shapes")
    if all(torch.equal(value, other[name]) for name, value in one.items()):
        return Difference("results", "weights", "bit for bit", "bit for bit", "same")
    real = [name for name, value in one.items() if value.is_floating_point()]
    apart = math.sqrt(sum(float((one[name].double() - other[name].double()).square().sum()) for name in real))
    norm = math.sqrt(sum(float(one[name].double().square().sum()) for name in real))
    return Difference("results", "weights", "", "", f"differ, ‖a − b‖ / ‖a‖ = {apart / norm if norm else math.inf:.3g}")


def _change(name: str, a: Any, b: Any) -> str:
    """Return the difference b − a in words; "" if there is none."""
    numbers = [value for value in (a, b) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)):
        return ""
    change = numbers[1] - numbers[0]
    if change == 0:
        return "same"
    if name.endswith("accuracy"):
        return f"{100 * change:+.2f} points"
    percent = 100 * change / numbers[0] if numbers[0] > 0 and isinstance(change, float) else math.nan
    return "" if math.isnan(percent) else f"{percent:+,.{0 if abs(percent) >= 10 else 1}f} %"


# -- comparisons ------------------------------------------------------------------------------------------------------


def _of_comparisons(a: Comparison, b: Comparison) -> list[Difference]:
    """Return the settings that differ, those of all arms only once, and the accuracy per arm and batch size."""
    first, second = _arms(a), _arms(b)
    common = [key for key in first if key in second]
    facts = {key: _facts_of_arm(a, b, first[key], second[key]) for key in common}
    by_arm = {key: [row for row in rows if not row.same] for key, rows in facts.items()}
    shared = [row for row in next(iter(by_arm.values()), []) if all(row in rows for rows in by_arm.values())]
    rows = [Difference("all arms", f"{row.part}: {row.name}".strip(": "), row.a, row.b, row.note) for row in shared]
    if common and not any(by_arm.values()):
        rows = [Difference("all arms", "settings, model, data and versions", "", "", "same")]
    tables = [
        {(row[columns[0]], row[columns[1]]): row for row in one.rows().to_dict("records")}
        for one in (a, b)
        for columns in [("arm", "batch_size")]
    ]
    for key in dict.fromkeys((*first, *second)):
        part = f"{key[0]}, batch size {key[1]:,}"
        if key not in common:
            where = "a" if key in first else "b"
            rows.append(Difference(part, "", *(("there", "not there") if where == "a" else ("not there", "there"))))
            continue
        own = [row for row in by_arm[key] if row not in shared]
        rows += [Difference(part, f"{row.part}: {row.name}".strip(": "), row.a, row.b, row.note) for row in own]
        means = [float(table[key]["accuracy"]) for table in tables]
        texts = [_mean(table[key], one.measure) for table, one in zip(tables, (a, b), strict=True)]
        change = _change("measure" if a.measure.of_task else "accuracy", means[0], means[1])
        rows.append(Difference(part, a.measure.name, texts[0], texts[1], change))
    if a.measure != b.measure:
        rows.insert(0, Difference("all arms", "results", a.measure.name, b.measure.name))
    return rows


Key = tuple[str, int]


def _arms(comparison: Comparison) -> dict[Key, list[Path]]:
    found: dict[Key, list[Path]] = {}
    for run in comparison.runs:
        found.setdefault((run.optimizer, run.batch_size), []).append(comparison.folder / run.folder)
    return found


def _facts_of_arm(a: Comparison, b: Comparison, first: list[Path], second: list[Path]) -> list[Difference]:
    """Return the rows on an arm's settings, from its first readable runs, and on its seeds if they differ."""
    runs = [_readable(folders) for folders in (first, second)]
    rows = []
    if runs[0] and runs[1]:
        rows = [row for row in _facts(runs[0][0], runs[1][0]) if (row.part, row.name) != ("settings", "seed")]
    seeds = [" ".join(str(run.config.seed) for run in some if run.config) for some in runs]
    return [*rows, *([Difference("settings", "seeds", *seeds)] if seeds[0] != seeds[1] else [])]


def _readable(folders: Iterable[Path]) -> list[LoadedRun]:
    found = []
    for folder in folders:
        try:
            found.append(load_run(folder))
        except UsageError:
            continue
    return found


def _mean(row: dict[Any, Any], measure: Measure) -> str:
    if math.isnan(row["accuracy"]):
        return f"none ({row['seeds']} of {row['of']} runs)"
    return f"{measure.text(row['accuracy'], row['interval'])}{measure.unit} (n = {row['seeds']})"


# -- values -----------------------------------------------------------------------------------------------------------


def _differ(a: Any, b: Any) -> bool:
    return not (a == b or (_missing(a) and _missing(b)))


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _texts(name: str, a: Any, b: Any) -> tuple[str, str]:
    """Return two values as text, with enough digits to see that they differ."""
    texts = [_text(name, value) for value in (a, b)]
    if texts[0] == texts[1] and _differ(a, b):
        texts = [_short(value) for value in (a, b)]
    return texts[0], texts[1]


def _text(name: str, value: Any) -> str:
    if _missing(value):
        return "none"
    return value_text(name, value) if isinstance(value, (bool, int, float, str)) else _short(value)


def _short(value: Any) -> str:
    text = shown(" ".join(str(value).split()))
    return text if len(text) <= WIDE else f"{text[: WIDE - 1]}…"
