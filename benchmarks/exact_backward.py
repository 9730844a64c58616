"""Memory and time of exact gradients over a large batch, in one go and in parts.

    pip install '.[lab,bench]'
    python benchmarks/exact_backward.py

Barlow Twins with the laboratory's small ResNet (28 x 28, one channel) and a projector of 512-512, one gradient for each
way. Every way runs in a process of its own; memory is the process's peak less what it had before the gradient.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Iterator

import torch
from lightly.loss import BarlowTwinsLoss
from torch import Tensor, nn

from tvlars.lab.models import build_model
from tvlars.lab.ssl import exact_backward


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


def measure(batch_size: int, size: int, results: multiprocessing.Queue[tuple[float, float]]) -> None:
    torch.manual_seed(0)
    network, _ = build_model("small_resnet", 1, 28, 512)
    projector = nn.Sequential(nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512))
    model = nn.Sequential(network, projector)
    exact_backward(model, Parts(64, 64), BarlowTwinsLoss())  # warms up
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    exact_backward(model, Parts(batch_size, size), BarlowTwinsLoss())
    seconds = time.perf_counter() - start
    results.put(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--parts", nargs="+", type=int, default=[1024, 256])
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| batch size | part | peak memory, MiB | seconds | to one go: memory | time |\n|---|---|---|---|---|---|")
    for batch_size in arguments.batch_sizes:
        whole = None
        for size in [batch_size, *(size for size in arguments.parts if size < batch_size)]:
            results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
            child = context.Process(target=measure, args=(batch_size, size, results))
            child.start()
            memory, seconds = results.get()
            child.join()
            whole = whole or (memory, seconds)
            ratios = f"{memory / whole[0]:.2f} | {seconds / whole[1]:.2f}"
            print(f"| {batch_size:,} | {size:,} | {memory:,.0f} | {seconds:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
