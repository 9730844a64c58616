"""Sweep: does every run of a grid once, each in a separate process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals
from typing import Any

from tvlars._reading import is_inside, is_regular
from tvlars.lab.comparison.family import ALL, Declared, check_family, check_margin
from tvlars.lab.config import TrainConfig, names_of
from tvlars.lab.data import Data, ImageData
from tvlars.lab.errors import Interrupted, PreemptedError, UsageError
from tvlars.lab.experiments.board import Board, choose_board
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers, going_on, status_of
from tvlars.lab.experiments.queue import Source, check_call, hold, taking_signals, work
from tvlars.lab.experiments.results import SweepResult, SweepRun
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.workers.in_process import InProcess
from tvlars.lab.experiments.workers.ray_cluster import RayWorkers
from tvlars.lab.experiments.workers.this_machine import LocalWorkers
from tvlars.lab.files.lock import LOCK
from tvlars.lab.given import Given, check_apart, take
from tvlars.lab.metrics import Metric
from tvlars.lab.models import Model
from tvlars.lab.options import Is, as_path
from tvlars.lab.registered.record import FILES, digest_entry, make_folder
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.identity import check_data_of, check_same_plan
from tvlars.lab.run_folder.record import PLAN, read_object, write_json
from tvlars.lab.run_folder.rows import epochs_done
from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Task
from tvlars.lab.training.prepare import data_of, prepare
from tvlars.lab.training.progress import Reporter
from tvlars.plan import Plan

FILE = "sweep.json"
"""File that marks the folder of a sweep; it lists the options of all runs."""


def sweep(
    runs: Sequence[TrainConfig],
    out: Path | str,
    *,
    data: Data | None = None,
    loaders: Any = None,
    model: Model | None = None,
    task: Task | None = None,
    metrics: Mapping[str, Metric] | None = None,
    workers: int | None = None,
    retries: int = 1,
    ray: str | None = None,
    board: Board | None = None,
    family: str = ALL,
    margin: float | None = None,
) -> SweepResult:
    """Train every run that is not done yet, each in a separate process, and write results and page.

    Args:
        runs: options of the runs; ``out`` and ``resume`` are ignored, since the sweep chooses both.
        out: folder of the sweep: new, empty, or the folder of an earlier call, which is continued. With Ray it must be
            on a file system that all machines see under this name.
        data, loaders, model, task, metrics: objects for all runs, see :func:`tvlars.lab.compare`; with any of them,
            runs are trained in this process, one after the other.
        workers: number of runs at a time; None (default): one per CUDA device, or one on a CPU.
        retries: number of further attempts for a run that failed, from its newest checkpoint. Neither a diverged run,
            which is a result, nor a run with bad input, which would fail again, is retried.
        ray: None (default): a queue on this machine; else the address of a Ray cluster, "auto" for this machine's
            cluster, or "local" to start one here.
        board: shows progress; None (default): a bar on a terminal, and plain lines elsewhere. ``Board()`` is silent.
        family: pairs of arms to test, whose p-values are adjusted together: "all" (default), the name of an arm to
            compare all others with, or pairs as in "tvlars:lars,tvlars:lamb".
        margin: margin of equivalence, in points of accuracy, None (default) for 0.3; for a user's task in the unit of
            its measure, None for no test of equivalence.

    Returns:
        The results, including failed runs. If tables or page could not be written, the board says so, and
        ``unwritten`` of the results has the reason.

    Raises:
        UsageError: an option is bad; nothing has been written.
        LockedError: another sweep uses ``out``.
        KeyboardInterrupt, PreemptedError: Ctrl-C, SIGTERM or SIGHUP; runs have saved their state, and can resume.
    """
    check_call(workers, retries)
    declared = Declared(family, check_margin(margin))
    if family != ALL and runs:
        from tvlars.lab.report.arms import arm_names  # and with it pandas

        check_family(family, [*(run.arm_name for run in runs), *arm_names(list(runs))])
    objects: dict[str, Any] = dict(data=data, loaders=loaders, model=model, task=task, metrics=metrics)
    check_apart(ray is not None or (workers or 1) > 1, **objects)
    runs, given = _taken(runs, objects)
    board = choose_board() if board is None else board

    def save(result: SweepResult) -> None:
        result.save()
        for sentence in result.unwritten.values():
            board.say(sentence)

    how: dict[str, Any] = dict(workers=workers, retries=retries, ray=ray, board=board)
    return do_runs(runs, out, given, save, **how, declared=declared)


def do_runs(
    runs: Sequence[TrainConfig],
    out: Path | str,
    given: Given | None,
    save: Callable[[SweepResult], object],
    *,
    workers: int | None,
    retries: int,
    ray: str | None,
    board: Board,
    declared: Declared | None = None,
) -> SweepResult:
    """Train every run that is not done yet in the folder ``out``; other arguments are as for :func:`sweep`.

    Args:
        given: objects for all runs, which are then done in this process; None: each run is a separate process.
        save: called with the results when the runs have ended, also if they were stopped.
        declared: family of comparisons; None (default): all pairs.
    """
    declared = declared or Declared()
    agenda = make_agenda(runs, out, here=ray is None, given=given)
    with contextlib.ExitStack() as stack:
        crew: Workers | None = None
        if agenda.jobs:
            if given is None:
                crew = hire(stack, [job.config for job in agenda.jobs], workers, ray)
            else:
                crew = InProcess(given, lambda job: Reporter())
        signals = stack.enter_context(taking_signals(crew))
        make_folder(agenda.folder)
        hold(stack, agenda.folder, "sweep works")
        agenda = make_agenda(runs, out, agenda, given=given)  # another sweep may have done some in the meantime
        _describe(agenda, declared)
        sweeping = _Sweep(agenda, board)
        try:
            show(board, agenda.jobs, len(agenda.runs), crew)
            if agenda.jobs and crew is not None:
                work(sweeping, crew, retries, board, signals)
        except (KeyboardInterrupt, PreemptedError) as error:
            over = sum(run.status in OVER for run in sweeping.runs.values())
            far = f"{over} of {len(agenda.runs)} runs are done"
            if isinstance(error, PreemptedError):
                said = f"stopped by {Signals(error.signal).name}; {far}, and the same command continues"
                raise PreemptedError(said, error.signal) from error
            raise Interrupted(agenda.out, f"{far}; ") from error
        finally:
            result = SweepResult(agenda.out, list(sweeping.runs.values()), declared.family, declared.margin)
            save(result)
    return result


def _taken(runs: Sequence[TrainConfig], objects: dict[str, Any]) -> tuple[Sequence[TrainConfig], Given | None]:
    """Return runs with the names of a user's objects, and the converted objects, None if there are none."""
    if not runs or all(one is None for one in objects.values()):
        return runs, None
    if objects["data"] is not None and len(sizes := {run.image_size for run in runs}) > 1:
        raise UsageError(f"image_size must be the same in all runs if data are given in Python, got {len(sizes)} sizes")
    given = take(runs[0], **objects)
    return [given.named(run) for run in runs], given


