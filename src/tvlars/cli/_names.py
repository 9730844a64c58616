"""Commands by name, each with its line of the help; this imports neither torch nor the laboratory's options."""

from __future__ import annotations

import argparse
from typing import Any

from tvlars import __version__
from tvlars.cli._parser import Parser

GROUPS = {
    "train and compare": {
        "train": "train one model and record the run",
        "compare": "train several optimizers, batch sizes and seeds: table and page",
        "ssl": "pretrain without labels, then evaluate the features",
    },
    "look at runs": {
        "runs": "list runs with their settings and results; filter, sort, export as CSV or JSON",
        "report": "write one page about runs and comparisons: answer, curves, layers, sharpness, noise",
        "diff": "compare two runs, or two comparisons: settings, data, versions, results",
        "evaluate": "test the final weights of a run",
        "probe": "evaluate the features of a finished run",
        "sharpness": "measure how sharp the loss is at a run's final weights",
        "landscape": "draw the loss around a run's weights, or on the line to another run's",
    },
    "search": {
        "sweep": "run a grid, skipping finished runs: table and page",
        "tune": "give each optimizer the same number of trials, then run the best options of each with fresh seeds",
        "robustness": "measure accuracy over the learning rate: width of the plateau, failed runs of each optimizer",
        "scaling": "measure steps to a target over the batch size, and the critical batch size of each optimizer",
        "protocol": "check a protocol of experiments, run it, and report deviations",
    },
    "tools": {
        "bench": "measure optimizers, training and precision on this machine, in two minutes",
        "views": "draw the two augmented views of self-supervised learning",
        "doctor": "print what a bug report needs: versions, devices, which paths work here and why others do not",
        "completion": "print a script that completes commands, options and names in a shell",
    },
}
"""Commands, in the groups of the help of ``tvlars``."""
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
EXAMPLES = """
tvlars train --data digits --epochs 5
tvlars compare --data digits --optimizers tvlars lars lamb --seeds 0 1 2
"""
"""Commands that need no download and end within minutes."""


class _AllCommands(Parser):
    """The parser of ``tvlars``, whose help lists the commands in groups."""

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(f"{self.prog} COMMAND [options]", [], [])
        formatter.add_text(self.description)
        for title, commands in GROUPS.items():
            formatter.start_section(title)
            formatter.add_arguments(
                argparse.Action([], name, metavar=name, help=text) for name, text in commands.items()
            )
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments(one for one in self._actions if one.dest == "version" or "-h" in one.option_strings)
        formatter.end_section()
        formatter.add_text("tvlars COMMAND --help lists the options of a command.")
        return self.with_examples(formatter.format_help())

    short_help = format_help


def without_commands() -> tuple[Parser, Any]:
    """Return a parser of ``tvlars``, and its subparsers object, to which commands are added."""
    text = "Large-batch training with TVLARS, LARS and LAMB."
    parser = _AllCommands(prog="tvlars", description=text, examples=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"tvlars {__version__}", help="print the version")
    return parser, parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)


def help_of_all() -> str:
    """Return the help of ``tvlars``, which lists all commands."""
    return without_commands()[0].format_help()
