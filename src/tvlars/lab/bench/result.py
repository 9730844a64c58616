"""What ``tvlars bench`` has found: rows of medians, quartiles and ratios, as JSON and as a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from tvlars._reading import parse_json
from tvlars.lab.bench.machine import Machine
from tvlars.lab.bench.timing import Spread, per_second, ratio
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
        """What, value, ratio in words, and beside whom."""
        faster = self.unit == IMAGES
        form = ",.0f" if faster else ",.2f"
        words = "as fast" if faster else "as long"
        return (self.what, f"{self.value.median:{form}} {self.unit}", f"{self.ratio.text()} x {words} as", self.beside)


def step_row(part: str, what: str, beside: str, times: dict[str, list[float]]) -> Row:
    """A row of milliseconds a step."""
    own = times[what]
    value = Spread.of([1e3 * seconds for seconds in own])
    return Row(part, what, beside, MS, value, ratio(own, times[beside]), len(own))


def speed_row(part: str, what: str, beside: str, times: dict[str, list[float]], images: int) -> Row:
    """A row of images a second, of which every time has so many."""
    own = times[what]
    return Row(part, what, beside, IMAGES, per_second(images, own), ratio(times[beside], own), len(own))


@dataclass
class BenchResult:
    """All rows, and what could not be measured and why."""

    machine: Machine
    version: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """All of it; :meth:`from_json` reads it back."""
        return json.dumps({"made_by": mark("bench"), **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BenchResult:
        """What :meth:`to_json` has written."""
        values: dict[str, Any] = parse_json(text)
        values.pop("made_by", None)
        rows = [
            Row(**{**row, "value": Spread(**row["value"]), "ratio": Spread(**row["ratio"])}) for row in values["rows"]
        ]
        return cls(**{**values, "machine": Machine(**values["machine"]), "rows": rows})

    def print(self) -> None:
        """Print the table to standard output."""
        table = Table(
            title=f"tvlars {self.version}: medians (quartiles); random images of 32 x 32",
            title_justify="left",
            show_header=False,
        )
        table.add_column(min_width=20)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(min_width=12)
        part = ""
        for row in self.rows:
            if row.part != part:
                part = row.part
                table.add_section()
                table.add_row(f"[bold]{part}[/bold]")
            table.add_row(*row.cells())
        console = Console()
        if not console.is_terminal:
            console = Console(width=160)
        console.print(str(self.machine), highlight=False, soft_wrap=True)
        console.print(table)
        for note in self.notes:
            console.print(f"note: {note}", highlight=False, soft_wrap=True)
