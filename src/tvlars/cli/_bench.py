"""The command ``bench``: how fast this is on the user's own machine."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tvlars.cli._options import new_command, type_of
from tvlars.lab.console import say


def add(commands: Any) -> None:
    """Add the command."""
    text = "measure optimizers, training and precision on this machine, in two minutes"
    parser = new_command(commands, "bench", text, _bench)
    text = "for all measurements together, 5 to 3600 (default: 100; starting up comes on top)"
    parser.add_argument("--seconds", type=type_of(float), default=100.0, metavar="N", help=text)
    text = "where to measure: auto (default: cuda where there is one), cpu or cuda"
    parser.add_argument("--accelerator", default="auto", metavar="NAME", help=text)
    text = "processes of the DataLoader that is compared with (default: one a core, 16 at most)"
    parser.add_argument("--workers", type=type_of(int), metavar="N", help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here too")


def _bench(parsed: argparse.Namespace) -> int:
    from tvlars.lab.bench import BenchConfig, bench
    from tvlars.lab.errors import UsageError
    from tvlars.lab.files.marked import check_output, mark, write_output

    config = BenchConfig(seconds=parsed.seconds, accelerator=parsed.accelerator, workers=parsed.workers)
    if parsed.json is not None:
        if "\0" in str(parsed.json) or parsed.json.is_dir() or not parsed.json.resolve().parent.is_dir():
            raise UsageError(f"json must be a file in a folder that exists, got {str(parsed.json)!r}")
        check_output(parsed.json, "json", (".json",), (f'"made_by": "{mark("bench")}"'.encode(),))
    with _progress(config.seconds) as announce:
        result = bench(config, announce)
    result.print()
    say(f"measured in {result.seconds:.0f} s")
    if parsed.json is not None:
        write_output(parsed.json, result.to_json().encode(), "json")
        say(f"numbers: {parsed.json}")
    return 0


@contextlib.contextmanager
def _progress(seconds: float) -> Iterator[Callable[[str], None]]:
    """Shows what is measured: a bar of the time on a terminal, a line each elsewhere."""
    if not sys.stdout.isatty():
        yield lambda text: say(f"measuring {text}")
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("measuring {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task, start = progress.add_task("", total=seconds), time.monotonic()
        yield lambda text: progress.update(task, description=text, completed=time.monotonic() - start)
