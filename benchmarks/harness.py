"""Harness of the benchmarks: contestants in rounds, medians with quartiles, and a JSON file per question and machine.

A script has tables. In each round of a table every contestant takes one turn, in a random order, so that a change of
the machine's speed affects all of them; ratios are those of the same round. ``--json docs/results/speed`` writes
SCRIPT-MACHINE.json there after every round; the same command goes on where it ended, and ``--seconds`` ends it in time.
``python benchmarks/pages.py`` makes the tables of docs/results of these files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tvlars._machine import this_machine
from tvlars.lab.bench.result import Spread, Times, Turn, ratio, timed

__all__ = ["Results", "Spread", "Table", "Turn", "cell", "markdown", "options", "ratio", "rounds", "spread", "timed"]

Cell = float | str | list[float] | None
"""Number, text, or median with both quartiles."""
PACKAGES = ("torchvision", "timm", "lightly", "pytorch-optimizer", "kornia", "triton")
"""Packages whose versions are recorded."""


# -- measuring ------------------------------------------------------------------------------------------------


def rounds(
    turns: Mapping[str, Turn],
    count: int,
    taken: Times | None = None,
    *,
    warmup: int = 1,
    seed: int = 0,
    until: float = math.inf,
    save: Callable[[], None] = lambda: None,
) -> Times:
    """Have all contestants take a turn in each round, in a random order that the number of the round decides.

    Args:
        turns: contestants by name; a turn returns the seconds of an agreed amount of work.
        count: of the rounds in all.
        taken: seconds of earlier rounds, to which those that are missing are added; None: there are none.
        warmup: rounds before, which do not count.
        seed: of the orders.
        until: no further round begins that would probably end after this time of ``time.perf_counter()``; one round is
            always measured.
        save: called after each round.

    Returns:
        Seconds of each contestant in each round; this is ``taken``, if it was given.
    """
    times = {name: [] for name in turns} if taken is None else taken
    done = len(min(times.values(), key=len))
    for _ in range(warmup if done < count else 0):
        for turn in turns.values():
            turn()
    longest = 0.0
    for number in range(done, count):
        start = time.perf_counter()
        if number > done and start + longest > until:
            break
        order = list(turns)
        random.Random(f"{seed} {number}").shuffle(order)
        seconds = {name: turns[name]() for name in order}
        for name in turns:  # whole rounds alone
            times[name].append(seconds[name])
        save()
        longest = max(longest, time.perf_counter() - start)
    return times


def spread(values: Sequence[float]) -> list[float]:
    """Return the cell of one number per round: median and quartiles."""
    found = Spread.of(values)
    return [found.median, found.low, found.high]


def ratios(some: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the cell of the ratios of ``some`` to ``base`` in the same round: median and quartiles."""
    return spread([a / b for a, b in zip(some, base, strict=True)])


# -- results --------------------------------------------------------------------------------------------------


@dataclass
class Table:
    """Rows of cells by column, and the rounds of which they were made."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Amounts of work, without which the rows cannot be compared."""
    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    rounds: dict[str, Times] = field(default_factory=dict)
    """Seconds of the contestants in each round, by group; contestants of one group are measured in the same rounds."""
    date: str = ""
    load: float | None = None
    """Mean number of running processes in the minute before the measurement; on a quiet machine it is near 0."""
    note: str = ""

    def taken(self, count: int) -> int:
        """Return the smallest number of rounds that a group has, ``count`` if there are none."""
        return min((len(each) for group in self.rounds.values() for each in group.values()), default=count)


