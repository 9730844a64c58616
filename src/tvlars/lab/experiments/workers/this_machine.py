"""Workers on this machine: each is a thread that starts a run in a separate process and waits for it."""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tvlars._machine import cores
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.job import Halt, Job, Outcome, Workers
from tvlars.lab.experiments.workers.process import TICK, run_one, threads_for


class LocalWorkers(Workers):
    """Workers on this machine's devices, or on its CPU.

    Args:
        devices: largest number of CUDA devices of a run.
        count: number of workers; None: as many as the CUDA devices allow, or one on a CPU.
        on_cpu: True if runs use no CUDA device.

    Raises:
        UsageError: a run needs more devices than the machine has.
    """

    def __init__(self, devices: int, count: int | None, on_cpu: bool) -> None:
        self.visible = [] if on_cpu else cuda_devices()
        if self.visible and devices > len(self.visible):
            raise UsageError(f"devices must be <= {len(self.visible)}, the number on this machine, got {devices}")
        self.devices, rooms = devices, len(self.visible) // devices
        self.count: int = count or max(rooms, 1)
        self.shared = bool(self.visible) and self.count > rooms
        self.threads = threads_for(cores() // self.count)
        self._free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for number in range(self.count):  # several share a device if there are more workers than devices
            first = number % max(rooms, 1) * devices
            mine = ",".join(self.visible[first : first + devices])
            self._free.put({"CUDA_VISIBLE_DEVICES": mine} if self.visible else {})
        # A run is told to stop when the thread that started it ends; threads of a pool live as long as the pool.
        self._pool = ThreadPoolExecutor(self.count)
        self._now = threading.Event()
        self._halts: dict[Future[Outcome], Halt] = {}

    def describe(self) -> str:
        workers = f"{self.count} worker{'s' if self.count > 1 else ''}"
        if not self.visible:
            return f"{workers} on this machine's CPU, {self.threads} thread{'s' if self.threads > 1 else ''} each"
        each = f"{self.devices} CUDA device{'s' if self.devices > 1 else ''} each"
        return f"{workers} on this machine, {each}{', shared' if self.shared else ''}"

    def submit(self, job: Job) -> Future[Outcome]:
        halt = Halt(now=self._now)
        future = self._pool.submit(self._do, job, halt)
        self._halts[future] = halt
        return future

    def _do(self, job: Job, halt: Halt) -> Outcome:
        environment = self._free.get()
        try:
            return run_one(job, self.threads, environment, halt)
        finally:
            self._free.put(environment)

    def give_up(self, future: Future[Outcome]) -> None:
        self._halts[future].asked.set()

    def stop(self, now: threading.Event) -> None:
        for halt in self._halts.values():
            halt.asked.set()
        while wait(self._halts, TICK).not_done:
            if now.is_set():
                self._now.set()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def cuda_devices() -> list[str]:
    """Return the visible CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if len(named) >= count else [str(number) for number in range(count)]
