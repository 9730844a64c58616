"""The table of a report in other forms than a page: Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tvlars.lab.marked import mark

if TYPE_CHECKING:
    from tvlars.lab.report.page import Report

TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "−": "$-$", "λ": r"$\lambda$", "φ": r"$\varphi$", "α": r"$\alpha$"},
}


def markdown(report: Report) -> str:
    """Return the answers, the table and the notes in Markdown."""
    lines = [f"<!-- {mark('report')} -->", "", *(_words(sentence) for sentence in report.answers()), ""]
    rows = report.rows()
    if rows:
        lines += ["| " + " | ".join(map(_words, rows[0])) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(_words(text) for text, _ in row.values()) + " |" for row in rows]
    else:
        lines += ["No run has finished."]
    notes = [f"- {_words(note)}" for note in report.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def latex(report: Report) -> str:
    """Return the table as a LaTeX tabular; answers and notes are comments."""
    said = [*report.answers(), *report.notes]
    lines = [f"% {mark('report')}", *(f"% {' '.join(sentence.split())}" for sentence in said)]
    rows = report.rows()
    if rows:
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\hline"]
        lines += [" & ".join(map(_tex, rows[0])) + r" \\", r"\hline"]
        lines += [" & ".join(_tex(text) for text, _ in row.values()) + r" \\" for row in rows]
        lines += [r"\hline", r"\end{tabular}"]
    else:
        lines += ["% No run has finished."]
    return "\n".join(lines) + "\n"


def csv(report: Report) -> str:
    """Return the table with all digits; the accuracies of the seeds have spaces between."""
    frame = report.table.rename(columns={"arm": "optimizer"})
    if not len(frame):
        return f"{CSV_HEAD}\n"
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
