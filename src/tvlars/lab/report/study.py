"""Page and tables of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvlars.lab.comparison.paper import PaperTable
from tvlars.lab.console import print_table, say
from tvlars.lab.files.disk import write_whole
from tvlars.lab.report.chart import Chart, svg
from tvlars.lab.report.forms import study_page


@dataclass(frozen=True)
class StudyTable(PaperTable):
    """Table of a study, for its page and for papers. ``title`` is its heading on a page, ``drop`` are columns that a
    narrow terminal leaves out, the first one first."""

    title: str = ""
    drop: tuple[int, ...] = ()


@dataclass(frozen=True)
class StudyReport:
    """Contents of the page of a study."""

    title: str
    command: str
    answers: Sequence[str]
    protocol: str
    tables: Sequence[StudyTable]
    charts: Sequence[Chart]
    notes: Sequence[str] = ()
    runs: str = field(default="runs/")

    def print(self) -> None:
        """Print tables and sentences, without the last table, which has all details."""
        for table in self.tables[:-1]:
            rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
            print_table(rows, [table.head[i] for i in table.drop])
        say(*self.answers, self.protocol, *(f"note: {note}" for note in self.notes))

    def page(self) -> str:
        """Return one HTML file that needs no network."""
        return study_page(self, [chart.plotly() for chart in self.charts])

    def save(self, folder: Path, name: str, label: str) -> None:
        """Write ``name`` as .html, .svg, .md and .tex into ``folder``; ``label`` is the label of the LaTeX tables."""
        labels = [label if not i else f"{label}-{i + 1}" for i in range(len(self.tables))]
        texts = {
            "html": self.page(),
            "md": "\n".join([*(f"{said}\n" for said in (*self.answers, self.protocol)), *self._markdown()]),
            "tex": "\n".join(table.latex(one) for table, one in zip(self.tables, labels, strict=True)),
        }
        for suffix, text in texts.items():
            write_whole(folder / f"{name}.{suffix}", text.encode("utf-8", errors="replace"))
        write_whole(folder / f"{name}.svg", svg(self.charts))

    def _markdown(self) -> list[str]:
        return [
            f"{f'### {table.title}' if table.title else ''}\n\n{table.markdown()}".lstrip() for table in self.tables
        ]
