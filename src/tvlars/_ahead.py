"""The learning rates that an LR scheduler will set over a run, found without touching it or its optimizer."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from tvlars.schedule import ScheduleLR

MOST_CALLS = 200_000
"""Most scheduler calls that are simulated (two seconds); the rates of a longer run are unknown."""


class _StandIn(Optimizer):
    """An optimizer with the groups of another one, for a copy of its scheduler to drive."""

    def __init__(self, optimizer: Optimizer) -> None:
        groups = []
        for group in optimizer.param_groups:
            options = {name: float(value) if isinstance(value, Tensor) else value for name, value in group.items()}
            options.pop("param_names", None)
            groups.append({**options, "params": [torch.zeros((), device="cpu")]})
        super().__init__(groups, {})


def rates_ahead(scheduler: Any, optimizer: Optimizer, calls: int) -> list[list[float]] | None:
    """Return each group's learning rate now and after each of the next ``calls`` - 1 calls of ``scheduler.step()``.

    None if they are unknown: the scheduler is not torch's, waits for a metric or cannot be copied, or ``calls`` is
    above ``MOST_CALLS`` and the scheduler is not a :class:`ScheduleLR`.
    """
    if isinstance(scheduler, ScheduleLR):
        first = scheduler.last_epoch + 1
        factors = [scheduler.schedule(step) for step in range(first, first + calls)]
        return [[float(rate) * factor for factor in factors] for rate in scheduler.base_lrs]
    if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau) or calls > MOST_CALLS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stand_in = _StandIn(optimizer)
            driven = {id(one): stand_in for one in (optimizer, getattr(scheduler, "optimizer", optimizer))}
            scheduler = copy.deepcopy(scheduler, driven)
            rates = [[float(group["lr"]) for group in stand_in.param_groups]]
            for _ in range(calls - 1):
                scheduler.step()
                rates.append([float(group["lr"]) for group in stand_in.param_groups])
    except Exception:  # a scheduler may hold what cannot be copied, or end before the run does
        return None
    return [list(group) for group in zip(*rates, strict=True)]


def is_per_epoch(scheduler: Any, epochs: int | None, total_steps: int | None) -> bool:
    """Return True for a scheduler whose length or steps suggest that it is called once per epoch."""
    if not epochs or not total_steps or epochs >= total_steps:
        return False
    for inner in getattr(scheduler, "_schedulers", ()):
        if is_per_epoch(inner, epochs, total_steps):
            return True
    for name in ("total_steps", "T_max", "total_iters"):
        if getattr(scheduler, name, None) == epochs:
            return True
    places = [getattr(scheduler, "step_size", None), *(getattr(scheduler, "milestones", None) or ())]
    known = [place for place in places if isinstance(place, int)]
    return bool(known) and max(known) <= epochs
