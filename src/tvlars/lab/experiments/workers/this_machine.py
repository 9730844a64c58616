"""Workers on this machine: threads, each of which starts one process after the other and waits for it."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable

from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.job import Halt, Job, Outcome, cores, run_one


class LocalWorkers:
    """A queue of jobs on this machine's devices, or on its CPU.

    Args:
        jobs: all that may come, for the number of devices that they want.
        count: workers; None: one for each CUDA device that a run wants, one where there is none.
        on_cpu: whether runs are to leave CUDA devices alone.
    """

    def __init__(self, jobs: Iterable[Job], count: int | None, on_cpu: bool) -> None:
        visible = [] if on_cpu else cuda_devices()
        wanted = max((job.devices for job in jobs), default=1)
        if visible and wanted > len(visible):
            raise UsageError(f"devices must be <= {len(visible)}, those of this machine, got {wanted}")
        rooms = len(visible) // wanted
        self.count = count or max(rooms, 1)
        given = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = int(given) if given.isdigit() and int(given) else max(1, cores() // self.count)
        self.visible, self.wanted = visible, wanted
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._running: dict[int, Job] = {}
        self._halt = Halt()
        # A run is told to stop when the thread that started it ends: each waits for its own.
        self._threads = [
            threading.Thread(target=self._work, args=(number, self._environment(number, rooms)), daemon=True)
            for number in range(self.count)
        ]
        for thread in self._threads:
            thread.start()

    def _environment(self, number: int, rooms: int) -> dict[str, str]:
        """The devices of one worker; several share one where there are more workers than devices."""
        if not self.visible:
            return {}
        first = (number % rooms) * self.wanted
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.visible[first : first + self.wanted])}

    def describe(self) -> str:
        workers = f"{self.count} worker{'s' if self.count > 1 else ''}"
        if not self.visible:
            return f"{workers} on this machine's CPU, {self.threads} thread{'s' if self.threads > 1 else ''} each"
        each = f"{self.wanted} CUDA device{'s' if self.wanted > 1 else ''} each"
        shared = ", shared" if self.count > len(self.visible) // self.wanted else ""
        return f"{workers} on this machine, {each}{shared}"

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def wait(self, seconds: float) -> list[Outcome]:
        ended: list[Outcome] = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            return ended

    def running(self) -> list[Job]:
        return list(self._running.values())

    def stop(self, halt: Halt) -> None:
        self._halt.asked.set()
        self.close()
        while any(thread.is_alive() for thread in self._threads):
            if halt.now.wait(0.1):
                self._halt.now.set()
                for thread in self._threads:
                    thread.join()

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self, number: int, environment: dict[str, str]) -> None:
        while (job := self._jobs.get()) is not None:
            if self._halt.asked.is_set():
                continue
            self._running[number] = job
            try:
                outcome = run_one(job, self.threads, environment, self._halt)
            except Exception as error:  # the run could not be started: the others can
                outcome = Outcome(job, "failed", f"{type(error).__name__}: {error}")
            del self._running[number]
            self._ended.put(outcome)


def cuda_devices() -> list[str]:
    """The CUDA devices of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if len(named) >= count else [str(number) for number in range(count)]
