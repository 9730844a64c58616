"""Page and tables of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tvlars.lab.comparison.paper import PaperTable
from tvlars.lab.files.disk import write_whole
from tvlars.lab.report.chart import Chart, svg
from tvlars.lab.report.forms import study_page


@dataclass(frozen=True)
class StudyTable(PaperTable):
    """Table of a study, for its page and for papers. ``title`` is its heading on a page."""

    title: str = ""


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

    def text(self) -> str:
        """Return tables and sentences for a terminal, without the last table, which has all details."""
        frames = [pd.DataFrame(table.rows, columns=table.head) for table in self.tables[:-1]]
        notes = (f"note: {note}" for note in self.notes)
        said = *self.answers, self.protocol, *notes
        return "\n".join([*(frame.to_string(index=False) for frame in frames), *said])

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
