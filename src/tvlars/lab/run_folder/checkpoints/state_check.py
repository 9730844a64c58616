"""Checks that what a checkpoint says is what its run can have written: position, rows, random states, optimizer.

Checksums tell a checkpoint that is damaged. Those of one that somebody has changed, or that a faulty program wrote, may
fit; without these checks it would go on from a step that never was, end with a traceback, or be called a divergence.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.rows import EpochRow, StepRow
from tvlars.plan import Plan

ENTRIES = (
    *("step", "epoch", "position", "seconds", "order", "draws", "random", "epochs", "epoch_steps"),
    *("optimizer", "optimizer_tensors", "scheduler", "precision", "extra"),
)
BUFFERS = "buffers"
"""Running statistics of each process, where batch norm is not synchronized."""
CLOSE = 1e-9
"""Relative difference that another machine's arithmetic may make."""
STALLED = 2**24
"""Where a count in float32 stands still, as those of earlier versions do."""
ROUNDED = 1e-5
"""By how much a share of a batch may be above 1."""


@dataclass(frozen=True)
class Checked:
    """Required values of the entries of ``file``."""

    file: Path

    def refuse(self, entry: str, wanted: str, got: object) -> UsageError:
        """The error that says so."""
        found = got if type(got) in (int, float, bool, str, type(None)) else type(got).__name__
        return UsageError(f"{self.file}: {entry} must be {wanted}, got {ascii(found)[:60]}")

    def same(self, entry: str, wanted: Any, got: Any) -> None:
        """Refuse what is not ``wanted``: numbers up to rounding, sequences item by item, the rest exactly."""
        if isinstance(wanted, (list, tuple)):
            if type(got) not in (list, tuple) or len(got) != len(wanted):
                raise self.refuse(entry, f"{len(wanted)} values", got)
            for i, (one, other) in enumerate(zip(wanted, got, strict=True)):
                self.same(f"{entry}[{i}]", one, other)
            return
        wanted, got = _number(wanted), _number(got)
        both = type(wanted) in (int, float) and type(got) in (int, float)
        if not (math.isclose(wanted, got, rel_tol=CLOSE) if both else type(wanted) is type(got) and wanted == got):
            raise self.refuse(entry, repr(wanted), got)

    def whole(self, entry: str, value: Any, low: int, high: int) -> int:
        """Refuse what is no integer from ``low`` to ``high``."""
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(entry, f"an integer from {low} to {high}" if low < high else str(low), value)
        return value

    def number(self, entry: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
        """Refuse what is no finite number from ``low`` to ``high``."""
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            bounds = f" from {low:g} to {high:g}" if high < math.inf else f" >= {low:g}" if low > -math.inf else ""
            raise self.refuse(entry, f"a finite number{bounds}", value)
        return float(value)

    def keys(self, entry: str, value: Any, wanted: set[str]) -> None:
        """Refuse what is no mapping with just these keys."""
        if not isinstance(value, dict):
            raise self.refuse(entry, "a mapping", value)
        for problem, names in (("hold", wanted - set(value)), ("not hold", set(value) - wanted)):
            if names:
                raise UsageError(f"{self.file}: {entry} must {problem} {ascii(sorted(map(str, names))[0])[1:-1]:.80}")

    def tensor(self, entry: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Refuse what is no tensor of this shape and dtype, or not finite."""
        wanted = f"a {str(dtype).removeprefix('torch.')} tensor of shape {shape}"
        if not isinstance(value, Tensor):
            raise self.refuse(entry, wanted, value)
        if value.dtype != dtype or tuple(value.shape) != shape:
            kind = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
            raise self.refuse(entry, wanted, kind)
        return value

    def random_state(self, entry: str, value: Any, device: torch.device) -> None:
        """Refuse what is no state of a source of random numbers on ``device``."""
        generator = torch.Generator(device)
        size = generator.get_state().numel()
        self.tensor(entry, value, (size,), torch.uint8)
        try:
            generator.set_state(value)
        except RuntimeError as error:
            raise self.refuse(entry, "a state of torch's random numbers", "another") from error

    def finite(self, entry: str, tensors: dict[str, Tensor]) -> None:
        """Refuse tensors that hold NaN or infinity, counts and squares that are below 0."""
        for name, value in tensors.items():
            if not is_finite(value):
                raise self.refuse(f"{entry}{name}", "finite", "NaN or infinity")
            counts = name.rpartition(".")[2] in ("exp_avg_sq", "running_var", "num_batches_tracked", "step")
            if counts and bool((_local(value) < 0).any()):  # squares and counts of steps
                raise self.refuse(f"{entry}{name}", ">= 0", "values below")


def is_finite(value: Tensor) -> bool:
    """Say if no value of a tensor, or of the shard that this process has, is NaN or infinite."""
    return not value.is_floating_point() or bool(torch.isfinite(_local(value)).all())


def _local(value: Any) -> Tensor:
    found: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return found.detach()


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


# -- before a run is set up -----------------------------------------------------------------------------


def check_progress(
    file: Path, progress: dict[str, Any], step: int, processes: int, config: TrainConfig, plan: Plan
) -> tuple[list[EpochRow], list[StepRow]]:
    """Check what can be checked without a model; the rows of complete epochs, and of the steps of the current one.

    Args:
        file: named by errors.
        progress: what it holds.
        step: steps that the manifest says.
        processes: how many the manifest says.
        config: of the run that is to go on.
        plan: of it.

    Raises:
        UsageError: an entry is none that this run can have written; the message names it.
    """
    at = Checked(file)
    at.keys("it", progress, {*ENTRIES, *({BUFFERS} & progress.keys())})
    at.whole("step", progress["step"], 1, plan.total_steps)
    at.same("step", step, progress["step"])
    epoch = at.whole("epoch", progress["epoch"], 1, plan.epochs + 1)
    position = at.whole("position", progress["position"], 0, plan.steps_per_epoch if epoch <= plan.epochs else 0)
    at.same("position", step - (epoch - 1) * plan.steps_per_epoch, position)
    at.number("seconds", progress["seconds"], 0.0)
    cpu = torch.device("cpu")
    at.random_state("order", progress["order"], cpu)
    states = progress["random"]
    if type(states) is not list or len(states) != processes:
        raise at.refuse("random", f"a list of {processes} states, one of each process", states)
    for rank, each in enumerate(states):
        if type(each) is not list or not 1 <= len(each) <= 2:
            raise at.refuse(f"random[{rank}]", "a list of one or two states", each)
        at.random_state(f"random[{rank}][0]", each[0], cpu)
        for state in each[1:]:  # of its accelerator, which knows what is one
            length = len(state) if isinstance(state, Tensor) and state.dim() == 1 else 0
            at.tensor(f"random[{rank}][1]", state, (min(max(length, 1), 2**16),), torch.uint8)
    unlabelled = config.task != "classification"
    epochs = list(_rows(at, "epochs", progress["epochs"], EpochRow, epoch - 1))
    for number, row in enumerate(epochs, 1):
        _check_epoch(at, f"epochs[{number - 1}]", row, number, plan, unlabelled)
    steps = list(_rows(at, "epoch_steps", progress["epoch_steps"], StepRow, position))
    for number, one in enumerate(steps, step - position + 1):
        _check_step(at, f"epoch_steps[{number - 1 - step + position}]", one, number, plan, unlabelled)
    return epochs, steps


def _rows(at: Checked, entry: str, table: Any, kind: Any, count: int) -> Iterator[Any]:
    columns = fields(kind)
    if isinstance(table, Tensor) and table.numel() == 0 and count == 0:
        return
    at.tensor(entry, table, (count, len(columns)), torch.float64)
    for i, values in enumerate(table.tolist()):
        cells = []
        for column, value in zip(columns, values, strict=True):
            if column.type == "int" and not float(value).is_integer():
                raise at.refuse(f"{entry}[{i}].{column.name}", "an integer", value)
            cells.append(int(value) if column.type == "int" else value)
        yield kind(*cells)


def _check_epoch(at: Checked, entry: str, row: EpochRow, number: int, plan: Plan, unlabelled: bool) -> None:
    at.same(f"{entry}.epoch", number, row.epoch)
    at.same(f"{entry}.step", number * plan.steps_per_epoch, row.step)
    for name in ("train_loss", "test_loss"):
        at.number(f"{entry}.{name}", getattr(row, name), -math.inf if unlabelled else 0.0)
    for name in ("train_accuracy", "test_accuracy"):
        _check_share(at, f"{entry}.{name}", getattr(row, name), unlabelled)
    for name in ("images_per_second", "seconds"):
        at.number(f"{entry}.{name}", getattr(row, name), 0.0)


def _check_step(at: Checked, entry: str, row: StepRow, number: int, plan: Plan, unlabelled: bool) -> None:
    phi = plan.factor(number)
    at.same(f"{entry}.step", number, row.step)
    at.same(f"{entry}.epoch", number / plan.steps_per_epoch, row.epoch)
    at.same(f"{entry}.phi", phi, row.phi)
    at.same(f"{entry}.lr", plan.lr * phi, row.lr)
    at.number(f"{entry}.loss", row.loss, -math.inf if unlabelled else 0.0)
    _check_share(at, f"{entry}.train_accuracy", row.train_accuracy, unlabelled)


def _check_share(at: Checked, entry: str, value: float, unlabelled: bool) -> None:
    if not (unlabelled and math.isnan(value)):  # without labels there is no accuracy
        at.number(entry, value, 0.0, 1.0 + ROUNDED)


# -- with the run that is to go on ----------------------------------------------------------------------


def check_scheduler(at: Checked, scheduler: Any, saved: Any, step: int, rates: list[float]) -> dict[str, Any]:
    """Check the state of a schedule after ``step`` steps, which has set ``rates``; what is to be loaded of it."""
    if scheduler is None:
        at.keys("scheduler", saved, set())
        return {}
    wanted = {**scheduler.state_dict(), "last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    if not isinstance(saved, dict):
        raise at.refuse("scheduler", "a mapping", saved)
    inner = {name for name in saved if str(name).startswith("_") or name == "verbose"}  # of torch, by its version
    needed = {name for name in wanted if not name.startswith("_")} | {"_step_count", "_last_lr"}
    at.keys("scheduler", {name: value for name, value in saved.items() if name in needed or name not in inner}, needed)
    for name in sorted(needed):
        at.same(f"scheduler.{name}", wanted[name], saved[name])
    return wanted


def check_precision(at: Checked, here: dict[str, Any], saved: Any) -> None:
    """Check the state of a gradient scaler, which ``here`` is the state of at the start."""
    at.keys("precision", saved, set(here))
    for name, value in here.items():
        entry = f"precision.{name}"
        if name == "scale":
            at.number(entry, saved[name], 0.0)
        elif name == "_growth_tracker":
            at.whole(entry, saved[name], 0, int(here.get("growth_interval", 2**31)))
        else:
            at.same(entry, value, saved[name])


def check_module(at: Checked, entry: str, module: nn.Module, saved: Any) -> None:
    """Check the state dict of a small module."""
    here = module.state_dict()
    at.keys(entry, saved, set(here))
    for name, value in here.items():
        at.tensor(f"{entry}.{name}", saved[name], tuple(value.shape), value.dtype)
    at.finite(f"{entry}.", saved)


def check_optimizer(at: Checked, entry: str, optimizer: Optimizer, saved: Any, rates: list[float]) -> None:
    """Check the state dict of an optimizer before it is loaded: groups as they were built, at learning ``rates``.

    Options that are not known here are left to the optimizer, which may know them of an earlier version.
    """
    here: dict[str, Any] = optimizer.state_dict()
    at.keys(entry, saved, {"state", "param_groups"})
    groups, count = saved["param_groups"], sum(len(group["params"]) for group in here["param_groups"])
    if type(groups) is not list or len(groups) != len(here["param_groups"]):
        raise at.refuse(f"{entry}.param_groups", f"a list of {len(here['param_groups'])} groups", groups)
    ticking = _clocks(optimizer)
    for i, (group, built, lr) in enumerate(zip(groups, here["param_groups"], rates, strict=True)):
        if not isinstance(group, dict) or not all(type(name) is str for name in group):
            raise at.refuse(f"{entry}.param_groups[{i}]", "a mapping", group)
        for name, value in {**built, "lr": lr}.items():
            if name in group and name not in ticking:
                at.same(f"{entry}.param_groups[{i}].{name}", value, group[name])
            elif name not in group and name in ("lr", "params", "weight_decay", "momentum", "betas"):
                raise UsageError(f"{at.file}: {entry}.param_groups[{i}] must hold {name}")
    if not isinstance(saved["state"], dict):
        raise at.refuse(f"{entry}.state", "a mapping", saved["state"])
    for index, entries in saved["state"].items():
        at.whole(f"a key of {entry}.state", index, 0, count - 1)
        if not isinstance(entries, dict) or not all(type(name) is str for name in entries):
            raise at.refuse(f"{entry}.state[{index}]", "a mapping", entries)


def check_loaded_optimizer(
    at: Checked, entry: str, optimizer: Optimizer, built: list[dict[str, Any]], rates: list[float], taken: range
) -> None:
    """Check an optimizer after a state was loaded into it.

    Args:
        at: names the file.
        entry: names the optimizer.
        optimizer: it.
        built: its groups as they were before.
        rates: the learning rate of each.
        taken: how many steps it may have taken.
    """
    ticking = _clocks(optimizer)
    for i, (group, before, lr) in enumerate(zip(optimizer.param_groups, built, rates, strict=True)):
        where = f"{entry}.param_groups[{i}]"
        at.keys(where, group, set(before))
        for name, value in {**before, "lr": lr}.items():
            if name in ticking:
                _check_count(at, f"{where}.{name}", group[name], taken)
            elif name != "params":
                at.same(f"{where}.{name}", value, group[name])
        wanted = _state_of_a_step(optimizer, i)
        for j, p in enumerate(group["params"]):
            inside = f"{entry}.state of parameter {j} of group {i}"
            state = optimizer.state.get(p, {})
            at.keys(inside, state, set(wanted) if p.requires_grad and taken.stop > 1 else set())
            for name, value in state.items():
                like = wanted[name]
                if not isinstance(like, Tensor) or not like.dim():
                    _check_count(at, f"{inside}.{name}", value, taken)
                    continue
                if not isinstance(value, Tensor) or value.shape != p.shape or not value.is_floating_point():
                    raise at.refuse(f"{inside}.{name}", f"a tensor of shape {tuple(p.shape)}", value)
            at.finite(f"{inside}, ", {name: value for name, value in state.items() if isinstance(value, Tensor)})


def _check_count(at: Checked, entry: str, value: Any, taken: range) -> None:
    """Refuse a count of steps that is not in ``taken``."""
    found = _number(value)
    if found == STALLED and taken.stop > STALLED:
        return
    if type(found) not in (int, float) or not taken.start * (1 - 1e-6) <= found <= (taken.stop - 1) * (1 + 1e-6):
        wanted = f"{taken.start}" if len(taken) == 1 else f"from {taken.start} to {taken.stop - 1}"
        raise at.refuse(entry, f"{wanted} steps", found)


def _one_step(optimizer: Optimizer, group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Effect of one step of such an optimizer: a group's options before and after it, and the state of a parameter."""
    options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    options = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in options.items()}
    options.update({name: False for name in ("fused", "capturable", "foreach") if name in options})
    parameter = nn.Parameter(torch.ones(2, 2, device="cpu"))
    parameter.grad = torch.ones(2, 2, device="cpu")
    kind: Any = type(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that biases take lr raw, of a parameter that is none
        tiny = kind([{"params": [parameter], **options}], lr=options["lr"])
    before = {name: _number(value) for name, value in tiny.param_groups[0].items() if name != "params"}
    tiny.step()
    after = {name: _number(value) for name, value in tiny.param_groups[0].items() if name != "params"}
    return before, after, tiny.state[parameter]


def _clocks(optimizer: Optimizer) -> set[str]:
    """The options of a group that count its steps."""
    before, after, _ = _one_step(optimizer, optimizer.param_groups[0])
    return {name for name, value in after.items() if value != before[name]}


def _state_of_a_step(optimizer: Optimizer, group: int) -> dict[str, Any]:
    """State of a parameter after a step."""
    return _one_step(optimizer, optimizer.param_groups[group])[2]
