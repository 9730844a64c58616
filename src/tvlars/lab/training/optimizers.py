"""Optimizer and schedule of a run, built from its config and plan."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars._checks import one_line
from tvlars.groups import layer_groups
from tvlars.lab.config import OPTIONS, TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import is_theirs, said_path
from tvlars.lab.optimizers import (
    CLASSES,
    OWN_OPTIONS,
    build_imported,
    has_argument,
    is_class,
    is_known,
    is_schedule_free,
    load_optimizer,
    needs_closure,
    options_of_optimizer,
)
from tvlars.plan import OWN, Plan

NEEDED = ("param_groups", "step", "zero_grad", "state_dict", "load_state_dict")
"""Attributes that an optimizer of any class must have."""
LARGEST = 20_000_000
"""Most parameters of a model with which an optimizer made by a function is tried before the run."""

PLAIN_STATE = ("state", "param_groups")


@dataclass(frozen=True)
class Built:
    """Optimizer of a run; the scheduler that is stepped after each of its steps, if there is one; and the plan, with
    the choices of a function."""

    optimizer: Optimizer
    scheduler: Any
    plan: Plan


def build_optimizer(config: TrainConfig, plan: Plan, model: nn.Module) -> Built:
    """Return the optimizer of a run. Biases and norms are not decayed, nor adapted by layer-wise optimizers.

    Raises:
        UsageError: an imported class refuses its arguments, or a function returns no optimizer.
        Exception: whatever the user's own code raises.
    """
    if is_known(config.optimizer):
        optimizer: Any = _known(config, plan, model)
    elif is_class(config.optimizer):
        optimizer = as_optimizer(_imported(config, plan, model))
    else:
        return _by_function(config, plan, model)
    return Built(optimizer, plan.scheduler(optimizer), plan)


def _known(config: TrainConfig, plan: Plan, model: nn.Module) -> Optimizer:
    groups = layer_groups(model, plan)
    preset = config.optimizer_preset()
    if preset.adapt_bias_norm:
        for name in ("layer_adaptation", "weight_decay"):
            groups[1][name] = groups[0][name]
    if not preset.layer_adaptation:
        for group in groups:
            group["layer_adaptation"] = False
    arguments: dict[str, Any] = plan.optimizer_arguments()
    if config.optimizer in ("tvlars", "lars") and config.trust_coefficient is not None:
        arguments["trust_coefficient"] = config.trust_coefficient
    if config.optimizer == "tvlars":
        arguments["phi_scope"] = config.phi_scope or preset.optimizer.get("phi_scope", "all")
    arguments |= options_of_optimizer(config.optimizer, config.optimizer_options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not adapted")  # a finding of the run says it
        return CLASSES[config.optimizer](groups, **{**preset.optimizer, **arguments})


# -- imported ---------------------------------------------------------------------------------------------------------


def check_imported(config: TrainConfig, plan: Plan) -> None:
    """Build an imported class for a tiny module and take a step, so that errors come before anything is written.

    Raises:
        UsageError: a class of an installed package refuses its arguments, or cannot take a step.
        Exception: whatever the user's own class raises when it is made.
    """
    if is_known(config.optimizer) or not is_class(config.optimizer):
        return
    module = nn.Linear(2, 2)
    check_step(config, as_optimizer(_imported(config, plan, module)), module)


def check_step(config: TrainConfig, optimizer: Any, model: nn.Module) -> None:
    """Take a step of an optimizer of ``model``; the model is not used afterwards.

    Raises:
        UsageError: a class of an installed package cannot take a step.
    """
    if averages(optimizer):
        optimizer.train()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    try:
        optimizer.step()
    except Exception as error:
        if (config.devices or 1) == 1:  # processes are not connected yet, and a step may need the others
            refuse_step(config.optimizer, error)


def refuse_step(name: str, error: Exception) -> None:
    """Raise ``UsageError`` if an installed package raised ``error`` in a step; the run will raise errors of a user's
    code again."""
    if not is_theirs(error):
        raise UsageError(f"optimizer {said_path(name)} cannot take a step: {one_line(error)}") from error


def _imported(config: TrainConfig, plan: Plan, model: nn.Module) -> Any:
    """Return the optimizer that an imported class makes."""
    name = config.optimizer
    arguments: dict[str, Any] = {"lr": plan.lr, "momentum": plan.momentum, "nesterov": config.nesterov}
    arguments = {argument: value for argument, value in arguments.items() if value is not None}
    if not has_argument(name, "lr"):
        del arguments["lr"]
    arguments |= options_of_optimizer(name, config.optimizer_options)
    groups = []
    for group in layer_groups(model, plan):
        own = {"params": group["params"]}
        if plan.bias_norm_lr_scale != 1.0:
            own["lr"] = group["lr"]
        if has_argument(name, "weight_decay"):
            own["weight_decay"] = group["weight_decay"]
        if own["params"]:
            groups.append(own)
    return build_imported(name, groups, arguments)


def _by_function(config: TrainConfig, plan: Plan, model: nn.Module) -> Built:
    """Return the result of a function of (model, plan)."""
    said = said_path(config.optimizer)
    build: Callable[[nn.Module, Plan], Any] = load_optimizer(config.optimizer)
    watched = _WatchedPlan(**{one.name: getattr(plan, one.name) for one in fields(Plan)})
    returned, scheduler = build(model, watched), None
    for name in (*OWN_OPTIONS, "bias_norm_lr_scale"):
        if (value := getattr(config, name)) is not None and name not in watched.read:
            raise UsageError(f"{name} must not be given for {said}, which does not read plan.{name}, got {value}")
    if isinstance(returned, tuple) and len(returned) == 2 and not hasattr(returned[1], "param_groups"):
        returned, scheduler = returned
        _check_scheduler(said, scheduler)
    several = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    for one in several or [None]:
        if lacking := [part for part in NEEDED if not hasattr(one, part)]:
            raise UsageError(
                f"optimizer {said} must return an optimizer, a list of them, or (optimizer, scheduler), got "
                f"{type(one).__name__}, which has no {lacking[0]}"
            )
        if needs_closure(one):
            raise UsageError(f"optimizer {said} must take steps without a closure, but {type(one).__name__} needs one")
    optimizer = as_optimizer(*several)
    if not held_by(optimizer, model):
        raise UsageError(f"optimizer {said} must hold parameters of the model that it is given, and holds none of them")
    group = optimizer.param_groups[0]
    lr = _number(group.get("initial_lr", group.get("lr")))
    if any(math.isnan(_number(one.get("lr"))) for one in optimizer.param_groups):
        raise UsageError(f"lr must be given for {said}, which takes it from the plan")
    made = replace(plan, lr=lr, weight_decay=_number(group.get("weight_decay")), lr_from=f"from {said}")
    if scheduler is not None:
        for name, one in OPTIONS.items():
            if (name == "schedule" or one.schedules) and getattr(config, name) != one.default:
                raise UsageError(f"{name} must not be given for {said}, which comes with a scheduler of its own")
        made = _with_schedule(made, OWN)
    elif config.schedule == "auto" and any(map(is_schedule_free, several)):
        warms_up = config.warmup_epochs is not None or config.warmup_steps is not None
        made = replace(_with_schedule(made, "constant"), warmup_steps=plan.warmup_steps if warms_up else 0)
    return Built(optimizer, scheduler or made.scheduler(optimizer), made)


class _WatchedPlan(Plan):
    """Plan that records which of its fields are read."""

    @property
    def read(self) -> set[str]:
        """Names of the fields that have been read."""
        return cast(set[str], vars(self).setdefault("_read", set()))

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "read":
            self.read.add(name)
        return super().__getattribute__(name)


def held_by(optimizer: Optimizer, model: nn.Module) -> int:
    """Return the number of the model's trainable parameters that an optimizer holds."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return sum(id(p) in held for p in model.parameters() if p.requires_grad)


