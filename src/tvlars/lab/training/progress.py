"""Reports of a run's progress: a bar on a terminal, plain lines on a pipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tvlars.lab.config import TrainConfig
from tvlars.lab.console import broken, console, duration, say, shows_bars
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.rows import EpochRow, StepRow
from tvlars.lab.run_folder.status import Status
from tvlars.plan import Plan


class Reporter:
    """Silent reporter, and base class of the others. A reporter may report several runs, one after the other."""

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        """Report the start of a run, or its resumption after ``step`` steps.

        ``lines`` describe its ``config`` and ``plan``; its record is in ``folder``.
        """

    def step(self, row: StepRow) -> None:
        """Report a step, the last of several that were fetched together."""

    def measures(self, values: Mapping[str, float]) -> None:
        """Report extra measures of the epoch that :meth:`epoch` reports next, by split and name, as in "test_f1"."""

    def epoch(self, row: EpochRow) -> None:
        """Report an epoch and, if ``row.evaluated``, its test."""

    def measuring(self, what: str) -> None:
        """Report that a measurement begins, which may take long."""

    def note(self, text: str) -> None:
        """Report another measurement or event of the run."""

    def say(self, text: str) -> None:
        """Report a sentence that belongs to no run in progress."""

    def end(self, status: str) -> None:
        """Report the end of the run and its status."""


class LineReporter(Reporter):
    """Reporter of one line per epoch, for pipes and logs.

    Args:
        brief: leave out the description of the run.
        after: work of runs that come after this one, as a multiple of its own: the time of all is shown too.
    """

    label, colon = "", "  "
    measured = ""
    """Measures of a user's task in words."""

    def __init__(self, brief: bool = False, after: float = 0.0) -> None:
        self.brief, self.after = brief, after

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        self.config, self.plan, self.folder, self.label = config, plan, folder, config.label()
        self.began, self.first, self.has_phi = perf_counter(), step, config.optimizer == "tvlars"
        if not self.brief:
            self.say("\n".join(lines))

    def left(self, step: int, after: float = 0.0) -> float | None:
        """Return the remaining seconds after ``step``, at the speed of this process's own steps; None before the first.

        Earlier steps of a resumed run may have run on another machine. ``after`` adds runs that come later.
        """
        left, taken = self.plan.total_steps * (1 + after) - step, step - self.first
        return 0.0 if left <= 0 else (perf_counter() - self.began) / taken * left if taken > 0 else None

    def in_all(self, step: int) -> str:
        """Return the remaining time of this run and those after it, as ", all runs: 14 min"; "" for the last one."""
        left = self.left(step, self.after)
        return f", all runs: {duration(left)}" if self.after and left is not None else ""

    def measures(self, values: Mapping[str, float]) -> None:
        texts = (f"{name.partition('_')[2].replace('_', ' ')} {value:.4g}" for name, value in values.items())
        self.measured = " ".join(texts) if self.config.own_task else ""

    def epoch(self, row: EpochRow) -> None:
        left, epochs, phi = self.left(row.step), self.plan.epochs, self.plan.factor(row.step)
        word, loss, accuracy = _held_out(row)
        results = [f"loss {row.train_loss:.4f}"]
        if labelled := not math.isnan(row.train_accuracy):
            results.append(f"train {row.train_accuracy:6.2%}")
        if row.evaluated:
            results += [f"{word} {accuracy:6.2%}"] if labelled else [f"{word} loss {loss:.4f}", self.measured]
        self.note(
            f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  {'  '.join(filter(None, results))}  "
            f"lr {self.plan.lr * phi:.3g}  {f'phi {phi:.3f}  ' * self.has_phi}"
            f"{row.images_per_second:,.0f} images/s  {'?' if left is None else f'{left:.0f}'} s left"
            f"{self.in_all(row.step)}"
        )

    def note(self, text: str) -> None:
        self.say(f"{self.label}{self.colon}{text}")

    def say(self, text: str) -> None:
        say(text)

    def end(self, status: str) -> None:
        if status not in (Status.FINISHED, Status.INTERRUPTED):  # the error says where the record is
            self.note(f"{status}; what was measured is in {self.folder}")


SHOWN = ("loss", "acc", "held out", "lr", "phi", "speed")
"""Numbers shown beside a bar."""
NEEDED = ("held out", "loss", "lr", "acc", "speed", "phi")
"""The same by importance: on a narrow terminal the last ones are left out."""


