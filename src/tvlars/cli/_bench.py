"""The command ``bench``: speed on the user's own machine."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tvlars.cli._options import add_option, new_command
from tvlars.lab.bench import BenchConfig, bench
from tvlars.lab.console import say
from tvlars.lab.errors import UsageError
from tvlars.lab.files.marked import check_output, mark, write_output
from tvlars.lab.options import options_of


def add(commands: Any, *_: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "bench", _bench)
    for one in options_of(BenchConfig).values():
        add_option(parser, one)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")


def _bench(parsed: argparse.Namespace) -> int:
    config = BenchConfig(seconds=parsed.seconds, accelerator=parsed.accelerator, workers=parsed.workers)
    if parsed.json is not None:
        if "\0" in str(parsed.json) or parsed.json.is_dir() or not parsed.json.resolve().parent.is_dir():
            raise UsageError(f"json must be a file in a folder that exists, got {str(parsed.json)!r}")
        check_output(parsed.json, "json", (".json",), (f'"made_by": "{mark("bench")}"'.encode(),))
    with _progress(config.seconds) as announce:
        result = bench(config, announce)
    say(str(result))
    say(f"measured in {result.seconds:.0f} s")
    if parsed.json is not None:
        write_output(parsed.json, result.to_json().encode(), "json")
        say(f"numbers: {parsed.json}")
    return 0


@contextlib.contextmanager
def _progress(seconds: float) -> Iterator[Callable[[str], None]]:
    """Show the progress: a bar over time on a terminal, elsewhere a line for each part."""
    if not sys.stdout.isatty():
        yield lambda text: say(f"measuring {text}")
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("measuring {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task, start = progress.add_task("", total=seconds), time.monotonic()
        yield lambda text: progress.update(task, description=text, completed=time.monotonic() - start)
