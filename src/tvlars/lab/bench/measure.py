"""Measurements of ``tvlars bench``, each with a share of the total time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from tvlars import LAMB, LARS, TVLARS, __version__
from tvlars._machine import cores, free_memory, this_machine
from tvlars.lab.bench.result import BenchResult, Row, interleave, row_of, timed
from tvlars.lab.errors import UsageError
from tvlars.lab.options import check, option
from tvlars.stats import LayerStats

FUSED_SGD, FUSED_ADAMW = "torch SGD fused", "torch AdamW fused"
BESIDE = {"TVLARS": FUSED_SGD, "LARS": FUSED_SGD, "LAMB": FUSED_ADAMW}  # torch's counterpart of each of our optimizers
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {  # lr is so small that weights stay
    "TVLARS": partial(TVLARS, lr=1e-6, momentum=0.9, weight_decay=1e-4, total_steps=1000),
    "LARS": partial(LARS, lr=1e-6, momentum=0.9, weight_decay=1e-4),
    "LAMB": partial(LAMB, lr=1e-6, weight_decay=1e-2),
    FUSED_SGD: partial(SGD, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True),
    FUSED_ADAMW: partial(AdamW, lr=1e-6, weight_decay=1e-2, fused=True),
}


@dataclass(frozen=True)
class BenchConfig:
    """Settings of a benchmark. A value out of range or a missing device raises ``UsageError``."""

    seconds: float = option(100.0, "for all measurements together, 5 to 3600 (default: 100)", within=(5.0, 3600.0))
    accelerator: str = option("auto", "auto (default: cuda if any), cpu or cuda", choices=("auto", "cpu", "cuda"))
    workers: int | None = option(None, "DataLoader processes (default: one per core, at most 16)", within=(0, 1024))
    shapes: str = "resnet50"  # a model of torchvision, whose parameters the optimizers update
    models: tuple[str, ...] = ("small_resnet", "resnet18")  # models of the laboratory, which are trained

    def __post_init__(self) -> None:
        check(self)
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise UsageError("accelerator 'cuda' cannot be used here: torch finds no CUDA device")


def bench(config: BenchConfig, announce: Callable[[str], None] = lambda text: None) -> BenchResult:
    """Measure all parts of ``config``; ``announce`` is called with the name and the time of each part."""
    begin = time.perf_counter()
    device = torch.device("cuda" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    result, parts = BenchResult(this_machine(device), __version__), parts_of(config, device)
    end, left = begin + config.seconds, sum(share for _, share, _ in parts)
    for name, share, measure in parts:
        now = time.perf_counter()
        until, left = now + (end - now) * share / left, left - share  # unused time goes to the following parts
        try:
            if now >= end:
                raise RuntimeError("no time was left: increase --seconds")
            announce(f"{name} ({until - now:.0f} s)")
            result.rows += measure(until)
        except RuntimeError as error:  # also of the device or a DataLoader's workers: measure the others
            result.notes.append(f"{name} could not be measured: {str(error).strip().splitlines()[0]}")
    result.seconds = round(time.perf_counter() - begin, 1)
    return result


def parts_of(config: BenchConfig, device: torch.device) -> list[tuple[str, float, Callable[[float], list[Row]]]]:
    """Return name, share of the time, and function of each part; the function is called with its end time."""
    from tvlars.lab.bench.loops import training  # imports torchvision, which is slow

    workers = min(cores(), 16) if config.workers is None else config.workers
    parts = [(f"training {model}", 35.0, partial(training, model, workers, device)) for model in config.models]
    return [(f"optimizer step, {config.shapes}", 25.0, partial(optimizer_steps, config.shapes, device)), *parts]


def optimizer_steps(model: str, device: torch.device, until: float) -> list[Row]:
    """Compare our optimizers with torch's, and TVLARS with and without layer statistics, on the same gradients."""
    from torchvision.models import get_model

    with torch.device("meta"):
        shapes = [p.shape for p in get_model(model).parameters()]
    needed, free = 4 * 11 * sum(s.numel() for s in shapes), free_memory(device)  # w, g, 5 m, 2 m and v
    if free is not None and needed > 0.8 * free:
        raise RuntimeError(f"it takes {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} are free")
    params, beside, steps = parameters(shapes, device), dict(BESIDE), 10 if device.type == "cuda" else 1
    turns = {name: partial(timed, make(params).step, steps) for name, make in OPTIMIZERS.items()}
    for name, every in {"TVLARS, statistics of every step": 1, "TVLARS, statistics of every 10th": 10}.items():
        optimizer, beside[name] = OPTIMIZERS["TVLARS"](params), "TVLARS"
        LayerStats(optimizer, nn.ParameterList(params), every=every, buffer=10 // every)
        turns[name] = partial(timed, optimizer.step, 10)  # of which the last flushes
    times = interleave(turns, until=until)
    return [row_of(f"optimizer step, {model}", name, other, times) for name, other in beside.items()]


def parameters(shapes: Iterable[Sequence[int]], device: torch.device) -> list[nn.Parameter]:
    """Return parameters with gradients; both are small random numbers."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(tuple(shape), device=device).mul_(0.02)) for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p).mul_(1e-3)
    return made
