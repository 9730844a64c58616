"""Progress of a run, also of one that another process began."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tvlars.lab import CompareConfig, TrainConfig, UsageError, compare, train
from tvlars.lab.run_folder.rows import EpochRow, StepRow
from tvlars.lab.training.progress import BarReporter, LineReporter, Reporter, factory_of
from tvlars.plan import Plan

CONFIG = TrainConfig(epochs=100)
PLAN = CONFIG.plan(1437)  # 5 steps per epoch


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tvlars.lab.training.progress.perf_counter", made)
    return made


def step(number: int) -> StepRow:
    return StepRow(number, number / 5, 0.5, 0.9, 1.0, 1.0)


def epoch(number: int) -> EpochRow:
    return EpochRow(number, 5 * number, 0.5, 0.9, 0.5, 0.9, 100.0, 9.0)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_time_left_is_that_of_the_steps_of_this_process(
    clock: Clock, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """90 of 100 epochs were done by another process; an epoch takes 9 s."""
    lines = LineReporter(brief=True)
    lines.start(CONFIG, PLAN, [], tmp_path, 450)
    lines.epoch(epoch(90))  # a run that was stopped before the test of the epoch
    for number in (91, 92, 100):
        clock.now += 9.0
        lines.epoch(epoch(number))
    said = [re.findall(r"(\S+) s left", line)[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["?", "81", "72", "0"]


def test_the_time_of_later_runs_is_shown_beside_that_of_this_one(
    clock: Clock, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An epoch of 100 takes 9 s, and later runs are twice as much work as this one."""
    lines, bar = LineReporter(brief=True, after=2.0), BarReporter(brief=True, after=2.0)
    bar.console.file = io.StringIO()
    for reporter in (lines, bar):
        reporter.start(CONFIG, PLAN, [], tmp_path)
    clock.now += 9.0
    lines.epoch(epoch(1))
    bar.step(step(5))
    clock.now += 891.0
    lines.epoch(epoch(100))
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("  891 s left, all runs: 45 min")
    assert last.endswith("  0 s left, all runs: 30 min")
    assert bar.progress is not None
    assert bar.progress.tasks[0].fields["left"] == "0:14:51, all runs: 45 min"
    bar.end("finished")


def test_the_bar_of_a_resumed_run_counts_the_steps_of_this_process(clock: Clock, tmp_path: Path) -> None:
    bar = BarReporter(brief=True)
    bar.console.file = io.StringIO()
    bar.start(CONFIG, PLAN, [], tmp_path, 450)
    clock.now += 9.0
    bar.step(step(455))
    assert bar.progress is not None
    (task,) = bar.progress.tasks
    assert (task.completed, task.fields["left"]) == (455, "0:01:21")
    assert bar.speed == pytest.approx(5 * 256 / 9)
    bar.end("finished")


@pytest.mark.parametrize("kind", [BarReporter, LineReporter])
def test_whatever_comes_before_the_first_step_is_shown(
    kind: type[BarReporter] | type[LineReporter], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A run that goes on may have a test, a measurement or its end before a step."""
    reporter: Reporter = kind()
    reporter.note("before")
    reporter.start(CONFIG, PLAN, [], tmp_path, 450)
    reporter.note("rows wait")
    reporter.epoch(epoch(90))
    reporter.end("failed")
    out = plain(capsys.readouterr().out)
    for words in ("before", "rows wait", "90.00%", "failed; what was measured is in"):
        assert words in out
    kind().end("finished")


def test_one_reporter_for_all_runs_or_one_for_each() -> None:
    reporter = Reporter()
    one, each = factory_of(reporter), factory_of(LineReporter)
    assert one is not None
    assert each is not None
    assert one() is one() is reporter
    assert isinstance(each(), LineReporter)
    assert each() is not each()
    assert factory_of(None) is None
    with pytest.raises(
        UsageError, match="reporter must be a Reporter, or a function or class that makes one, got 'bar'"
    ):
        factory_of("bar")
    made = factory_of(lambda: "bar")
    assert made is not None
    with pytest.raises(UsageError, match="reporter must make a Reporter, got 'bar' from <function"):
        made()


def test_a_comparison_shows_all_runs_by_one_reporter(tmp_path: Path) -> None:
    class Counts(Reporter):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
            self.seen.append(config.optimizer)

        def end(self, status: str) -> None:
            self.seen.append(status)

    base, reporter = TrainConfig(epochs=1, precision="32-true"), Counts()
    config = CompareConfig(base, optimizers=("tvlars", "sgd"), seeds=(0,), out=tmp_path / "all")
    compare(config, reporter=reporter, announce=lambda text: None)
    assert reporter.seen == ["tvlars", "finished", "sgd", "finished"]
    with pytest.raises(UsageError, match="reporter must be a Reporter"):
        compare(replace(config, out=tmp_path / "other"), reporter=3)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("wrong", "said"), [(Reporter, "the class Reporter"), ("bar", "'bar'")])
def test_the_reporter_of_a_run_is_an_object(tmp_path: Path, wrong: Any, said: str) -> None:
    with pytest.raises(UsageError, match=rf"reporter must be an object, as Reporter\(\), got {said}"):
        train(TrainConfig(out=tmp_path / "run"), reporter=wrong)
    assert not (tmp_path / "run").exists()
