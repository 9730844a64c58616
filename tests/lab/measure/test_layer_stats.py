"""Layer statistics of runs: they wait for room on the disk, and go on where a run continues."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from tvlars import LARS
from tvlars.lab import UsageError
from tvlars.lab.errors import MovedFolderError
from tvlars.lab.measure.layer_stats import RunStats
from tvlars.lab.run_folder.record import Record
from tvlars.stats import read_layer_stats


def test_layer_statistics_wait_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by a run of the same steps whose disk was never full."""
    full = True

    def no_room(handle: int) -> None:
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    found = []
    for name in ("full", "free"):
        torch.manual_seed(0)
        model, said = torch.nn.Linear(4, 3), []
        optimizer = LARS(model.parameters(), lr=1.0)
        (tmp_path / name).mkdir()
        stats = RunStats(Record(tmp_path / name, said.append), optimizer, model, every=1, buffer=2)
        for step in range(9):
            full = name == "full" and 2 <= step < 6
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        stats.close()
        assert len(said) == (name == "full")
        found.append(read_layer_stats(tmp_path / name / "layer-stats"))
    pd.testing.assert_frame_equal(*found)


def test_damaged_statistics_of_a_run_that_is_to_go_on(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 3)
    (tmp_path / "layer-stats").mkdir()
    (tmp_path / "layer-stats" / "000000001-000000002.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UsageError, match=r"layer_stats must continue in .*layer-stats.*, which cannot be read: "):
        RunStats(Record(tmp_path, print), LARS(model.parameters(), lr=1.0), model, every=1, start=5)


def test_statistics_do_not_make_a_run_folder_again_that_was_taken_away(tmp_path: Path) -> None:
    model, folder = torch.nn.Linear(4, 3), tmp_path / "run"
    folder.mkdir()
    stats = RunStats(Record(folder, pytest.fail), LARS(model.parameters(), lr=1.0), model, every=1)
    shutil.rmtree(folder)
    for work in (stats.try_flush, stats.close):
        with pytest.raises(MovedFolderError):
            work()
    assert not folder.exists()
