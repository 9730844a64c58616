"""State of model, optimizer, schedule, random numbers and learner as tensors and plain values, and back."""

from __future__ import annotations

import warnings
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars.lab.optimizers import is_known
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints.state_check import (
    BUFFERS,
    Checked,
    anything,
    check_loaded_optimizer,
    check_module,
    check_optimizer,
    check_precision,
    check_scheduler,
    check_users_rates,
)
from tvlars.lab.run_folder.checkpoints.tensors import Table
from tvlars.lab.training.learner import Learner
from tvlars.lab.training.optimizer_state import check_kept, packed, unpack
from tvlars.plan import OWN


def as_table(rows: list[Any]) -> Tensor:
    """Return rows as float64 (n, columns), which represents their values exactly."""
    return torch.tensor([astuple(row) for row in rows], dtype=torch.float64, device="cpu")


def state_of(learner: Learner) -> dict[str, Any]:
    """Return the state of model, optimizer, schedule, random numbers and ``learner``; all processes call it.

    Returns:
        "tensors" by "model" and "optimizer", then by name, as this process holds them; and "progress", the rest:
        numbers, texts, tensors and collections of them, the same in all processes.
    """
    optimizer, inside = packed(learner.bare_optimizer)
    progress = {
        "draws": learner.batches.draws.get_state(),
        "random": learner.processes.gather(_random_state(learner.fabric.device)),
        "optimizer": optimizer,
        "optimizer_tensors": {name: [list(x.shape), str(x.dtype)] for name, x in inside.items()},
        "scheduler": _scheduler_state(learner),
        "precision": dict(learner.fabric.strategy.precision.state_dict()),
        "extra": {name: part.state_dict() for name, part in learner.extra.items()},
    }
    if learner.processes.several and not learner.config.sync_batch_norm:
        progress[BUFFERS] = learner.processes.gather(_statistics(learner))
    return {"tensors": _named(learner, inside), "progress": progress}


def room_for(learner: Learner, progress: dict[str, Any], table: Table, at: Checked) -> dict[str, Any]:
    """Return tensors to read a checkpoint into, nested as it was saved.

    Args:
        learner: learner of the run that resumes.
        progress: the rest of the checkpoint.
        table: describes the checkpoint's tensors.
        at: provides the file of ``progress``.

    Raises:
        UsageError: there are tensors that the optimizer of this run cannot have.
    """
    there = {name: entry for name, entry in table.entries.items() if name.startswith("optimizer.")}
    described = progress["optimizer_tensors"]
    at.check("optimizer_tensors", {name.removeprefix("optimizer."): anything for name in there}, described)
    params = [p for group in learner.bare_optimizer.param_groups for p in group["params"]]
    inside = {}
    for name, entry in there.items():
        index, _, key = name.removeprefix("optimizer.").partition(".")
        if not (index.isdecimal() and key and str(int(index)) == index and int(index) < len(params)):
            raise at.refuse("a tensor of the optimizer", f"one of {len(params)} parameters", name)
        at.check(f"optimizer_tensors {name}", [list(entry.shape), str(entry.dtype)], described[f"{index}.{key}"])
        inside[f"{index}.{key}"] = _room(params[int(index)], entry.shape, entry.dtype)
    return _named(learner, inside)


