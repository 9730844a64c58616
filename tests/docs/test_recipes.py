"""Every command of the recipes runs at a small size: small files of the data, small network, one or two epochs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.docs.blocks import ROOT, Block, blocks
from tests.lab.data.test_data import write_cifar
from tests.lab.experiments.forked import fork_runs
from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, load_run, train

RECIPES = ROOT / "docs" / "recipes"
PAGES = sorted(RECIPES.glob("*.md"))
PUBLISHED = RECIPES / "as-published.md"


def in_shell(page: Path) -> list[tuple[Block, list[str]]]:
    """The commands of a page that no other test runs, without what starts them in several processes."""
    return [
        (block, words[words.index("tvlars") + 1 :])
        for block in blocks(page)
        if block.kind == "sh" and not block.said.startswith("run")
        for words in block.commands()
        if "tvlars" in words
    ]


COMMANDS = [
    pytest.param(words, id=f"{block.page.stem}:{block.line}-{words[0]}")
    for page in PAGES
    for block, words in in_shell(page)
]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 and a folder of JPEGs, both with few images."""
    write_cifar(tmp_path, 10, monkeypatch, images=20)
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 4)):
        for label in range(2):
            (tmp_path / split / str(label)).mkdir(parents=True)
            for i in range(count):
                sides = rng.integers(40, 80, 2)
                pixels = rng.integers(100 * label, 100 * label + 120, (*sides, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / str(label) / f"{i}.jpg")
    return tmp_path


def smaller(words: list[str], data_dir: Path) -> list[str]:
    """The options that make a command small; those that are given last count."""
    given = dict(pairwise(words))
    command, data = words[0], given["--data"]
    more = ["--batch-size", "16", "--micro-batch-size", "8", "--epochs", "1", "--accelerator", "cpu"]
    more += ["--out", str(data_dir / "out"), "--precision", "32-true"]
    if data == "cifar10" and command != "tune":  # the last runs of tune are processes, which want CIFAR's checksums
        more += ["--data-dir", str(data_dir), "--model", "small_resnet"]
    elif data.startswith("imagefolder:"):
        more += ["--data", f"imagefolder:{data_dir}", "--model", "small_resnet", "--image-size", "32"]
        more += ["--data-workers", "1"]
    else:
        more += ["--data", "digits", "--model", "small_resnet", "--batch-size", "128", "--micro-batch-size", "64"]
    if "--preset" in given and given["--optimizer"] == "lars":
        more += ["--warmup-epochs", "0"]
    for flag, value in (("--devices", "1"), ("--validation", "8"), ("--ema", "0.5")):
        more += [flag, value] if flag in given else []
    if command == "ssl" or "--task" in given:
        more += ["--projector", "8-8", "--evaluations", "knn"]
    if command == "compare":
        more += ["--seeds", "0"]
    if command == "tune":
        more += ["--trials", "1", "--optimizers", "tvlars", "--seeds", "0"]
    return more


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not adapted:UserWarning", "ignore:.*optimizer steps:UserWarning")
@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_a_recipe_runs(
    words: list[str], data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fork_runs(monkeypatch)  # the last ones of tune
    line = [*words, *smaller(words, data_dir)]
    assert main(line) == 0, capsys.readouterr().err
    if "--resume" in words:
        assert main(line) == 0
        assert "has finished already" in capsys.readouterr().out


def test_the_recipe_of_imagenet_trains_as_it_says(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = next(words for _, words in in_shell(RECIPES / "imagenet.md") if "--cutmix" in words)
    assert main([*words, *smaller(words, data_dir)]) == 0, capsys.readouterr().err
    run = load_run(data_dir / "out")
    assert run.complete
    recipe = "crops of 0.08 to 1 of the area, randaugment, mixup 0.2, cutmix 1, label smoothing 0.1, "
    assert run.environment["recipe"] == f"{recipe}moving average of weights with decay 0.5"
    assert "40 training, 8 validation and 8 test images of 3 x 32 x 32" in run.environment["data"]


def test_the_best_of_trials_is_taken_from_a_folder_of_runs(
    reader: Path, stand_ins: Callable[[], dict[str, Any]]
) -> None:
    (block,) = (one for one in blocks(PUBLISHED) if one.said == "not run: it needs a folder of a sweep")
    for i, lr in enumerate((4.0, 8.0, 16.0)):
        config = TrainConfig(
            epochs=1, lr=lr, validation=0.1, test_share=0.25, precision="32-true", out=Path(f"runs/tvlars/{i}")
        )
        train(config, reporter=Reporter())
    exec(compile(block.source(), str(PUBLISHED), "exec"), names := stand_ins())
    assert names["published"].trials == 3
    assert names["equal"] == names["whole"].best  # the best of three of three
