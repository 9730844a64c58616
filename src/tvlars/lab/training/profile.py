"""Profile of a run: a table of the time in each phase, and a trace of some steps."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch.profiler import ProfilerActivity

from tvlars.lab.errors import MovedFolderError
from tvlars.lab.files.disk import write_whole
from tvlars.lab.run_folder.record import Record

PHASES = ("data", "augmentation", "forward", "backward", "optimizer", "evaluation", "logging", "checkpoint")
"""Phases in the order of the table; the remaining time is "other"."""
SKIPPED, TRACED = 2, 6
"""Number of steps before the trace, and in it."""


class Phases:
    """Seconds spent in each phase; without a ``record`` nothing is measured.

    The end of each phase waits for an accelerator, so that its time is counted in the right phase; this slows the run
    down. From the third step on a trace is recorded, for chrome://tracing and Perfetto.

    Args:
        record: profile.json and trace.json.gz are written to its folder; None: off.
        device: device of the run.
    """

    def __init__(self, record: Record | None, device: torch.device) -> None:
        self.record, self.device = record, device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.steps = 0
        self._open: list[str] = []
        self._trace: torch.profiler.profile | None = None
        self._tracing = 0.0
        self._unwritten: list[str] = []
        self._start = self._since = time.perf_counter()

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """Return a context whose time, without phases inside it, counts as phase ``name``."""
        return contextlib.nullcontext() if self.record is None else self._timed(name)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self._count()
        self._open.append(name)
        try:
            with torch.profiler.record_function(name):
                yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        """Add the time since the last change of phase to the current phase."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def step(self) -> None:
        """Count a step of the optimizer; begin or end the trace."""
        self.steps += self.record is not None
        if self.steps == SKIPPED and self._trace is None:
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # no messages about a missing GPU
            on_device = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
            trace = torch.profiler.profile(activities=[ProfilerActivity.CPU, *on_device])
            with self._untimed("made"):  # fails if another profiler is running
                trace.start()
                self._trace = trace
        elif self.steps == SKIPPED + TRACED:
            self._end_trace()

    def _end_trace(self) -> None:
        trace, self._trace = self._trace, None
        if trace is not None and self.record is not None:
            file = self.record.folder / "trace.json.gz"
            with self._untimed("written"):
                trace.stop()
                self.record.check_place()
                file.unlink(missing_ok=True)  # torch would follow a link
                try:
                    trace.export_chrome_trace(str(file))
                except (OSError, RuntimeError):
                    file.unlink(missing_ok=True)
                    raise

    @contextlib.contextmanager
    def _untimed(self, done: str) -> Iterator[None]:
        """Exclude the time inside from the profile; turn an error into a note that the trace cannot be ``done``."""
        start = time.perf_counter()
        try:
            yield
        except MovedFolderError:
            raise
        except (OSError, RuntimeError) as error:  # no reason to end the run
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._unwritten.append(f"trace.json.gz cannot be {done}: {reason}")
        self._tracing += time.perf_counter() - start

    def finish(self) -> list[str]:
        """Write profile.json and return the lines of the table, none if the profile is off."""
        if self.record is None:
            return []
        self._end_trace()
        whole = time.perf_counter() - self._start - self._tracing
        self.record.check_place()
        rows = {**self.seconds, "other": whole - sum(self.seconds.values())}
        try:
            text = json.dumps({"seconds": rows, "whole": whole, "steps": self.steps}, indent=1)
            write_whole(self.record.folder / "profile.json", f"{text}\n".encode())
        except OSError as error:
            self._unwritten.append(f"profile.json cannot be written: {error.strerror}")
        lines = [f"{'phase':<14}{'seconds':>9}{'share':>8}{'ms per step':>13}"]
        for name, seconds in {**rows, "all": whole}.items():
            each = 1000 * seconds / max(self.steps, 1)
            lines.append(f"{name:<14}{seconds:>9.2f}{seconds / whole:>8.1%}{each:>13.2f}")
        traced = min(self.steps - SKIPPED, TRACED)
        trace = f"trace of {traced} step{'s' if traced > 1 else ''}: {self.record.folder / 'trace.json.gz'}"
        if traced < 1:
            trace = f"no trace: it leaves out the first {SKIPPED} steps, and there were {self.steps}"
        return [*lines, *(self._unwritten or [trace])]
