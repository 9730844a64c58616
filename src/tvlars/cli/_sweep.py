"""The commands of many runs: ``sweep`` runs a grid, ``tune`` finds each optimizer's best options first."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvlars._command import BAD_INPUT, DIVERGED, FAILED
from tvlars._words import counted
from tvlars.cli._options import (
    DECLARED,
    add_all,
    add_config,
    add_option,
    add_protocol,
    defaults_of_run,
    fail,
    new_command,
    train_config,
    type_of,
    under_protocol,
)
from tvlars.cli._parser import Extended, rare, words_of
from tvlars.lab.config import OPTIONS, names_of
from tvlars.lab.console import say
from tvlars.lab.experiments.arms import Arm
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.imported import said_path
from tvlars.lab.options import Is, options_of

SWEEP = """
tvlars sweep grid.yaml --dry-run
tvlars sweep grid.yaml --workers 4 --out runs/grid
"""
TUNE = """
tvlars tune --data digits --optimizers lars lamb --trials 8 --epochs 5
tvlars tune --data cifar10 --model resnet18 --space lr=1:32:log momentum=0.8,0.9
"""


def add(commands: Any, command: str, config: dict[str, Any]) -> None:
    """Add the commands; ``config`` holds the options that a config file sets for ``command``."""
    sweep = new_command(commands, "sweep", _sweep, SWEEP)
    text = (
        "YAML file: base (options of all runs), grid (option: [values], or option: {optimizer: [values]}), "
        "arms (name: {optimizer: lars, option: value})"
    )
    sweep.add_argument("grid", metavar="GRID.yaml", type=Path, help=text)
    text = "folder of the sweep, continued if it exists (default: runs/sweep- and the grid's name)"
    sweep.add_argument("-o", "--out", type=Path, metavar="FOLDER", help=text)
    add_option(sweep, OPTIONS["log"], default=None)
    add_queue(sweep, "parallel runs (default: one for each CUDA device, 1 on a CPU; with Ray over all machines)")
    for name, metavar in DECLARED.items():
        add_option(sweep, options_of(TuneConfig)[name], metavar=metavar)
    sweep.add_argument("--dry-run", action="store_true", help="list the runs, mark finished ones, and run nothing")
    _add_tune(commands, config if command == "tune" else {})


def add_queue(parser: argparse.ArgumentParser, workers: str) -> None:
    """Add the options of the queue of runs; ``workers`` is the help of their number."""
    parser.add_argument("--workers", type=type_of(int), metavar="N", help=workers)
    text = "retries of a run that fails (default: 1); diverged runs are not retried"
    rare(parser.add_argument("--retries", type=type_of(int), default=1, metavar="N", help=text))
    text = (
        "run on a Ray cluster: its address, auto for this machine's cluster, or local to start one here; "
        "--out must lie on a file system that all its machines see"
    )
    rare(parser.add_argument("--ray", metavar="ADDRESS", help=text))


def _add_tune(commands: Any, config: dict[str, Any]) -> None:
    tune = new_command(commands, "tune", _tune, TUNE)
    own = options_of(TuneConfig)
    what = tune.add_argument_group("what is tuned")
    for name in ("optimizers", "trials", "sampler"):
        add_option(what, own[name])
    what.add_argument(
        "--arm",
        nargs="+",
        action="extend",
        dest="arms",
        metavar="NAME=OPTIMIZER,OPTION=VALUE,...",
        help="a setting to tune under a name, as in --arm warm=lars,warmup-epochs=1; may be repeated",
    )
    add_option(what, own["space"], metavar="[ARM.]OPTION=SPACE", action=Extended)
    add_option(what, own["seeds"])
    for name in ("tune_seeds", "rerun", "widen", "prune"):
        rare(add_option(what, own[name]))
    rare(add_option(what, own["spent"], metavar="ARM=N", action=Extended, type=words_of))
    for name, metavar in DECLARED.items():
        rare(add_option(what, own[name], metavar=metavar))
    text = "parallel runs, one trial at a time for each arm (default: trials in this process, others as tvlars sweep)"
    add_queue(tune, text)
    add_option(tune, own["out"])
    add_all(tune, without=_not_tuned())
    add_config(tune)
    add_protocol(tune)
    if config:
        tune.set_defaults(**_defaults_of_tune(config))


def _not_tuned() -> tuple[str, ...]:
    """Return the options of a run that ``tune`` replaces or lacks."""
    return ("optimizer", "arm", "seed", "lr", "test", *names_of(Is.OWN | Is.SEVERAL))


def _defaults_of_tune(config: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults from the config of a run, or of a tuning under a protocol."""
    defaults = defaults_of_run(config.get("base", config), _not_tuned())
    own = {name: config[name] for name in options_of(TuneConfig) if name in config and name != "out"}
    return {**defaults, **own, "stored_arms": tuple(Arm(**one) for one in config.get("arms", ()))}