def _with_schedule(plan: Plan, schedule: str) -> Plan:
    """Return the plan with a schedule that has no options."""
    names = [one.name for one in fields(Plan)]
    options: Any = dict.fromkeys(names[names.index("schedule") + 1 : names.index("noise_scale")])
    return replace(plan, schedule=schedule, **options)


def _check_scheduler(said: str, scheduler: Any) -> None:
    if not callable(getattr(scheduler, "step", None)) or not hasattr(scheduler, "state_dict"):
        raise UsageError(f"optimizer {said} must return (optimizer, scheduler), got {type(scheduler).__name__} second")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise UsageError(f"optimizer {said} must return a scheduler of steps, and ReduceLROnPlateau needs a measure")


def _number(value: Any) -> float:
    return float(value.item() if isinstance(value, Tensor) else value) if value is not None else math.nan


# -- several as one ---------------------------------------------------------------------------------------------------


def as_optimizer(*several: Any) -> Optimizer:
    """Return one optimizer of torch for one or several optimizers, whose classes need not be torch's."""
    if len(several) == 1 and isinstance(several[0], Optimizer):
        return several[0]
    return CombinedOptimizer(several)


def averages(optimizer: Any) -> bool:
    """Return True if an optimizer averages weights by itself, and puts them into the model by ``eval()``."""
    parts = optimizer.optimizers if isinstance(optimizer, CombinedOptimizer) else [optimizer]
    return any(map(is_schedule_free, parts))


