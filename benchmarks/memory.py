"""Peak memory of runs against the memory that their models need, and its growth with steps, epochs and runs.

    pip install '.[lab]'
    python benchmarks/memory.py
    python benchmarks/memory.py --rows growth

Each turn is a process of its own on Linux: it trains three steps on batches of 8 images first, which loads libraries,
and then its run, whose peak is that of the process less the memory before the run. A model needs its parameters, their
gradients and the momentum, one float32 each; the activations that autograd keeps of one micro-batch; and its images. A
loop written by hand is measured beside them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from apart import MIB, alone, peak
from harness import Cell, asked, options, spread
from torch import Tensor, nn

from tvlars import TVLARS
from tvlars.lab import CompareConfig, Reporter, TrainConfig, compare, train
from tvlars.lab.bench.loops import random_images, seeded_model

SIZE = 32
MODELS = {"small_resnet": 512, "resnet18": 64}
"""Samples of a micro-batch by model; a batch has four of them."""
PLAIN = "plain PyTorch loop"
TASKS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "train": {},
    "train, layer statistics": {"layer_stats": 1},
    "Barlow Twins, exact gradients": {"task": "barlow-twins", "projector": "256-256"},
    "sharpness": {"sharpness": "steps:2"},
    "noise scale": {"noise_scale": True},
}
GROWTH: dict[str, dict[str, Any]] = {
    "100 steps": {"epochs": 10},
    "400 steps in 10 epochs": {"epochs": 10, "images": 4},
    "400 steps in 40 epochs": {"epochs": 40},
    "comparison of 2 runs": {"epochs": 10, "runs": 2},
    "comparison of 8 runs": {"epochs": 10, "runs": 8},
}
"""Runs of the small ResNet, with ten steps per epoch unless ``images`` times as many."""


def run(model: str, images: int, **options: Any) -> Callable[[], object]:
    """Return a function that trains a run on random images in a folder that is removed."""
    data = random_images(images, SIZE)
    config = TrainConfig(
        **{"data": "cifar10", "model": model, "lr": 1.0, "precision": "32-true", "accelerator": "cpu", **options}
    )

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(config, data=data, folder=Path(folder), reporter=Reporter())

    return work


def plain(model: str) -> Callable[[], object]:
    """Return a function that trains four micro-batches in a loop without the laboratory."""

    def work() -> None:
        network = seeded_model(model, SIZE).to(memory_format=torch.channels_last)
        optimizer = TVLARS(network.parameters(), lr=1.0, total_steps=4)
        images = torch.randn(MODELS[model], 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64)
        for _ in range(4):
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return work


def activations(model: nn.Module, images: Tensor) -> int:
    """Return the bytes that autograd keeps of a forward pass, parameters aside."""
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        said = model(images)
    del said
    return sum(kept.values())


def needs(model: str, views: int) -> dict[str, int]:
    """Return the bytes that training needs: three numbers for each parameter, and activations and images of a
    micro-batch in one or two views."""
    network = seeded_model(model, SIZE).to(memory_format=torch.channels_last)
    images = torch.randn(MODELS[model], 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    numbers = 3 * 4 * sum(p.numel() for p in network.parameters())
    return {"parameters": numbers, "activations": views * activations(network, images), "images": images.nbytes * views}


def tasks(model: str) -> list[str]:
    """Return the tasks of a model; sharpness of ResNet-18 would take most of an hour on two cores."""
    return [task for task in TASKS if (model, task) != ("resnet18", "sharpness")]


def peak_of_task(model: str, task: str) -> float:
    """Return the peak of a task in MiB."""
    options, micro = dict(TASKS[task]), MODELS[model]
    if "sharpness" in options:
        options["sharpness_samples"] = micro
    first = {name: options[name] for name in ("task", "projector") if name in options}
    run(model, 24, batch_size=8, epochs=1, **first)()
    usual = dict(batch_size=4 * micro, micro_batch_size=micro, epochs=3)
    return peak(plain(model) if task == PLAIN else run(model, 4 * micro, **usual, **options)) / MIB


def peak_of_growth(what: str) -> float:
    """Return the peak of a length in MiB."""
    options = dict(GROWTH[what])
    images, runs = 320 * options.pop("images", 1), options.pop("runs", 1)
    usual = dict(batch_size=32, micro_batch_size=32, checkpoint_every="100-steps", layer_stats=10)
    run("small_resnet", 64, batch_size=32, epochs=1)()
    if runs == 1:
        return peak(run("small_resnet", images, **usual, **options)) / MIB
    base = TrainConfig(data="cifar10", model="small_resnet", precision="32-true", accelerator="cpu", **usual, **options)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = CompareConfig(base=base, optimizers=("tvlars", "lars"), seeds=tuple(range(runs // 2)), out=folder)
            compare(config, data=random_images(images, SIZE), announce=lambda text: None, reporter=Reporter())

    return peak(work) / MIB


def main() -> None:
    for results, name in asked(options(__doc__, [*MODELS, "growth"], count=3, devices=False).parse_args()):
        growth = name == "growth"
        table = results.table(name, micro_batch=32 if growth else MODELS[name])
        make = partial(partial, alone, peak_of_growth) if growth else partial(partial, alone, peak_of_task, name)
        peaks = results.measure(table, {row: make(row) for row in (GROWTH if growth else tasks(name))}, warmup=0)
        for row, found in peaks.items():
            cells: dict[str, Cell] = {"peak, MiB": spread(found)}
            if not growth:
                need = needs(name, 2 if "task" in TASKS[row] else 1)
                cells = {f"{what}, MiB": round(value / MIB) for what, value in need.items()} | cells
                cells["peak / need"] = spread([each * MIB / sum(need.values()) for each in found])
            results.row(table, row, **cells)


if __name__ == "__main__":
    main()
