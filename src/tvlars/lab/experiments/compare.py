"""Several runs one after the other, and what they show together: a table and a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tvlars.lab.comparison.comparison import Comparison, RunRow
from tvlars.lab.config import TrainConfig, check_batch
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.models import build_model
from tvlars.lab.processes.alike import check_alike, facts_of
from tvlars.lab.processes.fabric import make_fabric
from tvlars.lab.processes.processes import Processes
from tvlars.lab.report import write_report
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.record import new_folder, write_json
from tvlars.lab.ssl.views import describe_views
from tvlars.lab.training.description import describe_batch
from tvlars.lab.training.output import say
from tvlars.lab.training.prepare import check_machine, check_run, choose_precision
from tvlars.lab.training.progress import Reporter, choose_reporter
from tvlars.lab.training.train import train
from tvlars.plan import Plan


def compare(
    config: CompareConfig,
    *,
    reporter: Callable[[], Reporter] | None = None,
    announce: Callable[[str], None] = say,
) -> Comparison:
    """Train every optimizer at every batch size with every seed, and write results and page as they come.

    Args:
        config: what to compare.
        reporter: makes the reporter of each run; None (default): a bar, or plain lines where there is no
            terminal. ``Reporter`` is silent.
        announce: is told, a line each, what the comparison is and which run begins; default: prints it.

    Returns:
        The comparison; a run that diverged is in it with its status, and the others go on.

    Raises:
        UsageError: config and data do not go together. Nothing has been written then.
        KeyboardInterrupt: as it came; what was measured is in the folder, page included.
    """
    make_reporter = reporter or partial(choose_reporter, brief=True)
    data = load_data(config.base.data, config.base.data_dir, config.base.image_size, config.base.skip_bad_images)
    runs = config.runs()
    plans = [check_run(run, data) for run in runs]  # so that a bad value is said before any run
    for run in runs:
        check_machine(run)
    processes = Processes(make_fabric(replace(config.base, batch_size=min(config.batch_sizes)), "32-true"))
    for run in runs:
        check_batch(run.batch_size, run.micro_batch_size, processes.count)
    if processes.several:
        varied = {name: getattr(config, name) for name in ("optimizers", "batch_sizes", "seeds", "overrides")}
        facts = {**varied, **facts_of(config.base, plans[0], data, choose_precision(config.base))}
        check_alike(processes, json.loads(json.dumps(facts, default=str)))
    folder = processes.by_first(lambda: _new_comparison(config))
    if not processes.first:
        return _take_part(config, folder, data)
    comparison = Comparison(folder, command_line(), measure=config.base.accuracy_name())
    announce(
        f"{len(runs)} runs: {', '.join(config.optimizers)}; batch sizes {', '.join(map(str, config.batch_sizes))}; "
        f"seeds {', '.join(map(str, config.seeds))}"
    )
    for line in (str(data), *data.account):
        announce(line)
    announce(build_model(config.base.model, data.channels, data.image_size, data.classes, config.base.init)[1])
    if config.base.task != "classification":
        announce(f"{config.base.task}; views: {describe_views(data.channels, data.image_size, data.flip)}")
    for batch_size in config.batch_sizes:
        announce(describe_batch(replace(config.base, batch_size=batch_size), processes.count))
    for plan in dict.fromkeys(plans):
        announce(str(plan))
    over = False
    try:
        for number, (run, plan) in enumerate(zip(runs, plans, strict=True), 1):
            announce(f"run {number} of {len(runs)}: {run.label()}")
            comparison.runs.append(_one_run(run, plan, data, folder, make_reporter()))
            comparison.save()
        over = True
    except KeyboardInterrupt:
        announce(f"interrupted after {len(comparison.runs)} of {len(runs)} runs; page: {folder / 'report.html'}")
        raise
    finally:
        try:
            comparison.save()
            write_report(comparison)
        except (OSError, UsageError) as error:
            if over:
                raise
            announce(f"results could not be written: {error}")  # why it ended comes first
    return comparison


def _new_comparison(config: CompareConfig) -> Path:
    folder = new_folder(config.out, f"compare-{config.base.data_label()}")
    write_json(folder / "config.json", json.loads(config.to_json()))
    return folder


def _take_part(config: CompareConfig, folder: Path, data: ImageData) -> Comparison:
    """What the other processes of a comparison do: train, and leave the rest to the first one."""
    comparison = Comparison(folder, command_line(), measure=config.base.accuracy_name())
    for run in config.runs():
        comparison.runs.append(_one_run(run, run.plan(len(data.train_labels)), data, folder, Reporter()))
    return comparison


def _one_run(run: TrainConfig, plan: Plan, data: ImageData, folder: Path, reporter: Reporter) -> RunRow:
    run_folder = folder / f"{run.optimizer}-b{run.batch_size}-s{run.seed}"
    run_folder.mkdir(exist_ok=True)  # another process may have made it
    row = RunRow(run.optimizer, run.batch_size, run.seed, plan.lr, "finished", folder=run_folder.name)
    try:
        result = train(run, data=data, folder=run_folder, reporter=reporter)
    except DivergedError as error:
        return replace(row, status="diverged", note=f"loss not finite at step {error.step}, lr {error.lr:.4g}")
    last = result.epochs[-1]
    seconds = sum(epoch.seconds for epoch in result.epochs)
    return replace(
        row,
        test_accuracy=result.test_accuracy,
        test_loss=last.test_loss,
        train_loss=last.train_loss,
        images_per_second=last.step * run.batch_size / seconds,
        seconds=seconds,
        test_images=len(data.test_labels),
    )
