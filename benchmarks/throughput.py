"""Images per second of training: the laboratory's loop beside a DataLoader with PIL transforms, in one run.

    python benchmarks/throughput.py                       # the loops
    python benchmarks/throughput.py --rotation 0          # with crops and mirroring alone
    python benchmarks/throughput.py --switches            # bf16, channels_last and compile, one against the other

Random uint8 images of 32 x 32 in memory, as CIFAR-10's are. Both loops train the same model on the same images with
the same batch size, optimizer and kinds of augmentation; the published loop's are random crops, mirroring and
rotations by up to 15 degrees, its precision is float32, its workers are as many as there are cores (they are kept
between epochs here, which favours it). Every loop is in a process of its own and trains an epoch in turn with the
others. Printed are medians over rounds with quartiles, ratios within a round, and the most memory that a loop's
processes took on top of their imports. ``--published FOLDER``, a clone of https://github.com/KhoiDOO/tvlars, adds the
loop with the published optimizer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contestants import (
    Apart,
    OtherLoop,
    StandardStem,
    Switches,
    TrainingSteps,
    Workload,
    announced,
    lab_turn,
    per_second,
)
from torch import nn

from tvlars._machine import cores, faster_in_bf16, native_bf16, this_machine
from tvlars.lab.bench.loops import LR, WEIGHT_DECAY
from tvlars.lab.bench.result import Turn, interleave, ratio

OURS = "tvlars"
STANDARD_STEM = "-standard-stem"
MODELS = ("small_resnet", "resnet18", f"resnet18{STANDARD_STEM}")
"""Models of the laboratory; the last one has the stem that torchvision made for 224 pixels."""
SIZES = {
    "cpu": {"small_resnet": (512, 10_240), "resnet18-standard-stem": (256, 2_560), "resnet18": (128, 256)},
    "cuda": {"small_resnet": (512, 51_200), "resnet18-standard-stem": (512, 51_200), "resnet18": (512, 51_200)},
}
"""Batch size and images of a turn, so that a turn takes some seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch-size", type=int, help="default: by model and device")
    parser.add_argument("--images", type=int, help="of a turn; default: by model and device")
    parser.add_argument("--workers", nargs="+", type=int, default=[cores(), 0], help="default: one a core, and none")
    parser.add_argument("--rotation", type=float, default=15.0, help="degrees; default: 15, as published; 0: none")
    parser.add_argument("--published", type=Path, metavar="FOLDER", help="a clone of the published code")
    parser.add_argument("--compile", action="store_true", help="take our loop along with --compile too, in float32")
    parser.add_argument("--switches", action="store_true", help="measure bf16, channels_last and compile")
    parser.add_argument("--json", type=Path, help="write all times here")
    arguments = parser.parse_args()
    print(f"{this_machine(torch.device(arguments.device))}\n")
    everything: dict[str, Any] = {}
    for model in arguments.models:
        batch_size, images = SIZES[arguments.device][model]
        batch_size, images = arguments.batch_size or batch_size, arguments.images or images
        images = max(images // batch_size, 1) * batch_size
        workload = workload_of(model, images, batch_size, rotation=arguments.rotation, device=arguments.device)
        measure = switches if arguments.switches else loops
        everything[model] = {**asdict(workload), "model": model, "seconds": measure(workload, arguments)}
    if arguments.json:
        arguments.json.write_text(json.dumps(everything))


def workload_of(model: str, images: int, batch_size: int, **options: Any) -> Workload:
    """Return the workload of one of ``MODELS``."""
    kind = StandardStem if model.endswith(STANDARD_STEM) else Workload
    return kind(model.removesuffix(STANDARD_STEM), images, batch_size, **options)


def loops(workload: Workload, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Print the table of the loops; returns the seconds of every turn."""
    bf16 = native_bf16(torch.device(workload.device))
    comes, other = ("bf16", "float32") if faster_in_bf16(torch.device(workload.device)) else ("float32", "bf16")
    makers: dict[str, tuple[Any, ...]] = {f"{OURS}, as it comes ({comes})": (lab_turn, workload)}
    if bf16:
        precision = {"bf16": "bf16-mixed", "float32": "32-true"}[other]
        makers[f"{OURS}, {other}"] = (partial(lab_turn, workload, precision=precision),)
    if arguments.compile:
        makers[f"{OURS}, float32, compiled"] = (partial(lab_turn, workload, precision="32-true", compile=True),)
    for workers in arguments.workers:
        makers[f"DataLoader, {workers} workers, float32"] = (OtherLoop, workload, workers)
    most = max(arguments.workers)
    makers[f"DataLoader, {most} workers, channels_last"] = (OtherLoop, workload, most, False, True)
    if bf16:
        makers[f"DataLoader, {most} workers, bf16, channels_last"] = (OtherLoop, workload, most, True, True)
    if arguments.published:
        makers[f"DataLoader, {most} workers, published TVLARS"] = (published, workload, most, arguments.published)
    with contextlib.ExitStack() as stack:
        turns = {name: stack.enter_context(Apart(*maker)) for name, maker in makers.items()}
        times = interleave(announced(turns), arguments.rounds)
        memory = {name: (turn.memory, turn.device_memory) for name, turn in turns.items()}
    ours = [name for name in times if name.startswith(OURS)]
    print(
        f"{workload.model}, batch size {workload.batch_size}, {workload.images:,} images a turn, "
        f"{arguments.rounds} rounds"
    )
    print(
        "| loop | images/s | "
        + "".join(f"{name} / it | " for name in ours)
        + "memory, MiB |"
        + (" on the device, MiB |" if workload.device == "cuda" else "")
    )
    print("|---" * (3 + len(ours) + (workload.device == "cuda")) + "|")
    for name, seconds in times.items():
        cells = [name, per_second(workload.images, seconds).text(",.0f")]
        cells += [ratio(seconds, times[one]).text() for one in ours]
        cells += [mebibytes(memory[name][0])] + ([mebibytes(memory[name][1])] if workload.device == "cuda" else [])
        print("| " + " | ".join(cells) + " |", flush=True)
    print()
    return times


def published(workload: Workload, workers: int, folder: Path) -> Turn:
    """The loop with the optimizer from a clone of the published code."""
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


def switches(workload: Workload, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Print the table of the switches; returns the seconds of every step."""
    torch.compiler.reset()  # else the models before count against the number of variants that it compiles
    steps = max(workload.images // workload.batch_size // 4, 1)
    made = {
        str(chosen): TrainingSteps(workload, chosen, steps)
        for compiled in (False, True)
        for channels_last in (False, True)
        for bf16 in (False, True)
        for chosen in [Switches(bf16, channels_last, compiled)]
    }
    times = interleave(announced(made), arguments.rounds)
    plain = str(Switches())
    print(f"{workload.model}, batch size {workload.batch_size}, forward, backward and step, {arguments.rounds} rounds")
    print(f"| | images/s | to {plain} | logits differ by | gradient differs by | first step, s |")
    print("|---|---|---|---|---|---|")
    for name, seconds in times.items():
        speed, faster = per_second(workload.batch_size, seconds).text(",.0f"), ratio(times[plain], seconds).text()
        differs = " | ".join(f"{value:.0e}" for value in made[name].differs_from(made[plain]))
        print(f"| {name} | {speed} | {faster} | {differs} | {made[name].first_seconds:.1f} |", flush=True)
    print()
    return times


def mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:,.0f}"


if __name__ == "__main__":
    main()
