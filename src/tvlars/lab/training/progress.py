"""Progress of a run as it is shown: a bar on a terminal, plain lines on a pipe."""

from __future__ import annotations

import math
from pathlib import Path
from time import perf_counter

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tvlars.lab.config import TrainConfig
from tvlars.lab.console import console, say, shows_bars
from tvlars.lab.run_folder.rows import EpochRow, StepRow
from tvlars.lab.run_folder.status import Status
from tvlars.plan import Plan


class Reporter:
    """Hears all that a run has to say to its user, and shows nothing; the base of those that do."""

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        """A run begins with ``config`` and ``plan``, its record in ``folder``, or resumes after ``step`` steps;
        ``lines`` describe it."""

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
    """One line per epoch, for pipes and logs. ``brief`` leaves out the description of the run."""

    label, colon = "", "  "

    def __init__(self, brief: bool = False) -> None:
        self.brief = brief

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        self.config, self.plan, self.folder, self.label = config, plan, folder, config.label()
        self.began, self.first = perf_counter(), step
        if not self.brief:
            self.say("\n".join(lines))

    def left(self, step: int) -> float | None:
        """Return the seconds that are left after ``step``, at the speed of the steps that this process has taken: a
        resumed run has taken the others earlier, and perhaps on another machine. None: there are none yet."""
        left, taken = self.plan.total_steps - step, step - self.first
        return 0.0 if left <= 0 else (perf_counter() - self.began) / taken * left if taken > 0 else None

    def epoch(self, row: EpochRow) -> None:
        left, epochs, phi = self.left(row.step), self.config.epochs, self.plan.factor(row.step)
        accuracies = f"train {row.train_accuracy:6.2%}  test {row.test_accuracy:6.2%}"
        if math.isnan(row.test_accuracy):  # no labels
            accuracies = f"test loss {row.test_loss:.4f}"
        self.note(
            f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.train_loss:.4f}  {accuracies}  "
            f"lr {self.plan.lr * phi:.3g}  phi {phi:.3f}  "
            f"{row.images_per_second:,.0f} images/s  {'?' if left is None else f'{left:.0f}'} s left"
        )

    def note(self, text: str) -> None:
        self.say(f"{self.label}{self.colon}{text}")

    def say(self, text: str) -> None:
        say(text)

    def end(self, status: str) -> None:
        if status != Status.FINISHED:
            self.note(f"{status}; what was measured is in {self.folder}")


class BarReporter(LineReporter):
    """A bar with loss, accuracy, lr, φ, images/s and the time left, for terminals."""

    colon = ": "

    def __init__(self, brief: bool = False) -> None:
        super().__init__(brief)
        self.console = console()
        self.progress: Progress | None = None
        self.since, self.at = (perf_counter(), 0), 0

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        super().start(config, plan, lines, folder, step)
        self.label = f"{config.optimizer} b{config.batch_size} s{config.seed}"
        texts = [TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()]
        numbers = [TextColumn("{task.fields[numbers]}"), TextColumn("{task.fields[left]}", style="progress.remaining")]
        self.progress = Progress(*texts, *numbers, console=self.console)
        self.task = self.progress.add_task(
            self.label, total=plan.total_steps, completed=step, numbers="", left="-:--:--"
        )
        self.since, self.at = (perf_counter(), step), step
        self.speed, self.of_step, self.of_test, self.rates = 0.0, "", "", ""
        self.progress.start()

    def step(self, row: StepRow) -> None:
        now, (began, first) = perf_counter(), self.since
        if now > began:
            self.speed = (row.step - first) * self.config.batch_size / (now - began)
        if now - began > 2.0:
            self.since = now, row.step
        self.of_step = f"loss {row.loss:.3f} acc {row.train_accuracy:.1%}"
        self.rates = f"lr {row.lr:.3g} phi {row.phi:.3f} {self.speed:,.0f} img/s"
        self._show(row.step)

    def epoch(self, row: EpochRow) -> None:
        self.of_test = f"test {row.test_accuracy:.2%}"
        self._show(row.step)  # so that the accuracy stands there at once, after the last epoch too
        self.since = perf_counter(), row.step

    def _show(self, step: int) -> None:
        assert self.progress is not None
        self.at, left = step, self.left(step)
        minutes, seconds = divmod(round(left or 0), 60)
        clock = "-:--:--" if left is None else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        numbers = " ".join(filter(None, (self.of_step, self.of_test, self.rates)))
        self.progress.update(self.task, completed=step, numbers=numbers, left=clock)

    def note(self, text: str) -> None:
        super().note(text)
        self.since = perf_counter(), self.at

    def say(self, text: str) -> None:
        self.console.print(text)

    def end(self, status: str) -> None:
        if self.progress is not None:
            self.progress.stop()
        super().end(status)


def choose_reporter(brief: bool = False) -> Reporter:
    """Return a bar where standard output is a terminal or a notebook that can show one, plain lines elsewhere."""
    return BarReporter(brief) if shows_bars() else LineReporter(brief)