class BarReporter(LineReporter):
    """Reporter with a bar of loss, accuracy, lr, φ, images/s and remaining time, for terminals.

    Bar, accuracy and remaining time are always shown, the others as far as the line has room.
    """

    colon = ": "

    def __init__(self, brief: bool = False, after: float = 0.0) -> None:
        super().__init__(brief, after)
        self.console = console()
        self.progress: Progress | None = None
        self.since, self.at = (perf_counter(), 0), 0

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        super().start(config, plan, lines, folder, step)
        self.label = f"{config.arm_name} b{config.batch_size} s{config.seed}"
        self.bar_width = 20 if self.console.width >= 120 else 10
        texts = [TextColumn("{task.description}"), BarColumn(bar_width=self.bar_width), MofNCompleteColumn()]
        numbers = [TextColumn("{task.fields[numbers]}"), TextColumn("{task.fields[left]}", style="progress.remaining")]
        self.progress = Progress(*texts, *numbers, console=self.console)
        self.task = self.progress.add_task(
            self.label, total=plan.total_steps, completed=step, numbers="", left="-:--:--"
        )
        self.since, self.at = (perf_counter(), step), step
        self.speed = 0.0
        self.numbers: dict[str, str] = {}
        self.progress.start()

    def step(self, row: StepRow) -> None:
        now, (began, first) = perf_counter(), self.since
        if now > began:
            self.speed = (row.step - first) * self.config.batch_size / (now - began)
        if now - began > 2.0:
            self.since = now, row.step
        accuracy = "" if math.isnan(row.train_accuracy) else f"acc {row.train_accuracy:.1%}"
        self.numbers |= {"loss": f"loss {row.loss:.3f}", "acc": accuracy, "lr": f"lr {row.lr:.3g}"}
        self.numbers |= {"phi": f"phi {row.phi:.3f}" * self.has_phi, "speed": f"{self.speed:,.0f} img/s"}
        self._show(row.step)

    def epoch(self, row: EpochRow) -> None:
        if row.evaluated:  # else the last result stays
            word, loss, accuracy = _held_out(row)
            of_task = f"{word} {self.measured or f'loss {loss:.4g}'}"
            self.numbers["held out"] = of_task if math.isnan(accuracy) else f"{word} {accuracy:.2%}"
        self._show(row.step)  # shows the accuracy at once, after the last epoch too
        self.since = perf_counter(), row.step

    def _show(self, step: int) -> None:
        assert self.progress is not None
        self.at, left = step, self.left(step)
        minutes, seconds = divmod(round(left or 0), 60)
        clock = "-:--:--" if left is None else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}{self.in_all(step)}"
        there, room = [name for name in NEEDED if self.numbers.get(name)], self._room(clock)
        while len(text := " ".join(self.numbers[name] for name in SHOWN if name in there)) > room and len(there) > 1:
            there.pop()  # the most important one stays
        self.progress.update(self.task, completed=step, numbers=text, left=clock)

    def _room(self, clock: str) -> int:
        """Return the columns between the bar and the remaining time."""
        count = len(f"{self.plan.total_steps}")
        return self.console.width - len(f"{self.label} {clock}") - self.bar_width - 2 * count - 5

    def measuring(self, what: str) -> None:
        if self.progress is not None:
            room = max(self._room(self.progress.tasks[0].fields["left"]) - 4, 0)
            self.progress.update(self.task, numbers=f"measuring {what}"[:room] + " ...")
            self.progress.refresh()

    def note(self, text: str) -> None:
        super().note(text)
        self.since = perf_counter(), self.at
        if self.progress is not None:
            self._show(self.at)  # replaces the text of measuring()

    def say(self, text: str) -> None:
        self.console.print(broken(text, self.console.width))

    def end(self, status: str) -> None:
        if self.progress is not None:
            self.progress.stop()
        super().end(status)


def _held_out(row: EpochRow) -> tuple[str, float, float]:
    """Return the name of the split that an epoch was tested on, with loss and accuracy."""
    if row.validated:
        return "val", row.validation_loss, row.validation_accuracy
    return "test", row.test_loss, row.test_accuracy


def describe_test(loss: float, accuracy: float) -> str:
    """Return accuracy and loss in words; an accuracy of NaN is left out, since there are no labels."""
    return f"loss {loss:.4f}" if math.isnan(accuracy) else f"accuracy {accuracy:.2%}, loss {loss:.4f}"


def factory_of(reporter: Any) -> Callable[[], Reporter] | None:
    """Return a function that returns the reporter of each run: ``reporter`` itself, or its result; None for None.

    Raises:
        UsageError: it is neither a reporter nor a function or class.
    """
    if reporter is None or isinstance(reporter, Reporter):
        return reporter if reporter is None else lambda: reporter
    if not callable(reporter):
        raise UsageError(f"reporter must be a Reporter, or a function or class that makes one, got {reporter!r:.80}")

    def make() -> Reporter:
        made = reporter()
        if not isinstance(made, Reporter):
            raise UsageError(f"reporter must make a Reporter, got {made!r:.80} from {reporter!r:.80}")
        return made

    return make


def choose_reporter(brief: bool = False, after: float = 0.0) -> Reporter:
    """Return a bar if standard output is a terminal or notebook that can show one, else plain lines."""
    return BarReporter(brief, after) if shows_bars() else LineReporter(brief, after)
