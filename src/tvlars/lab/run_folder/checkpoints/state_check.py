"""Checks that a checkpoint's state is possible for its run: position, rows, random states, optimizer.

Checksums detect damage. A checkpoint that was edited, or that a faulty program wrote, may have good ones; without these
checks its run would resume from an impossible step, end with a traceback, or seem to diverge.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.optimizers import is_known
from tvlars.lab.run_folder.rows import RESULTS, EpochRow, StepRow
from tvlars.plan import Plan
from tvlars.schedule import SigmoidSchedule

ENTRIES = (
    *("step", "epoch", "position", "seconds", "order", "draws", "random", "epochs", "epoch_steps"),
    *("optimizer", "optimizer_tensors", "scheduler", "precision", "extra"),
)
BUFFERS = "buffers"
"""Entry with the running statistics of each process, if batch norm is not synchronized."""
CLOCK = "sharpness"
"""Entry with the state of measurements of sharpness amid an epoch, if there are some."""
NEEDED = ("lr", "params", "weight_decay", "momentum", "betas")
"""Options of a parameter group that every version wrote."""
COUNTED = ("exp_avg_sq", "running_var", "num_batches_tracked", "step")
"""Names of tensors that hold squares or counts, which are never below 0."""
CLOSE = 1e-9
"""Relative difference between machines, from rounding."""
STALLED = 2**24
"""Largest count in float32, which earlier versions used; it stands still there."""
ROUNDED = 1e-5
"""Tolerance of shares of a batch above 1."""


def anything(entry: str, value: Any) -> None:
    """Accept any value."""


@dataclass(frozen=True)
class Checked:
    """Checks of entries of ``file``; each raises a ``UsageError`` that names the entry."""

    file: Path

    def refuse(self, entry: str, wanted: str, got: object) -> UsageError:
        """Return the error for an entry that is not ``wanted``."""
        found = got if type(got) in (int, float, bool, str, type(None)) else type(got).__name__
        return UsageError(f"{self.file}: {entry} must be {wanted}, got {ascii(found)[:60]}")

    def check(self, entry: str, wanted: Any, got: Any) -> None:
        """Refuse ``got`` unless it matches ``wanted``.

        A dictionary matches a mapping with exactly its keys and matching values; a list or tuple matches as many
        matching values; a range matches an integer in it; a tensor matches one of its shape and dtype; a function of
        entry and value checks by itself; any other value matches its equal, numbers up to rounding.
        """
        if callable(wanted):
            wanted(entry, got)
        elif isinstance(wanted, dict):
            self.mapping(entry, got)
            for problem, names in (("hold", wanted.keys() - got), ("not hold", got.keys() - wanted)):
                if names:
                    first = ascii(min(map(str, names)))[1:-1]
                    raise UsageError(f"{self.file}: {entry} must {problem} {first:.80}")
            for name, value in wanted.items():
                self.check(f"{entry}.{name}", value, got[name])
        elif isinstance(wanted, (list, tuple)):
            if type(got) not in (list, tuple) or len(got) != len(wanted):
                raise self.refuse(entry, f"{len(wanted)} values", got)
            for i, (one, other) in enumerate(zip(wanted, got, strict=True)):
                self.check(f"{entry}[{i}]", one, other)
        elif isinstance(wanted, range):
            if type(got) is not int or got not in wanted:
                low, high = wanted.start, wanted.stop - 1
                raise self.refuse(entry, f"an integer from {low} to {high}" if low < high else str(low), got)
        elif isinstance(wanted, Tensor):
            if not isinstance(got, Tensor) or got.dtype != wanted.dtype or got.shape != wanted.shape:
                raise self.refuse(entry, f"a {_described(wanted)}", _described(got) if isinstance(got, Tensor) else got)
        else:
            got = _number(got)
            both = type(wanted) in (int, float) and type(got) in (int, float)
            same = math.isclose(wanted, got, rel_tol=CLOSE) if both else type(wanted) is type(got) and wanted == got
            if not same:
                raise self.refuse(entry, repr(wanted), got)

    def mapping(self, entry: str, value: Any) -> None:
        """Refuse anything but a mapping."""
        if not isinstance(value, dict):
            raise self.refuse(entry, "a mapping", value)

    def number(
        self, entry: str, value: Any, low: float = -math.inf, high: float = math.inf, or_nan: bool = False
    ) -> None:
        """Refuse anything but a finite number from ``low`` to ``high``, or NaN with ``or_nan``."""
        if or_nan and type(value) is float and math.isnan(value):
            return
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            bounds = f" from {low:g} to {high:g}" if high < math.inf else f" >= {low:g}" if low > -math.inf else ""
            raise self.refuse(entry, f"a finite number{bounds}", value)

    def count(self, entry: str, value: Any, taken: range) -> None:
        """Refuse a count of steps that is not in ``taken``."""
        found = _number(value)
        if found == STALLED and taken.stop > STALLED:
            return
        if type(found) not in (int, float) or not taken.start * (1 - 1e-6) <= found <= (taken.stop - 1) * (1 + 1e-6):
            wanted = f"{taken.start}" if len(taken) == 1 else f"from {taken.start} to {taken.stop - 1}"
            raise self.refuse(entry, f"{wanted} steps", found)

    def random_state(self, entry: str, value: Any, device: torch.device) -> None:
        """Refuse anything but the state of a random number generator on ``device``."""
        generator = torch.Generator(device)
        self.check(entry, generator.get_state(), value)
        try:
            generator.set_state(value)
        except RuntimeError as error:
            raise self.refuse(entry, "a state of torch's random numbers", "another") from error

    def finite(self, entry: str, tensors: dict[str, Any]) -> None:
        """Refuse tensors with NaN or infinity, and counts or squares below 0."""
        for name, value in tensors.items():
            if not is_finite(value):
                raise self.refuse(f"{entry}{name}", "finite", "NaN or infinity")
            if name.rpartition(".")[2] in COUNTED and bool((_local(value) < 0).any()):
                raise self.refuse(f"{entry}{name}", ">= 0", "values below")


def is_finite(value: Tensor) -> bool:
    """Return True if no value of a tensor, or of this process's shard of it, is NaN or infinite."""
    return not value.is_floating_point() or bool(torch.isfinite(_local(value)).all())


