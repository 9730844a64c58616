"""The sweep: every run of a grid once, each by one worker, with those that failed tried again."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvlars._reading import is_inside, is_regular
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import LockedError, PreemptedError, UsageError
from tvlars.lab.experiments.board import Board, choose_board
from tvlars.lab.experiments.job import Halt, Job, Outcome, Workers, is_whole, read_status
from tvlars.lab.experiments.results import OVER, SweepResult, SweepRun
from tvlars.lab.experiments.run_name import arguments, at_home, run_name
from tvlars.lab.experiments.workers.ray_cluster import RayWorkers
from tvlars.lab.experiments.workers.this_machine import LocalWorkers
from tvlars.lab.files.lock import LOCK, locked
from tvlars.lab.options import as_path
from tvlars.lab.processes.signals import not_ignored
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.identity import check_data_of
from tvlars.lab.run_folder.record import CONFIG, read_object, write_json
from tvlars.lab.run_folder.rows import epochs_done
from tvlars.lab.training.prepare import check_machine, check_run

FILE = "sweep.json"
"""What a sweep's folder is known by."""
CHECKPOINT_EVERY = "5m"
"""Where runs do not say how often; a run that is told to stop saves what it has anyway."""
LOST_WORKERS = 5
"""So many times a run is given to another Ray worker when its own has died, which is not its fault."""
SHARED_PATIENCE = 60.0
"""Seconds in which a shared file system shows what another machine has written."""
TICK = 0.2


def sweep(
    runs: Sequence[TrainConfig],
    out: Path | str,
    *,
    workers: int | None = None,
    retries: int = 1,
    ray: str | None = None,
    board: Board | None = None,
) -> SweepResult:
    """Train every run that is not over yet, each in a process of its own, and write results and page.

    Args:
        runs: their options; ``out`` and ``resume`` of them are the sweep's own.
        out: folder of the sweep: new, empty, or of an earlier call, which is gone on with. With Ray it must lie on
            a file system that all machines see under this name.
        workers: runs at a time; None (default): one for each CUDA device, one where there is none.
        retries: how many times a run that failed is tried again, from its newest checkpoint. Runs that diverge
            are results, and those with bad input would fail again: neither is tried again.
        ray: None (default): a queue on this machine; else the address of a Ray cluster, "auto" for the one that this
            machine belongs to, or "local" for one that is started here.
        board: shows progress; None (default): a bar on a terminal, and plain lines elsewhere. ``Board()`` is silent.

    Returns:
        What came out, failed runs among it. Where results or page could not be written, the board says so, and
        ``unwritten`` of it too.

    Raises:
        UsageError: an option is bad; nothing has been written then. LockedError: another sweep works in ``out``.
        KeyboardInterrupt: by Ctrl-C, PreemptedError: by SIGTERM or SIGHUP; runs have saved what they have, and the
            same call goes on.
    """
    board = choose_board() if board is None else board
    check_workers(workers, retries)
    prepared = prepare(runs, out, here=ray is None)
    with contextlib.ExitStack() as stack:
        halt = stack.enter_context(_signals())
        crew: Workers | None = None
        if prepared.jobs:
            crew = _workers(prepared, workers, ray)
            stack.callback(crew.close)
        _make(prepared.folder)
        try:
            stack.enter_context(locked(prepared.folder))
        except LockedError as error:
            raise LockedError(f"another sweep works in {str(prepared.out)!r}, wait for it or stop it") from error
        prepared = prepare(runs, out, prepared)  # with what another sweep may have done in the meantime
        _describe(prepared)
        queue = _Queue(prepared, retries, board, halt)
        try:
            queue.work(crew)
        finally:
            result = queue.result()
            result.save()
            for sentence in result.unwritten.values():
                board.say(sentence)
    return result