def hire(stack: contextlib.ExitStack, runs: Sequence[TrainConfig], count: int | None, ray: str | None) -> Workers:
    """Return workers for these runs, on this machine or a Ray cluster; ``stack`` releases them when it ends."""
    devices = max((run.devices or 1 for run in runs), default=1)
    on_cpu = all(run.accelerator == "cpu" for run in runs)
    crew: Workers = LocalWorkers(devices, count, on_cpu) if ray is None else RayWorkers(ray, devices, count, on_cpu)
    stack.callback(crew.close)
    return crew


def show(board: Board, jobs: Sequence[Job], total: int, crew: Workers | None) -> None:
    """Say how many of ``total`` runs are left and which workers do them, and start to show progress."""
    begun = {job.name: epochs_done(job.folder) for job in jobs}
    over, go_on = total - len(jobs), sum(epochs > 0 for epochs in begun.values())
    parts = [f"{over} already done"] * (over > 0) + [f"{go_on} already started"] * (go_on > 0)
    overview = ", ".join([f"{total} run{'s' if total > 1 else ''}", *parts])
    board.say(f"{overview}; {crew.describe()}" if crew is not None and jobs else overview)
    if jobs:
        board.start(jobs, begun, over)


class _Sweep(Source):
    """Jobs of one call, and the status of all runs."""

    def __init__(self, agenda: Agenda, board: Board) -> None:
        super().__init__()
        self.put(agenda.jobs)
        self.board = board
        self.runs = {run.name: run for run in agenda.runs}

    def ended(self, outcome: Outcome) -> None:
        name, note = outcome.job.name, outcome.note
        status = outcome.status if outcome.status in OVER else Status.FAILED
        self.runs[name] = replace(self.runs[name], status=status, attempts=outcome.attempts, note=note)
        self.board.ended(outcome.job, status, note)


@dataclass(frozen=True)
class Agenda:
    """All runs of a sweep with their status, and a job for each run that is not done."""

    out: Path
    """Folder of the sweep, as the user named it."""
    folder: Path
    """Absolute path of ``out``."""
    runs: tuple[SweepRun, ...]
    jobs: tuple[Job, ...]
    plans: dict[str, Plan]
    """Plans of the runs by their names."""


