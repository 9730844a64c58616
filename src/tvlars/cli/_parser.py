"""Parser of commands: help in a short and a long form, and one sentence for each error.

It imports neither torch nor the options.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from tvlars.lab.arguments import split_outside
from tvlars.lab.console import Lasting
from tvlars.lab.errors import UsageError, unknown

MEANT = {
    "--arch": "--model",
    "--amp": "--precision",
    "--bs": "--batch-size",
    "--dataset": "--data",
    "--decay": "--weight-decay",
    "--device": "--accelerator",
    "--fp16": "--precision",
    "--gpus": "--devices",
    "--grad-clip": "--clip-grad-norm",
    "--learning-rate": "--lr",
    "--learning-rates": "--lrs",
    "--lr-scheduler": "--schedule",
    "--num-workers": "--data-workers",
    "--optim": "--optimizer",
    "--output": "--out",
    "--scheduler": "--schedule",
    "--val": "--validation",
    "--warmup": "--warmup-epochs",
}
"""Our options, by the names that other programs use."""
FEW = 25
"""Most options of a command whose short help lists all of them."""


class Listed(argparse.Action):
    """Join lists of values to one list, if ``type=`` makes a list of each word."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [one for some in values for one in some])


class Extended(Listed):
    """Append to the values given before."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = list(getattr(namespace, self.dest) or [])
        super().__call__(parser, namespace, values)
        setattr(namespace, self.dest, before + getattr(namespace, self.dest))


def words_of(text: str) -> list[str]:
    """Split a word at commas outside brackets and quotes; the name of an existing file is not split."""
    return [text] if os.path.isfile(text.rpartition(":")[0]) else split_outside(text, ",") or [text]


def settings_of(text: str) -> list[str]:
    """Split a word into parts ``NAME.NAME=VALUE`` at commas; values may contain commas too."""
    return re.split(r",(?=[^,=\s]+\.[\w-]+=)", text)


def conditions_of(text: str) -> list[str]:
    """Return the parts of a word that are ``NAME>=VALUE``, separated by commas; values may contain commas."""
    return re.split(r",\s*(?=[\w-]+\s*[=!<>])", text)


def rare(action: argparse.Action) -> argparse.Action:
    """Leave an option out of the short help, and return it."""
    action.common = False  # type: ignore[attr-defined]
    return action


class Help(argparse.Action):
    """Print the short help, or the long one for ``--help-all``, and end."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        out = Lasting(sys.stdout)
        out.write(parser.format_help() if option_string == "--help-all" else parser.short_help())
        out.flush()
        parser.exit()


