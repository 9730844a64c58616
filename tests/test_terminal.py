"""Progress and tables on terminals of several widths: the test accuracy and the time left are always whole."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import os
import pty
import re
import struct
import sys
import termios
from functools import partial
from pathlib import Path

import pytest

from tests.command import tvlars
from tvlars.lab import TrainConfig
from tvlars.lab.console import say
from tvlars.lab.experiments.board import BarBoard
from tvlars.lab.experiments.job import Job
from tvlars.lab.run_folder.rows import EpochRow, StepRow
from tvlars.lab.training.progress import BarReporter, LineReporter

WIDTHS = (80, 100, 140)


def on_a_terminal(width: int) -> None:
    """Go on in a new process on a terminal of this width; this one copies what appears there, and ends as it does."""
    child, terminal = pty.fork()
    if child:
        with contextlib.suppress(OSError):  # the other end is closed
            while shown := os.read(terminal, 4096):
                os.write(1, shown)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))


def lines_of(text: str) -> list[str]:
    """Return the lines of a terminal's output, those that were written over too."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text))


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_on_a_terminal(width: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    words = ["compare", "--data", "digits", "--epochs", 2, "--optimizers", "tvlars", "lars", "sgd", "--seeds", 0, 1]
    on_it = partial(on_a_terminal, width)
    done = tvlars(*words, "--out", "out", cwd=tmp_path, env={**environment, "TERM": "xterm"}, before=on_it)
    assert done.returncode == 0, done.stdout
    lines = lines_of(done.stdout)
    bars = [line for line in lines if "━" in line and " 10/10 " in line]
    for name in ("tvlars", "lars", "sgd"):
        last = [line for line in bars if line.startswith(f"{name} b256 s1 ")][-1]
        in_all = "" if name == "sgd" else r", all runs: \d+ s"  # no run comes after the last one
        assert re.search(rf"━+ 10/10 .*\btest \d+\.\d\d%.* 0:00:00{in_all}\s*$", last)
        assert "phi" not in last or name == "tvlars"
        assert "phi" in last or name != "tvlars" or width < 140
    table = [line for line in lines if line.startswith(("┏", "┃", "│"))]
    above = [line.strip("┃").split("┃") for line in itertools.takewhile(lambda line: line[0] == "┃", table[1:])]
    heads = [" ".join(" ".join(parts).split()) for parts in zip(*above, strict=True)]  # may be broken between words
    assert heads[:4] == ["optimizer", "batch size", "lr", "test accuracy"]
    rows = [line for line in table if re.search(r"│ +\d+\.\d\d %", line)]
    assert [line.split()[1] for line in rows] == ["tvlars", "lars", "sgd"]
    assert max(map(len, lines)) <= width
    assert "…" not in "".join([*bars, *table])
    assert not re.search(r"Warning|warnings\.warn", done.stdout)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bar_has_the_accuracy_and_the_time_left_whole(width: int, tmp_path: Path) -> None:
    config = TrainConfig(epochs=100)
    bar, shown = BarReporter(brief=True), io.StringIO()
    bar.console.file, bar.console.width = shown, width
    bar.console._force_terminal = bar.console.is_interactive = True
    bar.start(config, config.plan(1437), [], tmp_path)
    bar.step(StepRow(250, 50.0, 0.5, 0.9, 1.0, 1.0))
    bar.epoch(EpochRow(1, 5, 0.5, 0.9, 0.5, 0.9, 100.0, 9.0))
    bar.step(StepRow(251, 50.2, 0.5, 0.9, 1.0, 1.0))
    bar.measuring("sharpness 5 of 5: worst case of Keskar et al.")
    now = [line.rstrip() for line in lines_of(shown.getvalue()) if "measuring" in line][-1]
    assert re.search(r"━.* 251/500 .*measuring sharpness 5 of 5.* \.\.\. \d:\d\d:\d\d$", now)
    assert len(now) <= width
    bar.note("sharpness: high")
    bar.end("finished")
    last = lines_of(shown.getvalue())[-2].rstrip()
    assert len(last) <= width
    assert re.search(r"━.* 251/500 .*test 90\.00%.* \d:\d\d:\d\d$", last)
    assert "phi" in last or width < 140
    assert "loss 0.500" in last


class Terminal(io.StringIO):
    """Standard output of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", WIDTHS)
def test_sentences_are_broken_between_words(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "trials are ranked on 144 validation images, held out of 1,437 for training, by class with seed 0; "
        "the test set is read once, by the runs with fresh seeds",
        "lars     16 trials (4 pruned, 0 diverged), 403 epochs; best on validation 65.97% with lr 38.11, momentum 0.9 "
        "and weight_decay 0.0001, nesterov True",
        "results: runs/of/the/study/results.csv",
    )
    shown, piped = Terminal(), io.StringIO()
    monkeypatch.setenv("COLUMNS", str(width))
    for stream in (shown, piped):
        monkeypatch.setattr(sys, "stdout", stream)
        say(*lines)
    found = shown.getvalue().splitlines()
    assert max(map(len, found)) <= width
    assert " ".join(shown.getvalue().split()) == " ".join(" ".join(lines).split())
    first = next(i for i, line in enumerate(found) if line.startswith("lars "))
    assert re.match(r"  \w", found[1])
    assert re.match(r" {9}\w", found[first + 1])
    assert piped.getvalue() == "\n".join(lines) + "\n"
    say("once " * 80, whole=True)
    assert piped.getvalue().splitlines()[-1] == "once " * 80


@pytest.mark.parametrize("width", WIDTHS)
def test_the_bar_of_many_runs_has_numbers_and_epochs_whole(width: int, tmp_path: Path) -> None:
    board = BarBoard()
    board.console.file, board.console.width = io.StringIO(), width
    board.console._force_terminal = True
    names = ["0", *(f"{i}{'-long-name' * 16}" for i in (1, 2, 3))]
    jobs = [Job(name, tmp_path / name[:1], TrainConfig(epochs=10), 100) for name in names]
    board.start(jobs, {jobs[1].name: 3}, before=1)
    board.ended(jobs[0], "failed", "no memory was left on the device, " * 4)
    board.update(jobs[1:])
    board.console.print(board.progress.get_renderable())
    lines = lines_of(board.console.file.getvalue())
    board.end()
    assert max(map(len, lines)) <= width
    last = [line for line in lines if "━" in line][-1]
    assert re.search(r"^━[━╸╺ ]* 2/5 runs, 1 failed +1-long.*… 3/10, and 2 more *$", last)


@pytest.mark.slow
def test_a_tuning_on_a_terminal(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    words = ["tune", "--data", "digits", "--epochs", 1, "--optimizers", "lars", "--trials", 1, "--seeds", 0]
    on_it = partial(on_a_terminal, 80)
    done = tvlars(*words, "--out", "out", cwd=tmp_path, env={**environment, "TERM": "xterm"}, before=on_it)
    assert done.returncode == 0, done.stdout
    lines = lines_of(done.stdout)
    assert max(map(len, lines)) <= 80
    assert re.search(r"best\s+on validation \d+\.\d\d%", done.stdout)
    assert re.search(r"│ lars +│.*\d+\.\d\d %", done.stdout)


@pytest.mark.parametrize(("optimizer", "there"), [("tvlars", True), ("sgd", False), ("lars", False)])
def test_phi_is_shown_of_tvlars_alone(
    optimizer: str, there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(epochs=100, optimizer=optimizer)
    lines = LineReporter(brief=True)
    lines.start(config, config.plan(1437), [], tmp_path)
    lines.epoch(EpochRow(1, 5, 0.5, 0.9, 0.5, 0.9, 100.0, 9.0))
    said = capsys.readouterr().out
    assert ("phi" in said) == there
    assert re.search(r"  lr \S+  (phi \S+  )?\S+ images/s", said)
