"""Tables and figures in docs/results, made of the JSON files in docs/results/speed.

    python benchmarks/pages.py                                     # writes all pages
    python benchmarks/pages.py --check                             # says which pages are not up to date
    python benchmarks/pages.py table views views                   # prints what a page has between two comments
    python benchmarks/pages.py value throughput small_resnet "DataLoader, no workers" "ours / it"
    python benchmarks/pages.py machines throughput switches

A page has ``<!-- made by python benchmarks/pages.py table views views -->`` and ``<!-- end -->``, and between them the
output of the command: on lines of its own, or within a line. Machines stand side by side in a table; a value of several
machines is the range of their medians.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

from harness import Cell, Table, cell, markdown, said_machine

PAGES = Path(__file__).parents[1] / "docs" / "results"
RESULTS = PAGES / "speed"
BLOCK = re.compile(r"(<!-- made by python benchmarks/pages\.py ((?:(?!-->).)+) -->)(\n?).*?(<!-- end -->)", re.DOTALL)


def contents(script: str) -> dict[str, dict[str, Any]]:
    """Return the files of a script by the class of their machine."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob(f"{script}-*.json"))]
    return {one["machine"]["class"]: one for one in found if one["script"] == script}


def tables(script: str, name: str) -> dict[str, Table]:
    """Return a table of a script by the class of the machine."""
    return {kind: Table(**one["tables"][name]) for kind, one in contents(script).items() if name in one["tables"]}


def table(script: str, name: str, title: str, columns: list[str], rows: list[str]) -> str:
    """Return a table with a line below it of how it was measured, or that it was not."""
    found = tables(script, name)
    if not found:
        return f"Not measured yet: `python benchmarks/{script}.py --rows {name}`."
    shown = markdown(title or name, found, columns, rows)
    said = [f"{kind}: {measured(one)}" if len(found) > 1 else measured(one) for kind, one in found.items()]
    return f"{shown}\n\n({'; '.join(said)}.)"


def measured(found: Table) -> str:
    """Return in words how a table was measured."""
    words = [f"{key.replace('_', ' ')} {value:,}" for key, value in found.settings.items() if value is not None]
    groups = [each for group in found.rounds.values() for each in group.values()]
    if groups:
        least, most = min(map(len, groups)), max(map(len, groups))
        words.append(f"{least if least == most else f'{least} to {most}'} rounds")
    if found.load is not None:
        words.append(f"load of the machine before {found.load:.1f}")
    return ", ".join([*words, *(text for text in (found.date, found.note) if text)])


def value(script: str, name: str, row: str, column: str, short: bool = False) -> str:
    """Return a cell as text, for several machines the range of the medians.

    Raises:
        SystemExit: no file has the cell.
    """
    cells: list[Cell] = [one.rows.get(row, {}).get(column) for one in tables(script, name).values()]
    there = [one for one in cells if one is not None]
    if not there:
        raise SystemExit(f"no file of {script} in {RESULTS} has the cell {column!r} of row {row!r} in table {name!r}")
    if len(there) == 1 and not short:
        return cell(there[0])
    medians = [one[0] if isinstance(one, list) else one for one in there]
    texts = [cell(one) for one in sorted(medians, key=lambda one: one if isinstance(one, (int, float)) else 0)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def machines(scripts: list[str]) -> str:
    """Return a list of the machines on which scripts were run, and of the scripts that wait for a GPU."""
    of: dict[str, list[str]] = {}
    for script in scripts:
        for kind, one in contents(script).items():
            where = f"`{kind}`: {said_machine(one)}" + (f" ({one['note']})" if one.get("note") else "")
            of.setdefault(where, []).append(f"`{one['made_by']}`")
    lines = [f"- {where}. {', '.join(dict.fromkeys(commands))}" for where, commands in of.items()]
    on_gpu = any(one["machine"]["device"] != "cpu" for script in scripts for one in contents(script).values())
    return "\n".join([*lines, *([] if on_gpu else ["- Not yet measured on a GPU."])])


def made(words: list[str]) -> str:
    """Return what a command of the docstring prints."""
    parser = argparse.ArgumentParser(prog="pages.py")
    commands = parser.add_subparsers(dest="what", required=True)
    of_table, of_value, of_machines = (commands.add_parser(name) for name in ("table", "value", "machines"))
    for one in (of_table, of_value):
        one.add_argument("script")
        one.add_argument("name")
    of_table.add_argument("--title", default="", help="head of the first column; default: the table's name")
    of_table.add_argument("--columns", nargs="+", default=[])
    of_table.add_argument("--rows", nargs="+", default=[])
    of_value.add_argument("row")
    of_value.add_argument("column")
    of_value.add_argument("--short", action="store_true", help="without the quartiles")
    of_machines.add_argument("scripts", nargs="+")
    found = vars(parser.parse_args(words))
    return {"table": table, "value": value, "machines": machines}[found.pop("what")](**found)  # type: ignore[operator]


def filled(text: str) -> str:
    """Return a page with everything between its comments made anew."""

    def fill(found: re.Match[str]) -> str:
        begin, command, line, end = found.groups()
        return f"{begin}{2 * line}{made(shlex.split(command))}{2 * line}{end}"

    return BLOCK.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a page is not up to date")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="table, value or machines with arguments of their own")
    arguments = parser.parse_args()
    if arguments.words:
        print(made(arguments.words))
        return
    old = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            old.append(str(page))
            if not arguments.check:
                page.write_text(new, encoding="utf-8")
    if arguments.check and old:
        raise SystemExit(f"these pages are not up to date, run python benchmarks/pages.py: {', '.join(old)}")


if __name__ == "__main__":
    main()
