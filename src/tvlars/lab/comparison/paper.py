"""Table of a comparison for papers and notebooks: cells of text and a caption, as LaTeX or Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tvlars.lab.comparison.pair import said_margin
from tvlars.lab.comparison.paired import FEWEST_OF_INTERVAL, LEVEL, POWER, fewest_seeds
from tvlars.lab.comparison.statistics import SIGNIFICANT, best_arms, metrics_in, named_columns
from tvlars.lab.config import OPTIONS
from tvlars.lab.imported import GIVEN, said_path
from tvlars.lab.options import Is
from tvlars.lab.tasks import Measure, plus_minus

TEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "−": "$-$", "≤": r"$\le$", "…": r"\dots{}"},
        "†": r"$\dagger$",
        "[": "{[}",  # after the end of a row it would begin an argument
        **{"λ": r"$\lambda$", "φ": r"$\varphi$", "α": r"$\alpha$", "γ": r"$\gamma$", "ρ": r"$\rho$", "η": r"$\eta$"},
    }
)
"""LaTeX for characters that have a special meaning in it, or are missing in its fonts."""
SETTINGS = {
    "data": "{}",
    "model": "{}",
    "task": "{}",
    "epochs": "{} epochs",
    "steps": "{} steps",
    "batch_size": "batch size {:,}",
}
"""Settings that a caption names if all runs share them."""


@dataclass(frozen=True)
class PaperTable:
    """Table of arms: mean ± half width of its interval over seeds, number of seeds, and a caption.

    Attributes:
        head: titles of the columns; the first column is text, the others are numbers.
        rows: cells by row.
        measure: number of the column of the mean.
        caption: settings, the interval, and the meaning of bold text.
        groups: numbers of columns; a row with other cells in them begins another group of rows.
        best, worse, equivalent: rows with the best mean at their batch size, with a significantly worse one, and with
            one that is equivalent to it.
    """

    head: list[str]
    rows: list[list[str]]
    measure: int
    caption: str
    groups: tuple[int, ...] = ()
    best: set[int] = field(default_factory=set)
    worse: set[int] = field(default_factory=set)
    equivalent: set[int] = field(default_factory=set)

    def latex(self, label: str, caption: str | None = None) -> str:
        r"""Return a table environment with a tabular inside, which needs ``\usepackage{booktabs}``."""
        said = tex(self.caption if caption is None else caption)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{said}}}", rf"\label{{{label}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}", r"\toprule", _tex_row(map(tex, self.head))]
        for i, row in enumerate(self.rows):
            cells = [tex(cell) for cell in row]
            if i in self.best:
                cells[self.measure] = rf"\textbf{{{cells[self.measure]}}}"
            if i in self.worse:
                cells[self.measure] += "$^{*}$"
            if i in self.equivalent:
                cells[self.measure] += r"$^{\dagger}$"
            begins = not i or any(row[column] != self.rows[i - 1][column] for column in self.groups)
            lines += [r"\midrule"] * begins + [_tex_row(cells)]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"

    def markdown(self, caption: str | None = None) -> str:
        """Return a table that GitHub renders, and the caption below it."""
        lines = [_row(map(words, self.head)), _row([":---", *["---:"] * (len(self.head) - 1)])]
        for i, row in enumerate(self.rows):
            cells = [words(cell) for cell in row]
            if i in self.best:
                cells[self.measure] = f"**{cells[self.measure]}**"
            if i in self.worse:
                cells[self.measure] += r" \*"
            if i in self.equivalent:
                cells[self.measure] += " †"
            lines.append(_row(cells))
        return "\n".join([*lines, "", words(self.caption if caption is None else caption)]) + "\n"


def paper_table(
    rows: pd.DataFrame, measure: Measure, settings: Sequence[Mapping[str, Any]], pairs: pd.DataFrame
) -> PaperTable:
    """Return the table of arms for a paper.

    Args:
        rows: result of :func:`tvlars.lab.comparison.verdict.with_verdicts`; arms are in "arm" or "optimizer".
        measure: measure of the means.
        settings: options of each run, for the caption.
        pairs: result of :func:`tvlars.lab.comparison.statistics.differences`.
    """
    rows = rows.rename(columns={"optimizer": "arm"})
    leaders, sizes = best_arms(rows, measure.lower), rows["batch_size"].nunique()
    means = {(row["batch_size"], row["arm"]): row["accuracy"] for row in rows.to_dict("records")}
    extra = [name for name in metrics_in(rows) if not (measure.of_task and name == measure.column)]
    named = [name.replace("_", " ") for name in extra]
    head = ["optimizer", *(["batch size"] if sizes > 1 else []), "lr", measure.title, *named, "n"]
    cells: list[list[str]] = []
    best, worse, equivalent = set(), set(), set()
    for i, row in enumerate(rows.to_dict("records")):
        leading = means.get((row["batch_size"], leaders.get(row["batch_size"], "")), math.nan)
        several = int((rows[rows["batch_size"] == row["batch_size"]]["seeds"] > 0).sum()) > 1
        if several and math.isclose(row["accuracy"], leading, rel_tol=1e-9):
            best.add(i)
        behind = row["against_best"] > 0 if measure.lower else row["against_best"] < 0
        if str(row["verdict"]).startswith(SIGNIFICANT) and behind:
            worse.add(i)
        if "equivalent" in str(row["verdict"]):
            equivalent.add(i)
        size = [f"{row['batch_size']:,}"] if sizes > 1 else []
        values = [plus_minus(row[name], row[f"{name}_interval"]) for name in extra]
        mean = measure.text(row["accuracy"], row["interval"])
        cells.append([str(row["arm"]), *size, number_text(row["lr"]), mean, *values, runs_text(row)])
    caption = " ".join(
        [
            f"{measure.name[:1].upper()}{measure.name[1:]}{means_of(rows['seeds'])}{_shared(settings)}.",
            *([f"Bold: the {measure.best} mean{' of each batch size' if sizes > 1 else ''}."] if best else []),
            *(_verdicts(pairs, worse, equivalent, measure) if best else []),
            *(f"{note}." for note in arm_notes(settings)),
        ]
    )
    groups = (1,) if sizes > 1 else ()
    return PaperTable(head, cells, len(head) - 2 - len(extra), caption, groups, best, worse, equivalent)


def pairs_table(pairs: pd.DataFrame, measure: Measure) -> PaperTable:
    """Return the table of paired differences for a paper.

    Args:
        pairs: result of :func:`tvlars.lab.comparison.statistics.differences`.
        measure: measure of the differences.
    """
    margins, sizes = pairs["margin"].dropna(), pairs["batch_size"].nunique()
    within = said_margin(margins.iloc[0], measure.of_task) if len(margins) else ""
    gap = "difference" if measure.of_task else "difference, points"
    own = [f"p of equivalence within {within}", f"seeds for {within}"] if within else []
    head = ["pair", *(["batch size"] if sizes > 1 else []), gap, "n", "g_z", "p", *own, "verdict"]
    cells: list[list[str]] = []
    for pair in pairs.to_dict("records"):
        more = [p_text(pair["equivalence_p_adjusted"]), seeds_text(pair["seeds_needed"])] if within else []
        size = [f"{pair['batch_size']:,}"] if sizes > 1 else []
        mean = measure.text(pair["difference"], pair["interval"])
        names = f"{pair['better']} against {pair['worse']}"
        tests = [number_text(pair["effect_size"], ".2f"), p_text(pair["p_adjusted"]), *more]
        cells.append([names, *size, mean, runs_text(pair), *tests, pair["verdict"]])
    caption = (
        f"Paired differences in {measure.name} over n seeds ± half the width of the 95 % interval (Student's t), the "
        f"better arm first; g_z: Hedges' effect size; p: p-value of a difference, {_tests(pairs, measure)}"
    )
    if within:
        caption += (
            f"; of equivalence within {within} by two one-sided t-tests; seeds: with which a difference of {within} is "
            f"found with probability {POWER:g}"
        )
    return PaperTable(head, cells, len(head) - 1, f"{caption}.", (1,) if sizes > 1 else ())


def number_text(value: float, form: str = ".4g") -> str:
    """Return a number in a format, "-" for NaN."""
    return "-" if math.isnan(value) else format(value, form)


def p_text(p: float) -> str:
    """Return a p-value in two digits, "-" if there is none."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def runs_text(row: Mapping[Any, Any]) -> str:
    """Return the number of seeds in a mean or difference and, if it leaves out some, as in "3 of 5, 2 diverged"."""
    if row["seeds"] >= row["of"]:
        return str(row["seeds"])
    return ", ".join(filter(None, (f"{row['seeds']} of {row['of']}", row.get("left_out", ""))))


