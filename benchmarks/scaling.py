"""Cost as work grows: step time against parameters and tensors, epoch time and memory against batch size.

    python benchmarks/scaling.py

Steps: the optimizers, on as many parameters in 100 tensors, or on a million parameters in as many tensors; each beside
the torch optimizer with as much state, in turn, over the same parameters and gradients. What the machine's free memory
does not hold is skipped, and said. Epochs: the small ResNet on random images of 28 x 28 with TVLARS, in micro-batches
of ``--micro-batch-size``, every batch size in a process of its own, in turn; memory is what it took on top of its
imports.
Slopes are exponents p of time ~ size^p, by least squares on logarithms of medians; 1 is linear. The steepest is the
largest between neighbouring sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from contestants import Apart, Workload, announced, lab_turn

from tvlars._machine import free_memory, this_machine
from tvlars.lab.bench.measure import BESIDE, FUSED_ADAMW, FUSED_SGD, OPTIMIZERS, parameters
from tvlars.lab.bench.result import Spread, interleave, ratio, timed

PARAMETERS = [10**5, 10**6, 10**7, 10**8, 10**9]
TENSORS = [10, 100, 1_000, 10_000]
TENSOR_PARAMETERS = 10**6
BATCH_SIZES = [512, 2_048, 8_192, 32_768, 65_536]
WORDS = {FUSED_SGD: 4, FUSED_ADAMW: 6}
"""Numbers for each parameter: weight and gradient, and the state of both optimizers of a pair."""
SHARE = 0.8
"""Of the free memory that may be taken."""
WORK = 2e8
"""Parameters that a turn updates at least, so that short steps are timed together; 500 steps at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=["parameters", "tensors", "batch-size"], default=None)
    parser.add_argument("--parameters", nargs="+", type=float, default=PARAMETERS)
    parser.add_argument("--tensors", nargs="+", type=int, default=TENSORS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    parser.add_argument("--micro-batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7, help="of steps (default: 7)")
    parser.add_argument("--epochs", type=int, default=3, help="of each batch size (default: 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write all times here")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(f"{this_machine(device)}\n", flush=True)
    everything: dict[str, Any] = {}
    for what in arguments.what or ("parameters", "tensors", "batch-size"):
        if what == "parameters":
            sizes = {int(n): [int(n) // 100] * 100 for n in arguments.parameters}
            everything[what] = steps(what, sizes, arguments.rounds, device)
        elif what == "tensors":
            sizes = {n: [TENSOR_PARAMETERS // n] * n for n in arguments.tensors}
            everything[what] = steps(what, sizes, arguments.rounds, device)
        else:
            everything[what] = batches(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything))


def steps(what: str, sizes: dict[int, list[int]], rounds: int, device: torch.device) -> dict[str, Any]:
    """Print the tables of step time against ``sizes``, each with its tensors' lengths; returns all times."""
    print(f"| {what} | optimizer | ms per step | ms of the one beside it | ratio |\n|---|---|---|---|---|")
    found: dict[str, dict[int, dict[str, list[float]]]] = {}
    for size, numbers in sizes.items():
        for name, beside in BESIDE.items():
            needed, free = 4 * WORDS[beside] * sum(numbers), free_memory(device)
            if free is not None and needed > SHARE * free:
                why = f"skipped: takes {needed / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free"
                print(f"| {size:,} | {name} | {why} | | |", flush=True)
                continue
            times = pair(numbers, name, beside, rounds, device)
            found.setdefault(name, {})[size] = times
            cells = [f"{1e3 * statistics.median(times[which]):,.3f}" for which in (name, beside)]
            cells.append(ratio(times[name], times[beside]).text())
            print(f"| {size:,} | {name} | " + " | ".join(cells) + " |", flush=True)
    print("\n| time ~ " + what + "^p | p | steepest | p of the one beside it | steepest |\n|---|---|---|---|---|")
    for name, by_size in found.items():
        if len(by_size) > 1:
            cells = [cell for which in (name, BESIDE[name]) for cell in slopes(by_size, which)]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print()
    return found


def pair(numbers: list[int], name: str, beside: str, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of a step of two optimizers over tensors of so many ``numbers``, in turn."""
    params = parameters([(n,) for n in numbers], device)
    count = max(1, min(int(WORK / sum(numbers)), 500, 20_000 // len(numbers)))
    both = {which: partial(timed, OPTIMIZERS[which](params).step, count) for which in (name, beside)}
    return interleave(both, rounds, warm_up=2)


def slopes(by_size: dict[int, dict[str, list[float]]], which: str) -> tuple[str, str]:
    """The slope over all sizes, and the steepest between neighbours."""
    points = [(size, Spread.of(times[which]).median) for size, times in sorted(by_size.items())]
    steepest = max(slope(*zip(*two, strict=True)) for two in pairwise(points))
    return f"{slope(*zip(*points, strict=True)):.2f}", f"{steepest:.2f}"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent p of y ~ x^p: least squares of log y over log x."""
    log_x, log_y = [math.log(v) for v in x], [math.log(v) for v in y]
    return statistics.linear_regression(log_x, log_y).slope


def batches(arguments: argparse.Namespace) -> dict[int, list[float]]:
    """Print the table of epoch time against batch size; returns the seconds of every epoch."""
    sizes = sorted(arguments.batch_sizes)
    images = sizes[-1]
    with contextlib.ExitStack() as stack:
        turns = {}
        for size in sizes:
            workload = Workload("small_resnet", images, size, 28, 2, device=arguments.device)
            micro = min(arguments.micro_batch_size, size)
            turns[str(size)] = stack.enter_context(Apart(partial(lab_turn, workload, micro_batch_size=micro)))
        times = interleave(announced(turns), arguments.epochs, warm_up=0)
        memory = {size: turn.memory for size, turn in turns.items()}
        on_device = {size: turn.device_memory for size, turn in turns.items()}
    first = str(sizes[0])
    print(f"small_resnet, {images:,} images per epoch, micro-batches of {arguments.micro_batch_size}")
    print(f"| batch size | s per epoch | to {sizes[0]:,} | memory, MiB | on the device, MiB |\n|---|---|---|---|---|")
    for size, seconds in times.items():
        used = memory[size]
        cells = [f"{int(size):,}", Spread.of(seconds).text(), ratio(seconds, times[first]).text()]
        cells += ["-" if used is None else f"{used / 2**20:,.0f}", f"{on_device[size] / 2**20:,.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    measured = {int(size): {"epoch": seconds} for size, seconds in times.items()}
    if len(measured) > 1:
        print("epoch time ~ batch size^p: p = {}, steepest {}".format(*slopes(measured, "epoch")))
        if all(memory.values()):
            grows = slope([float(s) for s in memory], [float(m or 0) for m in memory.values()])
            print(f"memory ~ batch size^p: p = {grows:.2f}")
    print()
    return {int(size): seconds for size, seconds in times.items()}


if __name__ == "__main__":
    main()