def _local(value: Any) -> Tensor:
    found: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return found.detach()


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} tensor of shape {tuple(tensor.shape)}"


# -- before the model is built -----------------------------------------------------------------------------------------


def check_progress(
    file: Path, progress: dict[str, Any], step: int, processes: int, config: TrainConfig, plan: Plan
) -> tuple[list[EpochRow], list[StepRow]]:
    """Check all that needs no model; return rows of complete epochs, and of steps of the current one.

    ``step`` and ``processes`` are those of the manifest; errors name ``file`` and the entry.
    """
    at, cpu, per_epoch = Checked(file), torch.device("cpu"), plan.steps_per_epoch
    at.check("it", dict.fromkeys((*ENTRIES, *({BUFFERS, CLOCK} & progress.keys())), anything), progress)
    epoch, position, states = progress["epoch"], progress["position"], progress["random"]
    at.check("step", range(1, plan.total_steps + 1), progress["step"])
    at.check("step", step, progress["step"])
    at.check("epoch", range(1, plan.epochs + 2), epoch)
    before = min((epoch - 1) * per_epoch, plan.total_steps)  # the last epoch may be a part of one
    at.check("position", range(min(per_epoch, plan.total_steps - before) + 1), position)
    at.check("position", step - before, position)
    at.number("seconds", progress["seconds"], 0.0)
    at.random_state("order", progress["order"], cpu)
    if type(states) is not list or len(states) != processes:
        raise at.refuse("random", f"a list of {processes} states, one of each process", states)
    for rank, each in enumerate(states):
        if type(each) is not list or not 1 <= len(each) <= 2:
            raise at.refuse(f"random[{rank}]", "a list of one or two states", each)
        at.random_state(f"random[{rank}][0]", each[0], cpu)
        for state in each[1:]:  # of an accelerator, which checks it when it is set
            length = len(state) if isinstance(state, Tensor) and state.dim() == 1 else 0
            at.check(
                f"random[{rank}][1]", torch.empty(min(max(length, 1), 2**16), dtype=torch.uint8, device="meta"), state
            )

    unlabelled = (
        config.self_supervised or config.own_task
    )  # without labels there is no accuracy, and a loss may be below 0
    loss: Any = partial(at.number, low=-math.inf if unlabelled else 0.0)
    share: Any = partial(at.number, low=0.0, high=1.0 + ROUNDED, or_nan=unlabelled)
    speed: Any = partial(at.number, low=0.0)
    none: Any = dict.fromkeys(RESULTS, partial(_check_nan, at))
    epochs = [EpochRow(*cells) for cells in _cells(at, "epochs", progress["epochs"], EpochRow, epoch - 1)]
    for number, row in enumerate(epochs, 1):
        counts = {"epoch": number, "step": min(number * per_epoch, plan.total_steps)}
        split = "validation" if row.validated else "test"
        results = {f"{split}_loss": loss, f"{split}_accuracy": share} if config.evaluates(number, plan.epochs) else {}
        means = {"train_loss": loss, "train_accuracy": share, "images_per_second": speed, "seconds": speed}
        at.check(f"epochs[{number - 1}]", {**counts, **means, **none, **results}, vars(row))
    steps = [StepRow(*cells) for cells in _cells(at, "epoch_steps", progress["epoch_steps"], StepRow, position)]
    for i, one in enumerate(steps):
        number = step - position + 1 + i
        phi: Any = plan.factor(number)
        lr: Any = plan.lr * phi
        if not is_known(config.optimizer) or plan.users_schedule is not None:  # checked when the state is loaded
            phi, lr = at.number, at.number
        known = {"step": number, "epoch": number / per_epoch, "phi": phi, "lr": lr}
        at.check(f"epoch_steps[{i}]", {**known, "loss": loss, "train_accuracy": share}, vars(one))
    return epochs, steps


