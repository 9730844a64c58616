"""Run folders of a few JSON files, as ``tvlars runs`` reads them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tvlars.lab import TrainConfig


def write_run(folder: Path, accuracy: float | None = 0.9, status: str = "finished", **options: Any) -> Path:
    """Write a run with these options; without an accuracy it has no summary and one epoch."""
    folder.mkdir(parents=True)
    config = TrainConfig(**{"epochs": 3, **options})
    environment = {"started": "2026-11-29T15:20:00+00:00", "device": "cpu", "versions": {"torch": "2.9", "tvlars": "1"}}
    files: dict[str, Any] = {"config": json.loads(config.to_json()), "environment": environment}
    files["plan"] = {"lr": 16.0, "alpha": 1.0} if config.lr is None else {"lr": config.lr}
    if accuracy is not None:
        files["summary"] = {"status": status, "epochs": 3, "steps": 18, "test_accuracy": accuracy, "seconds": 2.5}
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    (folder / "epochs.csv").write_text("epoch,step\n1,6\n")
    (folder / "steps.csv").write_text("step\n")
    return folder
