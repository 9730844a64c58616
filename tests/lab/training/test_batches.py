"""Sources of batches: the device, the host a step ahead, or a mapped file; always the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tvlars.lab import ImageData, TrainConfig, load_data, load_run, train
from tvlars.lab.data import decoded
from tvlars.lab.training.batches import Feed
from tvlars.lab.training.progress import Reporter

QUICK: dict[str, Any] = dict(epochs=2, precision="32-true", accelerator="cpu", batch_size=16, micro_batch_size=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 JPEGs of three classes, each brighter than the one before."""
    rng = np.random.default_rng(0)
    for label in range(3):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(80 * label, 80 * label + 60, (40, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / str(label) / f"{i}.jpg")
    return tmp_path / "images"


@pytest.mark.parametrize("task", ["classification", "simclr"])
def test_a_mapped_file_gives_the_run_that_memory_gives(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    options = dict(QUICK, data=f"imagefolder:{folder}", image_size=8, task=task)
    if task != "classification":
        options.update(projector="16", evaluations="linear,finetune,random")
    train(TrainConfig(**options, out=tmp_path / "memory"), reporter=Reporter())
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(decoded, "SHARE", 0.0)
    for name in ("mapped", "again"):  # the second one finds the file
        train(TrainConfig(**options, out=tmp_path / name), reporter=Reporter())
        (file,) = (tmp_path / "cache").glob("*.u8")
        assert 0 <= file.stat().st_size - 60 * 3 * 8 * 8 < 4096
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
    monkeypatch.setattr(feed, "_gather", lambda index, key: (gathered.append(index.tolist()), gather(index, key))[1])
    first, second, third = (torch.tensor(x) for x in ([3, 1], [4, 1, 5], [9]))
    assert torch.equal(feed.take(first, second), data.train_images[first])
    assert torch.equal(feed.take(second, None), data.train_images[second])
    assert torch.equal(feed.take(third), data.train_images[third])
    feed.close()
    assert gathered == [[3, 1], [4, 1, 5], [9]]


@pytest.mark.parametrize("kept", [2**28, 0], ids=["views are kept", "views are made twice"])
def test_self_supervised_batches_are_fetched_ahead_and_stay_what_they_are(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")
    monkeypatch.setattr("tvlars.lab.training.pretraining.KEPT_BYTES", kept)
    options = dict(QUICK, task="simclr", projector="16", evaluations="none", batch_size=150, micro_batch_size=50)
    ahead: list[bool] = []
    take = Feed.take

    def spy(feed: Feed, index: torch.Tensor, then: torch.Tensor | None = None) -> torch.Tensor:
        ahead.append(feed._next is not None and torch.equal(feed._next[0], index))
        return take(feed, index, then)

    train(TrainConfig(**options, out=tmp_path / "device"), data=few, reporter=Reporter())
    monkeypatch.setattr("tvlars.lab.training.batches.fits", lambda data, device: False)
    monkeypatch.setattr(Feed, "take", spy)
    train(TrainConfig(**options, out=tmp_path / "host"), data=few, reporter=Reporter())
    turns = 1 if kept else 2  # 2 epochs of 4 batches of 3 parts
    assert ahead == 2 * [False, *[True] * (4 * 3 * turns - 1)]
    device, host = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("device", "host"))
    assert all(torch.equal(device[name], host[name]) for name in device)
