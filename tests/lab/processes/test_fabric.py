"""The number of processes is that of those which were started."""

from __future__ import annotations

import pytest

from tvlars.lab import TrainConfig, UsageError
from tvlars.lab.processes.started import layout


def test_devices_in_a_process_that_was_started_alone() -> None:
    with pytest.raises(UsageError, match=r"devices must be 1 in a process that was started alone, got 2 on 1 machines"):
        layout(TrainConfig(devices=2))


def test_what_torchrun_started_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    started = dict(TORCHELASTIC_RUN_ID="x", LOCAL_WORLD_SIZE="4", WORLD_SIZE="12", RANK="5", LOCAL_RANK="1")
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert layout(TrainConfig()) == (4, 3)
    assert layout(TrainConfig(devices=4, nodes=3)) == (4, 3)
    with pytest.raises(UsageError, match="devices must be 4, the number that was started, got 8"):
        layout(TrainConfig(devices=8))
