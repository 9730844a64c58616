"""Workers of a Ray cluster of several machines, or of this one.

Ray places runs and reports dead workers; the queue decides about another attempt, as for all workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

from tvlars._machine import cores
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.job import Halt, Job, Outcome, Workers
from tvlars.lab.experiments.workers.process import TICK, run_one, threads_for
from tvlars.lab.run_folder.status import Status

CONNECT_PATIENCE = 20.0
"""Seconds to wait for a machine that does not answer."""


class RayWorkers(Workers):
    """Jobs as Ray tasks.

    Args:
        address: address of a running Ray, "auto" for this machine's cluster, or "local" to start one here.
        devices: largest number of GPUs of a run.
        count: number of runs at a time over all machines; None: as many as the GPUs allow, or one per machine without
            GPUs.
        on_cpu: True if runs use no GPU.

    Raises:
        UsageError: Ray is not installed, does not answer, or has fewer GPUs than a run needs.
    """

    def __init__(self, address: str, devices: int, count: int | None, on_cpu: bool) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UsageError("ray must be installed for --ray: pip install '.[ray]' in the source folder") from error
        self._ray: Any = ray
        self._own = not ray.is_initialized()
        if self._own:
            _start(ray, address)
        try:
            self.machines, gpus, self.cpus = _room(self._ray.nodes(), devices, count, on_cpu)
            if gpus == 0 and devices > 1 and not on_cpu:
                raise UsageError(f"devices must be <= 1, since no machine of this Ray has more GPUs, got {devices}")
        except BaseException:
            self.close()
            raise
        self.count, self.gpus, self.devices = count, gpus, devices
        self.threads = threads_for(self.cpus)
        self._task: Any = ray.remote(num_cpus=self.cpus, num_gpus=devices if gpus else 0, max_retries=0)(_do)
        self._references: dict[Future[Outcome], Any] = {}

    def describe(self) -> str:
        machines = f"{self.machines} machine{'s' if self.machines > 1 else ''}"
        each = f"{self.devices} of {self.gpus} GPUs" if self.gpus else f"{self.cpus} CPU core{'s'[: self.cpus > 1]}"
        most = f", at most {self.count} at a time" if self.count else ""
        return f"Ray on {machines}, {each} for each run{most}"

    def submit(self, job: Job) -> Future[Outcome]:
        reference = self._task.options(name=job.name).remote(job, self.threads)
        future: Future[Outcome] = reference.future()
        self._references[future] = reference
        return future

    def has_begun(self, job: Job) -> bool:
        # Ray has no cheap way to tell which tasks wait for resources; a waiting run has no folder yet.
        return job.folder.is_dir()

    def outcome(self, job: Job, future: Future[Outcome]) -> Outcome:
        errors, error = self._ray.exceptions, future.exception()
        if error is None:
            return future.result()
        if isinstance(error, (errors.TaskCancelledError, KeyboardInterrupt)):
            return Outcome(job, Status.PREEMPTED)
        if isinstance(error, errors.RayError) and not isinstance(error, errors.RayTaskError):
            return Outcome(job, Status.LOST, f"its Ray worker died ({type(error).__name__})")
        return Outcome(job, Status.FAILED, str(error).strip().splitlines()[-1])  # the run could not be started

    def give_up(self, future: Future[Outcome]) -> None:
        self._ray.cancel(self._references[future], force=False)

    def stop(self, now: threading.Event) -> None:
        for future in self._references:
            if not future.done():
                self.give_up(future)
        while not now.is_set() and wait(self._references, TICK).not_done:
            pass
        self.close()

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


def _do(job: Job, threads: int) -> Outcome:
    """Do one job as a Ray task. If the task is cancelled it stops the run; if its process dies the guardian does."""
    return run_one(job, threads, {}, Halt())


def _start(ray: Any, address: str) -> None:
    """Connect to a running Ray, or start one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; without it Ray warns
    options: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.ERROR)
    if address == "local":
        options.update(include_dashboard=False, num_cpus=cores())
    try:
        _reach(address)
        with _handlers_kept():
            ray.init(address=address, **options)
    except Exception as error:  # Ray raises errors of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "; if the cluster needs a token, set RAY_AUTH_MODE=token" if "Failed to connect" in reason else ""
        raise UsageError(
            f"ray must be 'local', 'auto' or the address of a running Ray, got {address!r}: {reason:.200}{hint}"
        ) from error


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces and never restores."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _reach(address: str) -> None:
    """Raise ``OSError`` if no process listens at HOST:PORT: Ray itself would keep trying for a long time."""
    if address not in ("local", "auto"):
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if not (colon and port.isdigit()):
            raise OSError("it is not HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_PATIENCE).close()


def _room(nodes: list[dict[str, Any]], devices: int, count: int | None, on_cpu: bool) -> tuple[int, int, int]:
    """Return the number of machines for runs, of their GPUs (0: runs are on CPUs), and of CPU cores per run.

    The runs on a machine share its cores evenly, so that Ray places no more runs there.
    """
    resources = [node["Resources"] for node in nodes if node.get("Alive") and node["Resources"].get("CPU", 0) >= 1]
    if not resources:
        raise UsageError("ray must have a machine with CPU cores for runs, got none")
    with_gpus = [one for one in resources if one.get("GPU", 0) >= devices]
    if with_gpus and not on_cpu:
        cpus = min(int(one["CPU"] // (one["GPU"] // devices)) for one in with_gpus)
        return len(with_gpus), int(sum(one["GPU"] for one in with_gpus)), max(cpus, 1)
    each = -(-count // len(resources)) if count else 1
    return len(resources), 0, max(1, min(int(one["CPU"] // each) for one in resources))
