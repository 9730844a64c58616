"""The commands of studies: ``robustness`` over learning rates, ``scaling`` over batch sizes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tvlars._command import FAILED
from tvlars._words import counted
from tvlars.cli._options import (
    add_all,
    add_config,
    add_option,
    add_protocol,
    defaults_of_run,
    fail,
    new_command,
    train_config,
    under_protocol,
)
from tvlars.cli._sweep import add_queue
from tvlars.cli._train import add_arms, overrides
from tvlars.lab.console import say
from tvlars.lab.experiments.arms import Arm
from tvlars.lab.experiments.compare_config import USUAL
from tvlars.lab.experiments.robustness.result import RobustnessConfig
from tvlars.lab.experiments.scaling.result import ScalingConfig
from tvlars.lab.experiments.studies.config import StudyConfig
from tvlars.lab.options import options_of

WITHOUT = ("optimizer", "seed", "lr", "test", "resume", "arm", "out")
"""Options of a run that studies replace or lack."""
OF_SCALING = ("batch_size", "epochs", "steps", "keep_best")
WORKERS = "parallel runs, each in a process of its own if there are several (default: 1, in this process)"


METAVARS = {"horizons": "[SIZE=]N", "lrs": "[ARM=]LR", "lr_scales": "FACTOR", "target": "SHARE", "within": "POINTS"}
EXAMPLES = {
    "robustness": """
tvlars robustness --data digits --optimizers tvlars lars lamb --seeds 0 1 2
tvlars robustness --data cifar10 --model resnet18 -b 4096 --lrs 4:64:x2
""",
    "scaling": """
tvlars scaling --data digits --optimizers tvlars lars --batch-sizes 64 128 256 --target 0.9
""",
}
STUDIES: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "robustness": (RobustnessConfig, ("within",), WITHOUT),
    "scaling": (ScalingConfig, ("batch_sizes", "target", "horizons"), (*WITHOUT, *OF_SCALING)),
}
"""Config of each study, the options that only it has, and options of a run that it lacks."""


def add(commands: Any, command: str, config: dict[str, Any]) -> None:
    """Add the commands; ``config`` holds the options that a config file sets for ``command``."""
    for name, (kind, own, without) in STUDIES.items():
        parser = new_command(commands, name, partial(_run, name), EXAMPLES[name])
        options = options_of(kind)
        what = parser.add_argument_group("what is studied")
        add_option(what, options["optimizers"])
        add_arms(what)
        add_option(what, options["seeds"])
        for one in (*own, "lrs", "lr_scales"):
            add_option(what, options[one], metavar=METAVARS.get(one, ""))
        add_option(parser, options["out"])
        add_queue(parser, WORKERS)
        add_all(parser, without=without)
        add_config(parser)
        add_protocol(parser)
        if config and command == name:
            parser.set_defaults(**_defaults(config, kind, without))


def _defaults(config: dict[str, Any], kind: Any, without: Sequence[str]) -> dict[str, Any]:
    """Return the defaults from the config of a run, or of a study under a protocol."""
    own = {name: config[name] for name in options_of(kind) if name in config and name != "out"}
    arms = tuple(Arm(**one) for one in config.get("arms", ()))
    return {**defaults_of_run(config.get("base", config), without), **own, "stored_arms": arms}


def _config(parsed: argparse.Namespace, kind: type[StudyConfig], *own: str) -> Any:
    """Return the config of a study from the options; ``own`` are the options that only this study has."""
    arms = tuple(map(Arm.parse, parsed.arms)) if parsed.arms else getattr(parsed, "stored_arms", ())
    first = (*parsed.optimizers, *(arm.optimizer for arm in arms), *USUAL)[0]
    lists = ("optimizers", "seeds", "lrs", "lr_scales", *own)
    values = {name: tuple(found) if isinstance(found := getattr(parsed, name), list) else found for name in lists}
    base = train_config(parsed, optimizer=first, seed=parsed.seeds[0], out=None)
    plain: Any = kind(base=base, arms=arms, out=parsed.out, **values)
    config = replace(plain, overrides=overrides(parsed.set or (), plain.compared().owners()))
    return under_protocol(parsed, config)


def _run(name: str, parsed: argparse.Namespace) -> int:
    from tvlars import lab

    kind, own, _ = STUDIES[name]
    config, study = _config(parsed, kind, *own), lab.robustness if name == "robustness" else lab.scaling
    return tell_study(study(config, workers=parsed.workers, retries=parsed.retries, ray=parsed.ray))


def tell_study(result: Any) -> int:
    """Print the results of a study and return the exit code."""
    from tvlars.lab.experiments.robustness.page import report_of as report_of_robustness
    from tvlars.lab.experiments.scaling.page import report_of as report_of_scaling

    name = result.config.kind()
    (report_of_robustness if name == "robustness" else report_of_scaling)(result).print()
    say(f"page: {result.folder / f'{name}.html'}, figure: {result.folder / f'{name}.svg'}")
    missing, runs = result.unfinished, result.runs
    if missing:
        for row in runs[runs["folder"].isin(missing)].itertuples():
            say(f"{row.folder} failed: {row.note}; its output is in {result.folder / 'runs' / row.folder}.log")
        return fail(f"{len(missing)} of {counted(len(runs), 'run')} failed; the same command tries them again", FAILED)
    return 0
