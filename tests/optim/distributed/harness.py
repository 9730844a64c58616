"""Runs checks in several processes. To import torch takes seconds, so all are forks of the one of ``tests/command.py``.

A check is a function that every process calls; it fails by an exception in any of them. Between two checks the
processes wait for each other, so that one that fails leaves the next undisturbed.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist

from tests.command import CONTEXT
from tests.conftest import OPTIMIZERS

TOPICS = ("data_parallel", "zero", "tensor_parallel", "meshes", "fsdp1", "fsdp2")
PATIENCE = timedelta(seconds=60)
ATTEMPTS = 3
"""Torch itself ends a process in about one run of twenty on two cores, by "Invalid thread pool!" or a double free in a
thread of its own. Checks that were not over then are done by new processes; one that fails is not repeated."""
CHECKS: dict[str, tuple[int, Callable[[], None]]] = {}
"""Name -> number of processes and check."""


def check(
    world: int, optimizers: Iterable[str] = OPTIMIZERS
) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Makes a function of an optimizer's name a check in ``world`` processes, once for each of ``optimizers``."""

    def enter(function: Callable[[str], None]) -> Callable[[str], None]:
        topic = function.__module__.rpartition(".")[2]
        for name in optimizers:
            CHECKS[f"{topic}.{function.__name__}[{name}]"] = world, partial(function, name)
        return function

    return enter


def all_checks() -> dict[str, tuple[int, Callable[[], None]]]:
    for topic in TOPICS:
        import_module(f"tests.optim.distributed.{topic}")
    return CHECKS


def outcomes(names: list[str], folder: Path) -> dict[str, str]:
    """Runs the named checks. What went wrong in each, with the rank of the process; "" if nothing."""
    launcher = CONTEXT.Process(target=launch, args=(folder, names))
    launcher.start()
    assert launcher.pid is not None
    launcher.join(timeout=300)
    with suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)  # the forks too, should any hang
    launcher.join()

    def of_rank(name: str, rank: int, world: int) -> str:
        file = folder / f"{name}-{rank}"
        if file.exists():
            return f"process {rank}: {text}" if (text := file.read_text()) else ""
        log = folder / f"log-{world}-{rank}"
        return f"process {rank} did not come to the end of this check:\n{log.read_text() if log.exists() else ''}"

    return {
        name: "\n".join(filter(None, (of_rank(name, rank, world) for rank in range(world))))
        for name in names
        for world in [CHECKS[name][0]]
    }


def launch(folder: Path, names: list[str]) -> None:
    """The process that imports everything, and forks for one number of processes after the other."""
    os.setsid()
    torch.set_num_threads(1)
    chosen = {name: all_checks()[name] for name in names}
    for world in sorted({world for world, _ in chosen.values()}):
        left = {name: run for name, (size, run) in chosen.items() if size == world}
        for attempt in range(ATTEMPTS):
            if not left or not ended_by_signal(world, left, folder, attempt):
                break
            left = {name: run for name, run in left.items() if not complete(name, world, folder)}


def ended_by_signal(world: int, chosen: dict[str, Callable[[], None]], folder: Path, attempt: int) -> bool:
    """Have new processes do the checks; return True if one of them was ended by a signal, after which the others are
    killed."""
    children = set()
    for rank in range(world):
        if not (pid := os.fork()):
            try:
                fork(rank, world, chosen, folder, attempt)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)
        children.add(pid)
    by_signal = False
    while children:
        pid, status = os.wait()
        children.discard(pid)
        if os.WIFSIGNALED(status) and not by_signal:
            by_signal = True
            for other in children:
                os.kill(other, signal.SIGKILL)
    return by_signal


def complete(name: str, world: int, folder: Path) -> bool:
    """Return True if all processes have ended a check; else remove what some have said of it."""
    files = [folder / f"{name}-{rank}" for rank in range(world)]
    if all(file.exists() for file in files):
        return True
    for file in files:
        file.unlink(missing_ok=True)
    return False


def fork(rank: int, world: int, chosen: dict[str, Callable[[], None]], folder: Path, attempt: int) -> None:
    """One of the processes; it leaves a file for every check it has ended, with what went wrong in it."""
    log = os.open(folder / f"log-{world}-{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # After a fork the first threads that ask for torch's thread pool renew it without a lock, and one may find none.
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"ended-{world}-{attempt}"), world)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group-{world}-{attempt}", rank=rank, world_size=world, timeout=PATIENCE
    )
    for name, run in chosen.items():
        complaint = ""
        try:
            run()
        except BaseException:  # pytest's own failures are no Exception
            complaint = traceback.format_exc()
        (folder / f"{name}-{rank}").write_text(complaint)
        store.set(f"{name}-{rank}", "ended")
        store.wait([f"{name}-{other}" for other in range(world)], PATIENCE)
    dist.destroy_process_group()
