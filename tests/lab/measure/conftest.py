"""Two runs that are measured, or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tvlars.lab import Reporter, TrainConfig, train

SHORT: dict[str, Any] = dict(epochs=3, batch_size=256, precision="32-true")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run without measurements and with all of them."""
    pytest.importorskip("curvlinops", reason="the extra 'sharpness' (curvlinops-for-pytorch) is not installed")
    folder = tmp_path_factory.mktemp("runs")
    asked = dict(layer_stats=4, sharpness="epochs:2", sharpness_samples=32, noise_scale=True)
    for name, options in (("plain", {}), ("measured", asked)):
        train(TrainConfig(**SHORT, **options, out=folder / name), reporter=Reporter())
    return folder / "plain", folder / "measured"
