"""Schedules of one's own: ``tvlars train --optimizer lars --schedule examples/lab/schedules.py:staircase``."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR, SequentialLR

from tvlars import CosineSchedule, Plan, ScheduleLR


def staircase(step: int, plan: Plan, base: float = 0.1) -> float:
    """The factor of lr at a step, 1 at the first: three equal stairs, each ``base`` times the one before."""
    return base ** (3 * (step - 1) // plan.total_steps)


def cosine_then_power(optimizer: Optimizer, plan: Plan, power: float = 2.0) -> LRScheduler:
    """An LR scheduler, stepped after every optimizer step."""
    half = plan.total_steps // 2
    parts = [ScheduleLR(optimizer, CosineSchedule(half)), PolynomialLR(optimizer, half, power)]
    return SequentialLR(optimizer, parts, milestones=[half])