def seeds_text(seeds: float) -> str:
    """Return the number of seeds that a difference needs, "-" if it is unknown."""
    return "-" if math.isnan(seeds) else "more test images" if math.isinf(seeds) else f"{seeds:,.0f}"


def tex(text: object) -> str:
    """Return LaTeX that shows ``text`` literally, on one line."""
    return " ".join(str(text).split()).translate(TEX)


def words(text: object) -> str:
    """Return Markdown that shows ``text`` literally, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", " ".join(str(text).split()))


def arm_notes(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings of each arm with its own name, for example "cold: lars, warmup-epochs 0".

    Args:
        settings: options of each run; options that differ between runs are named, except lr, which tables have.
    """
    told = [
        name
        for name, one in OPTIONS.items()
        if not one.kinds & (Is.AXIS | Is.SAME | Is.MEASURED | Is.MEANS | Is.MACHINE)
        and name != "lr"
        and len({repr(run.get(name)) for run in settings}) > 1
    ]
    notes = []
    for run in settings:
        optimizer = said_path(str(run.get("optimizer", "")))
        if run.get("arm") not in (None, optimizer):
            given = [(name, run.get(name)) for name in told if run.get(name) not in (None, OPTIONS[name].default)]
            notes.append(", ".join([f"{run['arm']}: {optimizer}", *(f"{_spelled(n)} {_value(v)}" for n, v in given)]))
    return list(dict.fromkeys(notes))


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else said_path(str(value))


