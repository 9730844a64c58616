"""The lock of a run folder on file systems that have none, or no room for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tvlars.cli import main
from tvlars.lab.files.lock import LOCK, locked


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOLCK, "out must be on a file system that can lock files, but that of {} cannot: No locks available"),
        (errno.EOPNOTSUPP, "out must be on a file system that can lock files, but that of {} cannot: Operation not"),
        (errno.EIO, "cannot write {}: Input/output error"),
    ],
)
def test_a_file_system_without_locks_is_named(
    number: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    out = tmp_path / "run"
    assert main(["train", "--epochs", "1", "--accelerator", "cpu", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert sentence.format(repr(str(out)) if "lock files" in sentence else out / LOCK) in said
    assert said.count("\n") == 1
    monkeypatch.undo()
    with locked(out):
        pass
