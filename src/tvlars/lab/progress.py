"""What a run shows while it goes on: a bar on a terminal, plain lines on a pipe."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvlars.plan import Plan

if TYPE_CHECKING:
    from tvlars.lab.config import TrainConfig
    from tvlars.lab.record import EpochRow, StepRow


class Reporter:
    """Shows nothing; the base of those that do."""

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path) -> None:
        """A run begins with ``config`` and ``plan``, its record in ``folder``. ``lines`` say what it is."""

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


class LineReporter(Reporter):
    """A line an epoch, for pipes and logs. ``brief`` leaves out what the run is."""

    def __init__(self, brief: bool = False) -> None:
        self.brief = brief

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path) -> None:
        self.label, self.epochs, self.plan, self.folder = config.label(), config.epochs, plan, folder
        self.started = time.perf_counter()
        if not self.brief:
            print(*lines, sep="\n", flush=True)

    def epoch(self, row: EpochRow) -> None:
        left = (time.perf_counter() - self.started) / row.epoch * (self.epochs - row.epoch)
        print(
            f"{self.label}  epoch {row.epoch:>{len(str(self.epochs))}}/{self.epochs}  "
            f"loss {row.train_loss:.4f}  {self._accuracies(row)}"
            f"lr {self.plan.lr * self.plan.factor(row.step):.3g}  φ {self.plan.factor(row.step):.3f}  "
            f"{row.images_per_second:,.0f} images/s  {left:.0f} s left",
            flush=True,
        )

    def _accuracies(self, row: EpochRow) -> str:
        if math.isnan(row.test_accuracy):  # no labels
            return f"test loss {row.test_loss:.4f}  "
        return f"train {row.train_accuracy:6.2%}  test {row.test_accuracy:6.2%}  "

    def note(self, text: str) -> None:
        print(f"{self.label}  {text}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def end(self, status: str) -> None:
        if status != "finished":
            print(f"{self.label}  {status}; what was measured is in {self.folder}", flush=True)


class BarReporter(Reporter):
    """A bar with loss, accuracy, lr, φ, images/s and the time left, for terminals."""

    def __init__(self, brief: bool = False) -> None:
        self.brief = brief
        self.console = Console()

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path) -> None:
        self.batch_size, self.folder, self.test = config.batch_size, folder, ""
        self.label = f"{config.optimizer} b{config.batch_size} s{config.seed}"
        if not self.brief:
            self.console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task(self.label, total=plan.total_steps, numbers="")
        self.since, self.since_step = time.perf_counter(), 0
        self.speed = 0.0
        self.progress.start()

    def step(self, row: StepRow) -> None:
        now = time.perf_counter()
        if now > self.since:
            self.speed = (row.step - self.since_step) * self.batch_size / (now - self.since)
        if now - self.since > 2.0:
            self.since, self.since_step = now, row.step
        self.last = row
        self._show(row)

    def _show(self, row: StepRow) -> None:
        numbers = (
            f"loss {row.loss:.3f} acc {row.train_accuracy:.1%}{self.test} lr {row.lr:.3g} φ {row.phi:.3f} "
            f"{self.speed:,.0f} img/s"
        )
        self.progress.update(self.task, completed=row.step, numbers=numbers)

    def epoch(self, row: EpochRow) -> None:
        self.test = f" test {row.test_accuracy:.2%}"
        self._show(self.last)  # so that the accuracy stands there at once, after the last epoch too
        self.since, self.since_step = time.perf_counter(), row.step

    def note(self, text: str) -> None:
        self.console.print(f"{self.label}: {text}", highlight=False, markup=False, soft_wrap=True)
        self.since, self.since_step = time.perf_counter(), self.last.step

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self, status: str) -> None:
        self.progress.stop()
        if status != "finished":
            text = f"{self.label}: {status}; what was measured is in {self.folder}"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def choose_reporter(brief: bool = False) -> Reporter:
    """A bar where standard output is a terminal or a notebook that can show one, plain lines elsewhere."""
    return BarReporter(brief) if sys.stdout.isatty() or _in_notebook_with_widgets() else LineReporter(brief)


def _in_notebook_with_widgets() -> bool:
    return Console().is_jupyter and importlib.util.find_spec("ipywidgets") is not None