def check_workers(workers: int | None, retries: int) -> None:
    """Raise UsageError where either is no number that makes sense."""
    for name, value, low in (("workers", workers, 1), ("retries", retries, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= 10_000):
            raise UsageError(f"{name} must be an integer from {low} to 10000, got {value!r}")


@dataclass(frozen=True)
class Prepared:
    """What there is to do: all runs, those that are over with their status, and a job for each of the others."""

    out: Path
    """The sweep's folder, as it was named."""
    folder: Path
    """The same from the root."""
    runs: tuple[SweepRun, ...]
    jobs: tuple[Job, ...]
    on_cpu: bool
    facts: dict[str, tuple[int, float]]
    """Of each run by its name: the images of all its epochs, and its learning rate."""


def prepare(
    runs: Sequence[TrainConfig], out: Path | str, checked: Prepared | None = None, *, here: bool = True
) -> Prepared:
    """Check every run against its data, and see which are over; writes nothing.

    ``checked`` are the same from before, whose checks need not be made again. Where runs are done ``here``, those that
    are not over are checked against this machine too.

    Raises:
        UsageError: there is no run or one is there twice, an option is bad, or ``out`` is something else's folder.
    """
    named = as_path("out", out)
    if named is None or not runs:
        raise UsageError("runs must be one at least, got none" if named else "out must be a path, got None")
    folder = named.resolve()
    if not _is_ours(folder):
        raise UsageError(f"out must be a new or empty folder, or that of a sweep, got {str(named)!r}")
    configs = [at_home(replace(run, out=None, resume=False)) for run in runs]
    facts = checked.facts if checked else _check(configs, folder)
    found, jobs = [], []
    folders = names_in(folder)
    for config in configs:
        images, lr = facts[run_name(config)]
        name = folders.get(run_name(config), run_name(config))
        if not is_inside(folder / name, folder):
            raise UsageError(f"{folder / name} must be a folder of the sweep, but is a link that leaves it")
        status = _status(folder / name, config)
        found.append(SweepRun(name, config, status if status in OVER else "not done", lr=lr))
        if status not in OVER:
            if here and checked is None:
                with _of(config):
                    check_machine(config)
            kept = replace(config, checkpoint_every=config.checkpoint_every or CHECKPOINT_EVERY)
            words = tuple(arguments(kept, folder / name))
            jobs.append(Job(name, folder / name, words, images, config.epochs, config.devices or 1))
    if len({run.name for run in found}) != len(found):
        raise UsageError("runs must not repeat, but two have the same options")
    on_cpu = all(run.accelerator == "cpu" for run in configs)
    return Prepared(named, folder, tuple(found), tuple(jobs), on_cpu, facts)


def _status(folder: Path, config: TrainConfig) -> str:
    """The status of a run, of which nothing is believed that its folder does not bear out: one that has lost rows may
    have them again from its checkpoint, and one that is of other options says so itself when it is to go on."""
    status = read_status(folder)
    if status == "finished" and not is_whole(folder, config.epochs):
        return "unfinished"
    if status in OVER and (stored := read_object(folder / CONFIG)):
        try:
            found = at_home(TrainConfig.from_mapping({**stored, "out": None, "resume": False}))
        except (UsageError, TypeError):  # of another version: its name has the digest of its options
            return status
        if run_name(found) != run_name(config):
            return "another run"
    return status


def _check(configs: list[TrainConfig], folder: Path) -> dict[str, tuple[int, float]]:
    """By each run's name, the images of all its epochs, and its learning rate. What is in ``folder`` already has to be
    of the same data."""
    folders = names_in(folder)
    data: dict[str, ImageData] = {}
    facts: dict[str, tuple[int, float]] = {}
    for config in configs:
        key = repr((config.data, config.data_dir, config.image_size, config.skip_bad_images))
        if key not in data:
            data.clear()  # one at a time: they may be large
            data[key] = load_data(config.data, config.data_dir, config.image_size, config.skip_bad_images)
        with _of(config):
            if config.shard and (config.devices or 1) == 1:
                raise UsageError("shard must not be given for one process, there is nothing to spread over")
            plan = check_run(config, data[key])
            check_data_of(folder / folders.get(run_name(config), run_name(config)), data[key].fingerprint)
        facts[run_name(config)] = plan.total_steps * plan.batch_size, plan.lr
    return facts


@contextlib.contextmanager
def _of(config: TrainConfig) -> Iterator[None]:
    """Whatever is wrong, say in which run."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{config.label()}: {error}") from error


def names_in(folder: Path) -> dict[str, str]:
    """The folders of runs of the sweep in ``folder`` by the names that they have today, where an earlier version, which
    took other options for parts of a run, called them otherwise."""
    found: dict[str, str] = {}
    entries = read_object(folder / FILE).get("runs", [])
    for entry in entries if isinstance(entries, list) else []:
        try:
            options = dict(entry)
            name = str(options.pop("run"))
            today = run_name(at_home(TrainConfig.from_mapping({**options, "out": None, "resume": False})))
        except (UsageError, KeyError, TypeError, ValueError):
            continue
        if name != today and Path(name).name == name and (folder / name).is_dir() and not (folder / today).exists():
            found.setdefault(today, name)
    return found


def _is_ours(folder: Path) -> bool:
    if not folder.exists() or is_regular(folder / FILE):
        return True
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out must be a folder that can be written, got {str(folder)!r}: {error.strerror}") from error


def _describe(prepared: Prepared) -> None:
    """Write what the sweep is, for people and for :func:`prepare`."""
    options = [{"run": run.name, **json.loads(run.config.to_json())} for run in prepared.runs]
    write_json(prepared.folder / FILE, {"command": command_line(), "runs": options})


def _workers(prepared: Prepared, count: int | None, ray: str | None) -> Workers:
    if ray is not None:
        return RayWorkers(ray, prepared.jobs, count, prepared.on_cpu)
    return LocalWorkers(prepared.jobs, count, prepared.on_cpu)


class _Queue:
    """The jobs of one call, and what becomes of them."""

    def __init__(self, prepared: Prepared, retries: int, board: Board, halt: _Signals) -> None:
        self.prepared, self.retries, self.board, self.halt = prepared, retries, board, halt
        self.runs = {run.name: run for run in prepared.runs}
        self.left = {job.name: job for job in prepared.jobs}
        self.lost: dict[str, int] = {}

    def work(self, workers: Workers | None) -> None:
        """Have all jobs done."""
        jobs = list(self.left.values())
        begun = {job.name: epochs_done(job.folder) for job in jobs}
        if workers is None or not jobs:
            self.board.say(self._overview(begun))
            return
        self.board.say(f"{self._overview(begun)}; {workers.describe()}")
        self.board.start(jobs, begun, len(self.runs) - len(jobs))
        try:
            for job in jobs:
                workers.submit(job)
            while self.left and not self.halt.number:
                for outcome in workers.wait(TICK):
                    self._take(outcome, workers)
                self.board.update(workers.running())
            if self.halt.number:
                self._stop(workers)
        except Exception:
            workers.stop(self.halt.halt)
            raise
        finally:
            self.board.end()

    def _overview(self, begun: dict[str, int]) -> str:
        over = len(self.runs) - len(self.left)
        go_on = sum(epochs > 0 for epochs in begun.values())
        parts = [f"{over} over already"] * (over > 0) + [f"{go_on} begun before"] * (go_on > 0)
        return ", ".join([f"{len(self.runs)} run{'s' if len(self.runs) > 1 else ''}", *parts])

    def _take(self, outcome: Outcome, workers: Workers) -> None:
        """Note how an attempt ended, and have the run tried again where that is due."""
        name, status = outcome.job.name, outcome.status
        run = self.runs[name]
        if status == "lost":
            self.lost[name] = self.lost.get(name, 0) + 1
            if self.lost[name] <= LOST_WORKERS:
                self.board.say(f"{name}: {outcome.note}, another goes on with it")
                workers.submit(outcome.job)
                return
        if status == "stopped":  # by somebody else than this sweep, which does not take these
            status = "failed"
        attempts = run.attempts + 1
        if status == "failed" and attempts <= self.retries:
            self.runs[name] = replace(run, attempts=attempts)
            self.board.say(f"{name}: {outcome.note}, tried again ({attempts} of {self.retries})")
            workers.submit(outcome.job)
            return
        status = status if status in OVER else "failed"
        self.runs[name] = replace(run, status=status, attempts=attempts, note=outcome.note)
        del self.left[name]
        self.board.ended(outcome.job, status, outcome.note)

    def _stop(self, workers: Workers) -> None:
        """Let runs save what they have, then raise what the signal stands for."""
        count = len(workers.running())
        going = f"{count} run{'s save what they have' if count != 1 else ' saves what it has'}"
        self.board.say(f"stopping: {going} (Ctrl-C again kills)" if count else "stopping")
        workers.stop(self.halt.halt)
        for outcome in workers.wait(0):
            if outcome.status in OVER:
                self._take(outcome, workers)
        over = len(self.runs) - len(self.left)
        far = f"{over} of {len(self.runs)} runs are over, and the same command goes on"
        self.board.say(f"stopped: {far}")
        if self.halt.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise PreemptedError(f"stopped by {signal.Signals(self.halt.number).name}; {far}", self.halt.number)

    def result(self) -> SweepResult:
        """What is known of all runs now."""
        for name, run in self.runs.items():
            if run.attempts and run.status in OVER and not _appears(self.prepared.folder / name):
                note = "its folder is not to be seen here: out must lie on a file system that all machines share"
                self.runs[name] = replace(run, status="failed", note=note)
        return SweepResult(self.prepared.out, list(self.runs.values()))


def _appears(folder: Path) -> bool:
    """Whether a folder that another machine has made is there, or comes soon."""
    end = time.monotonic() + SHARED_PATIENCE
    while not folder.is_dir():
        if time.monotonic() > end:
            return False
        time.sleep(TICK)
    return True


class _Signals:
    """Ctrl-C, SIGTERM and SIGHUP: the first is noted, a second one is not patient."""

    def __init__(self) -> None:
        self.number = 0
        self.halt = Halt()

    def take(self, number: int, frame: Any) -> None:
        if self.number:
            self.halt.now.set()
        self.number = self.number or number
        self.halt.asked.set()


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    """Take these signals where they are not ignored and this is the main thread, which alone may."""
    taken = _Signals()
    outer = {}
    if threading.current_thread() is threading.main_thread():
        for number in not_ignored():
            outer[number] = signal.signal(number, taken.take)
    try:
        yield taken
    finally:
        for number, handler in outer.items():
            signal.signal(number, handler)
