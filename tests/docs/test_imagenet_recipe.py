"""The command of docs/recipes/imagenet.md trains on a small folder of JPEGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.blocks import ROOT, blocks
from tvlars.cli import main
from tvlars.lab import load_run


def test_the_recipe_trains_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 4)):
        for label in range(2):
            (tmp_path / split / str(label)).mkdir(parents=True)
            for i in range(count):
                sides = rng.integers(40, 80, 2)
                pixels = rng.integers(100 * label, 100 * label + 120, (*sides, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / str(label) / f"{i}.jpg")
    (words, *_) = next(
        block.commands()
        for block in blocks(ROOT / "docs" / "recipes" / "imagenet.md")
        if "--crop random-resized" in block.text
    )
    small = ["--devices", "1", "--data", f"imagefolder:{tmp_path}", "--image-size", "32", "--model", "small_resnet"]
    small += ["--batch-size", "16", "--micro-batch-size", "8", "--epochs", "1", "--validation", "8", "--ema", "0.5"]
    small += ["--accelerator", "cpu", "--data-workers", "2", "--out", str(tmp_path / "run")]
    assert main([*words[1:], *small]) == 0, capsys.readouterr().err
    run = load_run(tmp_path / "run")
    assert run.complete
    recipe = "crops of 0.08 to 1 of the area, randaugment, mixup 0.2, cutmix 1, label smoothing 0.1, "
    assert run.environment["recipe"] == f"{recipe}moving average of weights with decay 0.5"
    assert "40 training, 8 validation and 8 test images of 3 x 32 x 32" in run.environment["data"]
    assert main([*words[1:], *small]) == 0  # the same line goes on
    assert "has finished already" in capsys.readouterr().out
