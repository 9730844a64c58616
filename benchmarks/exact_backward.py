"""Memory and time of exact gradients over a large batch, in one go and in parts.

    pip install '.[lab,bench]'
    python benchmarks/exact_backward.py

Barlow Twins with the laboratory's small ResNet (28 x 28, one channel) and a projector of 512-512. A turn is one
gradient in a process of its own; memory is the process's peak less what it had before the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from apart import MIB, alone, peak
from harness import asked, options, ratios, spread, timed
from lightly.loss import BarlowTwinsLoss
from torch import Tensor, nn

from tvlars.lab.models import build_model
from tvlars.lab.ssl import exact_backward

PARTS = (1024, 256)


class Parts:
    """Views made when they are asked for, the same each time."""

    def __init__(self, batch_size: int, size: int) -> None:
        self.batch_size, self.size = batch_size, size

    def __len__(self) -> int:
        return -(-self.batch_size // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(len(self)):
            generator = torch.Generator().manual_seed(i)
            first = torch.rand(min(self.size, self.batch_size - i * self.size), 1, 28, 28, generator=generator)
            yield first, first.flip(3)


def gradient(batch_size: int, size: int) -> tuple[float, float]:
    """Return the seconds and MiB of one gradient."""
    torch.manual_seed(0)
    network, _ = build_model("small_resnet", 1, 28, 512)
    model = nn.Sequential(network, nn.Sequential(nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512)))
    exact_backward(model, Parts(64, 64), BarlowTwinsLoss())  # warms up
    seconds: list[float] = []
    work = partial(exact_backward, model, Parts(batch_size, size), BarlowTwinsLoss())
    most = peak(lambda: seconds.append(timed(work)))
    return seconds[0], most / MIB


def main() -> None:
    parser = options(__doc__, ["1024", "4096"], count=3, devices=False)
    for results, name in asked(parser.parse_args()):
        table, batch_size = results.table(name), int(name)
        memory: dict[str, list[float]] = {}

        def turn(size: int, memory: dict[str, list[float]] = memory, batch_size: int = batch_size) -> float:
            seconds, most = alone(gradient, batch_size, size)
            memory.setdefault(f"{size:,}", []).append(most)
            return float(seconds)

        sizes = [batch_size, *(size for size in PARTS if size < batch_size)]
        if not results.missing(table):
            continue
        times = results.measure(table, {f"{size:,}": partial(turn, size) for size in sizes}, warmup=0)
        whole = f"{batch_size:,}"
        for size, seconds in times.items():
            most = median(memory[size])
            cells = {"peak memory, MiB": round(most), "seconds": spread(seconds)[0]}
            cells["memory, to one part"] = most / median(memory[whole])
            results.row(table, size, **cells, **{"time, to one part": ratios(seconds, times[whole])})


if __name__ == "__main__":
    main()
