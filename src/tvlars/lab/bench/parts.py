"""What ``tvlars bench`` measures, each part within a time of its own: work is made to fit before it is begun."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torchvision import models

from tvlars import __version__
from tvlars._machine import cores, native_bf16
from tvlars.lab.bench.loops import LabLoop, LoaderLoop, Task
from tvlars.lab.bench.machine import free_memory, this_machine
from tvlars.lab.bench.result import BenchResult, Row, speed_row, step_row
from tvlars.lab.bench.steps import (
    ADAMW,
    BESIDE,
    SGD,
    OptimizerSteps,
    Switches,
    TrainingSteps,
    make_optimizer,
    parameters,
)
from tvlars.lab.bench.timing import Turn, interleave, timed
from tvlars.lab.errors import UsageError
from tvlars.stats import LayerStats

ACCELERATORS = ("auto", "cpu", "cuda")
SECONDS = (5.0, 3600.0)
"""Range of the time for all parts together."""
MOST_WORKERS = 16
ROUNDS = 15
"""In each part at most; time ends most of them before."""
PIL_SECONDS = 4e-4
"""About what an image of 32 x 32 costs a DataLoader's worker."""
EPOCH = 50_000
"""Images of a turn at most, those of an epoch of CIFAR-10."""


@dataclass(frozen=True)
class BenchConfig:
    """What is measured, where and for how long.

    Args:
        seconds: for all parts together.
        accelerator: auto (cuda where there is one), cpu or cuda.
        workers: processes of the plain loop's DataLoader; None (default): one a core, 16 at most.
        shapes: optimizers alone step on the parameters of this model of torchvision.
        models: that are trained.

    Raises:
        UsageError: a value is out of its range, or there is no such device.
    """

    seconds: float = 100.0
    accelerator: str = "auto"
    workers: int | None = None
    shapes: str = "resnet50"
    models: tuple[str, ...] = ("small_resnet", "resnet18")

    def __post_init__(self) -> None:
        low, high = SECONDS
        if not low <= self.seconds <= high:
            raise UsageError(f"seconds must be from {low:g} to {high:g}, got {self.seconds:g}")
        if self.accelerator not in ACCELERATORS:
            raise UsageError(f"accelerator must be one of {', '.join(ACCELERATORS)}, got {self.accelerator!r}")
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise UsageError("accelerator 'cuda' cannot be used here: torch finds no CUDA device")
        if self.workers is not None and not 0 <= self.workers <= 1024:
            raise UsageError(f"workers must be an integer from 0 to 1024, got {self.workers}")

    def device(self) -> torch.device:
        """Where it is measured."""
        cuda = self.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")


def bench(config: BenchConfig, announce: Callable[[str], None] | None = None) -> BenchResult:
    """Measure all parts that ``config`` asks for; ``announce`` is told which one begins, and how long it has."""
    begin = time.perf_counter()
    device = config.device()
    result = BenchResult(this_machine(device), __version__)
    end, left = begin + config.seconds, sum(weight for _, weight, _ in _parts(config, device))
    for name, weight, measure in _parts(config, device):
        now = time.perf_counter()
        if now >= end:
            result.notes.append(f"{name}: no time was left, give more by --seconds")
            continue
        # What a part leaves over goes to those after it.
        until = now + (end - now) * weight / left
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
    params = parameters(sizes, device)
    count = 10 if device.type == "cuda" else 1
    turns = {name: OptimizerSteps(make_optimizer(name, params), device, count) for name in (*BESIDE, SGD, ADAMW)}
    times = interleave(turns, ROUNDS, warm_up=2, until=until)
    return [step_row(f"optimizer step, {shapes}", name, beside, times) for name, beside in BESIDE.items()]


def layer_statistics(shapes: str, device: torch.device, until: float) -> list[Row]:
    """Steps of TVLARS with :class:`LayerStats` and without."""
    model = getattr(models, shapes)().to(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p).mul_(1e-3)
    optimizer, steps, without = make_optimizer("TVLARS", model.parameters()), 10, "without statistics"

    def work(stats: LayerStats | None) -> None:
        for _ in range(steps):
            optimizer.step()
        if stats is not None:
            stats.flush()

    def turn(every: int) -> float:
        stats = LayerStats(optimizer, model, every=every) if every else None
        seconds = timed(partial(work, stats), device) / steps
        if stats is not None:
            stats.close()
        return seconds

    kinds = {without: 0, "of every step": 1, "of every 10th step": 10}
    turns: dict[str, Turn] = {name: partial(turn, every) for name, every in kinds.items()}
    times = interleave(turns, ROUNDS, until=until)
    return [step_row(f"layer statistics, {shapes}", name, without, times) for name in kinds if name != without]


def loops(model: str, config: BenchConfig, device: torch.device, until: float) -> list[Row]:
    """The laboratory's loop beside a plain DataLoader with PIL transforms, on random images of 32 x 32."""
    workers = min(cores(), MOST_WORKERS) if config.workers is None else config.workers
    each = probe(model, device, Switches()) + PIL_SECONDS / max(workers, 1)
    # Five rounds and one to warm up, of two loops.
    batch_size, batches = fit((until - time.perf_counter()) / (6 * 2), each, device)
    task = Task(model, batch_size * batches, batch_size, device=device.type)
    ours, plain = "tvlars", f"DataLoader, {workers} worker{'s' * (workers != 1)}, float32"
    turns: dict[str, Turn] = {ours: LabLoop(task), plain: LoaderLoop(task, workers)}
    times = interleave(turns, ROUNDS, until=until)
    part = f"training {model}, batch size {batch_size}"
    return [speed_row(part, ours, plain, times, task.images)]


def precision(model: str, device: torch.device, until: float) -> list[Row]:
    """Forward, backward and step in bfloat16 and in float32."""
    if not native_bf16(device):
        raise Skipped("bfloat16 is not native here, runs are in float32")
    narrow, wide = Switches(bf16=True, channels_last=True), Switches(channels_last=True)
    each = max(probe(model, device, switches) for switches in (narrow, wide))
    batch_size, steps = fit((until - time.perf_counter()) / (6 * 2), each, device)
    task = Task(model, batch_size, batch_size, device=device.type)
    turns = {str(switches): TrainingSteps(task, switches, steps) for switches in (narrow, wide)}
    times = interleave(turns, ROUNDS, until=until)
    part = f"precision, {model}, batch size {batch_size}"
    return [speed_row(part, str(narrow), str(wide), times, batch_size)]


def probe(model: str, device: torch.device, switches: Switches) -> float:
    """About how many seconds one image takes."""
    batch_size = 256 if device.type == "cuda" else 8
    steps = TrainingSteps(Task(model, batch_size, batch_size, device=device.type), switches)
    steps()
    return min(steps(), steps()) / batch_size


def fit(seconds: float, each: float, device: torch.device) -> tuple[int, int]:
    """Batch size and number of batches for a turn of so many ``seconds``, where an image takes ``each``.

    Raises:
        Skipped: not even two images fit.
    """
    images = min(int(seconds / each), EPOCH)
    if images < 2:
        raise Skipped(f"an image takes {each:.2g} s here, which is too long for the time given")
    batch_size = 512 if device.type == "cuda" else 256
    while batch_size > 2 and batch_size > images // 2:  # two batches, so that loading can overlap
        batch_size //= 2
    return batch_size, images // batch_size
