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
from tvlars.lab.errors import LockedError, PreemptedError, UsageError
from tvlars.lab.experiments.board import Board, Teller, choose_board
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers, going_on, status_of
from tvlars.lab.experiments.queue import Received, Source, check_workers, receiving, work
from tvlars.lab.experiments.run_name import at_home
from tvlars.lab.experiments.sweep import check_one_machine, hire, show
from tvlars.lab.experiments.workers.in_process import InProcess
from tvlars.lab.files.lock import LOCK, locked
from tvlars.lab.models import build_model
from tvlars.lab.processes.alike import check_alike, facts_of
from tvlars.lab.processes.fabric import make_fabric, started
from tvlars.lab.processes.processes import Processes
from tvlars.lab.report import write_report
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.loaded_run import load_run
from tvlars.lab.run_folder.record import CONFIG, new_folder, read_object, write_json
from tvlars.lab.run_folder.resuming import look
from tvlars.lab.ssl.views import describe_views
from tvlars.lab.training.description import describe_batch
from tvlars.lab.training.prepare import choose_precision, prepare
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
    if apart:
        if started() is not None:
            raise UsageError("workers must be 1 in processes that do each run together, as torchrun starts them")
        for run in runs:
            check_one_machine(run)
    data = load_data(base.data, base.data_dir, base.image_size, base.skip_bad_images)
    plans = [prepare(run, data, here=ray is None).plan for run in runs]  # so that a bad value is said before any run
    processes, count = None, base.devices or 1
    if not apart:
        processes = Processes(make_fabric(replace(base, batch_size=min(config.batch_sizes)), "32-true"))
        count = processes.count
    for run in runs:
        check_batch(run.batch_size, run.micro_batch_size, count)
    if processes is not None and processes.several:
        varied = {name: getattr(config, name) for name in ("optimizers", "batch_sizes", "seeds", "overrides")}
        facts = {**varied, **facts_of(base, plans[0], data, choose_precision(base))}
        check_alike(processes, json.loads(json.dumps(facts, default=str)))
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(receiving()) if apart else Received()
        hired = hire(stack, runs, workers, ray) if apart else None
        opened = partial(_open, config, runs, plans, data.fingerprint, stack)
        folder, statuses = opened() if processes is None else processes.by_first(opened)
        comparing = _Comparing(config, folder, list(zip(runs, plans, statuses, strict=True)), len(data.test_labels))
        comparing.is_first = processes is None or processes.first
        if not comparing.is_first:
            reporter, announce = Reporter, lambda text: None
        for line in _lines(config, data, plans, count):
            announce(line)
        crew: Workers
        if hired is not None:
            crew, board = hired, choose_board() if board is None else board
            comparing.board = board
            jobs = [replace(job, config=at_home(job.config), folder=job.folder.resolve()) for job in comparing.jobs]
            show(board, jobs, len(runs), crew)
        else:
            board, jobs, make_reporter = (
                Teller(announce),
                comparing.jobs,
                reporter or partial(choose_reporter, brief=True),
            )
            if len(jobs) < len(runs):
                announce(f"{len(runs) - len(jobs)} of {len(runs)} runs are over already")

            def begin(job: Job) -> Reporter:
                number = next(i for i, run in enumerate(runs, 1) if _name(run) == job.name)
                announce(f"run {number} of {len(runs)}: {job.config.label()}")
                return make_reporter()

            crew = InProcess(data, begin, alone=processes is None or not processes.several)
        del data  # processes of their own load it again
        over = False
        try:
            if jobs:
                work(comparing.of(jobs), crew, retries, board, signals)
            over = True
        except KeyboardInterrupt:
            page = folder / "report.html"
            announce(f"interrupted after {len(comparing.rows)} of {len(runs)} runs; page: {page}")
            raise
        except PreemptedError as error:
            if apart:
                raise PreemptedError(f"{error}; what was measured is kept", error.signal) from error
            raise
        finally:
            if comparing.is_first:
                try:
                    comparing.save()
                    write_report(comparing.comparison)
                except (OSError, UsageError) as error:
                    if over:
                        raise
                    announce(f"results could not be written: {error}")  # why it ended comes first
    return comparing.comparison


class _Comparing(Source):
    """The runs of a comparison: those that are left as jobs, the others as rows of its table."""

    board: Board | None = None
    is_first = True

    def __init__(self, config: CompareConfig, folder: Path, runs: list[tuple[TrainConfig, Plan, str]], images: int):
        self.comparison = Comparison(folder, command_line(), measure=config.base.accuracy_name())
        self.images = images
        self.runs = {_name(run): (run, plan) for run, plan, _ in runs}
        self.rows: dict[str, RunRow] = {}
        self.jobs = []
        for run, plan, status in runs:
            job = Job(_name(run), folder / _name(run), going_on(run, folder / _name(run)), 0)
            if status in OVER:
                self.rows[job.name] = self._row(job, status)
            else:
                self.jobs.append(replace(job, images=plan.total_steps * plan.batch_size))
        self._sort()

    def of(self, jobs: list[Job]) -> _Comparing:
        super().__init__(jobs)
        return self

    def ended(self, outcome: Outcome) -> None:
        job, note = outcome.job, outcome.note
        status = outcome.status if outcome.status in OVER else "failed"
        if status == "failed" and job.log.is_file():
            note += f"; its output is in {job.log}"
        self.rows[job.name] = self._row(job, status, note)
        self._sort()
        if self.is_first:
            self.save()
        if self.board is not None:
            self.board.ended(job, status, note)

    def save(self) -> None:
        self.comparison.save()

    def _sort(self) -> None:
        self.comparison.runs = [self.rows[name] for name in self.runs if name in self.rows]

    def _row(self, job: Job, status: str, note: str = "") -> RunRow:
        """The row of a run, by its folder alone: it is the same whoever has trained it, and when."""
        run, plan = self.runs[job.name]
        row = RunRow(run.optimizer, run.batch_size, run.seed, plan.lr, status, folder=job.folder.name, note=note)
        if not self.is_first or status == "failed":
            return row
        found = load_run(job.folder)
        if status == "diverged":
            last = found.steps.iloc[-1]
            return replace(row, note=f"loss not finite at step {int(last['step'])}, lr {last['lr']:.4g}")
        end, seconds = found.epochs.iloc[-1], float(found.epochs["seconds"].sum())
        return replace(
            row,
            note="",
            test_accuracy=_exact(found.test_accuracy, found.summary.get("test_accuracy")),
            test_loss=_exact(float(end["test_loss"]), found.summary.get("test_loss")),
            train_loss=float(end["train_loss"]),
            images_per_second=int(end["step"]) * run.batch_size / seconds,
            seconds=seconds,
            test_images=self.images,
        )


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
    try:
        stack.enter_context(locked(out))
    except LockedError as error:
        raise LockedError(f"another comparison works in {str(out)!r}, wait for it or stop it") from error
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
    stored = read_object(folder / CONFIG)
    left = {LOCK, f"{CONFIG}.part"}
    return {"base", "optimizers"} <= set(stored) or {path.name for path in folder.iterdir()} <= left
