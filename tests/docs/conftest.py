"""Small stand-ins for what pages leave to their reader: a model, data, a run."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tvlars.lab
from tests.docs.blocks import ROOT
from tvlars import TVLARS
from tvlars.lab import Reporter, TrainConfig, train

NEEDS_FILES = ("fashion-mnist", "cifar10", "cifar100")
REGISTRIES = (("tvlars.lab.data", "DATASETS"), ("tvlars.lab.models", "MODELS"), ("tvlars.lab.ssl.methods", "METHODS"))


@pytest.fixture(scope="session")
def some_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on digits."""
    config = TrainConfig(epochs=1, precision="32-true", out=tmp_path_factory.mktemp("runs") / "SOME-RUN")
    return train(config, reporter=Reporter()).folder


@pytest.fixture
def reader(tmp_path: Path, some_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader who has the repository and some runs; it is the working directory."""
    for name in ("docs", "benchmarks", "examples", "tests", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("SOME-RUN", "long"):
        shutil.copytree(some_run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Any]]]:
    """Makes the names that a page takes for granted. What a page enters into a registry is taken out again."""
    monkeypatch.setattr(tvlars.lab, "TrainConfig", _short)
    registries = [getattr(importlib.import_module(module), name) for module, name in REGISTRIES]
    before = [dict(registry) for registry in registries]
    yield _names
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def _short(**options: Any) -> TrainConfig:
    """A page's options are checked as they are; a run that needs files or minutes is one epoch of digits instead."""
    config = TrainConfig(**options)
    return TrainConfig(optimizer=config.optimizer, epochs=1) if config.data in NEEDS_FILES else config


class _Output(dict[str, Any]):
    """Entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class _Bert(nn.Module):
    """A classifier that is called and answers as those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> _Output:
        return _Output(loss=nn.functional.cross_entropy(self.layer(input_ids.float()), labels))


def _names() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    images, labels = torch.randn(512, 1, 8, 8), torch.randint(10, (512,))
    loader = DataLoader(TensorDataset(images, labels), 32)
    names: dict[str, Any] = {
        "model": model,
        "optimizer": TVLARS(model.parameters(), lr=0.1, total_steps=1000),
        "loss_function": nn.CrossEntropyLoss(),
        "train_set": range(60_000),
        "loader": loader,
        "batches": list(loader)[:2],
        "micro_batches": list(loader),
        "encoder": nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 8)),
        "bert": _Bert(),
        "texts": [{"input_ids": torch.randint(9, (8, 8)), "labels": torch.randint(3, (8,))} for _ in range(4)],
        "samples": [{"input_ids": torch.randint(9, (8,)), "labels": int(i % 3)} for i in range(128)],
        "view_loader": [(images + torch.randn_like(images), images) for _ in range(2)],
    }

    def train_one_epoch() -> None:
        for x, y in names["loader"]:
            names["loss_function"](names["model"](x), y).backward()
            names["optimizer"].step()
            names["optimizer"].zero_grad()

    names["train_one_epoch"] = train_one_epoch
    return names
