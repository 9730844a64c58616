"""Memory that ends: one sentence that names what needed it, and nothing else gets the blame."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tvlars.cli import main
from tvlars.lab import TrainConfig, UsageError, load_data, load_run, run_sharpness, train
from tvlars.lab.memory import amount, has_ended
from tvlars.lab.models import MODELS
from tvlars.lab.training.progress import LineReporter, Reporter

QUICK: dict[str, Any] = dict(epochs=1, accelerator="cpu", precision="32-true")


def no_memory(*_: Any, **__: Any) -> NoReturn:
    raise MemoryError


def allocated(what: str) -> BaseException:
    try:
        torch.empty(2**55) if what == "torch" else np.empty(2**60, np.uint8)
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "much"),
    [
        (MemoryError(), ""),
        (allocated("torch"), " (no room for 144,115,188,075,855,872 bytes)"),
        (allocated("numpy"), " (no room for 1.00 EiB)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), " (no room for 2.00 GiB)"),
        (RuntimeError("std::bad_alloc"), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
        (RuntimeError("can't start new thread"), ""),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), ""),
        (ImportError("libx.so: failed to map segment from shared object: Cannot allocate memory"), ""),
        (ImportError("libx.so: failed to map segment from shared object"), ""),
    ],
)
def test_what_libraries_say_of_it_is_understood(error: BaseException, much: str) -> None:
    assert has_ended(error)
    assert amount(error) == much


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), ValueError("memory")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not has_ended(error)


def test_images_are_not_said_to_be_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, name in ((s, n) for s in ("train", "test") for n in ("a", "b")):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{i}.png")
    monkeypatch.setattr("PIL.Image.open", no_memory)
    with pytest.raises(UsageError, match=r"^data 'imagefolder:\S+' must fit into memory, but memory ran out$"):
        load_data(f"imagefolder:{tmp_path}")


class Large(nn.Module):
    """A network whose batches need more than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        torch.empty(2**55)
        y: Tensor = self.layer(x.flatten(1))
        return y


def test_models_and_batches_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(**QUICK, out=tmp_path / "run", micro_batch_size=128)
    monkeypatch.setitem(MODELS, "small_resnet", no_memory)
    with pytest.raises(UsageError, match="model 'small_resnet' must fit into memory with its data, but memory ran out"):
        train(config, reporter=Reporter())
    for kind, much in ((Large, r" \(no room for 144,115,188,075,855,872 bytes\)"), (Failing, "")):
        monkeypatch.setitem(MODELS, "small_resnet", lambda *_, kind=kind: (kind(), "large"))
        with pytest.raises(
            UsageError, match=rf"micro_batch_size must be smaller for this device's memory, got 128{much}$"
        ):
            train(replace(config, out=tmp_path / kind.__name__), reporter=Reporter())
        assert load_run(tmp_path / kind.__name__).status == "failed"


class Failing(Large):
    def forward(self, x: Tensor) -> Tensor:
        raise MemoryError


def test_a_measurement_without_memory_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tvlars.lab.measure.each_epoch.measure_sharpness", no_memory)
    train(TrainConfig(**QUICK, sharpness="end", out=tmp_path / "run"), reporter=LineReporter())
    assert "sharpness after epoch 1 could not be measured: memory ran out" in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    assert run.complete
    monkeypatch.setattr("tvlars.lab.measure.sharpness.measure_sharpness", no_memory)
    with pytest.raises(UsageError, match="samples must be fewer than 99 here, but memory ran out"):
        run_sharpness(run, samples=99)
    monkeypatch.setattr("zipfile.ZipFile.read", no_memory)  # whole weights are not said to be damaged
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "tvlars: memory ran out: the command needs more, or smaller data\n"
