"""Comparison: every optimizer at every batch size with every seed, with a table and a page of results.

The runs resume like those of a sweep. With one worker they are trained in this process.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tvlars._reading import is_inside
from tvlars._words import counted, several
from tvlars.lab.comparison.comparison import Comparison, RunRow
from tvlars.lab.comparison.family import pairs_of
from tvlars.lab.comparison.held_out import held_out
from tvlars.lab.comparison.paired import fewest_seeds
from tvlars.lab.config import TrainConfig, check_batch
from tvlars.lab.console import say
from tvlars.lab.data import Data
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.errors import Interrupted, UsageError
from tvlars.lab.experiments.arms import file_name
from tvlars.lab.experiments.board import Board, Teller, choose_board
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers, going_on, status_of
from tvlars.lab.experiments.queue import Source, check_call, hold, taking_signals, work
from tvlars.lab.experiments.run_name import at_home
from tvlars.lab.experiments.sweep import check_one_machine, hire, show
from tvlars.lab.experiments.workers.in_process import InProcess
from tvlars.lab.files.lock import LOCK
from tvlars.lab.given import check_apart, take
from tvlars.lab.metrics import Metric
from tvlars.lab.models import Model
from tvlars.lab.processes.alike import check_alike, facts_of
from tvlars.lab.processes.processes import Processes
from tvlars.lab.processes.started import started
from tvlars.lab.registered.record import FILES
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.loaded_run import load_run
from tvlars.lab.run_folder.record import CONFIG, new_folder, read_object, write_json
from tvlars.lab.run_folder.resuming import look
from tvlars.lab.run_folder.status import Status
from tvlars.lab.ssl.views import describe_views
from tvlars.lab.tasks import Measure, Task, measure_of
from tvlars.lab.training.description import describe_batch, describe_device
from tvlars.lab.training.prepare import Prepared, data_of, prepare
from tvlars.lab.training.progress import Reporter, choose_reporter, factory_of
from tvlars.plan import Plan


def compare(
    config: CompareConfig,
    *,
    data: Data | None = None,
    loaders: Any = None,
    model: Model | None = None,
    task: Task | None = None,
    metrics: Mapping[str, Metric] | None = None,
    reporter: Reporter | Callable[[], Reporter] | None = None,
    announce: Callable[[str], None] | None = None,
    workers: int | None = None,
    retries: int = 1,
    ray: str | None = None,
    board: Board | None = None,
) -> Comparison:
    """Train every optimizer at every batch size with every seed, and write results and page along the way.

    Args:
        config: options of the comparison. If ``config.out`` is the folder of an earlier call, finished runs are kept,
            and interrupted runs resume from their newest checkpoint.
        data, loaders, model, task, metrics: objects for all runs, see :func:`tvlars.lab.train`; with any of them, runs
            are trained in this process, one after the other. A module is copied with its weights for each run, so
            that all seeds start from the same weights; for weights drawn by the seed, give a function, which is called
            for each run.
        reporter: shows all runs in this process, or a function or class that makes one reporter per run; None
            (default): a bar on a terminal, and plain lines elsewhere. ``Reporter()`` is silent.
        announce: called with each line that describes the comparison or a run that starts. None (default) prints these
            lines, and at the end the table, the results in sentences and the path of the page. To print nothing at all:
            ``compare(config, announce=lambda text: None, reporter=Reporter())``.
        workers: number of runs at a time. With one (default), runs are trained in this process, one after the other;
            with more, each run is a separate process, as in a sweep.
        retries: number of further attempts for a run that failed, from its newest checkpoint.
        ray: None (default): on this machine; else the address of a Ray cluster, see :func:`tvlars.lab.sweep`.
        board: shows progress of several workers; None (default): a bar on a terminal, and plain lines elsewhere.

    Returns:
        The comparison, including runs that diverged or failed: these do not stop the others.

    Raises:
        UsageError: config and data do not fit together; nothing has been written.
        LockedError: another comparison uses ``config.out``.
        KeyboardInterrupt: Ctrl-C; the folder contains the results so far and their page.
    """
    check_call(workers, retries)
    begins = factory_of(reporter)
    apart = ray is not None or (workers or 1) > 1
    objects: dict[str, Any] = dict(data=data, loaders=loaders, model=model, task=task, metrics=metrics)
    check_apart(apart, **objects)
    given = take(config.base, **objects)
    base = given.named(config.base)
    config = replace(config, base=base)
    given, runs = replace(given, data=data_of(base, given.data)), config.runs()
    prepared = [prepare(run, given, here=ray is None) for run in runs]  # reports a bad value before any run
    plans = [run.plan for run in prepared]
    if apart:
        _check_apart(runs)
    processes = None if apart else _meet(config, prepared[0])
    count = processes.count if processes is not None else base.devices or 1
    for run in runs:
        check_batch(run.batch_size, run.micro_batch_size, count)
    first = processes is None or processes.first
    prints = announce is None and first
    announce = announce or say
    if not first:
        begins, announce = Reporter, lambda text: None
    with contextlib.ExitStack() as stack:
        crew: Workers | None = hire(stack, runs, workers, ray) if apart else None
        signals = stack.enter_context(taking_signals(crew))
        opened = partial(_open, config, runs, plans, prepared[0].data.fingerprint, stack)
        folder, statuses = opened() if processes is None else processes.by_first(opened)
        if processes is not None:  # else the workers say theirs
            announce(_device(prepared, processes))
        for line in describe(config, prepared, count):
            announce(line)
        comparing = _Comparing(config, folder, runs, plans, prepared[0], first)
        jobs = comparing.take_up(statuses, apart)
        if crew is not None:
            comparing.board = choose_board() if board is None else board
            show(comparing.board, jobs, len(runs), crew)
        else:
            comparing.board = Teller(announce)
            if len(jobs) < len(runs):
                announce(f"{len(runs) - len(jobs)} of {len(runs)} runs are already done")
            begin = partial(_begin, comparing, announce, begins)
            crew = InProcess(given, begin, alone=processes is None or not processes.several)
        del given, prepared, objects  # other processes load the data again
        with _saved(comparing, announce):
            if jobs:
                work(comparing, crew, retries, comparing.board, signals)
    if prints:
        say(str(comparing.comparison), f"page: {comparing.comparison.folder / 'report.html'}")
    return comparing.comparison


def _begin(
    comparing: _Comparing, announce: Callable[[str], None], reporter: Callable[[], Reporter] | None, job: Job
) -> Reporter:
    """Announce the run that starts in this process, and return its reporter."""
    names = list(comparing.plans)
    announce(f"run {names.index(job.name) + 1} of {len(names)}: {job.config.label()}")
    return choose_reporter(brief=True, after=comparing.waiting / job.images) if reporter is None else reporter()


@contextlib.contextmanager
def _saved(comparing: _Comparing, announce: Callable[[str], None]) -> Iterator[None]:
    """Write results and page when the runs have ended, also if they were stopped."""
    done, total = comparing.comparison, len(comparing.plans)
    over = False
    try:
        yield
        over = True
    except KeyboardInterrupt as error:
        raise Interrupted(done.folder, f"{len(done.runs)} of {total} runs are done; ") from error
    finally:
        if comparing.first:
            try:
                from tvlars.lab.report import write_report

                done.save()
                write_report(done)
            except (OSError, UsageError) as error:
                if over:
                    raise
                announce(f"results could not be written: {error}")  # raise the error that ended the runs instead


def _check_apart(runs: list[TrainConfig]) -> None:
    """Raise ``UsageError`` unless each run may be done in separate processes."""
    if started() is not None:
        raise UsageError("workers must be 1 in processes that do each run together, as torchrun starts them")
    for run in runs:
        check_one_machine(run)


def _meet(config: CompareConfig, first: Prepared) -> Processes:
    """Return the processes that share each run, including this one; all must do the same comparison."""
    from tvlars.lab.processes.fabric import make_fabric

    base = config.base
    processes = Processes(make_fabric(replace(base, batch_size=min(config.batch_sizes)), "32-true"))
    if processes.several:
        varied = {name: getattr(config, name) for name in ("optimizers", "batch_sizes", "seeds", "overrides", "arms")}
        facts = {**varied, **facts_of(base, first.plan, first.data, first.precision)}
        check_alike(processes, json.loads(json.dumps(facts, default=str)))
    return processes


class _Comparing(Source):
    """Runs of a comparison: jobs for the remaining runs, and table rows for the finished ones."""

    board: Board

    def __init__(
        self,
        config: CompareConfig,
        folder: Path,
        runs: list[TrainConfig],
        plans: list[Plan],
        prepared: Prepared,
        first: bool,
    ) -> None:
        super().__init__()
        data, task = prepared.data, prepared.task
        images = len(data.validation_labels) if data.validation_labels is not None else 0
        best, share = all(run.keep_best for run in runs), runs[0].test_share
        more: Any = dict(test_share=share, every=config.base.validate_every)
        said = held_out(images, keep_best=best, of_task=task is not None, **more)
        measure = Measure(config.base.accuracy_name()) if task is None else measure_of(task)
        declared = config.family, config.margin
        self.comparison = Comparison(folder, command_line(), [], measure, said, *declared)
        self.runs, self.images, self.first = runs, len(data.test_labels), first
        self.plans = {_name(run): plan for run, plan in zip(runs, plans, strict=True)}
        self.rows: dict[str, RunRow] = {}

    def take_up(self, statuses: list[Status], apart: bool) -> list[Job]:
        """Add the rows of finished runs; queue the jobs of the others, and return them."""
        jobs = []
        for run, status in zip(self.runs, statuses, strict=True):
            name = _name(run)
            folder = (self.comparison.folder.resolve() if apart else self.comparison.folder) / name
            plan = self.plans[name]
            images = plan.total_steps * plan.batch_size
            job = Job(name, folder, going_on(at_home(run) if apart else run, folder), images, plan.epochs)
            if status in OVER:
                self.add(job, status)
            else:
                jobs.append(job)
        self.put(jobs)
        return jobs

    @property
    def waiting(self) -> int:
        """Samples of the runs that have not started."""
        return sum(job.images for job in self._left)

    def ended(self, outcome: Outcome) -> None:
        job, note = outcome.job, outcome.note
        status = outcome.status if outcome.status in OVER else Status.FAILED
        if status == Status.FAILED and job.log.is_file():
            note += f"; its output is in {job.log}"
        self.add(job, status, note)
        if self.first:
            self.comparison.save()
        self.board.ended(job, status, note)

    def add(self, job: Job, status: Status, note: str = "") -> None:
        """Add the row of a run, made only from its folder, so that it does not depend on who trained it, or when."""
        run = job.config
        lr = self.plans[job.name].lr
        row = RunRow(run.arm_name, run.batch_size, run.seed, lr, status, folder=job.folder.name)
        found = load_run(job.folder) if self.first and status in OVER else None
        if found is not None:
            from tvlars.lab.report.arms import measured_in, plan_number  # and with it pandas

            if math.isnan(lr):  # a user's function chose the learning rate
                row = replace(row, lr=plan_number(found, "lr"))
        if found is None:
            row = replace(row, note=note)
        elif status == Status.DIVERGED:
            at = [f" at step {int(last['step'])}, lr {last['lr']:.4g}" for _, last in found.steps.tail(1).iterrows()]
            row = replace(row, note="loss not finite" + "".join(at))
        else:
            measured = measured_in(found)
            for name in ("test_accuracy", "test_loss", "validation_accuracy"):
                measured[name] = _exact(measured[name], found.summary.get(name))
            row = replace(row, **measured, test_images=self.images)
        self.rows[job.name] = row
        self.comparison.runs = [self.rows[name] for name in self.plans if name in self.rows]


def _exact(written: float | None, summary: Any) -> float | None:
    """Return a number with all digits from summary.json, since tables have only seven."""
    same = isinstance(summary, float) and written is not None and math.isclose(summary, written, rel_tol=1e-6)
    return summary if same else written


def _name(run: TrainConfig) -> str:
    return f"{run.arm or file_name(run.optimizer)}-b{run.batch_size}-s{run.seed}"


def _with_other_models(prepared: list[Prepared]) -> list[Prepared]:
    """Return the first run with each model."""
    found: dict[Any, Prepared] = {}
    for run in prepared:
        config = run.config
        found.setdefault((config.model, config.init, config.stem, config.pretrained, config.weights), run)
    return list(found.values())


def _device(prepared: list[Prepared], processes: Processes) -> str:
    """Return device, precision and number of the processes that do the runs."""
    precisions = {run.config.precision: run for run in prepared}.values()
    said = " or ".join(dict.fromkeys(run.precision for run in precisions))
    several = f", {processes.count} processes" * processes.several
    return f"device: {describe_device(prepared[0].device)}, {said}{several}"


def describe(config: CompareConfig, prepared: list[Prepared], processes: int) -> list[str]:
    """Return a description of the comparison as lines of text."""
    base, data = config.base, prepared[0].data
    runs, plans = [run.config for run in prepared], [run.plan for run in prepared]
    lines = [
        f"{counted(len(plans), 'run')}: {', '.join(dict.fromkeys(run.arm_name for run in runs))}; "
        f"{several('batch size', config.batch_sizes)}; {several('seed', config.seeds)}",
        str(data),
        *data.account,
        *(run.build_model()[1] for run in _with_other_models(prepared)),
    ]
    if base.self_supervised:
        lines.append(f"{base.task}; views: {describe_views(data.channels, data.image_size, data.flip)}")
    lines += [describe_batch(replace(base, batch_size=batch_size), processes) for batch_size in config.batch_sizes]
    named = {f"{run.arm}: {plan}" if run.arm else str(plan): None for run, plan in zip(runs, plans, strict=True)}
    return [*lines, *named, *_few_seeds(config, list(dict.fromkeys(run.arm_name for run in runs)))]


def _few_seeds(config: CompareConfig, arms: list[str]) -> list[str]:
    """Return a note if the tests of the declared family need more seeds; [] otherwise."""
    pairs = len(config.batch_sizes) * len(pairs_of(config.family, arms))
    seeds, needed = len(config.seeds), fewest_seeds(pairs)
    if not pairs or seeds >= needed:
        return []
    said = f"note: {counted(seeds, 'seed')} cannot show a difference at 5 % in {counted(pairs, 'comparison')}"
    return [f"{said}; {needed} seeds can"]


def _open(
    config: CompareConfig, runs: list[TrainConfig], plans: list[Plan], data: Fingerprint, stack: contextlib.ExitStack
) -> tuple[Path, list[Status]]:
    """Create or reopen the comparison's folder, and lock it; return the folder with the status of each run.

    Raises:
        UsageError: the folder holds something else, or other runs of these names.
        LockedError: another comparison uses the folder.
    """
    out = config.out
    if out is None or not _is_comparison(out):
        out = new_folder(out, f"compare-{config.base.data_label()}")
    hold(stack, out, "comparison works")
    for run, plan in zip(runs, plans, strict=True):
        folder = out / _name(run)
        if not is_inside(folder, out):
            raise UsageError(f"{folder} must be a folder of the comparison, but is a link that leaves it")
        if folder.is_dir():
            look(folder, going_on(run, folder), plan, data)
    write_json(out / CONFIG, json.loads(config.to_json()))
    return out, [status_of(out / _name(run), run) for run in runs]


def _is_comparison(folder: Path) -> bool:
    """Return whether a folder belongs to a comparison, also if its process was killed before it wrote the options."""
    if not folder.is_dir():
        return False
    begun = {path.name for path in folder.iterdir()} <= {LOCK, f"{CONFIG}.part", *FILES}
    return begun or {"base", "optimizers"} <= set(read_object(folder / CONFIG))