def _cells(at: Checked, entry: str, table: Any, kind: type, count: int) -> Iterator[list[Any]]:
    columns = fields(kind)
    if isinstance(table, Tensor) and table.numel() == 0 and count == 0:
        return
    needed = sum(column.default is MISSING for column in columns)
    width = needed if isinstance(table, Tensor) and table.shape[1:] == (needed,) else len(columns)
    columns = columns[:width]  # earlier versions had fewer
    at.check(entry, torch.empty(count, width, dtype=torch.float64, device="meta"), table)
    for i, values in enumerate(table.tolist()):
        whole = [column.type == "int" for column in columns]
        for column, value, integer in zip(columns, values, whole, strict=True):
            if integer and not float(value).is_integer():
                raise at.refuse(f"{entry}[{i}].{column.name}", "an integer", value)
        yield [int(value) if integer else value for value, integer in zip(values, whole, strict=True)]


def _check_nan(at: Checked, entry: str, value: Any) -> None:
    """Refuse anything but NaN."""
    if not isinstance(value, float) or not math.isnan(value):
        raise at.refuse(entry, "NaN", value)


# -- when the state is loaded ------------------------------------------------------------------------------------------


def check_scheduler(at: Checked, scheduler: Any, saved: Any, step: int, rates: list[float]) -> dict[str, Any]:
    """Check the state of a schedule after ``step`` steps, with learning ``rates``; return the state to load."""
    at.mapping("scheduler", saved)
    if isinstance(getattr(scheduler, "schedule", None), SigmoidSchedule):
        saved = {"warmup_steps": 0, **saved}  # earlier versions had no warm-up before φ
    wanted: dict[str, Any] = {}
    if scheduler is not None:
        wanted = {**scheduler.state_dict(), "last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    needed = {name: x for name, x in wanted.items() if not name.startswith("_") or name in ("_step_count", "_last_lr")}
    own = {name: x for name, x in saved.items() if scheduler is not None and str(name).startswith(("_", "verbose"))}
    # Torch's own entries change with its version.
    at.check("scheduler", needed, {name: x for name, x in saved.items() if name in needed or name not in own})
    return wanted


def check_users_rates(at: Checked, saved: Any, rates: list[float], step: int) -> None:
    """Raise ``UsageError`` if a user's schedule gives other ``rates`` than those saved after ``step`` steps."""
    found = saved.get("_last_lr") if isinstance(saved, dict) else None
    for before, now in zip(found if isinstance(found, list) else (), rates, strict=False):
        if type(before) in (int, float) and not math.isclose(before, now, rel_tol=CLOSE):
            raise UsageError(
                f"{at.file}: schedule must be as it was when the run began, but the learning rate after step {step} "
                f"was {before:g} and is {now:g} now"
            )


def check_precision(at: Checked, here: dict[str, Any], saved: Any) -> None:
    """Check the state of a gradient scaler; ``here`` is its state at the start."""
    tracked = range(int(here.get("growth_interval", 2**31)) + 1)
    moving = {"scale": partial(at.number, low=0.0), "_growth_tracker": tracked}
    at.check("precision", {name: moving.get(name, value) for name, value in here.items()}, saved)


def check_module(at: Checked, entry: str, module: nn.Module, saved: Any) -> None:
    """Check the state dict of a small module."""
    at.check(entry, module.state_dict(), saved)
    at.finite(f"{entry}.", saved)


def check_optimizer(at: Checked, entry: str, optimizer: Optimizer, saved: Any, rates: list[float]) -> None:
    """Check the state dict of an optimizer before it is loaded: groups as they were built, at learning ``rates``.

    Unknown options are left to the optimizer, which may convert those of an earlier version.
    """
    at.check(entry, {"state": anything, "param_groups": anything}, saved)
    built: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    groups, ticking = saved["param_groups"], _clocks(optimizer)
    if type(groups) is not list or len(groups) != len(built):
        raise at.refuse(f"{entry}.param_groups", f"a list of {len(built)} groups", groups)
    for i, (group, here, lr) in enumerate(zip(groups, built, rates, strict=True)):
        where = f"{entry}.param_groups[{i}]"
        at.mapping(where, group)
        if not all(type(name) is str for name in group):
            raise at.refuse(where, "a mapping", group)
        known = {name for name in here if name not in ticking and (name in group or name in NEEDED)}
        wanted = {name: _number(value) for name, value in {**here, "lr": lr}.items() if name in known}
        at.check(where, wanted, {name: value for name, value in group.items() if name in known})
    at.mapping(f"{entry}.state", saved["state"])
    for index, entries in saved["state"].items():
        at.check(f"a key of {entry}.state", range(sum(len(group["params"]) for group in built)), index)
        at.mapping(f"{entry}.state[{index}]", entries)


def check_loaded_optimizer(
    at: Checked, entry: str, optimizer: Optimizer, built: list[dict[str, Any]], rates: list[float], taken: range
) -> None:
    """Check an optimizer after its state was loaded: groups as ``built``, learning ``rates``, ``taken`` steps."""
    steps: Any = partial(at.count, taken=taken)
    clocks = dict.fromkeys(_clocks(optimizer), steps)
    for i, (group, before, lr) in enumerate(zip(optimizer.param_groups, built, rates, strict=True)):
        options = {name: _number(value) for name, value in before.items()}
        at.check(f"{entry}.param_groups[{i}]", {**options, "lr": lr, "params": anything, **clocks}, group)
        after_a_step = _one_step(optimizer, group)[2]
        for j, p in enumerate(group["params"]):
            where, state = f"{entry}.state of parameter {j} of group {i}", optimizer.state.get(p, {})
            moment: Any = partial(_check_moment, at, p.shape)
            wanted = {n: moment if isinstance(x, Tensor) and x.dim() else steps for n, x in after_a_step.items()}
            at.check(where, wanted if p.requires_grad and taken.stop > 1 else {}, state)
            at.finite(f"{where}, ", {name: value for name, value in state.items() if isinstance(value, Tensor)})


def _check_moment(at: Checked, shape: torch.Size, entry: str, value: Any) -> None:
    """Refuse anything but a floating point tensor of this shape."""
    if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
        raise at.refuse(entry, f"a tensor of shape {tuple(shape)}", value)


def _clocks(optimizer: Optimizer) -> set[str]:
    """Return the options of a parameter group that count its steps."""
    before, after, _ = _one_step(optimizer, optimizer.param_groups[0])
    return {name for name, value in after.items() if value != before[name]}


def _one_step(optimizer: Optimizer, group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a group's options before and after a step of a tiny copy of the optimizer, and its parameter's state."""
    options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    options = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in options.items()}
    options.update({name: False for name in ("fused", "capturable", "foreach") if name in options})
    parameter = nn.Parameter(torch.ones(2, 2, device="cpu"))
    parameter.grad = torch.ones(2, 2, device="cpu")
    kind: Any = type(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about biases; the tiny parameter is none
        tiny = kind([{"params": [parameter], **options}], lr=options["lr"])
    before = {name: _number(value) for name, value in tiny.param_groups[0].items() if name != "params"}
    tiny.step()
    after = {name: _number(value) for name, value in tiny.param_groups[0].items() if name != "params"}
    return before, after, tiny.state[parameter]
