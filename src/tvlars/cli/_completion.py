"""The command ``completion``: scripts for shells that complete commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from typing import Any

from tvlars.cli._options import new_command
from tvlars.lab.config import OPTIONS
from tvlars.lab.console import say
from tvlars.lab.errors import unknown
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.options import options_of
from tvlars.lab.ssl.methods import METHODS

SHELLS = ("bash", "zsh", "fish")
HINTS = """
To try it:   eval "$(tvlars completion bash)"          or zsh; in fish: tvlars completion fish | source
To keep it:  tvlars completion bash > ~/.local/share/bash-completion/completions/tvlars
             tvlars completion zsh > DIR/_tvlars       where fpath has DIR
             tvlars completion fish > ~/.config/fish/completions/tvlars.fish
The script fits this version only: write it again after an update of tvlars.
"""
FOLDERS, FILES = ("FOLDER", "PATH", "RUN", "A", "B"), ("FILE", "GRID.yaml")
"""Metavars of folders and of files in the help."""


def add(commands: Any, *_: Any) -> None:
    """Add the command."""
    completion = new_command(commands, "completion", _completion, HINTS)
    completion.add_argument("shell", metavar="SHELL", help="one of " + ", ".join(SHELLS))


def _completion(parsed: argparse.Namespace) -> int:
    import shtab

    from tvlars.cli._commands import make_parser

    if parsed.shell not in SHELLS:
        raise unknown("shell", parsed.shell, SHELLS)
    names, parser = _names(), make_parser()
    for action in _actions(parser):
        if action.dest in names:
            action.choices = list(names[action.dest])
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    say(shtab.complete(parser, shell=parsed.shell), whole=True)
    return 0


def _names() -> dict[str, Collection[str]]:
    """Return the values that complete an option, by its destination. The parser accepts more, with its own errors."""
    options = {**options_of(TuneConfig), **OPTIONS}
    chosen = {name: one.choices for name, one in options.items() if one.choices}
    return {**chosen, "method": METHODS, "shell": SHELLS}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield all arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
        else:
            yield action
