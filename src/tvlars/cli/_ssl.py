"""The commands of self-supervised learning: ``ssl`` pretrains and evaluates, ``probe`` evaluates a run's features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tvlars._words import counted
from tvlars.cli._options import (
    add_all,
    add_config,
    add_option,
    add_resume,
    add_those_of_data,
    defaults_of_run,
    in_processes,
    is_first,
    new_command,
    train_config,
)
from tvlars.lab.config import OPTIONS, names_of
from tvlars.lab.console import say
from tvlars.lab.errors import UsageError, check_page_packages, unknown
from tvlars.lab.options import Is
from tvlars.lab.ssl.methods import METHODS

DEFAULT = "barlow-twins"
SSL = """
tvlars ssl --data digits --epochs 5
tvlars ssl --method simclr --data cifar10 --model resnet18 -b 1024 -o runs/simclr
"""


def add(commands: Any, command: str, config: dict[str, Any]) -> None:
    """Add the commands; ``config`` holds the options that a config file sets for ``command``."""
    ssl = new_command(commands, "ssl", _ssl, SSL)
    text = "one of " + ", ".join(METHODS) + f" (default: {DEFAULT})"
    ssl.add_argument_group("the method").add_argument("--method", default=DEFAULT, metavar="NAME", help=text)
    add_all(ssl, without=("task", "resume", *names_of(Is.CLASSIFICATION)))
    add_resume(ssl)
    add_config(ssl)
    if config and command == "ssl":
        defaults = _defaults(config)
        ssl.set_defaults(method=defaults.pop("task"), **defaults)

    probe = new_command(commands, "probe", _probe)
    probe.add_argument("run_folder", metavar="RUN", type=Path, help="run folder, of any task")
    add_those_of_data(probe, default=None)
    add_option(probe, OPTIONS["evaluations"])


def _ssl(parsed: argparse.Namespace) -> int:
    from tvlars.lab.training.train import train

    if parsed.method not in METHODS:
        raise unknown("method", parsed.method, METHODS)
    config = train_config(parsed, task=parsed.method)
    check_page_packages()
    if (code := in_processes(parsed, config)) is not None:
        return code
    result = train(config)
    if not is_first():
        return 0
    seconds = sum(epoch.seconds for epoch in result.epochs)
    steps = result.epochs[-1].step
    speed = steps * result.config.batch_size / seconds
    name = result.config.arm_name
    say(f"{name}: {counted(steps, 'step')} in {seconds:.1f} s of training ({speed:,.0f} images/s, two views each)")
    linear, random = (result.evaluations.get(name) for name in ("linear", "random"))
    if linear and random:
        say(f"linear probe {linear.accuracy:.2%}, of the untrained network {random.accuracy:.2%}")
    say(f"run folder: {result.folder}")
    from tvlars.lab.report import report  # imports pandas and plotly

    say(f"page: {report([result.folder], result.folder / 'report.html')}")
    return 0


def _probe(parsed: argparse.Namespace) -> int:
    from tvlars.lab.measure.probe_run import probe_run
    from tvlars.lab.run_folder.loaded_run import load_run

    run = load_run(parsed.run_folder)
    for problem in run.problems:
        say(f"note     {problem}")
    probe_run(
        run,
        parsed.evaluations,
        data=parsed.data,
        data_dir=parsed.data_dir,
        image_size=parsed.image_size,
        skip_bad_images=bool(parsed.skip_bad_images),
        announce=say,
    )
    return 0


def _defaults(config: dict[str, Any]) -> dict[str, Any]:
    defaults = defaults_of_run(config, names_of(Is.CLASSIFICATION))
    if defaults["task"] not in METHODS:
        raise UsageError(f"config must be that of self-supervised learning, but its task is {defaults['task']}")
    return defaults