def _sweep(parsed: argparse.Namespace) -> int:
    from tvlars.lab.experiments.grid import Grid
    from tvlars.lab.experiments.queue import check_call
    from tvlars.lab.experiments.sweep import make_agenda, sweep

    grid = Grid.read(parsed.grid)
    runs = grid.runs if parsed.log is None else tuple(replace(run, log=tuple(parsed.log)) for run in grid.runs)
    out = Path("runs") / f"sweep-{grid.name}" if parsed.out is None else parsed.out
    if parsed.dry_run:
        check_call(parsed.workers, parsed.retries)
        agenda = make_agenda(runs, out, here=parsed.ray is None)
        for note in grid.notes:
            say(f"note: {note}")
        for run in agenda.runs:
            say(f"{run.status:9} {run.name}")
        say(f"{counted(len(runs), 'run')}, {len(agenda.jobs)} to do, in {out}")
        return 0
    for note in grid.notes:
        say(f"note: {note}")
    declared = dict(family=parsed.family, margin=parsed.margin)
    result = sweep(runs, out, workers=parsed.workers, retries=parsed.retries, ray=parsed.ray, **declared)
    return tell(result)


def _tune(parsed: argparse.Namespace) -> int:
    from tvlars.lab.experiments.tuning.tune import tune

    arms = tuple(map(Arm.parse, parsed.arms)) if parsed.arms else getattr(parsed, "stored_arms", ())
    # A preset may be limited to some optimizers; all other options apply to tvlars too.
    first = (*parsed.optimizers, *(arm.optimizer for arm in arms), "tvlars")[0]
    carrier = "tvlars" if parsed.preset is None else first
    config = TuneConfig(
        base=train_config(parsed, optimizer=carrier, out=None),
        optimizers=tuple(parsed.optimizers),
        trials=parsed.trials,
        sampler=parsed.sampler,
        tune_seeds=tuple(parsed.tune_seeds),
        seeds=tuple(parsed.seeds),
        space=tuple(parsed.space),
        prune=parsed.prune,
        rerun=parsed.rerun,
        widen=parsed.widen,
        spent=tuple(parsed.spent),
        arms=arms,
        family=parsed.family,
        margin=parsed.margin,
        out=parsed.out,
    )
    config = under_protocol(parsed, config)
    return tell_tuning(tune(config, workers=parsed.workers, retries=parsed.retries, ray=parsed.ray))


def tell_tuning(result: Any) -> int:
    """Print the results of a tuning and return the exit code."""
    code = tell(result.final) if result.final is not None else 0
    if result.unwritten:
        code = code or BAD_INPUT
        _fail_unwritten(result.unwritten, "trials")
    else:
        say(f"tuning: {result.folder / 'tune.json'}, every trial: {result.folder / 'trials.csv'}")
    hopeless = [said_path(one.arm) for one in result.tuned if one.best is None]
    if hopeless and code != FAILED:
        return fail(f"no trial of {' and '.join(hopeless)} finished, lower learning rates usually help", DIVERGED)
    return code


def tell(result: Any) -> int:
    """Print the results of a sweep and return the exit code."""
    from tvlars.lab.comparison.table import print_comparison
    from tvlars.lab.run_folder.status import Status

    for title, comparison in result.comparisons().items():
        if title:
            say(title)
        print_comparison(comparison)
    for line in result.failures():
        say(line)
    if "results.csv" not in result.unwritten:
        say(f"results: {result.folder / 'results.csv'}")
    if (result.folder / "report.html").is_file() and "report.html" not in result.unwritten:
        say(f"page: {result.folder / 'report.html'}")
    code = _fail_unwritten(result.unwritten, "runs") if result.unwritten else 0
    if failed := result.count(Status.FAILED):
        return fail(f"{failed} of {counted(len(result.runs), 'run')} failed; the same command tries them again", FAILED)
    if diverged := result.count(Status.DIVERGED):
        return fail(f"{diverged} of {counted(len(result.runs), 'run')} diverged, a smaller lr usually helps", DIVERGED)
    return code


def _fail_unwritten(names: Iterable[str], what: str) -> int:
    """Print which files could not be written, for reasons printed before; return the exit code for that."""
    names = list(names)
    which, them = " and ".join(names), "it" if len(names) == 1 else "them"
    return fail(f"{which} could not be written; all {what} are kept, and the same command writes {them}", BAD_INPUT)
