"""The commands that train and test: ``train``, ``compare`` and ``evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvlars._command import DIVERGED, FAILED
from tvlars._words import counted
from tvlars.cli._options import (
    DECLARED,
    add_all,
    add_config,
    add_option,
    add_protocol,
    add_resume,
    add_those_of_data,
    defaults_of_run,
    fail,
    in_processes,
    is_first,
    new_command,
    train_config,
    under_protocol,
)
from tvlars.cli._parser import Extended, rare, settings_of
from tvlars.cli._sweep import add_queue
from tvlars.lab.config import OPTIONS
from tvlars.lab.console import say
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.arms import Arm, owner_of, parse_setting
from tvlars.lab.experiments.compare_config import USUAL, CompareConfig
from tvlars.lab.imported import said_path
from tvlars.lab.options import options_of

TRAIN = """
tvlars train --data digits --epochs 5
tvlars train --data cifar10 --model resnet18 --opt lars -b 4096 -o runs/lars
tvlars train --resume runs/lars
"""
COMPARE = """
tvlars compare --data digits --optimizers tvlars lars lamb --seeds 0 1 2
tvlars compare --data cifar10 --model resnet18 -b 1024 4096 --set lars.lr=16
tvlars compare --optimizers lars --arm warm=lars,warmup-epochs=1 -o runs/warm
"""


def add(commands: Any, command: str, config: dict[str, Any]) -> None:
    """Add the commands; ``config`` holds the options that a config file sets for ``command``."""
    train = new_command(commands, "train", _train, TRAIN)
    add_all(train, without=("resume",))
    rare(add_option(train, OPTIONS["protocol"], metavar="DIGEST"))
    add_resume(train)
    add_config(train)

    compare = new_command(commands, "compare", _compare, COMPARE)
    own = options_of(CompareConfig)
    what = compare.add_argument_group("what is compared")
    add_option(what, own["optimizers"])
    add_option(what, own["batch_sizes"], flag="--batch-size")
    add_option(what, own["seeds"])
    add_arms(what)
    for name, metavar in DECLARED.items():
        rare(add_option(what, own[name], metavar=metavar))
    add_queue(compare, "parallel runs, each in a process of its own if there are several (default: 1, in this process)")
    text = "print the arms with their plans, the number of runs, steps and images, and train nothing"
    rare(compare.add_argument("--dry-run", action="store_true", help=text))
    add_all(compare, without=("optimizer", "batch_size", "seed", "resume", "arm"))
    add_config(compare)
    add_protocol(compare)
    if config and command == "train":
        train.set_defaults(**defaults_of_run(config))
    elif config and command == "compare":
        compare.set_defaults(**_defaults_of_compare(config))

    evaluate = new_command(commands, "evaluate", _evaluate)
    evaluate.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")
    add_those_of_data(evaluate, default=None)


def add_arms(parser: Any) -> None:
    """Add the options that define arms, and that set options of one arm alone."""
    parser.add_argument(
        "--arm",
        nargs="+",
        action="extend",
        dest="arms",
        metavar="NAME=OPTIMIZER,OPTION=VALUE,...",
        help="a setting to compare under a name, as in --arm warm=lars,warmup-epochs=1; may be repeated",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action=Extended,
        type=settings_of,
        metavar="OPTIMIZER.OPTION=VALUE",
        help="an option, or an argument of its class, for one optimizer alone, as in --set lars.lr=16 lamb.eps=1e-8",
    )


def _train(parsed: argparse.Namespace) -> int:
    from tvlars.lab.training.train import train

    config = train_config(parsed)
    if (code := in_processes(parsed, config)) is not None:
        return code
    result = train(config)
    if not is_first():
        return 0
    last = result.epochs[-1]
    seconds = sum(epoch.seconds for epoch in result.epochs)
    speed = last.step * result.config.batch_size / seconds
    accuracy = f"{result.config.accuracy_name()} {result.accuracy:.2%}, " * (not result.config.own_task)
    if result.config.own_task:
        from tvlars.lab.run_folder.loaded_run import load_run

        split = "test_" if result.config.test else "validation_"
        values = {name: value for name, value in load_run(result.folder).metrics.items() if name.startswith(split)}
        accuracy = "".join(f"{name.replace('_', ' ')} {value:.4g}, " for name, value in values.items())
    split, lost = ("test", result.test_loss) if result.config.test else ("validation", result.validation_loss)
    say(
        f"{result.config.arm_name}: {accuracy}{split} loss {lost:.4f}, "
        f"{counted(last.step, 'step')} in {seconds:.1f} s of training ({speed:,.0f} images/s)"
    )
    say(f"run folder: {result.folder}")
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from tvlars.lab.measure.accuracy import evaluate
    from tvlars.lab.run_folder.loaded_run import load_run

    run = load_run(parsed.run_folder)
    for problem in run.problems:
        say(f"note     {problem}")
    result = evaluate(
        run,
        data=parsed.data,
        data_dir=parsed.data_dir,
        image_size=parsed.image_size,
        skip_bad_images=bool(parsed.skip_bad_images),
    )
    best = "" if run.best_epoch is None else f", by the weights of epoch {run.best_epoch}, the best by validation"
    say(f"run      {run.folder}, {run.status}{best}")
    for line in (f"data     {result.data}", *result.account):
        say(line)
    if result.note:
        say(f"note     {result.note}")
    say(str(result))
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    from tvlars.lab.experiments.compare import compare

    if parsed.dry_run:
        return _preview(compare_config(parsed))
    config = under_protocol(parsed, compare_config(parsed))
    apart = parsed.ray is not None or (parsed.workers or 1) > 1
    if not apart and (code := in_processes(parsed, config.base)) is not None:
        return code
    comparison = compare(
        config,
        announce=say,
        workers=parsed.workers,
        retries=parsed.retries,
        ray=parsed.ray,
    )
    return tell_comparison(comparison)


def _preview(config: CompareConfig) -> int:
    """Print the lines that describe a comparison, and its length in all; train and write nothing."""
    from tvlars.lab.experiments.compare import describe
    from tvlars.lab.given import take
    from tvlars.lab.training.prepare import data_of, prepare

    given = take(config.base)
    given = replace(given, data=data_of(config.base, given.data))
    prepared = [prepare(run, given, here=False) for run in config.runs()]
    say(*describe(config, prepared, config.base.devices or 1))
    steps = sum(run.plan.total_steps for run in prepared)
    images = sum(run.plan.total_steps * run.plan.batch_size for run in prepared)
    say(f"in all: {len(prepared)} runs, {steps:,} steps, {images:,} images; nothing was trained or written")
    return 0


def tell_comparison(comparison: Any) -> int:
    """Print the results of a comparison and return the exit code."""
    from tvlars.lab.run_folder.status import Status

    if not is_first():
        return DIVERGED if comparison.diverged else 0
    from tvlars.lab.comparison.table import print_comparison  # imports pandas

    print_comparison(comparison)
    say(f"page: {comparison.folder / 'report.html'}")
    of = counted(len(comparison.runs), "run")
    if failed := [run for run in comparison.runs if run.status == Status.FAILED]:
        for run in failed:
            say(f"{run.folder} failed: {run.note}")
        return fail(f"{len(failed)} of {of} failed; the same command tries them again", FAILED)
    said = [f"{run.optimizer}, batch size {run.batch_size}, seed {run.seed}: {run.note}" for run in comparison.diverged]
    return fail(f"{len(said)} of {of} diverged: {'; '.join(said)}", DIVERGED) if said else 0


def compare_config(parsed: argparse.Namespace) -> CompareConfig:
    """Return the config of a comparison from the options."""
    arms = tuple(map(Arm.parse, parsed.arms)) if parsed.arms else getattr(parsed, "stored_arms", ())
    first = (*parsed.optimizers, *(arm.optimizer for arm in arms), *USUAL)[0]
    sizes = tuple(parsed.batch_size) or (OPTIONS["batch_size"].default,)
    plain = CompareConfig(
        base=train_config(parsed, optimizer=first, batch_size=sizes[0], seed=parsed.seeds[0]),
        optimizers=tuple(parsed.optimizers),
        batch_sizes=sizes,
        seeds=tuple(parsed.seeds),
        arms=arms,
        family=parsed.family,
        margin=parsed.margin,
        out=parsed.out,
    )
    return replace(plain, overrides=overrides(parsed.set or (), plain.owners()))


def _defaults_of_compare(config: dict[str, Any]) -> dict[str, Any]:
    defaults = defaults_of_run(config.get("base", config))
    if "base" not in config:  # of a single run
        return {**defaults, "batch_size": [defaults["batch_size"]], "seeds": [defaults["seed"]]}
    stored = CompareConfig.from_mapping({name: value for name, value in config.items() if name != "out"})
    return {
        **defaults,
        "optimizers": list(stored.optimizers),
        "batch_size": list(stored.batch_sizes),
        "seeds": list(stored.seeds),
        "set": list(stored.overrides),
        "stored_arms": stored.arms,
        "family": stored.family,
        "margin": stored.margin,
    }


def overrides(given: Sequence[Any], owners: Mapping[str, str]) -> tuple[tuple[str, str, Any], ...]:
    """Return the overrides from the command line, and from a config file for optimizers that are still compared."""
    return tuple(
        _override(entry, owners) if isinstance(entry, str) else entry
        for entry in given
        if isinstance(entry, str) or entry[0] in owners
    )


def _override(text: str, owners: Mapping[str, str]) -> tuple[str, str, Any]:
    """Parse ``lars.lr=16`` as (optimizer, option, value)."""
    left, equals, value = text.partition("=")
    form = "--set must be OPTIMIZER.OPTION=VALUE, as in lars.lr=16"
    if not (equals and value and "." in left):
        raise UsageError(f"{form}, got {text!r}")
    owner, name = owner_of(left, owners, "optimizer among those compared", form)
    try:
        return owner, name, parse_setting(owners[owner], name, value)
    except UsageError as error:
        raise UsageError(
            f"--set {said_path(owner)}.{error}" if str(error).startswith(name) else f"--set: {error}"
        ) from None
