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
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from apart import Apart, mebibytes
from harness import Cell, Results, Spread, Turn, asked, options, ratios, spread, timed
from workloads import LabTurn, Workload

from tvlars._machine import free_memory
from tvlars.lab.bench.measure import BESIDE, FUSED_ADAMW, FUSED_SGD, OPTIMIZERS, parameters

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
EXPONENT, STEEPEST = "exponent p of size^p", "the steepest p"


def main() -> None:
    parser = options(__doc__, ["parameters", "tensors", "batch-size"])
    parser.add_argument("--parameters", nargs="+", type=float, default=PARAMETERS)
    parser.add_argument("--tensors", nargs="+", type=int, default=TENSORS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    parser.add_argument("--micro-batch-size", type=int, default=512)
    arguments = parser.parse_args()
    for results, what in asked(arguments):
        if what == "batch-size":
            batches(results, arguments)
        elif what == "parameters":
            steps(results, what, {int(n): [int(n) // 100] * 100 for n in arguments.parameters}, arguments.device)
        else:
            steps(results, what, {n: [TENSOR_PARAMETERS // n] * n for n in arguments.tensors}, arguments.device)


def steps(results: Results, what: str, sizes: dict[int, list[int]], device: str) -> None:
    """Measure step time against ``sizes``, each with its tensors' lengths, and enter a row for each and the slopes."""
    table, on = results.table(what), torch.device(device)
    for size, numbers in sizes.items():
        cells: dict[str, Cell] = dict(table.rows.get(f"{size:,}", {}))
        for name, beside in BESIDE.items():
            group = f"{size:,} {name}"
            if results.late or not results.missing(table, group):
                continue
            needed, free = 4 * WORDS[beside] * sum(numbers), free_memory(on)
            if free is not None and needed > SHARE * free:
                gib = f"{needed / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free"
                cells[f"{name}, ms"] = f"skipped: takes {gib}"
                continue
            times = results.measure(table, pair(numbers, name, beside, on), group, warmup=2)
            cells[f"{name}, ms"] = 1e3 * Spread.of(times[name]).median
            cells[f"{name} to {beside}"] = ratios(times[name], times[beside])
        if cells:
            results.row(table, f"{size:,}", **cells)
    exponents: dict[str, dict[str, Cell]] = {EXPONENT: {}, STEEPEST: {}}
    for name in BESIDE:
        measured = {size: table.rounds.get(f"{size:,} {name}", {}).get(name) for size in sizes}
        by_size = {size: Spread.of(seconds).median for size, seconds in measured.items() if seconds}
        if len(by_size) > 1:
            for row, value in zip(exponents, slopes(by_size), strict=True):
                exponents[row][f"{name}, ms"] = value
    for row, cells in exponents.items():
        table.rows.pop(row, None)  # they stand below all sizes
        results.row(table, row, **cells)


def pair(numbers: list[int], name: str, beside: str, device: torch.device) -> dict[str, Turn]:
    """Return turns of two optimizers over tensors of so many ``numbers``."""
    params = parameters([(n,) for n in numbers], device)
    count = max(1, min(int(WORK / sum(numbers)), 500, 20_000 // len(numbers)))
    return {which: partial(timed, OPTIMIZERS[which](params).step, count) for which in (name, beside)}


def slopes(by_size: Mapping[int, float]) -> tuple[float, float]:
    """Return the exponent of values over all sizes, and the largest between neighbours."""
    points = sorted(by_size.items())
    steepest = max(slope(*zip(*two, strict=True)) for two in pairwise(points))
    return slope(*zip(*points, strict=True)), steepest


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent p of y ~ x^p: least squares of log y over log x."""
    log_x, log_y = [math.log(v) for v in x], [math.log(v) for v in y]
    return statistics.linear_regression(log_x, log_y).slope


def batches(results: Results, arguments: argparse.Namespace) -> None:
    """Measure the time of an epoch and the memory against the batch size, and enter a row for each and the slopes."""
    sizes = sorted(arguments.batch_sizes)
    micro = arguments.micro_batch_size
    table = results.table("batch-size", images=sizes[-1], micro_batch_size=micro)
    if not results.missing(table):
        return
    with contextlib.ExitStack() as stack:
        turns = {}
        for size in sizes:
            workload = Workload("small_resnet", sizes[-1], size, 28, 2, device=arguments.device)
            chosen = {"precision": "32-true", "compile": False}  # the same for all sizes
            maker = partial(LabTurn, workload, micro_batch_size=min(micro, size), **chosen)
            turns[size] = stack.enter_context(Apart(maker))
        times = results.measure(table, {f"{size:,}": turn for size, turn in turns.items()}, warmup=0)
        memory = {size: turn.memory for size, turn in turns.items()}
    first = f"{sizes[0]:,}"
    for size in sizes:
        seconds = times[f"{size:,}"]
        cells: dict[str, Cell] = {"s per epoch": spread(seconds), f"to {first}": ratios(seconds, times[first])}
        if turns[size].device_memory:
            cells["on the device, MiB"] = mebibytes(turns[size].device_memory)
        results.row(table, f"{size:,}", **cells, **{"memory, MiB": mebibytes(memory[size])})
    if len(sizes) > 1:
        of_time = slopes({size: Spread.of(times[f"{size:,}"]).median for size in sizes})
        known = {size: float(used) for size, used in memory.items() if used}
        of_memory = slopes(known) if len(known) > 1 else (None, None)
        for row, seconds_, mebi in zip((EXPONENT, STEEPEST), of_time, of_memory, strict=True):
            results.row(table, row, **{"s per epoch": seconds_, "memory, MiB": mebi})


if __name__ == "__main__":
    main()
