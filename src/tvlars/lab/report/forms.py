"""The table of a report in other forms than a page: Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tvlars.lab.comparison.verdict import with_verdicts
from tvlars.lab.errors import UsageError
from tvlars.lab.files.marked import mark

if TYPE_CHECKING:
    from tvlars.lab.report.page import Report

TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "−": "$-$", "λ": r"$\lambda$", "φ": r"$\varphi$", "α": r"$\alpha$"},
}


def markdown(report: Report) -> str:
    """Return the answers, the tables and the notes in Markdown."""
    lines = [f"<!-- {mark('report')} -->", "", *(_words(sentence) for sentence in report.answers()), ""]
    for table in report.tables():
        rows = table["rows"]
        lines += [f"## {_words(table['title'])}", ""] if table["title"] else []
        lines += ["| " + " | ".join(map(_words, rows[0])) + " |", "|" + "---|" * len(rows[0])]
        for row in rows:
            cells = {name: _words(cell.text) for name, cell in row.items()}
            if row[table["measure"]].strong:
                cells[table["measure"]] = f"**{cells[table['measure']]}**"
            lines.append("| " + " | ".join(cells.values()) + " |")
        lines.append("")
    lines += [] if report.tables() else ["No run has finished.", ""]
    return "\n".join([*lines, *(f"- {_words(note)}" for note in report.notes)]).rstrip("\n") + "\n"


def latex(report: Report) -> str:
    """Return the tables, each as a LaTeX tabular; titles, answers and notes are comments."""
    said = [*report.answers(), *report.notes]
    lines = [f"% {mark('report')}", *(f"% {' '.join(sentence.split())}" for sentence in said)]
    for table in report.tables():
        rows = table["rows"]
        lines += [f"% {' '.join(table['title'].split())}"] if table["title"] else []
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\hline"]
        lines += [" & ".join(map(_tex, rows[0])) + r" \\", r"\hline"]
        for row in rows:
            cells = {name: _tex(cell.text) for name, cell in row.items()}
            if row[table["measure"]].strong:
                cells[table["measure"]] = rf"\textbf{{{cells[table['measure']]}}}"
            lines.append(" & ".join(cells.values()) + r" \\")
        lines += [r"\hline", r"\end{tabular}"]
    lines += [] if report.tables() else ["% No run has finished."]
    return "\n".join(lines) + "\n"


def csv(report: Report) -> str:
    """Return the table with all digits; the accuracies of the seeds have spaces between.

    Raises:
        UsageError: the runs are not all of one kind, and one table must not mix their accuracies.
    """
    if len(report.parts) > 1:
        titles = "; ".join(part.title for part in report.parts)
        raise UsageError(
            f"out must be a page, .md or .tex for runs that cannot be compared, since CSV has one table, got {titles}"
        )
    if not report.parts:
        return f"{CSV_HEAD}\n"
    frame = with_verdicts(report.parts[0].table, report.parts[0].differences).rename(columns={"arm": "optimizer"})
    accuracies = [" ".join(map(repr, values)) for values in frame["accuracies"]]
    return str(frame.assign(accuracies=accuracies).to_csv(index=False, lineterminator="\n"))


CSV_HEAD = "optimizer,batch_size,lr,seeds,of,accuracy,"
"""How the table begins, by which it is known: a line that says so would be a row to whoever reads it."""
FORMS: dict[str, Callable[[Report], str]] = {".md": markdown, ".tex": latex, ".csv": csv}
PAGES = (".html", ".htm")
SUFFIXES = (*PAGES, *FORMS)
MARKS = {
    **dict.fromkeys(PAGES, (f'content="{mark("report")}"'.encode(), b'id="theme" title="light or dark"')),
    ".md": (f"<!-- {mark('report')} -->".encode(),),
    ".tex": (f"% {mark('report')}".encode(),),
    ".csv": (CSV_HEAD.encode(),),
}
"""By suffix, what a file that ``report`` wrote has in it; pages of earlier versions are known by their button."""


def _words(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in " ".join(str(text).split()))
