"""The command ``protocol``: checks a protocol, and runs it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tvlars.cli._options import in_processes, new_command, type_of
from tvlars.cli._study import tell_study
from tvlars.cli._sweep import add_queue, tell, tell_tuning
from tvlars.cli._train import tell_comparison
from tvlars.lab.console import say
from tvlars.lab.errors import UsageError

TELL = {
    "compare": tell_comparison,
    "tune": tell_tuning,
    "robustness": tell_study,
    "scaling": tell_study,
    "sweep": tell,
}


def add(commands: Any, *_: Any) -> None:
    """Add the command, with its actions."""
    parser = new_command(commands, "protocol", _refuse)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(parser))
    text = "check a protocol and print its plan; with a folder, also the deviations of the runs in it"
    check = actions.add_parser("check", help=text, description=text[0].upper() + text[1:] + ".")
    _add_file(check)
    check.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="folder of runs to compare with it")
    text = "training images per second over all processes, as tvlars bench measures them, to estimate the hours"
    check.add_argument("--speed", type=type_of(float), metavar="IMAGES/S", help=text)
    check.set_defaults(run=_check)
    text = "run a protocol, skipping finished runs"
    run = actions.add_parser("run", help=text, description=text[0].upper() + text[1:] + ".")
    _add_file(run)
    text = "folder of the runs, continued if it exists (default: runs/ and the protocol's name)"
    run.add_argument("-o", "--out", type=Path, metavar="FOLDER", help=text)
    text = "continue in a folder that was started with another protocol; the change is recorded as a deviation"
    run.add_argument("--allow-deviation", action="store_true", help=text)
    add_queue(run, "runs at a time (default: as the protocol's command)")
    run.set_defaults(run=_run)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="PROTOCOL.yaml", type=Path, help="protocol: a YAML file")


def _refuse(parsed: argparse.Namespace) -> int:
    raise UsageError("protocol must be followed by check or run")


def _check(parsed: argparse.Namespace) -> int:
    from tvlars.lab.protocol import Protocol

    if parsed.speed is not None and not parsed.speed > 0:
        raise UsageError(f"speed must be > 0 (images/s), got {parsed.speed:g}")
    protocol = Protocol.read(parsed.file)
    for line in protocol.check().lines(parsed.speed):
        say(line)
    if parsed.folder is not None:
        found = protocol.deviations(parsed.folder)
        say(f"deviations of {parsed.folder}: {'none' if not found else ''}".rstrip())
        for clause in found:
            say(f"- {clause}")
    return 0


def _run(parsed: argparse.Namespace) -> int:
    from tvlars.lab.protocol import Protocol

    protocol = Protocol.read(parsed.file)
    say(f"protocol {protocol.name}, digest {protocol.digest}")
    how: dict[str, Any] = dict(workers=parsed.workers, retries=parsed.retries, ray=parsed.ray)
    if protocol.command == "compare":
        how["announce"] = say  # the command prints its own table
    base = getattr(protocol.config, "base", None)
    if base is not None and parsed.ray is None and (parsed.workers or 1) == 1:
        protocol.begin(parsed.out, allow_deviation=parsed.allow_deviation)
        if (code := in_processes(parsed, base)) is not None:
            return code
    result = protocol.run(parsed.out, allow_deviation=parsed.allow_deviation, **how)
    return TELL[protocol.command](result)
