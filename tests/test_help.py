"""The help of the commands: short with --help, whole with --help-all, with examples that can be run."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from tvlars.cli import main
from tvlars.cli._commands import make_parser
from tvlars.cli._names import COMMANDS, EXAMPLES, GROUPS
from tvlars.cli._parser import FEW, Parser
from tvlars.lab.config import OPTIONS
from tvlars.lab.options import Is

PARSERS: dict[str, Parser] = next(
    action.choices for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)
)
LONG = [name for name, parser in PARSERS.items() if len(parser._actions) > FEW]


def shown(text: str) -> set[str]:
    """The options that a help describes."""
    return set(re.findall(r"^  (?:-\w, )?--(?:\[no-\])?([\w-]+)", text, re.MULTILINE))


def test_commands_with_many_options_are_known() -> None:
    assert {"train", "compare", "ssl", "tune", "robustness", "scaling"} == set(LONG)


@pytest.mark.parametrize("name", LONG)
def test_the_short_help_has_the_options_of_most_runs(name: str) -> None:
    short, whole = PARSERS[name].short_help(), PARSERS[name].format_help()
    assert short.startswith(f"usage: tvlars {name} [options]\n\n")
    assert 15 <= len(shown(short)) <= 30
    assert len(shown(whole)) > 60
    assert shown(short) < shown(whole)
    assert {"data", "model", "out", "config", "help", "help-all"} <= shown(short)
    assert f"tvlars {name} --help-all lists all" in " ".join(short.split())
    assert "--help-all lists all" not in " ".join(whole.split())
    for text in (short, whole):
        assert max(map(len, text.splitlines())) <= 100
        assert not re.search(r"\b(STR|INT|FLOAT|BOOL)\b", text)


def test_what_the_short_help_shows_is_what_the_options_declare() -> None:
    of_others = {"evaluations"}  # of self-supervised learning
    common = {
        name.replace("_", "-") for name, one in OPTIONS.items() if one.kinds & Is.COMMON and name not in of_others
    }
    assert shown(PARSERS["train"].short_help()) == common | {"resume", "config", "help", "help-all"}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(LONG)))
def test_the_help_of_a_command_with_few_options_is_whole(name: str) -> None:
    parser = PARSERS[name]
    assert shown(parser.short_help()) | {"help-all"} == shown(parser.format_help())
    assert "--help-all" not in parser.short_help()


def test_defaults_choices_and_other_names_are_visible() -> None:
    text = " ".join(PARSERS["train"].short_help().split())
    for words in (
        "-b, --batch-size N samples per optimizer step (default: 256)",
        "--optimizer, --opt NAME|PATH one of tvlars, lars, lamb, sgd, adamw",
        "--[no-]augment random crops, and mirroring where the data set allows it (default: yes)",
        "--accelerator NAME one of auto, cpu, cuda, mps (default: auto)",
        "--data NAME|PATH one of digits,",
    ):
        assert words in text


EXAMPLE_LINES = [
    line
    for text in (EXAMPLES, *(parser.examples for parser in PARSERS.values()))
    for line in text.strip().splitlines()
    if line.startswith("tvlars ")
]


@pytest.mark.parametrize("line", EXAMPLE_LINES)
def test_examples_are_understood(line: str) -> None:
    words = shlex.split(line)[1:]
    if "--resume" not in words:  # which reads a run
        parsed, unknown = make_parser(words).parse_known_args(words)
        assert (parsed.command, unknown) == (words[0], [])


def test_every_command_with_many_options_has_examples() -> None:
    assert all(PARSERS[name].examples for name in LONG)


def test_the_help_of_tvlars_has_all_commands_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [title for title in GROUPS if f"\n{title}:\n" in text] == list(GROUPS)
    assert re.findall(r"^  (\w+)  ", text.partition("\noptions:")[0], re.MULTILINE) == list(COMMANDS)
    assert set(COMMANDS) == set(PARSERS)
    assert "tvlars COMMAND --help" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("flag", ["-h", "--help", "--help-all"])
def test_help_is_printed_and_is_a_success(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", flag])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out == (PARSERS["compare"].format_help() if flag == "--help-all" else PARSERS["compare"].short_help())
    for flag in ("--optimizers", "--batch-size", "--seeds", "--set", "--out"):
        assert flag in out
