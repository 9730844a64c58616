"""The sweep: every run of a grid once, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tvlars._reading import is_inside, is_regular
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import PreemptedError, UsageError
from tvlars.lab.experiments.board import Board, choose_board
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers, going_on, status_of
from tvlars.lab.experiments.queue import Source, check_workers, hold, receiving, work
from tvlars.lab.experiments.results import SweepResult, SweepRun
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.workers.ray_cluster import RayWorkers
from tvlars.lab.experiments.workers.this_machine import LocalWorkers
from tvlars.lab.files.lock import LOCK
from tvlars.lab.options import as_path
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.identity import check_data_of
from tvlars.lab.run_folder.record import read_object, write_json
from tvlars.lab.run_folder.rows import epochs_done
from tvlars.lab.training.prepare import prepare as prepare_run

FILE = "sweep.json"
"""What a sweep's folder is known by."""


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
        signals = stack.enter_context(receiving())
        crew = hire(stack, [job.config for job in prepared.jobs], workers, ray) if prepared.jobs else None
        _make(prepared.folder)
        hold(stack, prepared.folder, "sweep works")
        prepared = prepare(runs, out, prepared)  # with what another sweep may have done in the meantime
        _describe(prepared)
        sweeping = _Sweep(prepared, board)
        try:
            show(board, prepared.jobs, len(prepared.runs), crew)
            if prepared.jobs and crew is not None:
                work(sweeping, crew, retries, board, signals)
        except (KeyboardInterrupt, PreemptedError) as error:
            over = sum(run.status in OVER for run in sweeping.runs.values())
            far = f"{over} of {len(prepared.runs)} runs are over, and the same command goes on"
            board.say(f"stopped: {far}")
            if isinstance(error, PreemptedError):
                raise PreemptedError(f"{error}; {far}", error.signal) from error
            raise
        finally:
            result = SweepResult(prepared.out, list(sweeping.runs.values()))
            result.save()
            for sentence in result.unwritten.values():
                board.say(sentence)
    return result


def hire(stack: contextlib.ExitStack, runs: Sequence[TrainConfig], count: int | None, ray: str | None) -> Workers:
    """Return workers for these runs, on this machine or of a Ray cluster, until ``stack`` ends."""
    devices = max((run.devices or 1 for run in runs), default=1)
    on_cpu = all(run.accelerator == "cpu" for run in runs)
    crew: Workers = LocalWorkers(devices, count, on_cpu) if ray is None else RayWorkers(ray, devices, count, on_cpu)
    stack.callback(crew.close)
    return crew


def show(board: Board, jobs: Sequence[Job], total: int, crew: Workers | None) -> None:
    """Say what there is to do, of ``total`` runs, and by whom, and begin to show how it goes."""
    begun = {job.name: epochs_done(job.folder) for job in jobs}
    over, go_on = total - len(jobs), sum(epochs > 0 for epochs in begun.values())
    parts = [f"{over} over already"] * (over > 0) + [f"{go_on} begun before"] * (go_on > 0)
    overview = ", ".join([f"{total} run{'s' if total > 1 else ''}", *parts])
    board.say(f"{overview}; {crew.describe()}" if crew is not None and jobs else overview)
    if jobs:
        board.start(jobs, begun, over)


class _Sweep(Source):
    """The jobs of one call, and what becomes of all runs."""

    def __init__(self, prepared: Prepared, board: Board) -> None:
        super().__init__()
        self.put(prepared.jobs)
        self.board = board
        self.runs = {run.name: run for run in prepared.runs}

    def ended(self, outcome: Outcome) -> None:
        name, note = outcome.job.name, outcome.note
        status = outcome.status if outcome.status in OVER else "failed"
        self.runs[name] = replace(self.runs[name], status=status, attempts=outcome.attempts, note=note)
        self.board.ended(outcome.job, status, note)


@dataclass(frozen=True)
class Prepared:
    """What there is to do: all runs, those that are over with their status, and a job for each of the others."""

    out: Path
    """The sweep's folder, as it was named."""
    folder: Path
    """The same from the root."""
    runs: tuple[SweepRun, ...]
    jobs: tuple[Job, ...]
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
    facts = checked.facts if checked else _check(configs, folder, here)
    found, jobs = [], []
    folders = names_in(folder)
    for config in configs:
        images, lr = facts[run_name(config)]
        name = folders.get(run_name(config), run_name(config))
        if not is_inside(folder / name, folder):
            raise UsageError(f"{folder / name} must be a folder of the sweep, but is a link that leaves it")
        status = status_of(folder / name, config)
        found.append(SweepRun(name, config, status if status in OVER else "not done", lr=lr))
        if status not in OVER:
            jobs.append(Job(name, folder / name, going_on(config, folder / name), images))
    if len({run.name for run in found}) != len(found):
        raise UsageError("runs must not repeat, but two have the same options")
    return Prepared(named, folder, tuple(found), tuple(jobs), facts)


def _check(configs: list[TrainConfig], folder: Path, here: bool) -> dict[str, tuple[int, float]]:
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
            check_one_machine(config)
            run = folder / folders.get(run_name(config), run_name(config))
            plan = prepare_run(config, data[key], here=here and status_of(run, config) not in OVER).plan
            check_data_of(run, data[key].fingerprint)
        facts[run_name(config)] = plan.total_steps * plan.batch_size, plan.lr
    return facts


def check_one_machine(config: TrainConfig) -> None:
    """Raise ``UsageError`` unless a run can be done by a process that a worker starts, or by several of one machine."""
    if config.shard and (config.devices or 1) == 1:
        raise UsageError("shard must not be given for one process, there is nothing to spread over")
    if (config.nodes or 1) > 1:
        raise UsageError(f"nodes must be 1 for runs that workers do, each on one machine, got {config.nodes}")


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