class Formatter(argparse.HelpFormatter):
    """Formatter that writes the forms of an option on one line: ``-b, --batch-size N ...``, ``--[no-]augment``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)
        self._width = min(self._width, 110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return "--[no-]" + action.option_strings[0].removeprefix("--")
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "+":
            return f"{action.metavar or default_metavar} ..."
        return super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one sentence, with the nearest valid names.

    The text of ``examples``, commands with their arguments, ends the help.
    """

    def __init__(self, *args: Any, examples: str = "", add_help: bool = True, **more: Any) -> None:
        super().__init__(*args, **{"formatter_class": Formatter, "allow_abbrev": False, **more, "add_help": False})
        self.examples = examples
        if not add_help:
            return
        self.add_argument("-h", "--help", action=Help, help="print this help")
        self.add_argument("--help-all", action=Help, help="print the help with all options")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; a list at the end that has swallowed RUN, as in ``--evaluations knn RUN``, gives it back."""
        try:
            return super().parse_known_args(args, namespace)
        except UsageError:
            places = self._positionals._group_actions
            words, count = list(args or ()), len(places)
            fixed = places and all(one.nargs is None and one.choices is None for one in places)
            if not fixed or namespace is not None or any(word.startswith("-") for word in words[-count:]):
                raise
            with contextlib.suppress(UsageError):
                found, unknown_words = super().parse_known_args([*words[-count:], *words[:-count]])
                if not unknown_words:
                    return found, unknown_words
            raise

    def short_help(self) -> str:
        """Return the help with the options that most runs need."""
        every = [one for one in self._actions if one.option_strings]
        if len(every) <= FEW:
            return self._help([one for one in every if "--help-all" not in one.option_strings])
        return self._help([one for one in every if getattr(one, "common", True)], f"{self.prog} --help-all")

    def format_help(self) -> str:
        """Return the help with all options."""
        return self._help([one for one in self._actions if one.option_strings])

    def _help(self, options: Iterable[argparse.Action], all_options: str = "") -> str:
        formatter, places = self._get_formatter(), self._positionals._group_actions
        usage = " ".join([self.prog, "[options]", *(formatter._format_args(one, one.dest) for one in places)])
        formatter.add_usage(usage.replace("%", "%%"), [], [])
        formatter.add_text(self.description)
        for group in sorted(self._action_groups, key=lambda one: one is self._optionals):  # general options are last
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(one for one in group._group_actions if one in options or one in places)
            formatter.end_section()
        if all_options:
            formatter.add_text(f"These are the options that most runs need; {all_options} lists all of them.")
        return self.with_examples(formatter.format_help())

    def with_examples(self, text: str) -> str:
        """Return a help text with the examples at its end."""
        return f"{text}\nexamples:\n{textwrap.indent(self.examples.strip(), '  ')}\n" if self.examples else text

    def error(self, message: str) -> NoReturn:
        message = re.sub(
            r"^argument (-[^: ]+):", lambda found: f"argument {max(found[1].split('/'), key=len)}:", message
        )
        raise UsageError(f"{message}. See {self.prog} --help.")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if action.type is Path and not arg_string:  # from an unset variable: it would mean the working folder
            raise argparse.ArgumentError(action, "must be a path, got ''")
        return super()._get_value(action, arg_string)

    def _parse_optional(self, arg_string: str) -> Any:
        if "--sort" in self._option_string_actions and re.fullmatch(r"-[A-Za-z][\w-]+", arg_string):
            return None  # as in --sort -test-accuracy: a value
        return super()._parse_optional(arg_string)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and action.nargs in (None, "?", "+") and arg_strings == ["--"]:
            # As in --seed=--, which older versions of Python parse as the end of options, and the value as a list.
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return [value] if action.nargs == "+" else value
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown("command", value, list(action.choices))


def refuse_option_alone(parser: argparse.ArgumentParser, flag: str) -> None:
    """Raise an error if an option stands in place of the command."""
    flags = list(parser._option_string_actions)
    if flag.startswith("-") and flag not in flags:
        near = nearest(flag, flags)
        hint = f"did you mean {near[0]}? " if near else "a command comes first. "
        raise UsageError(f"unknown argument {flag!r}: {hint}See tvlars --help.")


def refuse_unknown(parser: argparse.ArgumentParser, command: str, arguments: list[str]) -> NoReturn:
    """Raise an error that names the first of these unknown arguments and the nearest valid ones."""
    flag = arguments[0].partition("=")[0]
    chosen = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[command]
    flags = [option for action in chosen._actions for option in action.option_strings]
    near = nearest(flag, flags)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if flag == "--dry-run":
        hint = "tvlars compare, sweep and protocol check print runs without training them. "
    raise UsageError(f"unknown argument {flag!r} of {command}: {hint}See tvlars {command} --help.")


def nearest(flag: str, flags: Iterable[str]) -> list[str]:
    """Return at most two options that ``flag`` may mean: by meaning, by beginning, then by spelling."""
    typed, flags = "--" + flag.lstrip("-").replace("_", "-").lower(), list(flags)
    if (meant := MEANT.get(typed)) in flags:
        return [str(meant)]
    if begun := [one for one in flags if len(typed) > 4 and one.startswith(typed)]:
        return begun[:2]
    by_word = {one.removeprefix("--"): one for one in flags if one.startswith("--")}
    return [by_word[one] for one in difflib.get_close_matches(typed.removeprefix("--"), by_word, n=2, cutoff=0.7)]