class Results:
    """Tables of one script on one machine, in a JSON file.

    Args:
        file: read if it is there, and written after every round; in a folder it is named by script and machine. None:
            nothing is written.
        device: that computes.
        count: of the rounds.
        seconds: after which no new round begins.

    Raises:
        SystemExit: the file is of another machine or another version of torch.
    """

    def __init__(
        self, file: Path | None, device: str = "cpu", count: int = 7, seconds: float = math.inf, seed: int = 0
    ) -> None:
        self.count, self.seed = count, seed
        self.until = time.perf_counter() + seconds
        self.machine = machine(torch.device(device))
        if file is not None and file.is_dir():
            file = file / f"{Path(sys.argv[0]).stem}-{self.machine['class']}.json"
        self.file = file
        self.tables: dict[str, Table] = {}
        if file is not None and file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["machine"] != self.machine:
                raise SystemExit(
                    f"--json must name a new file or one of this machine, but {file} is of {said_machine(found)}, and "
                    f"this is {said_machine({'machine': self.machine})}"
                )
            self.tables = {name: Table(**table) for name, table in found["tables"].items()}

    @property
    def late(self) -> bool:
        """True if the time is over."""
        return time.perf_counter() > self.until

    def table(self, name: str, **settings: Any) -> Table:
        """Return a table, a new one unless the file has it.

        Raises:
            SystemExit: the file has the table with other settings.
        """
        table = self.tables.setdefault(name, Table(settings))
        if table.settings != settings:
            raise SystemExit(
                f"table {name} of {self.file} was measured with {table.settings}, not with {settings}: give another "
                "file by --json"
            )
        return table

    def measure(self, table: Table, turns: Mapping[str, Turn], group: str = "", warmup: int = 1) -> Times:
        """Add the missing rounds of a group to a table; return all of its rounds.

        Raises:
            SystemExit: the table has rounds of other contestants.
        """
        taken = table.rounds.setdefault(group, {name: [] for name in turns})
        if set(taken) != set(turns):
            raise SystemExit(
                f"{self.file} has rounds of {', '.join(taken)}, not of {', '.join(turns)}: give another file by --json"
            )
        table.load = os.getloadavg()[0]
        return rounds(
            turns, self.count, taken, warmup=warmup, seed=self.seed, until=self.until, save=lambda: self.save(table)
        )

    def missing(self, table: Table, group: str = "") -> bool:
        """Return whether a group lacks rounds, so that its contestants have to be built."""
        found = table.rounds.get(group)
        return found is None or min(map(len, found.values())) < self.count

    def row(self, table: Table, name: str, **cells: Cell) -> None:
        """Enter a row, in place of an earlier one, and save it."""
        table.rows[name] = cells
        self.save(table)

    def save(self, table: Table) -> None:
        """Write the file, with today's date for ``table``."""
        table.date = date.today().isoformat()
        if self.file is None:
            return
        content = {
            "script": Path(sys.argv[0]).stem,
            "made_by": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
            "machine": self.machine,
            "packages": packages(),
            "tables": {name: vars(one) for name, one in self.tables.items()},
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text(compact(content) + "\n", encoding="utf-8")
        part.replace(self.file)

    def show(self, name: str) -> None:
        """Print a table, and if it lacks rounds how to add them."""
        table = self.tables[name]
        print(f"\n{markdown(name, {'': table})}", flush=True)
        if (taken := table.taken(self.count)) < self.count:
            print(f"{taken} of {self.count} rounds; the same command with --json measures the others", flush=True)


def rounded(content: Any) -> Any:
    """Return content with six digits of each number with a fraction, far more than repeat."""
    if isinstance(content, dict):
        return {name: rounded(one) for name, one in content.items()}
    if isinstance(content, list):
        return [rounded(one) for one in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


def compact(content: Any) -> str:
    """Return JSON with lists of numbers on one line."""
    text = json.dumps(rounded(content), indent=1, ensure_ascii=False)
    return re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text)


def machine(device: torch.device) -> dict[str, Any]:
    """Return a description of this machine; "class" is short enough for names of files."""
    here = this_machine(device)
    flags = ["avx512_bf16"] * torch.cpu._is_avx512_bf16_supported() + ["amx"] * torch.cpu._is_amx_tile_supported()
    capability = torch.backends.cpu.get_cpu_capability().lower()
    kind = {0: capability, 1: "avx512-bf16"}.get(len(flags), "amx") if device.type == "cpu" else ""
    name = here.cpu if device.type == "cpu" else here.device
    words = re.findall(r"[a-z0-9]+", re.sub(r"\(\w+\)|processor|@.*", "", name.lower()))[:2]
    parts = [*words, *([kind, f"{here.cores}-cores"] if device.type == "cpu" else [])]
    return {
        "class": "-".join(part for part in parts if part),
        **{name: getattr(here, name) for name in ("device", "cpu", "cores", "threads", "torch", "system")},
        "flags": [capability, *flags],
    }


def said_machine(content: Mapping[str, Any]) -> str:
    """Return the machine of a file in words."""
    found = content["machine"]
    device = "" if found["device"] == "cpu" else f"{found['device']} with "
    threads = f", {found['threads']} thread{'s' * (found['threads'] > 1)}" if found.get("threads") else ""
    flags = f" with {', '.join(found['flags'])}" if found["flags"] else ""
    return f"{device}{found['cpu']}{flags}, {found['cores']} cores{threads}, torch {found['torch']}"


def packages() -> dict[str, str]:
    """Return the versions of the packages beside which we are measured."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# -- text -----------------------------------------------------------------------------------------------------


def cell(value: Cell) -> str:
    """Return a cell as text: three digits or more of a number, and quartiles in brackets after a median."""
    if isinstance(value, list):
        middle, low, high = (number(each, value[0]) for each in value)
        return f"{middle} ({low} to {high})"
    return "-" if value is None else value if isinstance(value, str) else number(value, value)


def number(value: float, like: float) -> str:
    """Return a number as text, with as many decimals as suit the size of ``like``."""
    if isinstance(value, int) or (value == 0 and like == 0):
        return f"{value:,.0f}"
    size = abs(like)
    return f"{value:.0e}" if size < 0.01 else f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def markdown(title: str, tables: Mapping[str, Table], columns: Iterable[str] = (), rows: Iterable[str] = ()) -> str:
    """Return tables of several machines side by side in Markdown.

    Args:
        title: head of the first column.
        tables: by the names of their machines.
        columns: those to show, in this order; empty: all.
        rows: likewise.
    """
    chosen = list(rows) or list(dict.fromkeys(row for table in tables.values() for row in table.rows))
    shown = []
    for name, table in tables.items():
        there = list(dict.fromkeys(column for row in chosen for column in table.rows.get(row, {})))
        shown += [(name, column) for column in (columns or there) if column in there]
    heads = [f"{name}: {column}" if len(tables) > 1 else column for name, column in shown]
    lines = [f"| {' | '.join([title, *heads])} |", "|---" * (len(heads) + 1) + "|"]
    for row in chosen:
        cells = [cell(tables[name].rows.get(row, {}).get(column)) for name, column in shown]
        lines.append(f"| {' | '.join([row, *cells])} |")
    return "\n".join(lines)


# -- the command line -----------------------------------------------------------------------------------------


def options(doc: str | None, tables: Sequence[str], count: int = 7, devices: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a script's options, with those that all scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=tables, default=list(tables), help="tables (default: all)")
    parser.add_argument("--rounds", type=int, default=count, help=f"of each table (default: {count})")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no round after so many")
    if devices:
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        parser.add_argument("--device", default=usual, choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="file or folder of the results; a file that is there is continued")
    return parser


def asked(arguments: argparse.Namespace, results: Results | None = None) -> Iterator[tuple[Results, str]]:
    """Yield the results with the name of each table that was asked for, and print it afterwards."""
    device = getattr(arguments, "device", "cpu")
    results = results or Results(arguments.json, device, arguments.rounds, arguments.seconds)
    print(said_machine({"machine": results.machine}), flush=True)
    for name in arguments.rows:
        if results.late:
            print(f"no time was left for {name}", flush=True)
            continue
        yield results, name
        if name in results.tables:
            results.show(name)
