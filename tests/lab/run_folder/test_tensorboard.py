"""TensorBoard logs of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tvlars.lab.run_folder.record import Record
from tvlars.lab.run_folder.rows import StepRow
from tvlars.lab.run_folder.tensorboard import TensorBoardLog


def test_tensorboard_ends_where_the_disk_fails_it_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    log = TensorBoardLog(Record(tmp_path, said.append))
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", no_room)
    for _ in range(2):
        log.add([StepRow(1, 0.1, 2.0, 0.5, 1.0, 1.0)])
    log.close()
    assert said == ["TensorBoard logs end here, they cannot be written: No space left on device"]
