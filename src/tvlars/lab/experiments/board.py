"""Progress of many runs: share done, running runs, and time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from tvlars.lab.console import broken, console, duration, say, shows_bars
from tvlars.lab.experiments.job import Job
from tvlars.lab.run_folder.rows import epochs_done
from tvlars.lab.run_folder.status import Status

HEARTBEAT = 300.0
"""Seconds between progress lines on a pipe while no run ends."""
LOOK_EVERY = 2.0
"""Seconds between updates of the progress of running jobs."""


class Board:
    """Counts finished work without showing it; base class of the boards that show progress.

    Work is counted in images. The speed does not include epochs of earlier calls.
    """

    def start(self, jobs: Iterable[Job], done: dict[str, int], before: int) -> None:
        """Start.

        Args:
            jobs: jobs to do.
            done: epochs done by earlier calls, by name of the job.
            before: number of runs that earlier calls have finished.
        """
        self.jobs = {job.name: job for job in jobs}
        self.over, self.total = before, before + len(self.jobs)
        self.counts: Counter[str] = Counter()
        self.done: Counter[str] = Counter(done)
        self.baseline = Counter(done)
        self.moved: dict[str, float] = {}
        """Time at which each running job was first seen at its current epoch."""
        self.running: list[Job] = []
        self.started = self.looked = time.monotonic()

    def say(self, text: str) -> None:
        """Show a line."""

    def update(self, running: list[Job]) -> None:
        """Update the progress of the running jobs."""
        self.running, now = running, time.monotonic()
        for job in running:
            self.moved.setdefault(job.name, now)
        if now - self.looked >= LOOK_EVERY:
            self.looked = now
            for job in running:
                if (done := epochs_done(job.folder)) != self.done[job.name]:
                    self.done[job.name], self.moved[job.name] = done, now

    def ended(self, job: Job, status: Status, note: str = "") -> None:
        """Count a job that finished, diverged or failed; ``note`` says why."""
        self.counts[status] += 1
        self.over += 1
        if status == Status.FINISHED:
            self.done[job.name] = job.epochs
        else:  # the remaining epochs will not be trained
            self.jobs.pop(job.name, None)

    def end(self) -> None:
        """Finish: show the final state."""

    @property
    def fraction(self) -> float:
        """Share of the runs that is done, from 0 to 1; running jobs count in part."""
        going = sum(min(self.done[job.name] / job.epochs, 1.0) for job in self.jobs.values())
        return (self.over - self.counts[Status.FINISHED] + going) / self.total

    def left(self) -> float | None:
        """Return the seconds left at the speed so far; None if nothing has been done yet."""
        whole = sum(job.images for job in self.jobs.values())
        done = self._images(self.done)
        fresh = done - self._images(self.baseline)
        if fresh <= 0:
            return 0.0 if whole <= done else None
        return (time.monotonic() - self.started) * (whole - done) / fresh

    def _images(self, epochs: Counter[str]) -> float:
        return sum(job.images * min(epochs[name] / job.epochs, 1.0) for name, job in self.jobs.items())

    def numbers(self) -> str:
        """Return a summary such as "5/12 runs, 1 diverged, 4 min left"."""
        bad = [f"{self.counts[name]} {name}" for name in (Status.DIVERGED, Status.FAILED) if self.counts[name]]
        left = self.left()
        time_left = [] if left is None or self.over == self.total else [f"{duration(left)} left"]
        return ", ".join([f"{self.over}/{self.total} runs", *bad, *time_left])

    def silent(self, job: Job) -> str:
        """Return, in parentheses, the time since the last epoch of a job if it is long, since the job may hang."""
        still = time.monotonic() - self.moved.get(job.name, time.monotonic())
        return f" (no epoch for {duration(still)})" if still >= HEARTBEAT else ""

    def at(self, job: Job) -> str:
        """Return the finished epochs of a running job, as "3/10"."""
        return f"{self.done[job.name]}/{job.epochs}{self.silent(job)}"


class Teller(Board):
    """Passes lines on without showing progress, for runs that have their own reporter."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.start([], {}, 0)

    def say(self, text: str) -> None:
        self.tell(text)


class LineBoard(Board):
    """Prints a line when a run ends, for pipes and logs."""

    def start(self, jobs: Iterable[Job], done: dict[str, int], before: int) -> None:
        super().start(jobs, done, before)
        self.said = time.monotonic()

    def say(self, text: str) -> None:
        say(text)

    def update(self, running: list[Job]) -> None:
        super().update(running)
        if time.monotonic() - self.said > HEARTBEAT:
            self.said = time.monotonic()
            current = ", ".join(f"{job.name} epoch {self.at(job)}" for job in running)
            say(f"{self.numbers()}; running: {current or 'none'}")

    def ended(self, job: Job, status: Status, note: str = "") -> None:
        super().ended(job, status, note)
        self.said = time.monotonic()
        say(f"{job.name}: {': '.join(filter(None, [status, note]))}  ({self.numbers()})")


class BarBoard(Board):
    """Shows one bar for all runs, and a running job: the first one that may hang, if any."""

    def __init__(self) -> None:
        self.console = console()
        self.bar_width = 20 if self.console.width >= 120 else 10

    def start(self, jobs: Iterable[Job], done: dict[str, int], before: int) -> None:
        super().start(jobs, done, before)
        self.progress = Progress(
            BarColumn(bar_width=self.bar_width),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[current]}", style="dim", table_column=Column(no_wrap=True)),
            console=self.console,
        )
        self.task = self.progress.add_task("", total=1.0, numbers=self.numbers(), current="")
        self.progress.start()
        self._show()

    def say(self, text: str) -> None:
        self.console.print(broken(text, self.console.width))

    def update(self, running: list[Job]) -> None:
        super().update(running)
        self._show()

    def ended(self, job: Job, status: Status, note: str = "") -> None:
        super().ended(job, status, note)
        self.say(f"{job.name}: {': '.join(filter(None, [status, note]))}")
        self._show()

    def end(self) -> None:
        self.running = []
        self._show()
        self.progress.stop()

    def _show(self) -> None:
        numbers, current = self.numbers(), ""
        if order := sorted(self.running, key=lambda job: self.silent(job) == ""):
            name, rest = order[0].name, f" {self.at(order[0])}" + f", and {len(order) - 1} more" * (len(order) > 1)
            room = self.console.width - self.bar_width - len(numbers) - 2
            most = max(room - len(rest), 1)  # long names are cut, not the epochs after them
            current = f"{name if len(name) <= most else f'{name[: most - 1]}…'}{rest}"[: max(room, 0)]
        self.progress.update(self.task, completed=self.fraction, numbers=numbers, current=current)


def choose_board() -> Board:
    """Return a bar if standard output is a terminal, else plain lines."""
    return BarBoard() if shows_bars() else LineBoard()
