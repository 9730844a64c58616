"""Standard streams that nobody reads any more: the run is worth more than its output."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvlars.lab import TrainConfig, load_run, train
from tvlars.lab.console import Lasting, print_table, say
from tvlars.lab.experiments.board import choose_board
from tvlars.lab.training.progress import BarReporter, LineReporter, choose_reporter


class Failing(io.StringIO):
    """A stream without a descriptor that always fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


def broken_pipe() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def closed() -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS: dict[str, Callable[[], Any]] = {
    "a pipe without a reader": broken_pipe,
    "none, as under pythonw": lambda: None,
    "closed": closed,
    "a terminal that has gone": lambda: Failing(errno.EIO),
    "a full disk": lambda: Failing(errno.ENOSPC),
    "latin-1": lambda: io.TextIOWrapper(io.BytesIO(), encoding="latin-1"),
}


@pytest.mark.parametrize("name", list(STREAMS))
def test_a_run_outlives_its_standard_output(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = STREAMS[name]()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        choose_reporter(), choose_board()
        reporter = LineReporter() if name != "a terminal that has gone" else BarReporter()
        train(TrainConfig(epochs=1, accelerator="cpu", out=tmp_path / "run"), reporter=reporter)
    assert load_run(tmp_path / "run").complete
    if stream is not None:
        stream.close()  # what is left in its buffer does no harm either


def test_what_is_lost_is_known_where_somebody_may_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Lasting(Failing(errno.ENOSPC))
    within = Lasting(full)
    within.write("a")
    within.write("b")
    assert full.lost == ["No space left on device"]
    gone = Lasting(broken_pipe())
    for _ in range(3):
        gone.write("a")
        gone.flush()
    assert gone.lost == []
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", latin)
    say("φ = 1", "é")
    assert latin.buffer.getvalue().decode("latin-1") == "? = 1\né\n"  # type: ignore[attr-defined]


def test_a_table_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Heads are broken first, then columns are left out, then texts are folded; numbers are never cut."""
    rows = [{"arm": "a" * 30, "best validation accuracy": "81.25 ± 0.40 %", "range of seeds": "0.29 to 1.17"}]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("tvlars.lab.console.is_terminal", lambda stream: True)

    def printed(width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(rows, ["range of seeds"])
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)

    whole, broken, fewer, folded = map(printed, (120, 70, 60, 40))
    assert " best validation accuracy ┃ range of seeds ┃" in whole
    assert "not shown" not in whole
    assert "best validation" not in broken
    assert "0.29 to 1.17" in broken
    assert "0.29" not in fewer
    assert "not shown for lack of room: range of seeds\n" in fewer
    assert "a" * 30 in fewer
    assert "a" * 17 not in folded
    assert "a" * 16 in folded
    for width, text in ((120, whole), (70, broken), (60, fewer), (40, folded)):
        assert "81.25 ± 0.40 %" in text
        assert max(map(len, text.splitlines())) <= width
