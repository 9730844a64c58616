"""The comparison: every optimizer at every batch size with every seed, and what they show together: a table, a page.

It is a set of runs like a sweep's, and gone on with like one. With one worker they are trained in this process.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tvlars._reading import is_inside
from tvlars.lab.comparison.comparison import Comparison, RunRow
from tvlars.lab.config import TrainConfig, check_batch
from tvlars.lab.console import say
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.errors import PreemptedError, UsageError
from tvlars.lab.experiments.board import Board, Teller, choose_board
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers, going_on, status_of
from tvlars.lab.experiments.queue import Received, Source, check_workers, hold, receiving, work
from tvlars.lab.experiments.run_name import at_home
from tvlars.lab.experiments.sweep import check_one_machine, hire, show
from tvlars.lab.experiments.workers.in_process import InProcess
from tvlars.lab.files.lock import LOCK
from tvlars.lab.models import build_model
from tvlars.lab.processes.alike import check_alike, facts_of
from tvlars.lab.processes.processes import Processes
from tvlars.lab.processes.started import started
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.loaded_run import load_run
from tvlars.lab.run_folder.record import CONFIG, new_folder, read_object, write_json
from tvlars.lab.run_folder.resuming import look
from tvlars.lab.run_folder.status import Status
from tvlars.lab.ssl.views import describe_views
from tvlars.lab.training.description import describe_batch
from tvlars.lab.training.prepare import Prepared, prepare
from tvlars.lab.training.progress import Reporter, choose_reporter
from tvlars.plan import Plan


def compare(
    config: CompareConfig,
    *,
    reporter: Callable[[], Reporter] | None = None,
    announce: Callable[[str], None] = say,
    workers: int | None = None,
    retries: int = 1,
    ray: str | None = None,
    board: Board | None = None,
) -> Comparison:
    """Train every optimizer at every batch size with every seed, and write results and page as they come.

    Args:
        config: what to compare. ``config.out`` may be the folder of an earlier call: runs that are over there are kept,
            and one that was cut off goes on from its newest checkpoint.
        reporter: makes the reporter of each run in this process; None (default): a bar, or plain lines where there is
            no terminal. ``Reporter`` is silent.
        announce: is told, a line each, what the comparison is and which run begins; default: prints it.
        workers: runs at a time. With one (default) they are trained in this process, one after the other; with more,
            each is a process of its own, as in a sweep.
        retries: how many times a run that failed is tried again, from its newest checkpoint.
        ray: None (default): on this machine; else the address of a Ray cluster, see :func:`tvlars.lab.sweep`.
        board: shows progress of several workers; None (default): a bar on a terminal, and plain lines elsewhere.

    Returns:
        The comparison; a run that diverged or failed is in it with its status, and the others go on.

    Raises:
        UsageError: config and data do not go together. Nothing has been written then.
        LockedError: another comparison works in ``config.out``.
        KeyboardInterrupt: as it came; what was measured is in the folder, page included.
    """
    check_workers(workers, retries)
    runs, base = config.runs(), config.base
    apart = ray is not None or (workers or 1) > 1
    data = load_data(base.data, base.data_dir, base.image_size, base.skip_bad_images)
    prepared = [prepare(run, data, here=ray is None) for run in runs]  # so that a bad value is said before any run
    plans = [run.plan for run in prepared]
    if apart:
        _check_apart(runs)
    processes = None if apart else _meet(config, prepared[0])
    count = processes.count if processes is not None else base.devices or 1
    for run in runs:
        check_batch(run.batch_size, run.micro_batch_size, count)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(receiving()) if apart else Received()
        hired = hire(stack, runs, workers, ray) if apart else None
        opened = partial(_open, config, runs, plans, data.fingerprint, stack)
        folder, statuses = opened() if processes is None else processes.by_first(opened)
        is_first = processes is None or processes.first
        if not is_first:
            reporter, announce = Reporter, lambda text: None
        for line in _lines(config, data, plans, count):
            announce(line)
        names = [_name(run) for run in runs]
        comparing = _Comparing(config, folder, dict(zip(names, plans, strict=True)), len(data.test_labels), is_first)
        jobs = []
        for name, run, plan, status in zip(names, runs, plans, statuses, strict=True):
            place = folder.resolve() / name if apart else folder / name
            job = Job(name, place, going_on(at_home(run) if apart else run, place), plan.total_steps * plan.batch_size)
            if status in OVER:
                comparing.add(job, status)
            else:
                jobs.append(job)
        crew: Workers
        if hired is not None:
            crew, comparing.board = hired, choose_board() if board is None else board
            show(comparing.board, jobs, len(runs), crew)
        else:
            comparing.board, make_reporter = Teller(announce), reporter or partial(choose_reporter, brief=True)
            if len(jobs) < len(runs):
                announce(f"{len(runs) - len(jobs)} of {len(runs)} runs are over already")

            def begin(job: Job) -> Reporter:
                announce(f"run {names.index(job.name) + 1} of {len(runs)}: {job.config.label()}")
                return make_reporter()

            crew = InProcess(data, begin, alone=processes is None or not processes.several)
        del data  # processes of their own load it again
        comparing.put(jobs)
        over = False
        try:
            if jobs:
                work(comparing, crew, retries, comparing.board, signals)
            over = True
        except KeyboardInterrupt:
            page = folder / "report.html"
            announce(f"interrupted after {len(comparing.comparison.runs)} of {len(runs)} runs; page: {page}")
            raise
        except PreemptedError as error:
            if apart:
                raise PreemptedError(f"{error}; what was measured is kept", error.signal) from error
            raise
        finally:
            if is_first:
                try:
                    from tvlars.lab.report import write_report

                    comparing.comparison.save()
                    write_report(comparing.comparison)
                except (OSError, UsageError) as error:
                    if over:
                        raise
                    announce(f"results could not be written: {error}")  # why it ended comes first
    return comparing.comparison


def _check_apart(runs: list[TrainConfig]) -> None:
    """Raise ``UsageError`` unless each run may be done by processes of its own."""
    if started() is not None:
        raise UsageError("workers must be 1 in processes that do each run together, as torchrun starts them")
    for run in runs:
        check_one_machine(run)


def _meet(config: CompareConfig, first: Prepared) -> Processes:
    """Return the processes that do each run together, this one among them; all have to do the same comparison."""
    from tvlars.lab.processes.fabric import make_fabric

    base = config.base
    processes = Processes(make_fabric(replace(base, batch_size=min(config.batch_sizes)), "32-true"))
    if processes.several:
        varied = {name: getattr(config, name) for name in ("optimizers", "batch_sizes", "seeds", "overrides")}
        facts = {**varied, **facts_of(base, first.plan, first.data, first.precision)}
        check_alike(processes, json.loads(json.dumps(facts, default=str)))
    return processes


class _Comparing(Source):
    """What has become of the runs of a comparison, as rows of its table in the order of the runs."""

    board: Board

    def __init__(
        self, config: CompareConfig, folder: Path, plans: dict[str, Plan], images: int, is_first: bool
    ) -> None:
        super().__init__()
        self.comparison = Comparison(folder, command_line(), measure=config.base.accuracy_name())
        self.plans, self.images, self.is_first = plans, images, is_first
        self.rows: dict[str, RunRow] = {}

    def ended(self, outcome: Outcome) -> None:
        job, note = outcome.job, outcome.note
        status = outcome.status if outcome.status in OVER else Status.FAILED
        if status == Status.FAILED and job.log.is_file():
            note += f"; its output is in {job.log}"
        self.add(job, status, note)
        if self.is_first:
            self.comparison.save()
        self.board.ended(job, status, note)

    def add(self, job: Job, status: str, note: str = "") -> None:
        """Add the row of a run, by its folder alone: it is the same whoever has trained it, and when."""
        run = job.config
        row = RunRow(run.optimizer, run.batch_size, run.seed, self.plans[job.name].lr, status, folder=job.folder.name)
        found = load_run(job.folder) if self.is_first and status in OVER else None
        if found is None:
            row = replace(row, note=note)
        elif status == Status.DIVERGED:
            at = [f" at step {int(last['step'])}, lr {last['lr']:.4g}" for _, last in found.steps.tail(1).iterrows()]
            row = replace(row, note="loss not finite" + "".join(at))
        else:
            from tvlars.lab.report.arms import measured_in

            measured = measured_in(found)
            for name in ("test_accuracy", "test_loss"):
                measured[name] = _exact(measured[name], found.summary.get(name))
            row = replace(row, **measured, test_images=self.images)
        self.rows[job.name] = row
        self.comparison.runs = [self.rows[name] for name in self.plans if name in self.rows]


def _exact(written: float | None, summary: Any) -> float | None:
    """A number of the tables, which have seven digits, with all those of summary.json."""
    same = isinstance(summary, float) and written is not None and math.isclose(summary, written, rel_tol=1e-6)
    return summary if same else written


def _name(run: TrainConfig) -> str:
    return f"{run.optimizer}-b{run.batch_size}-s{run.seed}"


def _lines(config: CompareConfig, data: ImageData, plans: list[Plan], processes: int) -> list[str]:
    """What the comparison is, for people."""
    base = config.base
    lines = [
        f"{len(plans)} runs: {', '.join(config.optimizers)}; batch sizes {', '.join(map(str, config.batch_sizes))}; "
        f"seeds {', '.join(map(str, config.seeds))}",
        str(data),
        *data.account,
        build_model(base.model, data.channels, data.image_size, data.classes, base.init)[1],
    ]
    if base.self_supervised:
        lines.append(f"{base.task}; views: {describe_views(data.channels, data.image_size, data.flip)}")
    lines += [describe_batch(replace(base, batch_size=batch_size), processes) for batch_size in config.batch_sizes]
    return [*lines, *map(str, dict.fromkeys(plans))]


def _open(
    config: CompareConfig, runs: list[TrainConfig], plans: list[Plan], data: Fingerprint, stack: contextlib.ExitStack
) -> tuple[Path, list[str]]:
    """Make the comparison's folder, or take it up again, and hold its lock; returns it with the status of each run.

    Raises:
        UsageError: it holds something else, or other runs of these names. LockedError: another comparison works there.
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
    """Return whether a folder is a comparison's, or was to become one when its process was killed."""
    if not folder.is_dir():
        return False
    begun = {path.name for path in folder.iterdir()} <= {LOCK, f"{CONFIG}.part"}
    return begun or {"base", "optimizers"} <= set(read_object(folder / CONFIG))
