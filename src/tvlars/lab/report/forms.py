"""File formats of a report: a page (HTML), or tables in Markdown, LaTeX or CSV."""

from __future__ import annotations

import base64
import gzip
import html
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.offline

from tvlars.lab.comparison.paper import words
from tvlars.lab.comparison.statistics import named_columns
from tvlars.lab.comparison.verdict import with_verdicts
from tvlars.lab.errors import UsageError
from tvlars.lab.files.marked import mark
from tvlars.lab.report.contents import Report
from tvlars.lab.report.layers import SPANS


def page(report: Report, refresh: int | None = None) -> str:
    """Return one HTML file that needs no network; a browser reloads it every ``refresh`` seconds if this is given."""
    topics = report.topics()  # before the notes are read, since this may add notes
    figures = [figure for _, _, sections in topics for section in sections for figure in section.figures]
    packed = _packed(f"[{','.join(figure.to_json() for figure in figures)}]")
    drawn = {"plotly": _plotly() if figures else "", "spans": SPANS, "figures": packed}
    return _rendered("report.html.j2", report, topics=topics, refresh=refresh, **drawn)


def study_page(report: Any, figures: list[go.Figure]) -> str:
    """Return the page of a study, a ``StudyReport``, with these figures."""
    drawn = {"plotly": _plotly(), "packed": _packed(f"[{','.join(figure.to_json() for figure in figures)}]")}
    return _rendered("study.html.j2", report, figures=figures, **drawn)


def markdown(report: Report) -> str:
    """Return the tables with their captions, the answers and the notes in Markdown."""
    return _rendered("report.md.j2", report).rstrip("\n") + "\n"


def latex(report: Report) -> str:
    """Return the tables in LaTeX with booktabs; titles, answers and notes are comments."""
    return _rendered("report.tex.j2", report)


def csv(report: Report) -> str:
    """Return the table with all digits; accuracies of the seeds are separated by spaces.

    Raises:
        UsageError: the runs belong to several parts, whose accuracies cannot share one table.
    """
    if len(report.parts) > 1:
        titles = "; ".join(part.title for part in report.parts)
        raise UsageError(
            f"out must be a page, .md or .tex for runs that cannot be compared, since CSV has one table, got {titles}"
        )
    if not report.parts:
        return f"{CSV_HEAD}\n"
    part = report.parts[0]
    frame = with_verdicts(part.table, part.differences, part.measure).rename(columns={"arm": "optimizer"})
    frame = frame.assign(accuracies=[" ".join(map(repr, values)) for values in frame["accuracies"]])
    return str(named_columns(frame, part.measure).to_csv(index=False, lineterminator="\n"))


CSV_HEAD = "optimizer,batch_size,lr,seeds,of,"
"""Head of the CSV table, which identifies it, since readers would take a comment line for a row."""
FORMS: dict[str, Callable[[Report], str]] = {".html": page, ".htm": page, ".md": markdown, ".tex": latex, ".csv": csv}
PAGE_MARKS = (f'content="{mark("report")}"'.encode(), b'id="theme" title="light or dark"')
MARKS = {
    **{".html": PAGE_MARKS, ".htm": PAGE_MARKS, ".md": (f"<!-- {mark('report')} -->".encode(),)},
    **{".tex": (f"% {mark('report')}".encode(),), ".csv": (CSV_HEAD.encode(),)},
}
"""Marks of files that ``report`` wrote, by suffix; pages of earlier versions are identified by their button."""


def _rendered(template: str, report: Report, **values: Any) -> str:
    return _templates().get_template(template).render(report=report, mark=mark("report"), **values)


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("tvlars.lab.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(line=_line, words=words, file_name=_file_name, slug=_slug)
    return made


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _file_name(figure: go.Figure, section: str) -> str:
    """Return a file name for a figure's data."""
    return _slug(f"{section} {html.unescape(figure.layout.title.text or '')}")


def _slug(title: str) -> str:
    """Return a title in a form for file names and addresses."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")[:90] or "figure"


def _packed(text: str) -> str:
    """Return compressed text in base64, which browsers decompress, to keep the page small."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


@cache
def _plotly() -> str:
    return _packed(plotly.offline.get_plotlyjs())