def is_plain_state(state: Any) -> bool:
    """Return True if a state dict has the form of torch's optimizers: state by parameter, and groups."""
    if not isinstance(state, dict) or not all(name in state for name in PLAIN_STATE):
        return False
    entries, groups = state["state"], state["param_groups"]
    by_parameter = isinstance(entries, dict) and all(
        type(index) is int and isinstance(one, dict) and all(type(key) is str for key in one)
        for index, one in entries.items()
    )
    return by_parameter and all(
        isinstance(group, dict) and all(type(i) is int for i in group.get("params", [None])) for group in groups
    )


class CombinedOptimizer(Optimizer):
    """Several optimizers that step together; a scheduler sees the groups of all of them.

    Args:
        optimizers: each with ``param_groups``, ``step``, ``zero_grad``, ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([{"params": []}], {})
        self._gather()

    def _gather(self) -> None:
        """Take the groups of all optimizers: the same objects, so that each optimizer sees a new learning rate."""
        self.param_groups = [group for one in self.optimizers for group in one.param_groups]

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """State of all parameters, for reading."""
        each = [getattr(one, "state", {}) for one in self.optimizers]
        return defaultdict(dict, {p: state for some in each for p, state in some.items()})

    @state.setter
    def state(self, value: Any) -> None:
        """Ignore what torch's constructor sets: each optimizer has its own state."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for one in self.optimizers:
            one.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for one in self.optimizers:
            one.zero_grad()

    def train(self) -> None:
        """Call ``train()`` of the optimizers that have it."""
        for one in filter(is_schedule_free, self.optimizers):
            one.train()

    def eval(self) -> None:
        """Call ``eval()`` of the optimizers that have it."""
        for one in filter(is_schedule_free, self.optimizers):
            one.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parameters as of one optimizer; or each optimizer's, if one has another form."""
        parts = [one.state_dict() for one in self.optimizers]
        if not all(map(is_plain_state, parts)):
            return {"parts": parts}
        state, groups, first = {}, [], 0
        for part in parts:
            state.update({first + index: entries for index, entries in part["state"].items()})
            groups += [{**group, "params": [first + i for i in group["params"]]} for group in part["param_groups"]]
            first += sum(len(group["params"]) for group in part["param_groups"])
        more = [{name: part[name] for name in part if name not in PLAIN_STATE} for part in parts]
        return {"state": state, "param_groups": groups, "more": more}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        parts = state_dict["parts"] if "parts" in state_dict else self._apart(state_dict)
        for one, part in zip(self.optimizers, parts, strict=True):
            one.load_state_dict(part)
        self._gather()

    def _apart(self, whole: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the state of each optimizer."""
        groups, parts, first = iter(whole["param_groups"]), [], 0
        for one, more in zip(self.optimizers, whole["more"], strict=True):
            mine = list(itertools.islice(groups, len(one.param_groups)))
            count = sum(len(group["params"]) for group in mine)
            state = {i - first: entries for i, entries in whole["state"].items() if first <= i < first + count}
            own = [{**group, "params": [i - first for i in group["params"]]} for group in mine]
            parts.append({"state": state, "param_groups": own, **more})
            first += count
        return parts
