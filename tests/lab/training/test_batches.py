"""Where batches come from: the device, the host a step ahead, or a file that is mapped; always the same batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tvlars.lab import TrainConfig, load_data, load_run, train
from tvlars.lab.data import decoded
from tvlars.lab.training.batches import Feed
from tvlars.lab.training.progress import Reporter

QUICK: dict[str, Any] = dict(epochs=2, precision="32-true", accelerator="cpu", batch_size=32, micro_batch_size=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 JPEGs of three classes, each brighter than the one before."""
    rng = np.random.default_rng(0)
    for label in range(3):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(80 * label, 80 * label + 60, (40, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / str(label) / f"{i}.jpg")
    return tmp_path / "images"


@pytest.mark.parametrize("task", ["classification", "simclr"])
def test_a_mapped_file_gives_the_run_that_memory_gives(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    options = dict(QUICK, data=f"imagefolder:{folder}", image_size=16, task=task)
    if task != "classification":
        options.update(projector="16", evaluations="linear,finetune,random")
    train(TrainConfig(**options, out=tmp_path / "memory"), reporter=Reporter())
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(decoded, "SHARE", 0.0)
    for name in ("mapped", "again"):  # the second one finds the file
        train(TrainConfig(**options, out=tmp_path / name), reporter=Reporter())
        (file,) = (tmp_path / "cache").glob("*.u8")
        assert 0 <= file.stat().st_size - 120 * 3 * 16 * 16 < 4096
        for rows in ("steps", "epochs"):
            a, b = (getattr(load_run(tmp_path / run), rows) for run in ("memory", name))
            columns = [column for column in a if column not in ("seconds", "images_per_second")]
            assert a[columns].equals(b[columns])
        assert load_run(tmp_path / name).test_accuracy == load_run(tmp_path / "memory").test_accuracy
    assert "decoded on disk" in load_run(tmp_path / "mapped").environment["data"]


def test_a_changed_folder_is_decoded_anew(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "SHARE", 0.0)
    data = load_data(f"imagefolder:{folder}", image_size=16)
    assert data.mapped
    Image.new("RGB", (20, 20), "white").save(folder / "0" / "0.jpg")
    again = load_data(f"imagefolder:{folder}", image_size=16)
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 2
    whites = sum(int((x == 255).flatten(1).all(1).sum()) for x in (again.train_images, again.test_images))
    assert whites == 1


def test_images_are_fetched_a_step_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvlars.lab.training.batches.fits", lambda data, device: False)
    data = load_data("digits")
    feed = Feed(data, torch.device("cpu"))
    gathered = []
    gather = feed._gather
    monkeypatch.setattr(feed, "_gather", lambda index: (gathered.append(index.tolist()), gather(index))[1])
    first, second, third = (torch.tensor(x) for x in ([3, 1], [4, 1, 5], [9]))
    assert torch.equal(feed.take(first, second), data.train_images[first])
    assert torch.equal(feed.take(second, None), data.train_images[second])
    assert torch.equal(feed.take(third), data.train_images[third])
    feed.close()
    assert gathered == [[3, 1], [4, 1, 5], [9]]


def test_a_profile_says_where_the_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tvlars.cli import main

    options = "train --epochs 3 --profile --checkpoint-every 5-steps --accelerator cpu --out"
    assert main([*options.split(), str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    seconds = found["seconds"]
    assert list(seconds) == [
        *("data", "augmentation", "forward", "backward", "optimizer", "evaluation", "logging", "checkpoint", "other")
    ]
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds.values()) == pytest.approx(found["whole"])
    assert found["steps"] == 15
    assert all(f"\n{name} " in table for name in seconds)
    assert (tmp_path / "run" / "trace.json.gz").stat().st_size > 1000
    config = TrainConfig(epochs=3, accelerator="cpu", out=tmp_path / "plain")
    train(replace(config, checkpoint_every="5-steps"), reporter=Reporter())
    columns = ["step", "loss", "train_accuracy"]
    runs = [load_run(tmp_path / name).steps[columns] for name in ("run", "plain")]
    assert runs[0].equals(runs[1])
