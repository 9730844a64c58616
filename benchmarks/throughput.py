"""Images per second of training loops: the laboratory's, one that anybody writes, the published one, and lightly's.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --rows small_resnet small_resnet-barlow-twins

Random uint8 images of 32 x 32 in memory, as CIFAR-10's are. All loops train the same model on the same images with the
same batch size, optimizer and kinds of augmentation (random crops, mirroring and rotations by up to 15 degrees; two
views for Barlow Twins), except that "lightly's example" has the transform, projector and optimizer of lightly's
documentation. The published loop is a DataLoader with PIL transforms in float32; the loop that anybody writes has two
workers and channels_last besides. Workers are kept between epochs, so that their start is not timed. Every loop is in a
process of its own; memory is the most that its processes took on top of their imports. ``--published FOLDER``, a clone
of https://github.com/KhoiDOO/tvlars, adds the loop with the published optimizer. solo-learn is left out: its
release 1.0.2 requires torch 1.9.1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from apart import Apart, mebibytes
from harness import Results, Table, Turn, asked, options, ratios, spread
from torch import nn
from workloads import BARLOW_TWINS, LabTurn, OtherLoop, StandardStem, TwinsLoop, Workload

from tvlars._machine import native_bf16
from tvlars.lab.bench.loops import LR, WEIGHT_DECAY

OURS = "tvlars, as it comes"
STANDARD_STEM = "-standard-stem"
MODELS = {
    "small_resnet": "small_resnet",
    f"resnet18{STANDARD_STEM}": "resnet18",
    "resnet18": "resnet18",
    "vit-tiny": "timm:vit_tiny_patch16_224",
    "convnext-atto": "timm:convnext_atto",
}
"""Names of the laboratory; "standard stem" is the one that torchvision made for 224 pixels."""
SIZES = {
    "cpu": {
        "small_resnet": (512, 10_240),
        f"resnet18{STANDARD_STEM}": (256, 2_560),
        "resnet18": (128, 256),
        "vit-tiny": (256, 1_024),
        "convnext-atto": (256, 2_560),
    },
    "cuda": dict.fromkeys(MODELS, (512, 51_200)),
}
"""Batch size and images of a turn, so that a turn takes some seconds."""
TABLES = [f"{model}{task}" for task in ("", f"-{BARLOW_TWINS}") for model in MODELS]


def main() -> None:
    parser = options(__doc__, TABLES)
    parser.add_argument("--batch-size", type=int, help="default: by model and device")
    parser.add_argument("--images", type=int, help="of a turn; default: by model and device")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoaders; default: 2")
    parser.add_argument("--published", type=Path, metavar="FOLDER", help="a clone of the published code")
    arguments = parser.parse_args()
    for results, name in asked(arguments):
        model, twins, _ = name.partition(f"-{BARLOW_TWINS}")
        batch_size, images = SIZES[arguments.device][model]
        batch_size, images = arguments.batch_size or batch_size, arguments.images or images
        images = max(images // batch_size, 1) * batch_size
        table = results.table(name, batch_size=batch_size, images=images, workers=arguments.workers)
        if not results.missing(table):
            continue
        if twins:
            workload = workload_of(model, images, batch_size, device=arguments.device, task=BARLOW_TWINS)
            makers = twins_makers(workload, arguments.workers)
        else:
            workload = workload_of(model, images, batch_size, device=arguments.device, rotation=15.0)
            makers = classification_makers(workload, arguments)
        measure(results, table, makers, images)


def workload_of(model: str, images: int, batch_size: int, **more: Any) -> Workload:
    """Return the workload of one of ``MODELS``."""
    kind = StandardStem if model.endswith(STANDARD_STEM) else Workload
    return kind(MODELS[model], images, batch_size, **more)


def classification_makers(workload: Workload, arguments: argparse.Namespace) -> dict[str, Callable[[], Turn]]:
    """Return the loops by name."""
    workers = arguments.workers
    loader = f"DataLoader, {workers} workers"
    makers: dict[str, Callable[[], Turn]] = {OURS: partial(LabTurn, workload)}
    makers["tvlars, float32"] = partial(LabTurn, workload, precision="32-true", compile=False)
    if native_bf16(torch.device(workload.device)):
        makers["tvlars, bf16"] = partial(LabTurn, workload, precision="bf16-mixed", compile=False)
        makers[f"{loader}, bf16, channels_last"] = partial(OtherLoop, workload, workers, True, True)
    makers[f"{loader}, channels_last"] = partial(OtherLoop, workload, workers, False, True)
    makers[loader] = partial(OtherLoop, workload, workers)
    makers["DataLoader, no workers"] = partial(OtherLoop, workload, 0)
    if arguments.published:
        makers[f"{loader}, published TVLARS"] = partial(published, workload, workers, arguments.published)
    return makers


def twins_makers(workload: Workload, workers: int) -> dict[str, Callable[[], Turn]]:
    """Return the loops of Barlow Twins by name."""
    return {
        OURS: partial(LabTurn, workload),
        f"DataLoader, {workers} workers, channels_last": partial(TwinsLoop, workload, workers, True),
        f"DataLoader, {workers} workers": partial(TwinsLoop, workload, workers),
        f"lightly's example, {workers} workers": partial(TwinsLoop, workload, workers, whole=True),
    }


def measure(results: Results, table: Table, makers: dict[str, Callable[[], Turn]], images: int) -> None:
    """Measure loops, each in a process of its own, and enter their rows."""
    with contextlib.ExitStack() as stack:
        turns = {name: stack.enter_context(Apart(maker)) for name, maker in makers.items()}
        times = results.measure(table, turns)
        for name, seconds in times.items():
            cells: dict[str, Any] = {
                "images/s": spread([images / s for s in seconds]),
                "ours / it": ratios(seconds, times[OURS]),
                "memory, MiB": mebibytes(turns[name].memory),
                "computes in": turns[name].said or ("bf16" if "bf16" in name else "float32"),
            }
            if turns[name].device_memory:
                cells["on the device, MiB"] = mebibytes(turns[name].device_memory)
            results.row(table, name, **cells)


def published(workload: Workload, workers: int, folder: Path) -> Turn:
    """Return the loop with the optimizer from a clone of the published code."""
    spec = importlib.util.spec_from_file_location("published", folder / "opt" / "tvlars.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(model: nn.Module) -> Any:
        filters = dict(weight_decay_filter=True, lars_adaptation_filter=True)
        optimizer = module.TVLARS(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, **filters)
        optimizer.step = partial(optimizer.step, unit_step_cnt=workload.images // workload.batch_size)
        return optimizer

    return OtherLoop(workload, workers, make_optimizer=make)


if __name__ == "__main__":
    main()