def means_of(numbers: Iterable[int]) -> str:
    """Return a description of means over these numbers of seeds, to follow their name."""
    counts = sorted({int(count) for count in numbers if count > 0})
    if not counts or counts[-1] == 1:
        return " of one seed" if counts else ""
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else "n seeds"
    if counts[-1] < FEWEST_OF_INTERVAL:
        return f": mean over {seeds}, no interval"
    return f": mean over {seeds} ± half the width of its 95 % interval (Student's t)"


def _shared(settings: Sequence[Mapping[str, Any]]) -> str:
    """Return in words the settings that all runs share."""
    found = []
    for name, form in SETTINGS.items():
        values = {repr(one.get(name)): one.get(name) for one in settings}
        value = next(iter(values.values()), None) if len(values) == 1 else None
        if value is not None and (name, value) != ("task", "classification"):
            said = said_path(value).removeprefix(GIVEN) if isinstance(value, str) else value
            said = str(said).rpartition("/")[2] if name == "data" else said
            found.append((form if value != 1 else form.removesuffix("s")).format(said))
    return f"; {', '.join(found)}" if found else ""


def _verdicts(pairs: pd.DataFrame, worse: set[int], equivalent: set[int], measure: Measure) -> list[str]:
    """Return sentences on the means that are significantly worse than the best, or equivalent to it."""
    tested = pairs[pairs["in_family"].astype(bool)]
    if tested["p_adjusted"].isna().all():
        few, seeds = fewest_seeds(len(tested)), int(tested["seeds"].max()) if len(tested) else 0
        return [f"Differences are not tested with fewer than {few} seeds."] if 0 < seeds < few else []
    how, side = f"p ≤ {LEVEL:g}, {_tests(pairs, measure)}", "above" if measure.lower else "below"
    said = [f"*: significantly {side} it ({how})." if worse else f"No mean is significantly {side} it ({how})."]
    if equivalent:
        within = said_margin(tested["margin"].iloc[0], measure.of_task)
        said.append(f"†: equivalent to it within {within} (two one-sided t-tests, p ≤ {LEVEL:g}).")
    return said


def _tests(pairs: pd.DataFrame, measure: Measure) -> str:
    """Return in words how differences were tested."""
    comparisons = int(pairs["comparisons"].max()) if len(pairs) else 0
    holm = f", adjusted by Holm's method for {comparisons} comparisons" if comparisons > 1 else ""
    by = "seeds" if measure.of_task else "seeds and test images"
    return f"paired over {by} by the exact sign-flip test{holm}"


def _tex_row(cells: Any) -> str:
    return " & ".join(cells) + r" \\"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


class ComparisonTable(pd.DataFrame):
    """Data frame of :meth:`tvlars.lab.Comparison.table`, which prints as a table of arms with text in its cells.

    ``attrs["measure"]`` is the measure of the means. A frame without the columns of such a table prints as usual.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return ComparisonTable

    def text(self) -> pd.DataFrame:
        """Return a frame of text: optimizer, batch size, lr, mean with its interval, runs, and the verdict."""
        measure = self._measure
        mean, interval = (measure.column, f"{measure.column}_interval") if measure.of_task else ("accuracy", "interval")
        rows, wide = [], max([len(str(name)) for name in self["optimizer"]] + [0])
        for row in self.to_dict("records"):
            against = row["against_best"]
            gap = "" if math.isnan(against) else f"{'−' if against < 0 else '+'}{measure.text(abs(against))}, "
            cells = [f"{row['optimizer']:<{wide}}", f"{row['batch_size']:,}", number_text(row["lr"])]
            result = measure.text(row[mean], row[interval])
            rows.append([*cells, result, runs_text(row), f"{gap}{row['verdict']}"])
        head = ["optimizer", "batch size", "lr", measure.title, "runs", f"against the {measure.best} mean"]
        return pd.DataFrame(rows, columns=head)

    @property
    def _measure(self) -> Measure:
        found = self.attrs.get("measure")
        return found if isinstance(found, Measure) else Measure("accuracy")

    def _whole(self) -> bool:
        means = named_columns(pd.DataFrame(columns=["accuracy", "interval"]), self._measure)
        needed = (*means, "optimizer", "batch_size", "lr", "seeds", "of", "against_best", "verdict")
        return set(needed) <= set(self.columns)

    def __repr__(self) -> str:
        if not self._whole():
            return str(pd.DataFrame(self))
        text = self.text()
        return text.to_string(index=False, justify="left") if len(text) else "no run has finished"

    def _repr_html_(self) -> str | None:
        shown = self.text() if self._whole() else pd.DataFrame(self)
        return str(shown.to_html(index=not self._whole(), notebook=True))
