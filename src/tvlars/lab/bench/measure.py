"""Measurements of ``tvlars bench``, each within a time of its own: work is made to fit before it is begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torchvision import models

from tvlars import LAMB, LARS, TVLARS, __version__
from tvlars._machine import cores, free_memory, native_bf16, this_machine
from tvlars.lab.bench.loops import LabLoop, LoaderLoop, Workload
from tvlars.lab.bench.result import BenchResult, Row, row_of
from tvlars.lab.bench.timing import Turn, interleave, timed
from tvlars.lab.errors import UsageError
from tvlars.lab.options import check, option
from tvlars.stats import LayerStats

MOST_WORKERS = 16
ROUNDS = 15
"""In each part at most; time ends most of them before."""
PIL_SECONDS = 4e-4
"""About what an image of 32 x 32 costs a DataLoader's worker."""
EPOCH = 50_000
"""Images of a turn at most, those of an epoch of CIFAR-10."""
FUSED_SGD, FUSED_ADAMW = "torch SGD fused", "torch AdamW fused"
BESIDE = {"TVLARS": FUSED_SGD, "LARS": FUSED_SGD, "LAMB": FUSED_ADAMW}
"""The contestant that each is to be read against, in its fastest form."""
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "TVLARS": partial(TVLARS, lr=1e-6, momentum=0.9, weight_decay=1e-4, total_steps=1000),
    "LARS": partial(LARS, lr=1e-6, momentum=0.9, weight_decay=1e-4),
    "LAMB": partial(LAMB, lr=1e-6, weight_decay=1e-2),
    FUSED_SGD: partial(SGD, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True),
    FUSED_ADAMW: partial(AdamW, lr=1e-6, weight_decay=1e-2, fused=True),
}
"""The learning rate is so small that weights stay where they are."""
Makers = dict[str, Callable[[Workload], Turn]]
PRECISIONS = {"bf16, channels_last": "bf16-mixed", "float32, channels_last": "32-true"}


