"""A report in Markdown and LaTeX: what is bold, what is escaped, and what stands where nothing finished."""

from __future__ import annotations

from typing import cast

from tvlars.lab.comparison.paper import PaperTable
from tvlars.lab.report.contents import Report
from tvlars.lab.report.forms import latex, markdown


class Said:
    """A report with one table, or with none."""

    def __init__(self, *tables: tuple[str, PaperTable]) -> None:
        self.notes = ["a_b is 5 % off"]
        self.papers = lambda: list(tables)
        self.pair_papers = lambda: [PAIRS] * bool(tables)

    def answers(self) -> list[str]:
        return ["lars\nis | ahead"]

    def protocols(self) -> list[str]:
        return ["Nothing was | held out."]


ROWS = [["a|b_c", "90.00 ± 1.00"], ["50 %", "-"]]
PAIRS = PaperTable(["pair", "verdict"], [["a_b against c", "inconclusive"]], 1, "Pairs")
TABLE = PaperTable(["optimizer", "accuracy"], ROWS, 1, "Means at p ≤ 0.05", (), {0}, {1})


def test_markdown_has_bold_means_and_shows_names_as_they_are() -> None:
    assert markdown(cast(Report, Said(("1 epoch", TABLE)))).splitlines() == [
        *("<!-- tvlars report -->", "", "## 1 epoch", "", "| optimizer | accuracy |", "| :--- | ---: |"),
        *(r"| a\|b\_c | **90.00 ± 1.00** |", r"| 50 % | - \* |", "", "Means at p ≤ 0.05", ""),
        *("| pair | verdict |", "| :--- | ---: |", r"| a\_b against c | inconclusive |", "", "Pairs", ""),
        *(r"lars is \| ahead", "", r"Nothing was \| held out.", "", r"- a\_b is 5 % off"),
    ]
    assert markdown(cast(Report, Said())).splitlines()[2:] == [
        *("No run has finished.", "", r"lars is \| ahead", "", r"Nothing was \| held out.", "", r"- a\_b is 5 % off")
    ]


def test_latex_has_bold_means_and_shows_names_as_they_are() -> None:
    text = latex(cast(Report, Said(("1 epoch", TABLE), ("", TABLE))))
    first, second, pairs = text.split("\n\n")[1:]
    assert r"a\_b against c & inconclusive" in pairs
    assert text.splitlines()[:5] == [
        *("% tvlars report", r"% In the preamble: \usepackage{booktabs}"),
        *("% lars is | ahead", "% Nothing was | held out.", "% a_b is 5 % off"),
    ]
    assert first.splitlines() == [
        *("% 1 epoch", r"\begin{table}", r"\centering", r"\caption{Means at p $\le$ 0.05}", r"\label{tab:arms-1}"),
        *(r"\begin{tabular}{lr}", r"\toprule", r"optimizer & accuracy \\", r"\midrule"),
        *(r"a$|$b\_c & \textbf{90.00 $\pm$ 1.00} \\", r"50 \% & -$^{*}$ \\", r"\bottomrule", r"\end{tabular}"),
        r"\end{table}",
    ]
    assert second.splitlines()[3] == r"\label{tab:arms-2}"
    assert latex(cast(Report, Said())).splitlines()[5:] == ["% No run has finished."]
