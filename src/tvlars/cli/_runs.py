"""The command ``runs``: lists runs with their settings and results, without importing torch."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from tvlars._command import BAD_INPUT, INTERRUPTED, NOTHING_YET, not_imported
from tvlars._words import counted
from tvlars.cli._names import COMMANDS, without_commands
from tvlars.cli._parser import Extended, Parser, conditions_of, refuse_unknown, words_of
from tvlars.lab.console import Lasting, aside, say
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.files.marked import check_output, mark, write_output
from tvlars.lab.history.listing import CSV_HEAD, Listing

FORMATS = ("table", "csv", "json")
EXAMPLES = """
tvlars runs                                                 all runs below runs/
tvlars runs --where optimizer=lars 'test-accuracy>0.9'      conditions: = != < <= > >=, in quotes
tvlars runs --where 'data=imagefolder:*' lr!=none           * stands for any text, none for an empty cell
tvlars runs --sort -test-accuracy                           the best first
tvlars runs study/ --columns lr seed test-loss -o runs.csv
"""


def main(words: list[str]) -> int:
    """Run the command by itself, without importing torch as other commands do, and return its exit code."""
    out: Any = Lasting(sys.stdout)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(Lasting(sys.stderr)):
        try:
            parser, commands = without_commands()
            text = COMMANDS["runs"]
            add_options(commands.add_parser("runs", description=f"{text[0].upper()}{text[1:]}."))
            parsed, unknown_arguments = parser.parse_known_args(words)
            if unknown_arguments:
                refuse_unknown(parser, "runs", unknown_arguments)
            code = run(parsed)
            out.flush()
            return code or (BAD_INPUT if out.lost else 0)
        except UsageError as error:
            aside(f"tvlars: {error}")
            return BAD_INPUT
        except ImportError as error:
            aside(f"tvlars: {not_imported(error)}")
            return BAD_INPUT
        except KeyboardInterrupt:
            aside(f"tvlars: {NOTHING_YET}")
            return INTERRUPTED


def add(commands: Any, *_: Any) -> None:
    """Add the command beside others of the laboratory."""
    from tvlars.cli._options import new_command  # and with it torch

    add_options(new_command(commands, "runs", run))


def add_options(parser: Parser) -> None:
    """Add the options of the command."""
    parser.examples = EXAMPLES
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="*", type=Path, help="folders searched for runs (default: runs)"
    )
    text = "runs that meet all conditions on options and results, as optimizer=lars 'test-accuracy>0.9'"
    how: dict[str, Any] = dict(nargs="+", action=Extended, default=[])
    parser.add_argument("--where", type=conditions_of, metavar="CONDITION", help=text, **how)
    text = "columns to sort by, prefix - for descending order (default: by folder)"
    parser.add_argument("--sort", type=words_of, metavar="COLUMN", help=text, **how)
    text = "options and results to show (default: settings that differ, and the main results)"
    parser.add_argument("--columns", type=words_of, metavar="COLUMN", help=text, **how)
    parser.add_argument(
        "--format", default=None, metavar="FORMAT", help="table (default), csv or json, with all digits"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the list to this file (.csv or .json)")


def run(parsed: argparse.Namespace) -> int:
    """Print or write the list of runs."""
    form = parsed.format
    if form is not None and form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if parsed.out is not None:
        marks = (f'"made_by": "{mark("runs")}"'.encode(), f"{CSV_HEAD},".encode())
        check_output(parsed.out, "out", (".csv", ".json"), marks)
        suffix = parsed.out.suffix.lower().removeprefix(".")
        if form not in (None, suffix):
            raise UsageError(f"format must be {suffix} for a file {str(parsed.out)!r}, got {form!r}")
        form = suffix
    listing = Listing.read(parsed.folders or [Path("runs")]).where(parsed.where).sorted(parsed.sort)
    if form in (None, "table"):
        listing.print(parsed.columns)
        return 0
    if parsed.columns:
        listing = listing.only(parsed.columns)
    text = listing.csv() if form == "csv" else listing.json()
    if parsed.out is None:
        say(text.removesuffix("\n"), whole=True)
    else:
        write_output(parsed.out, text.encode(errors="replace"), "out")
        say(f"list: {parsed.out} ({len(listing.rows)} of {counted(listing.of, 'run')})")
    if lines := [*listing.notes, *listing.left_out.lines()]:
        aside(*lines)
    return 0
