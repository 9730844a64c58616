"""A report in Markdown and LaTeX: what is bold, what is escaped, and what stands where nothing finished."""

from __future__ import annotations

from typing import Any, cast

from tvlars.lab.comparison.table import Cell
from tvlars.lab.report.contents import Report
from tvlars.lab.report.forms import latex, markdown


class Said:
    """A report with one table, or with none."""

    def __init__(self, *tables: dict[str, Any]) -> None:
        self.notes = ["a_b is 5 % off"]
        self.tables = lambda: list(tables)

    def answers(self) -> list[str]:
        return ["lars\nis | ahead"]

    def protocols(self) -> list[str]:
        return ["Nothing was | held out."]


TABLE = {
    "title": "1 epoch",
    "rows": [
        {"optimizer": Cell("a|b_c", 0), "accuracy": Cell("90.00 ± 1.00 %", 0.9, strong=True)},
        {"optimizer": Cell("50 %", 0), "accuracy": Cell("−", -1)},
    ],
}


def test_markdown_has_bold_means_and_shows_names_as_they_are() -> None:
    assert markdown(cast(Report, Said(TABLE))).splitlines() == [
        *("<!-- tvlars report -->", "", r"lars is \| ahead", "", r"Nothing was \| held out.", "", "## 1 epoch", ""),
        *("| optimizer | accuracy |", "|---|---|"),
        *(r"| a\|b\_c | **90.00 ± 1.00 %** |", "| 50 % | − |", "", r"- a\_b is 5 % off"),
    ]
    assert markdown(cast(Report, Said())).splitlines()[6:] == ["No run has finished.", "", r"- a\_b is 5 % off"]


def test_latex_has_bold_means_and_shows_names_as_they_are() -> None:
    assert latex(cast(Report, Said(TABLE))).splitlines() == [
        *("% tvlars report", "% lars is | ahead", "% Nothing was | held out.", "% a_b is 5 % off", "% 1 epoch"),
        *(r"\begin{tabular}{lr}", r"\hline", r"optimizer & accuracy \\", r"\hline"),
        *(r"a|b\_c & \textbf{90.00 $\pm$ 1.00 \%} \\", r"50 \% & $-$ \\", r"\hline", r"\end{tabular}"),
    ]
    assert latex(cast(Report, Said())).splitlines()[4:] == ["% No run has finished."]
