"""Peak memory of runs against the memory that their models need, and its growth with steps, epochs and runs.

    pip install '.[lab]'
    python benchmarks/memory.py
    python benchmarks/memory.py --rows growth

Each row is a process of its own on Linux: it trains three steps on batches of 8 images first, which loads libraries,
and then its run, whose peak is that of the process less the memory before the run. A model needs its parameters, their
gradients and the momentum, one float32 each; the activations that autograd keeps of one micro-batch; and its images. A
loop written by hand is measured beside them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tvlars import TVLARS
from tvlars.lab import CompareConfig, Reporter, TrainConfig, compare, train
from tvlars.lab.bench.loops import random_images, seeded_model

MIB = 2**20
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
    "2 runs": {"epochs": 10, "runs": 2},
    "8 runs": {"epochs": 10, "runs": 8},
}
"""Runs of the small ResNet, with ten steps per epoch unless ``images`` times as many."""


def status(name: str) -> int:
    """Return a number of bytes in the status of this process, such as "VmRSS", or its peak, "VmHWM"."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the status of a process must have {name}")


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that this process has while ``work`` is done, less those that it has before."""
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work()
    return status("VmHWM") - before


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


def row_of_task(model: str, task: str) -> dict[str, Any]:
    """Return the row of a task: peak and need in MiB."""
    options, micro = dict(TASKS[task]), MODELS[model]
    if "sharpness" in options:
        options["sharpness_samples"] = micro
    run(
        model, 24, batch_size=8, epochs=1, **{name: options[name] for name in ("task", "projector") if name in options}
    )()
    usual = dict(batch_size=4 * micro, micro_batch_size=micro, epochs=3)
    most = peak(plain(model) if task == PLAIN else run(model, 4 * micro, **usual, **options))
    need = needs(model, 2 if "task" in options else 1)
    whole = sum(need.values())
    return {
        "model": model,
        "micro-batch": micro,
        "task": task,
        **{f"{name}, MiB": round(value / MIB) for name, value in need.items()},
        "peak, MiB": round(most / MIB),
        "peak / need": round(most / whole, 2),
    }


def row_of_growth(what: str) -> dict[str, Any]:
    """Return the row of a length: peak in MiB."""
    options = dict(GROWTH[what])
    images, runs = 320 * options.pop("images", 1), options.pop("runs", 1)
    usual = dict(batch_size=32, micro_batch_size=32, checkpoint_every="100-steps", layer_stats=10)
    run("small_resnet", 64, batch_size=32, epochs=1)()
    if runs == 1:
        return {"run": what, "peak, MiB": round(peak(run("small_resnet", images, **usual, **options)) / MIB, 1)}
    base = TrainConfig(data="cifar10", model="small_resnet", precision="32-true", accelerator="cpu", **usual, **options)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = CompareConfig(base=base, optimizers=("tvlars", "lars"), seeds=tuple(range(runs // 2)), out=folder)
            compare(config, data=random_images(images, SIZE), announce=lambda text: None, reporter=Reporter())

    return {"run": f"comparison of {what}", "peak, MiB": round(peak(work) / MIB, 1)}


def apart(function: Callable[..., dict[str, Any]], *arguments: str) -> dict[str, Any]:
    """Return the row of a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=("tasks", "growth"), default="tasks", help="the table (default: tasks)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    pairs = [(row_of_task, model, task) for model in MODELS for task in TASKS]
    work: list[Any] = pairs if options.rows == "tasks" else [(row_of_growth, what) for what in GROWTH]
    rows: list[dict[str, Any]] = []
    for one in work:
        rows.append(apart(*one))
        if len(rows) == 1:
            print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
        print(f"| {' | '.join(map(str, rows[-1].values()))} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
