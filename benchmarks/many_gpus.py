"""Communication of a training step on many GPUs, counted and estimated on paper: no GPU is needed.

    python benchmarks/many_gpus.py
    python benchmarks/many_gpus.py --gpus 256 --network 25e9

One process stands for the first of ``--gpus`` processes (torch's "fake" backend, which exchanges nothing), shards a
real model over all of them with FSDP2, and takes a step of TVLARS; the collectives and their bytes are counted. Their
times follow from a model with two numbers: a collective over N processes takes log2(N) messages in each direction, and
each GPU sends (N - 1) / N of the bytes in each direction (Thakur, Rabenseifner and Gropp 2005, sections 4.1 and 4.4;
an all-reduce is a reduce-scatter and an all-gather). Nothing overlaps in these figures, so each is an upper bound on
what is seen. It writes the table in docs/many-processes.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.flop_counter import FlopCounterMode

from tvlars import TVLARS, layer_groups, plan

PAGE = Path(__file__).parents[1] / "docs" / "many-processes.md"
BEGIN, END = "<!-- made by python benchmarks/many_gpus.py -->\n", "\n<!-- end -->"
FLOAT32, PASSES = 4, 7
"""Bytes of an element, and how often a step moves it: weights and gradients are read for the norms, then weights,
gradients and momentum are read, and weights and momentum written."""


@dataclass(frozen=True)
class Machine:
    """GPUs and their network, in bytes/s, FLOP/s and seconds for a message."""

    gpus: int
    network: float
    memory: float
    flops: float
    latency: float

    def gather(self, size: float) -> float:
        """Return the seconds of an all-gather or a reduce-scatter of ``size`` bytes in all."""
        n = self.gpus
        return math.ceil(math.log2(n)) * self.latency + (n - 1) / n * size / self.network

    def reduce(self, size: float) -> float:
        """Return the seconds of an all-reduce of ``size`` bytes."""
        return 2 * self.gather(size)


@dataclass(frozen=True)
class Counted:
    """Needs of a step of a model: parameters, FLOPs for an image, groups of layers that FSDP2 gathers at once, and
    sizes in bytes of the all-reduces of the optimizer."""

    parameters: int
    flops: float
    groups: int
    reduced: list[int]


def counted(build: Callable[[], nn.Module], blocks: Callable[[nn.Module], list[nn.Module]], gpus: int) -> Counted:
    """Shard a model over ``gpus`` processes, of which this is one, and count what a step does."""
    with torch.device("meta"):
        whole = build()
        with FlopCounterMode(display=False) as counter:
            whole(torch.randn(2, 3, 224, 224)).sum().backward()
    model = build()
    parameters = sum(one.numel() for one in model.parameters())
    mesh = init_device_mesh("cpu", (gpus,))
    parts = blocks(model)
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    made = plan(65_536, 1_281_167, 90)
    optimizer = TVLARS(layer_groups(model, made), **made.optimizer_arguments())
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    reduced: list[int] = []
    real = dist.all_reduce

    def all_reduce(sums: torch.Tensor, group: object) -> object:
        reduced.append(sums.numel() * sums.element_size())
        return real(sums, group=group)

    with mock.patch.object(dist, "all_reduce", all_reduce):
        optimizer.step()
    return Counted(parameters, counter.get_total_flops() / 2, len(parts) + 1, reduced)


def row(name: str, model: Counted, machine: Machine, images: int) -> str:
    """Return a line of the table; times in milliseconds."""
    size = FLOAT32 * model.parameters
    passes = images * model.flops / machine.flops
    gradients = machine.reduce(size)
    shards = model.groups * 3 * machine.gather(size / model.groups)  # gathered forward and backward, scattered once
    norms = sum(map(machine.reduce, model.reduced))
    step = PASSES * size / machine.memory
    cells = (passes, gradients, step, shards, step / machine.gpus, norms)
    said = f"{len(model.reduced)} of {sum(model.reduced):,} bytes"
    return f"| {name} | {model.parameters / 1e6:.1f} M | {' | '.join(f'{1e3 * one:.2f}' for one in cells)} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1024, help="processes (default: 1024)")
    parser.add_argument("--batch-size", type=int, default=65_536, help="samples over all processes (default: 65536)")
    parser.add_argument("--network", type=float, default=50e9, help="bytes/s of a GPU each way (default: 50e9)")
    parser.add_argument("--memory", type=float, default=3.35e12, help="bytes/s (default: 3.35e12, an H100 SXM)")
    parser.add_argument("--flops", type=float, default=3e14, help="FLOP/s that training reaches (default: 3e14)")
    parser.add_argument("--latency", type=float, default=1e-5, help="seconds for a message (default: 1e-5)")
    given, usual = vars(parser.parse_args()), vars(parser.parse_args([]))
    as_the_page_says = given == usual
    images = given.pop("batch_size") // given["gpus"]
    machine = Machine(**given)

    from torch.testing._internal.distributed.fake_pg import FakeStore
    from torchvision.models import resnet50, vit_b_16

    dist.init_process_group("fake", rank=0, world_size=machine.gpus, store=FakeStore())
    models = {
        "ResNet-50": counted(
            resnet50, lambda net: [block for name in "1234" for block in getattr(net, f"layer{name}")], machine.gpus
        ),
        "ViT-B/16": counted(vit_b_16, lambda net: list(net.encoder.layers), machine.gpus),
    }
    head = (
        "| model | parameters | forward and backward | DDP: gradients | DDP: optimizer | FSDP2: weights and gradients "
        "| FSDP2: optimizer | FSDP2: norms | all-reduces of the norms |\n|---|---|---|---|---|---|---|---|---|"
    )
    table = "\n".join([head, *(row(name, model, machine, images) for name, model in models.items())])
    print(table)
    if as_the_page_says:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