def load_state(learner: Learner, state: dict[str, Any], at: Checked) -> None:
    """Check and load a state of :func:`state_of`; "progress" has an entry "step" too.

    Args:
        learner: learner of a run that has not started.
        state: tensors and the rest.
        at: provides the file of the rest, which is in the folder of the tensors.

    Raises:
        UsageError: the state is impossible for this run.
    """
    progress, tensors = state["progress"], state["tensors"]
    step, optimizer, several = progress["step"], learner.bare_optimizer, learner.processes
    at.random_state("draws", progress["draws"], learner.batches.draws.device)
    if _is_replayed(learner):
        _replay(learner.scheduler, step)
    rates = [group["lr"] for group in optimizer.param_groups]
    if learner.scheduler is not None and not _is_replayed(learner) and learner.plan.schedule != OWN:
        rates = [group["initial_lr"] * learner.plan.factor(step + 1) for group in optimizer.param_groups]
    scheduler: Any = {}
    if learner.plan.users_schedule is not None:
        check_users_rates(at, progress["scheduler"], rates, step)
    if _is_replayed(learner):
        at.check("scheduler", {"_last_lr": rates}, progress["scheduler"])
    elif learner.plan.schedule == OWN:
        scheduler = progress["scheduler"]
    else:
        scheduler = check_scheduler(at, learner.scheduler, progress["scheduler"], step, rates)
    precision = learner.fabric.strategy.precision
    check_precision(at, dict(precision.state_dict()), progress["precision"])
    # A GradScaler skips steps whose gradients are not finite.
    taken = range(0 if precision.state_dict() else step, step + 1)
    if known := is_known(learner.config.optimizer):
        check_optimizer(at, "optimizer", optimizer, progress["optimizer"], rates)
    at.check("extra", dict.fromkeys(learner.extra, anything), progress["extra"])
    for name, part in learner.extra.items():
        if isinstance(part, nn.Module):
            check_module(at, f"extra.{name}", part, progress["extra"][name])
    if of_each := progress.get(BUFFERS):
        at.check(BUFFERS, [_statistics(learner)] * len(progress["random"]), of_each)
        for rank, found in enumerate(of_each):
            at.finite(f"{BUFFERS}[{rank}].", found)

    Checked(at.file.parent).finite("model.", tensors["model"])
    learner.bare_model.load_state_dict(tensors["model"])
    inside = progress["optimizer"]
    if known:
        for name, value in tensors.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            inside["state"].setdefault(int(index), {})[key] = value
        _load_optimizer(at, "optimizer", optimizer, inside, rates, taken)
    else:
        unpack(at, optimizer, inside, tensors.get("optimizer", {}))
    if learner.scheduler is not None and not _is_replayed(learner):
        learner.scheduler.load_state_dict(scheduler)
    precision.load_state_dict(progress["precision"])
    steps = step if learner.data.classes > 1 else 0  # without labels the probe is not trained
    for name, part in learner.extra.items():
        saved = progress["extra"][name]
        if isinstance(part, Optimizer):
            own = [group["lr"] for group in part.param_groups]
            check_optimizer(at, f"extra.{name}", part, saved, own)
            _load_optimizer(at, f"extra.{name}", part, saved, own, range(steps, steps + 1))
        else:
            part.load_state_dict(saved)
    learner.batches.draws.set_state(progress["draws"])
    if len(progress["random"]) == several.count:
        _set_random_state(progress["random"][several.rank], learner.fabric.device)
    else:  # the number of processes changed, so no state belongs to this one
        torch.manual_seed((learner.config.seed + several.rank + step) % 2**32)
    if of_each:
        _set_statistics(learner, of_each, several)


def _is_replayed(learner: Learner) -> bool:
    """Return True for a user's LR scheduler, whose state is restored by repeating its steps."""
    return learner.plan.users_schedule is not None and learner.plan.users_schedule.is_scheduler


def _replay(scheduler: Any, steps: int) -> None:
    """Step a new scheduler ``steps`` times, which also sets the options of its optimizer's groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no step of the optimizer precedes these
        for _ in range(steps):
            scheduler.step()


def _scheduler_state(learner: Learner) -> dict[str, Any]:
    if learner.scheduler is None:
        return {}
    if _is_replayed(learner):
        return {"_last_lr": [float(group["lr"]) for group in learner.bare_optimizer.param_groups]}
    state = dict(learner.scheduler.state_dict())
    check_kept(state)
    return state


def _load_optimizer(at: Checked, entry: str, optimizer: Any, state: Any, rates: list[float], taken: range) -> None:
    """Load ``state`` into the optimizer, and check the result."""
    built = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    check_loaded_optimizer(at, entry, optimizer, built, rates, taken)


def _statistics(learner: Learner) -> dict[str, Tensor]:
    """Return running statistics; processes have different ones if batch norm is not synchronized."""
    return {name: buffer.cpu() for name, buffer in _buffers(learner).items()}


def _set_statistics(learner: Learner, of_each: list[dict[str, Tensor]], processes: Processes) -> None:
    """Set the running statistics of this rank; if the number of processes changed, their mean."""
    for name, buffer in _buffers(learner).items():
        if name in of_each[0]:
            same = len(of_each) == processes.count
            mean = torch.stack([found[name] for found in of_each]).mean(0)
            buffer.copy_(of_each[processes.rank][name] if same else mean)


def _buffers(learner: Learner) -> dict[str, Tensor]:
    """Return the buffers of model and average that hold running statistics."""
    models = {"": learner.bare_model, "average.": learner.average}
    named = [(f"{at}{name}", x) for at, one in models.items() if one is not None for name, x in one.named_buffers()]
    return {name: buffer for name, buffer in named if buffer.is_floating_point()}


def _named(learner: Learner, inside: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return the tensors of the model and, if there are any, ``inside``, the tensors of the optimizer."""
    return {"model": learner.bare_model.state_dict(), **({"optimizer": inside} if inside else {})}


def _room(param: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor to read into, in the memory layout of the parameter if it has its shape."""
    if shape and tuple(param.shape) == shape:
        return torch.zeros_like(param, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    return torch.zeros(shape, dtype=dtype, device="cpu")


def _random_state(device: torch.device) -> list[Tensor]:
    """Return the states of torch's global random number generators, which dropout uses."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
