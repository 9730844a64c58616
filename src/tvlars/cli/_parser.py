"""Parser of commands: says in one sentence what was typed wrongly. It imports neither torch nor the options."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from tvlars.lab.errors import UsageError, unknown


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the names that were nearest."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See {self.prog} --help.")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if action.type is Path and not arg_string:  # as of a variable that is not set: it would be the folder here
            raise argparse.ArgumentError(action, "must be a path, got ''")
        return super()._get_value(action, arg_string)

    def _parse_optional(self, arg_string: str) -> Any:
        if "--sort" in self._option_string_actions and re.fullmatch(r"-[A-Za-z][\w-]+", arg_string):
            return None  # as in --sort -test-accuracy: a value
        return super()._parse_optional(arg_string)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and action.nargs in (None, "?", "+") and arg_strings == ["--"]:
            # As in --seed=--, which earlier versions of Python take for the end of options, and the value for a list.
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return [value] if action.nargs == "+" else value
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown("command", value, list(action.choices))


def refuse_option_alone(parser: argparse.ArgumentParser, flag: str) -> None:
    """Say that an option in the place of the command is none."""
    flags = list(parser._option_string_actions)
    if flag.startswith("-") and flag not in flags:
        near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}? " if near else "a command comes first. "
        raise UsageError(f"unknown argument {flag!r}: {hint}See tvlars --help.")


def refuse_unknown(parser: argparse.ArgumentParser, command: str, arguments: list[str]) -> NoReturn:
    """Say that the first of these is no argument of the command, and which are near."""
    flag = arguments[0].partition("=")[0]
    chosen = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[command]
    flags = [option for action in chosen._actions for option in action.option_strings]
    near = difflib.get_close_matches(flag, flags, n=2, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"unknown argument {flag!r} of {command}: {hint}See tvlars {command} --help.")
