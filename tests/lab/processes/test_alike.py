"""Processes of one run that were started with different runs do not train."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.lab.processes.processes import in_processes
from tvlars.lab import CompareConfig, TrainConfig, UsageError, compare, train
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import LostProcessError
from tvlars.lab.processes.alike import difference, facts_of
from tvlars.lab.processes.processes import Processes
from tvlars.lab.training import prepare as preparing
from tvlars.lab.training.progress import Reporter

QUICK: dict[str, Any] = dict(epochs=1, accelerator="cpu", precision="32-true")


def said(config: TrainConfig, data: ImageData, other: TrainConfig, other_data: ImageData) -> str:
    pairs = ((config, data), (other, other_data))
    return difference([facts_of(one, one.plan(len(held.train_labels)), held, "32-true") for one, held in pairs])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(seed=1), "seed is 0 on process 0 and 1 on process 1"),
        (dict(optimizer="lars", lr=3.0), "optimizer is 'tvlars' on process 0 and 'lars' on process 1; lr is None"),
        (dict(checkpoint_every="3-steps"), "checkpoint_every is None on process 0 and '3-steps' on process 1"),
        (dict(data="cifar10"), "data is 'digits' on process 0 and 'cifar10' on process 1"),
        (dict(out=Path("x"), data_dir=Path("y"), devices=2, timeout=3.0, profile=True), ""),
    ],
)
def test_options_that_differ_are_named(options: dict[str, Any], sentence: str, digits: ImageData) -> None:
    config = TrainConfig(**QUICK)
    found = said(config, digits, replace(config, **options), digits)
    assert found.startswith(sentence)
    assert bool(found) == bool(sentence)


def test_a_process_that_does_not_say_what_it_does(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended, or is of a version that compares nothing."""

    def waits_in_vain(*_: Any) -> None:
        raise dist.DistStoreError("wait timeout after 20000ms, keys: /default_pg/0//tvlars/alike/0/1")

    monkeypatch.setattr(Processes, "several", property(lambda _: True))
    monkeypatch.setattr(Processes, "_limit", 20.0)
    monkeypatch.setattr(preparing, "check_alike", waits_in_vain)
    with pytest.raises(LostProcessError, match=r"process 0 has waited for the others in vain: .* wait timeout after"):
        train(TrainConfig(out=tmp_path / "run", **QUICK), data=digits, reporter=Reporter())
    assert not (tmp_path / "run").exists()


def test_what_is_found_besides_options_is_compared(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(**QUICK)
    plan = config.plan(1437)
    here = facts_of(config, plan, digits, "32-true")
    shorter = replace(plan, delay=plan.delay - 1)
    assert difference([here, facts_of(config, shorter, digits, "32-true")]).startswith("delay of the plan is")
    precision = difference([here, facts_of(config, plan, digits, "bf16-mixed")])
    assert precision == "precision that is used is '32-true' on process 0 and 'bf16-mixed' on process 1"
    monkeypatch.setattr("torch.__version__", "1.0")
    monkeypatch.setattr("tvlars.lab.processes.alike.__version__", "0.0")
    assert re.findall(r"(\w+ version) is", difference([here, facts_of(config, plan, digits, "32-true")])) == [
        "tvlars version",
        "torch version",
    ]


CHANGES: dict[str, Callable[[ImageData], ImageData]] = {
    "class names is": lambda data: replace(data, class_names=tuple(reversed(data.class_names))),
    "labels of the training images is": lambda data: replace(data, train_labels=data.train_labels.flip(0)),
    "pixels of the test images is": lambda data: replace(data, test_images=data.test_images.flip(3)),
    "counts of the test images is": lambda data: replace(
        data, test_images=data.test_images[:-1], test_labels=data.test_labels[:-1]
    ),
}


@pytest.mark.parametrize("words", list(CHANGES))
def test_data_that_differ_are_named(words: str, digits: ImageData) -> None:
    config = TrainConfig(**QUICK)
    assert said(config, digits, config, digits) == ""
    assert words in said(config, digits, config, CHANGES[words](digits))


def test_many_processes_and_versions_are_said_in_short() -> None:
    everyone = [{"torch version": "2.9", "lr": 1.0}] * 6 + [{"torch version": "2.14", "lr": 1.0}]
    assert difference(everyone) == "torch version is '2.9' on processes 0, 1, 2, 3 and 2 more and '2.14' on process 6"
    assert difference([{"lr": rank} for rank in range(9)]).endswith("2 on process 2 and others elsewhere")
    assert difference([{"lr": 1}, {"lr": 2}, {"lr": 1}]) == "lr is 1 on processes 0, 2 and 2 on process 1"
    assert difference([{}, {"new": 1}]) == "new is None on process 0 and 1 on process 1"
    many = difference([{str(name): rank for name in range(9)} for rank in range(2)])
    assert many.endswith("; 6 more differ")


def refused(folder: Path) -> None:
    """Each of two processes with runs of its own: all of them stop, one after the other, in both processes."""
    rank = int(os.environ["RANK"])
    config, digits = TrainConfig(**QUICK, out=folder / "run"), load_data("digits")
    for options, data in ((dict(seed=rank), digits), ({}, CHANGES["labels of the training images is"](digits))):
        mine = replace(config, **options)
        with pytest.raises(UsageError, match=r"all processes must do the same run, but (seed|labels)[^;]* process 1"):
            train(mine, data=data if rank else digits, reporter=Reporter())
    with pytest.raises(UsageError, match=r"seeds is \[0\] on process 0 and \[0, 1\] on process 1"):
        compare(CompareConfig(replace(config, out=None), seeds=(0, 1)[: 1 + rank]), announce=lambda line: None)
    assert not (folder / "run").exists()
    train(config, reporter=Reporter())  # alike, it is done


def test_processes_with_other_seeds_data_or_comparisons_all_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    in_processes(2, refused, tmp_path, log=tmp_path / "log")
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "run" / "weights.pt").is_file()
