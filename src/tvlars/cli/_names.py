"""Commands by name, each with its line of the help; this imports neither torch nor the laboratory."""

from __future__ import annotations

import argparse
from typing import Any

from tvlars import __version__

COMMANDS = {
    "train": "train one model and keep a record of it",
    "compare": "train several optimizers, batch sizes and seeds; table and page",
    "evaluate": "test the final weights of a run",
    "ssl": "pretrain without labels, then measure what was learned",
    "probe": "measure what the features of a finished run are worth",
    "sharpness": "measure how sharp the loss is at a run's final weights",
    "landscape": "draw the loss around a run's weights, or on the way to another's",
    "report": "one page of runs and comparisons: answer, curves, layers, sharpness, noise",
    "diff": "say what differs between two runs, or two comparisons: settings, data, versions, results",
    "views": "draw the two augmented views of self-supervised learning",
    "runs": "list runs with their settings and results; filter, sort, write as CSV or JSON",
    "bench": "measure optimizers, training and precision on this machine, in two minutes",
    "sweep": "do all runs of a grid, those that are over aside; table and page",
    "tune": "give each optimizer the same number of trials, then run the best options of each with fresh seeds",
    "robustness": "accuracy over the learning rate: width of the plateau and failed runs of each optimizer",
    "scaling": "steps to a target over the batch size, and the critical batch size of each optimizer",
    "protocol": "check a protocol of experiments, do its runs, and say in what they deviate",
    "doctor": "say what a bug report needs: versions, devices, which paths work here and why others do not",
    "completion": "print a script that completes commands, options and names in a shell",
}


def without_commands(kind: type[argparse.ArgumentParser]) -> tuple[Any, Any]:
    """Return a parser of ``tvlars``, and the place where commands are added to it."""
    parser = kind(prog="tvlars", description="Large-batch training with TVLARS, LARS and LAMB.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"tvlars {__version__}")
    return parser, parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=kind)


def help_of_all() -> str:
    """Return the help of ``tvlars``, which lists all commands."""
    parser, commands = without_commands(argparse.ArgumentParser)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    return str(parser.format_help())
