"""A run is checked, with its data and plan, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tvlars.lab import Reporter, TrainConfig, UsageError, train
from tvlars.lab.data import ImageData
from tvlars.lab.given import Given
from tvlars.lab.training.prepare import prepare


def test_a_prepared_run_has_its_data_and_the_plan_that_is_trained(tmp_path: Path, digits: ImageData) -> None:
    config = TrainConfig(batch_size=480, epochs=1, precision="32-true", accelerator="cpu", out=tmp_path / "run")
    prepared = prepare(config)
    assert prepared.data.fingerprint == digits.fingerprint
    assert (prepared.plan.total_steps, prepared.precision) == (2, "32-true")
    assert (prepared.processes.count, prepared.fabric.device.type) == (1, "cpu")
    assert not (tmp_path / "run").exists()
    assert train(config, reporter=Reporter()).plan == prepared.plan


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device, so asking for one is no error")
def test_a_run_for_another_machine_needs_nothing_here(digits: ImageData) -> None:
    config = TrainConfig(accelerator="cuda")
    with pytest.raises(UsageError, match="accelerator must be auto or cpu on this machine"):
        prepare(config, Given(digits))
    assert prepare(config, Given(digits), here=False).plan == config.plan(1437)
    with pytest.raises(UsageError, match="crop_padding must be < the image size, 8, got 8"):
        prepare(TrainConfig(accelerator="cuda", crop_padding=8), Given(digits), here=False)
