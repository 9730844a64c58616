"""User-defined schedules in a plan: functions of step and plan, and torch's LR schedulers."""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tvlars._checks import shown
from tvlars.schedule import ScheduleLR

LENGTHS = ("total_steps", "T_max", "total_iters", "num_training_steps")
"""Scheduler arguments that mean the number of optimizer steps."""
RATES = ("max_lr", "base_lr")
"""Scheduler arguments that mean learning rates of groups."""
CONTENT = ("optimizer", "last_epoch", "verbose")
"""Scheduler arguments that are not options."""


class Planned(Protocol):
    """Attributes of a :class:`tvlars.Plan` that this module uses."""

    @property
    def total_steps(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def bias_norm_lr_scale(self) -> float: ...


@dataclass(frozen=True)
class UsersSchedule:
    """A function ``(step, plan) -> factor``, or a class or function ``(optimizer, ...) -> scheduler``.

    Args:
        made: the function or the class.
        options: further arguments of ``made``, by name.

    Raises:
        ValueError: ``made`` is neither, does not take one of ``options``, or needs more of them.
    """

    made: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.made):
            raise ValueError(f"schedule must be a name, a function or an LR scheduler, got {shown(self.made)}")
        made: Any = self.made
        if isinstance(made, type) and not issubclass(made, LRScheduler):
            raise ValueError(f"schedule must be a torch LR scheduler or a function, got {shown(made)}")
        names = list(inspect.signature(self.made).parameters)
        if not self.is_scheduler and len(names) < 2:
            raise ValueError(f"schedule must be a function of step and plan, got {self.name}({', '.join(names)})")
        self._check_options()
        if isinstance(self.made, type) and (needed := _needed(made.step)):
            raise ValueError(
                f"schedule must be a scheduler that is stepped without arguments, but {self.name}.step needs "
                f"{', '.join(needed)}"
            )

    @property
    def name(self) -> str:
        """Name of the function or the class, for tables."""
        return str(getattr(self.made, "__name__", type(self.made).__name__))

    @property
    def is_scheduler(self) -> bool:
        """True if ``made`` makes a scheduler from an optimizer, its first argument."""
        return next(iter(inspect.signature(self.made).parameters), "") == "optimizer"

    def described(self, plan: Planned) -> str:
        """Return name and arguments, as in "OneCycleLR(total_steps=90, max_lr=0.1)"."""
        options: Mapping[str, Any] = self.options
        if self.is_scheduler:
            options = self.arguments(plan, [plan.lr, plan.lr * plan.bias_norm_lr_scale])
        said = [f"{name}={value!r}" for name, value in options.items() if name != "plan"]
        return f"{self.name}({', '.join(said)})" if said or self.is_scheduler else f"factors of {self.name}(step, plan)"

    def arguments(self, plan: Planned, rates: list[float]) -> dict[str, Any]:
        """Return the options of a scheduler, with the length of the run and the rates of groups filled in."""
        known = dict.fromkeys(LENGTHS, plan.total_steps) | {"max_lr": rates, "plan": plan}
        there = inspect.signature(self.made).parameters
        found = {**{name: value for name, value in known.items() if name in there}, **self.options}
        for name in RATES:  # one number is the rate of the first group, and the others keep their ratio to it
            if type(found.get(name)) in (int, float) and len(set(rates)) > 1:
                found[name] = [found[name] * rate / rates[0] for rate in rates]
        return found

    def build(self, optimizer: Optimizer, plan: Planned) -> LRScheduler:
        """Return the scheduler of ``optimizer``.

        Raises:
            ValueError: an argument is invalid, or the function returns no scheduler.
        """
        if not self.is_scheduler:
            return ScheduleLR(optimizer, lambda step: self.factor(step, plan))
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        try:
            scheduler = self.made(optimizer, **self.arguments(plan, rates))
        except (TypeError, ValueError, ZeroDivisionError) as error:
            if isinstance(self.made, type) and self.made.__module__.startswith("torch."):
                raise ValueError(f"schedule_options of {self.name}: {error}") from error
            raise
        if not isinstance(scheduler, LRScheduler):
            raise ValueError(f"schedule must return a torch LR scheduler, but {self.name} returned {shown(scheduler)}")
        if needed := _needed(scheduler.step):
            kind = type(scheduler).__name__
            raise ValueError(
                f"schedule must return a scheduler that is stepped without arguments, but {kind}.step needs "
                f"{', '.join(needed)}"
            )
        return scheduler

    def factor(self, step: int, plan: Planned) -> float:
        """Return the function's factor at ``step``; raise ``ValueError`` unless it is a number >= 0."""
        found = self.made(step, plan, **self.options)
        try:
            factor = math.nan if isinstance(found, (bool, str)) else float(found)
        except (TypeError, ValueError):
            factor = math.nan
        if not (math.isfinite(factor) and factor >= 0):
            raise ValueError(
                f"schedule must return a factor >= 0, but {self.name} returned {shown(found)} at step {step}"
            )
        return factor

    def _check_options(self) -> None:
        parameters = inspect.signature(self.made).parameters
        own = list(parameters)[1 if self.is_scheduler else 2 :]
        known = [name for name in own if name not in CONTENT and parameters[name].kind not in _VARIABLE]
        anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        for name in self.options:
            if name in known or (anything and name not in parameters):
                continue
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.55)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise ValueError(f"unknown option of {self.name} {name!r}: {hint}Known: {', '.join(known) or 'none'}.")
        filled = {*LENGTHS, "max_lr", "plan"} if self.is_scheduler else set()
        missing = [name for name in _needed(self.made) if name in known and name not in {*self.options, *filled}]
        if missing:
            raise ValueError(f"schedule_options must have {', '.join(missing)} for {self.name}")


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _needed(function: Callable[..., Any]) -> list[str]:
    """Return the arguments of a function that have no default."""
    there = inspect.signature(function).parameters.values()
    return [one.name for one in there if one.default is one.empty and one.kind not in _VARIABLE and one.name != "self"]


class Simulated:
    """Learning rates that a scheduler will set, found by stepping it on an optimizer of two groups without gradients.

    Args:
        schedule: makes the scheduler.
        plan: provides the rates of the two groups.
    """

    def __init__(self, schedule: UsersSchedule, plan: Planned) -> None:
        self.peak = 1.0 if math.isnan(plan.lr) else plan.lr  # the optimizer may have its own lr, which is unknown here
        groups = [
            {"params": [torch.zeros((), device="cpu")], "lr": lr}
            for lr in (self.peak, self.peak * plan.bias_norm_lr_scale)
        ]
        self.optimizer = torch.optim.SGD(groups, lr=self.peak, momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.scheduler = schedule.build(self.optimizer, plan)
        self.rates = [float(self.optimizer.param_groups[0]["lr"])]

    def factor(self, step: int) -> float:
        """Return the first group's learning rate at ``step`` (1 at the first), divided by the plan's."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimizer step precedes these
            while len(self.rates) < step:
                self.scheduler.step()
                self.rates.append(float(self.optimizer.param_groups[0]["lr"]))
        return self.rates[max(step, 1) - 1] / self.peak