def make_agenda(
    runs: Sequence[TrainConfig],
    out: Path | str,
    checked: Agenda | None = None,
    *,
    here: bool = True,
    given: Given | None = None,
) -> Agenda:
    """Check every run against its data, and find the runs that are done, without writing anything.

    ``checked`` is an earlier agenda of the same runs, whose checks are not repeated. If runs are done ``here``, the
    remaining ones are also checked against this machine. ``given`` are objects for all runs.

    Raises:
        UsageError: there is no run, two runs are the same, an option is bad, or ``out`` is not the folder of a sweep.
    """
    named = as_path("out", out)
    if named is None or not runs:
        raise UsageError("runs must have at least one run, got none" if named else "out must be a path, got None")
    folder = named.resolve()
    if not _is_ours(folder):
        raise UsageError(f"out must be a new or empty folder, or one of a sweep, got {str(named)!r}")
    configs = [at_home(replace(run, out=None, resume=False)) for run in runs]
    plans = checked.plans if checked else _check(configs, folder, here, given or Given())
    found, jobs, folders = [], [], names_in(folder)
    for config in configs:
        plan = plans[run_name(config)]
        name = folders.get(run_name(config), run_name(config))
        if not is_inside(folder / name, folder):
            raise UsageError(f"{folder / name} must be a folder of the sweep, but is a link that leaves it")
        status = status_of(folder / name, config)
        found.append(SweepRun(name, config, status, lr=plan.lr))
        if status not in OVER:
            images = plan.total_steps * plan.batch_size
            jobs.append(Job(name, folder / name, going_on(config, folder / name), images, plan.epochs))
    if len({run.name for run in found}) != len(found):
        raise UsageError("runs must not repeat, but two have the same options")
    return Agenda(named, folder, tuple(found), tuple(jobs), plans)


def _check(configs: list[TrainConfig], folder: Path, here: bool, given: Given) -> dict[str, Plan]:
    """Return the plan of each run by its name.

    Raises:
        UsageError: options do not fit each other, the data or, if remaining runs are done ``here``, this machine; or
            ``folder`` has the run on other data.
    """
    data: dict[str, ImageData] = {}
    plans: dict[str, Plan] = {}
    folders = names_in(folder)
    for config in configs:
        names = *names_of(Is.LOADS), "validation", "validation_seed", "crop", "flip"
        key = repr([getattr(config, name) for name in names])
        if key not in data:
            data.clear()  # keep only one data set, since data may be large
            data[key] = data_of(config, given.data)
        with _of(config):
            check_one_machine(config)
            run = folder / folders.get(run_name(config), run_name(config))
            todo = here and status_of(run, config) not in OVER
            plan = prepare(config, replace(given, data=data[key]), here=todo).plan
            check_data_of(run, data[key].fingerprint)
            check_same_plan(read_object(run / PLAN), plan, f"out must hold runs of this sweep, but in {str(run)!r} the")
        plans[run_name(config)] = plan
    return plans


def check_one_machine(config: TrainConfig) -> None:
    """Raise ``UsageError`` unless a worker can do the run with one or several processes on one machine."""
    if config.shard and (config.devices or 1) == 1:
        raise UsageError("shard must not be given for one process, since there are no others to shard over")
    if (config.nodes or 1) > 1:
        raise UsageError(f"nodes must be 1 for runs done by workers, which use one machine each, got {config.nodes}")


@contextlib.contextmanager
def _of(config: TrainConfig) -> Iterator[None]:
    """Put the label of the run in front of a ``UsageError``."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{config.label()}: {error}") from error


def _is_ours(folder: Path) -> bool:
    if not folder.exists() or is_regular(folder / FILE):
        return True
    return folder.is_dir() and all(path.name in (LOCK, *FILES) for path in folder.iterdir())


def names_in(folder: Path) -> dict[str, str]:
    """Return the folder names that an earlier version gave to runs of the sweep in ``folder``, by their current names.

    In earlier versions the digest depended on other options.
    """
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


def _describe(agenda: Agenda, declared: Declared) -> None:
    """Write the options of all runs, for users and for :func:`names_in`, and the declared family of comparisons."""
    said = {"command": command_line(), **digest_entry(agenda.folder)}
    options = [{"run": run.name, **json.loads(run.config.to_json())} for run in agenda.runs]
    write_json(agenda.folder / FILE, {**said, **declared.as_json(), "runs": options})