@dataclass(frozen=True)
class BenchConfig:
    """Settings of a bench: device, parts and time.

    Args:
        seconds: for all parts together.
        accelerator: auto (cuda where there is one), cpu or cuda.
        workers: processes of the plain loop's DataLoader; None (default): one a core, 16 at most.
        shapes: optimizers alone step on the parameters of this model of torchvision.
        models: that are trained.

    Raises:
        UsageError: a value is out of its range, or there is no such device.
    """

    seconds: float = option(100.0, "time for all parts", within=(5.0, 3600.0))
    accelerator: str = option("auto", "device", choices=("auto", "cpu", "cuda"))
    workers: int | None = option(None, "processes of the DataLoader", within=(0, 1024))
    shapes: str = "resnet50"
    models: tuple[str, ...] = ("small_resnet", "resnet18")

    def __post_init__(self) -> None:
        check(self)
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise UsageError("accelerator 'cuda' cannot be used here: torch finds no CUDA device")

    def device(self) -> torch.device:
        """Return the device that it is measured on."""
        return torch.device("cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def bench(config: BenchConfig, announce: Callable[[str], None] | None = None) -> BenchResult:
    """Measure all parts that ``config`` asks for; ``announce`` is told which one begins, and how long it has."""
    begin = time.perf_counter()
    device = config.device()
    result, parts = BenchResult(this_machine(device), __version__), _parts(config, device)
    end, left = begin + config.seconds, sum(weight for _, weight, _ in parts)
    for name, weight, measure in parts:
        now = time.perf_counter()
        if now >= end:
            result.notes.append(f"{name}: no time was left, give more by --seconds")
            continue
        until = now + (end - now) * weight / left  # what a part leaves over goes to those after it
        left -= weight
        if announce is not None:
            announce(f"{name} ({until - now:.0f} s)")
        try:
            result.rows += measure(until)
        except Skipped as reason:
            result.notes.append(f"{name}: {reason}")
        except RuntimeError as error:  # of the device, or of a DataLoader's workers; the other parts are worth having
            result.notes.append(f"{name} could not be measured: {str(error).strip().splitlines()[0]}")
    result.seconds = round(time.perf_counter() - begin, 1)
    return result


class Skipped(Exception):
    """A part that this machine cannot do, and why."""


def _parts(config: BenchConfig, device: torch.device) -> list[tuple[str, float, Callable[[float], list[Row]]]]:
    """Name, share of the time and function of each part; the functions end at about the time that they are given."""
    return [
        (f"optimizer step, {config.shapes}", 15, partial(optimizer_steps, config.shapes, device)),
        *((f"training {model}", 25, partial(loops, model, config, device)) for model in config.models),
        *((f"precision, {model}", 10, partial(precision, model, device)) for model in config.models),
        (f"layer statistics, {config.shapes}", 10, partial(layer_statistics, config.shapes, device)),
    ]


def optimizer_steps(shapes: str, device: torch.device, until: float) -> list[Row]:
    """Ours beside torch's own, over the same parameters and gradients."""
    with torch.device("meta"):
        sizes = [p.shape for p in getattr(models, shapes)().parameters()]
    needed = 4 * 9 * sum(size.numel() for size in sizes)  # w, g, three times m, twice m and v
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if free is not None and needed > 0.8 * free:
        raise Skipped(f"takes {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} are free")
    params, count = parameters(sizes, device), 10 if device.type == "cuda" else 1
    turns = {name: partial(timed, make(params).step, count) for name, make in OPTIMIZERS.items()}
    times = interleave(turns, ROUNDS, warm_up=2, until=until)
    return [row_of(f"optimizer step, {shapes}", name, beside, times) for name, beside in BESIDE.items()]


def parameters(shapes: Iterable[torch.Size | tuple[int, ...]], device: torch.device) -> list[nn.Parameter]:
    """Return parameters with gradients, small random numbers."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(tuple(shape), device=device).mul_(0.02)) for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p).mul_(1e-3)
    return made


def layer_statistics(shapes: str, device: torch.device, until: float) -> list[Row]:
    """Steps of TVLARS with :class:`LayerStats` and without."""
    model = getattr(models, shapes)().to(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p).mul_(1e-3)
    optimizer = OPTIMIZERS["TVLARS"](model.parameters())

    def turn(every: int) -> float:
        with LayerStats(optimizer, model, every=every) if every else nullcontext() as stats:

            def work() -> None:
                for _ in range(10):
                    optimizer.step()
                if stats is not None:
                    stats.flush()

            return timed(work) / 10

    without, *others = kinds = {"without statistics": 0, "of every step": 1, "of every 10th step": 10}
    turns: dict[str, Turn] = {name: partial(turn, every) for name, every in kinds.items()}
    times = interleave(turns, ROUNDS, until=until)
    return [row_of(f"layer statistics, {shapes}", name, without, times) for name in others]


def loops(model: str, config: BenchConfig, device: torch.device, until: float) -> list[Row]:
    """The laboratory's loop beside a plain DataLoader with PIL transforms, on random images of 32 x 32."""
    workers = min(cores(), MOST_WORKERS) if config.workers is None else config.workers
    each = probe(model, device, "32-true") + PIL_SECONDS / max(workers, 1)
    plain = f"DataLoader, {workers} worker{'s' * (workers != 1)}, float32"
    makers: Makers = {"tvlars": LabLoop, plain: lambda workload: LoaderLoop(workload, workers)}
    return training("training", model, device, until, each, makers)


def precision(model: str, device: torch.device, until: float) -> list[Row]:
    """The laboratory's loop in bfloat16 and in float32."""
    if not native_bf16(device):
        raise Skipped("bfloat16 is not native here, runs are in float32")
    each = max(probe(model, device, chosen) for chosen in PRECISIONS.values())
    makers: Makers = {name: partial(LabLoop, precision=chosen) for name, chosen in PRECISIONS.items()}
    return training("precision,", model, device, until, each, makers)


def training(part: str, model: str, device: torch.device, until: float, each: float, makers: Makers) -> list[Row]:
    """The first of two ways to train beside the second, where an image takes ``each`` seconds."""
    workload = fit(model, (until - time.perf_counter()) / (6 * 2), each, device)  # a round to warm up and five, of two
    times = interleave({name: make(workload) for name, make in makers.items()}, ROUNDS, until=until)
    ours, other = makers
    return [row_of(f"{part} {model}, batch size {workload.batch_size}", ours, other, times, workload.images)]


def probe(model: str, device: torch.device, precision: str) -> float:
    """Return about how many seconds one image takes."""
    images = 256 if device.type == "cuda" else 8
    loop = LabLoop(Workload(model, images, images, device=device.type), precision=precision)
    return min(loop() for _ in range(3)) / images


def fit(model: str, seconds: float, each: float, device: torch.device) -> Workload:
    """Return a workload whose turn takes ``seconds`` at most, where an image takes ``each``.

    Raises:
        Skipped: not even two images fit.
    """
    images = min(int(seconds / each), EPOCH)
    if images < 2:
        raise Skipped(f"an image takes {each:.2g} s here, which is too long for the time given")
    batch_size = 512 if device.type == "cuda" else 256
    while batch_size > 2 and batch_size > images // 2:  # two batches, so that loading can overlap
        batch_size //= 2
    return Workload(model, images // batch_size * batch_size, batch_size, device=device.type)
