"""What a run shows while it goes on: a bar on a terminal, plain lines on a pipe."""

from __future__ import annotations

import math
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tvlars.lab.console import console, say, shows_bars
from tvlars.plan import Plan

if TYPE_CHECKING:
    from tvlars.lab.config import TrainConfig
    from tvlars.lab.run_folder.rows import EpochRow, StepRow


class Reporter:
    """Shows nothing; the base of those that do."""

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        """A run begins with ``config`` and ``plan``, its record in ``folder``, or goes on after ``step`` steps.
        ``lines`` say what it is."""

    def step(self, row: StepRow) -> None:
        """A step, or the last of a few, is over."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch and its test are over."""

    def note(self, text: str) -> None:
        """Something else was measured."""

    def say(self, text: str) -> None:
        """There is no run to show, and this is why."""

    def end(self, status: str) -> None:
        """The run has ended: finished, interrupted, preempted, diverged or failed."""


class _TimeLeft:
    """The time that a run will still take, by the steps that this process has taken: a resumed run has taken the others
    earlier, and perhaps on another machine."""

    def __init__(self, total: int, step: int) -> None:
        self.total, self.first = total, step
        self.started = perf_counter()

    def after(self, step: int) -> float | None:
        """Seconds left after ``step``; None where this process has taken no step yet."""
        if step >= self.total:
            return 0.0
        taken = step - self.first
        return (perf_counter() - self.started) / taken * (self.total - step) if taken > 0 else None


class LineReporter(Reporter):
    """A line an epoch, for pipes and logs. ``brief`` leaves out what the run is."""

    def __init__(self, brief: bool = False) -> None:
        self.brief, self.label = brief, ""

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        self.label, self.epochs, self.plan, self.folder = config.label(), config.epochs, plan, folder
        self.time_left = _TimeLeft(plan.total_steps, step)
        if not self.brief:
            say(*lines)

    def epoch(self, row: EpochRow) -> None:
        left = self.time_left.after(row.step)
        say(
            f"{self.label}  epoch {row.epoch:>{len(str(self.epochs))}}/{self.epochs}  "
            f"loss {row.train_loss:.4f}  {self._accuracies(row)}"
            f"lr {self.plan.lr * self.plan.factor(row.step):.3g}  phi {self.plan.factor(row.step):.3f}  "
            f"{row.images_per_second:,.0f} images/s  {'?' if left is None else f'{left:.0f}'} s left"
        )

    def _accuracies(self, row: EpochRow) -> str:
        if math.isnan(row.test_accuracy):  # no labels
            return f"test loss {row.test_loss:.4f}  "
        return f"train {row.train_accuracy:6.2%}  test {row.test_accuracy:6.2%}  "

    def note(self, text: str) -> None:
        say(f"{self.label}  {text}")

    def say(self, text: str) -> None:
        say(text)

    def end(self, status: str) -> None:
        if status != "finished":
            say(f"{self.label}  {status}; what was measured is in {self.folder}")


class BarReporter(Reporter):
    """A bar with loss, accuracy, lr, φ, images/s and the time left, for terminals."""

    def __init__(self, brief: bool = False) -> None:
        self.brief, self.label = brief, ""
        self.console = console()
        self.progress: Progress | None = None
        self.since, self.since_step, self.at = perf_counter(), 0, 0

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        self.batch_size, self.folder, self.test = config.batch_size, folder, ""
        self.label = f"{config.optimizer} b{config.batch_size} s{config.seed}"
        if not self.brief:
            self.console.print(*lines, sep="\n")
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            console=self.console,
        )
        self.task = self.progress.add_task(
            self.label, total=plan.total_steps, completed=step, numbers="", left=_clock(None)
        )
        self.time_left = _TimeLeft(plan.total_steps, step)
        self.since, self.since_step, self.at = perf_counter(), step, step
        self.speed, self.step_numbers, self.numbers = 0.0, "", ""
        self.progress.start()

    def step(self, row: StepRow) -> None:
        now = perf_counter()
        if now > self.since:
            self.speed = (row.step - self.since_step) * self.batch_size / (now - self.since)
        if now - self.since > 2.0:
            self.since, self.since_step = now, row.step
        self.at, self.step_numbers = row.step, f"loss {row.loss:.3f} acc {row.train_accuracy:.1%}"
        self._show(f"lr {row.lr:.3g} phi {row.phi:.3f} {self.speed:,.0f} img/s")

    def _show(self, numbers: str) -> None:
        assert self.progress is not None
        self.numbers = numbers
        self.progress.update(
            self.task,
            completed=self.at,
            numbers=" ".join(filter(None, [f"{self.step_numbers}{self.test}".strip(), numbers])),
            left=_clock(self.time_left.after(self.at)),
        )

    def epoch(self, row: EpochRow) -> None:
        self.test, self.at = f" test {row.test_accuracy:.2%}", row.step
        self._show(self.numbers)  # so that the accuracy stands there at once, after the last epoch too
        self.since, self.since_step = perf_counter(), row.step

    def note(self, text: str) -> None:
        self.console.print(f"{self.label}: {text}")
        self.since, self.since_step = perf_counter(), self.at

    def say(self, text: str) -> None:
        self.console.print(text)

    def end(self, status: str) -> None:
        if self.progress is not None:
            self.progress.stop()
        if status != "finished":
            text = f"{self.label}: {status}; what was measured is in {self.folder}"
            self.console.print(text)


def _clock(seconds: float | None) -> str:
    """``1:02:03``, or dashes where the time is not known."""
    if seconds is None:
        return "-:--:--"
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"


def choose_reporter(brief: bool = False) -> Reporter:
    """A bar where standard output is a terminal or a notebook that can show one, plain lines elsewhere."""
    return BarReporter(brief) if shows_bars() else LineReporter(brief)
