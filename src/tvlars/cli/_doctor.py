"""The command ``doctor``: versions, devices, and which paths work here, for bug reports."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tvlars._machine import bf16_in_words, cores_in_words
from tvlars.cli._facts import Device, Facts, Package, gather
from tvlars.cli._names import COMMANDS

NAMES = {
    "for-loop": "for-loop (foreach=False)",
    "foreach": "foreach=True",
    "fused": "fused=True, torch's",
    "triton": "fused=True, Triton's",
    "compile": "torch.compile",
}
Sections = list[tuple[str, list[tuple[str, str]]]]
"""Titles, each with rows of a name and a text."""


def without_laboratory(words: Sequence[str]) -> int:
    """Run the command without the laboratory, which all other commands need."""
    parser = argparse.ArgumentParser(prog="tvlars doctor", description=f"{COMMANDS['doctor']}.", allow_abbrev=False)
    add_options(parser)
    return run(parser.parse_args(words))


def add(commands: Any, *_: Any) -> None:
    """Add the command beside others of the laboratory."""
    from tvlars.cli._options import new_command  # which needs the laboratory

    add_options(new_command(commands, "doctor", run))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON; null means that a path works, or not installed"
    )


def run(parsed: argparse.Namespace) -> int:
    """Print the facts of this machine."""
    with _progress() as announce:
        facts = gather(announce)
    if parsed.json:
        print(json.dumps(asdict(facts), indent=1))
    else:
        _print(sections(facts))
    return 0


def sections(facts: Facts) -> Sections:
    """Return the sections that are printed."""
    return [
        ("versions", [*facts.versions.items(), ("system", facts.system)]),
        ("devices", _devices(facts)),
        *((f"paths on {device}", _paths(facts, device)) for device in facts.paths),
        ("data sets", _data(facts.data)),
        ("packages", [("laboratory", facts.laboratory or "can be imported"), *_extras(facts.extras)]),
    ]


def _devices(facts: Facts) -> list[tuple[str, str]]:
    rows = [(device.name, _device(device, facts)) for device in facts.devices]
    if facts.no_cuda is not None:
        rows.append(("cuda", f"none: {facts.no_cuda}"))
    return rows


def _device(device: Device, facts: Facts) -> str:
    parts = [device.model]
    if device.name == "cpu":
        parts.append(cores_in_words(facts.cores, facts.threads))
    if device.capability is not None:
        parts.append(f"compute capability {device.capability}")
    if device.memory is not None:
        parts.append(f"{device.memory / 2**30:.1f} GiB")
    parts.append(bf16_in_words(device.native_bf16))
    return ", ".join(parts)


def _paths(facts: Facts, device: str) -> list[tuple[str, str]]:
    usual = facts.usual_paths[device]
    return [
        (NAMES[path], f"no: {reason}" if reason else "works" + (", the default for float32" if path == usual else ""))
        for path, reason in facts.paths[device].items()
    ]


def _data(data: dict[str, str | None] | str) -> list[tuple[str, str]]:
    if isinstance(data, str):
        return [("all", data)]
    return [(name, where or "not here: downloaded on first use") for name, where in data.items()]


def _extras(extras: dict[str, list[Package]] | str) -> list[tuple[str, str]]:
    """Return, for each extra, a row of installed packages, a row of missing ones, and a row for each fault."""
    if isinstance(extras, str):
        return [("extras", extras)]
    rows = []
    for extra, packages in extras.items():
        if there := [f"{one.name} {one.version}" for one in packages if one.version]:
            rows.append((f"[{extra}]", ", ".join(there)))
        if absent := [one.name for one in packages if not one.version]:
            rows.append(
                (f"[{extra}]", f"not installed: {', '.join(absent)}; pip install '.[{extra}]' in the source folder")
            )
        rows += [(f"[{extra}]", f"{one.name} is broken: {one.problem}") for one in packages if one.problem]
    return rows


def _print(all_sections: Sections) -> None:
    """Print titles, and two columns below each."""
    indent = max(len(name) for _, rows in all_sections for name, _ in rows) + 4
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    title_printer = _title_printer()
    for title, rows in all_sections:
        title_printer(title)
        for name, text in rows:
            lines = textwrap.wrap(text, max(columns - indent, 40), break_on_hyphens=False)
            print(f"  {name}".ljust(indent) + f"\n{' ' * indent}".join(lines))


def _title_printer() -> Callable[[str], None]:
    """Return a function that prints titles, in bold unless rich is missing or broken."""
    try:
        from rich.console import Console
        from rich.text import Text
    except Exception:
        return print
    console = Console()
    return lambda title: console.print(Text(title, style="bold"))


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the progress, on a terminal alone, and on standard error, so that the output can be piped."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return

    def say(text: str) -> None:
        print(f"\r\x1b[Klooking at {text}" if text else "\r\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        say("")
