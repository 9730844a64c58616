"""Progress and tables on terminals of several widths: the test accuracy and the time left are always whole."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import termios
from functools import partial
from pathlib import Path

import pytest

from tests.command import tvlars
from tvlars.lab import TrainConfig
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
        in_all = "" if name == "sgd" else r", \d+ s in all"  # no run comes after the last one
        assert re.search(rf"━+ 10/10 .*\btest \d+\.\d\d%.* 0:00:00{in_all}\s*$", last)
        assert "phi" not in last or name == "tvlars"
        assert "phi" in last or name != "tvlars" or width < 140
    table = [line for line in lines if line.startswith(("┏", "┃", "│"))]
    assert "test accuracy" in table[1]
    rows = [line for line in table if re.search(r"│ +\d+\.\d\d %", line)]
    assert [line.split()[1] for line in rows] == ["tvlars", "lars", "sgd"]
    assert max(map(len, lines)) <= width
    assert "…" not in "".join([*bars, *table])
    assert not re.search(r"Warning|warnings\.warn", done.stdout)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bar_has_the_accuracy_and_the_time_left_whole(width: int, tmp_path: Path) -> None:
    config = TrainConfig(epochs=100)
    bar = BarReporter(brief=True)
    bar.console.file, bar.console.width = io.StringIO(), width
    bar.console._force_terminal = True
    bar.start(config, config.plan(1437), [], tmp_path)
    bar.step(StepRow(250, 50.0, 0.5, 0.9, 1.0, 1.0))
    bar.epoch(EpochRow(1, 5, 0.5, 0.9, 0.5, 0.9, 100.0, 9.0))
    bar.step(StepRow(251, 50.2, 0.5, 0.9, 1.0, 1.0))
    bar.measuring("sharpness")
    bar.note("sharpness: high")
    bar.end("finished")
    last = lines_of(bar.console.file.getvalue())[-2].rstrip()
    assert len(last) <= width
    assert re.search(r"━.* 251/500 .*test 90\.00%.* \d:\d\d:\d\d$", last)
    assert "phi" in last or width < 140
    assert "loss 0.500" in last


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
