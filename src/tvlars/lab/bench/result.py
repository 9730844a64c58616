"""Results of ``tvlars bench``: rows of medians, quartiles and ratios, as JSON and as a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from tvlars._machine import Machine
from tvlars._reading import parse_json
from tvlars.lab.bench.timing import Spread, ratio
from tvlars.lab.console import console, say
from tvlars.lab.files.marked import mark

MS, IMAGES = "ms", "images/s"


@dataclass(frozen=True)
class Row:
    """One contestant beside another one: ``value`` is its own, ``ratio`` that to the other's in the same round."""

    part: str
    what: str
    beside: str
    unit: str
    value: Spread
    ratio: Spread
    rounds: int

    def cells(self) -> tuple[str, str, str, str]:
        """Return the contestant, its value, the ratio in words, and the one beside it."""
        form, words = (",.0f", "as fast") if self.unit == IMAGES else (",.2f", "as long")
        return (self.what, f"{self.value.median:{form}} {self.unit}", f"{self.ratio.text()} x {words} as", self.beside)


def row_of(part: str, what: str, beside: str, times: dict[str, list[float]], images: int | None = None) -> Row:
    """Return a row of milliseconds a step or, where every time is that of so many ``images``, of images a second."""
    own, other = times[what], times[beside]
    if images is None:
        return Row(part, what, beside, MS, Spread.of([1e3 * s for s in own]), ratio(own, other), len(own))
    return Row(part, what, beside, IMAGES, Spread.of([images / s for s in own]), ratio(other, own), len(own))


@dataclass
class BenchResult:
    """All rows, and what could not be measured and why."""

    machine: Machine
    version: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return all of it as text; :meth:`from_json` reads it back."""
        return json.dumps({"made_by": mark("bench"), **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BenchResult:
        """Read what :meth:`to_json` has written."""
        values: dict[str, Any] = parse_json(text)
        values.pop("made_by", None)
        rows = [
            Row(**{**row, "value": Spread(**row["value"]), "ratio": Spread(**row["ratio"])}) for row in values["rows"]
        ]
        return cls(**{**values, "machine": Machine(**values["machine"]), "rows": rows})

    def print(self) -> None:
        """Print the table to standard output."""
        title = f"tvlars {self.version}: medians (quartiles); random images of 32 x 32"
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(min_width=20)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(min_width=12)
        for part in dict.fromkeys(row.part for row in self.rows):
            table.add_section()
            table.add_row(Text(part, style="bold"))
            for row in self.rows:
                if row.part == part:
                    table.add_row(*row.cells())
        say(str(self.machine))
        console().print(table, soft_wrap=False)
        for note in self.notes:
            say(f"note: {note}")
