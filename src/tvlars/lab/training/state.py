"""What a run is at a step, taken apart for a checkpoint and put together again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints import checkpoint
from tvlars.lab.run_folder.checkpoints.state_check import (
    BUFFERS,
    Checked,
    check_loaded_optimizer,
    check_module,
    check_optimizer,
    check_precision,
    check_scheduler,
    is_finite,
)
from tvlars.lab.run_folder.identity import FINGERPRINT, identity
from tvlars.lab.run_folder.resuming import GoOn, fitting

if TYPE_CHECKING:
    from tvlars.lab.training.run import Run


def save(run: Run) -> Path | None:
    """Write a checkpoint of ``run``, which is between two steps; all processes call it.

    None is written, and returned, where weights or optimizer state are not finite: the run has diverged, which its next
    loss will show.

    Raises:
        OSError: it could not be written.
    """
    run.processes.by_first(lambda: _flush(run))
    state = run.bare_optimizer.state_dict()
    tensors: dict[str, Any] = {"model": run.bare_model.state_dict()}
    inside = _optimizer_tensors(state["state"])
    if inside:
        tensors["optimizer"] = inside
    finite = all(is_finite(value) for some in tensors.values() for value in some.values())
    if not all(run.processes.gather(finite)):
        return None
    complete = [row for row in run.epochs if row.epoch < run.epoch]
    progress = {
        "step": run.step,
        "epoch": run.epoch,
        "position": run.position,
        "seconds": run.epoch_seconds,
        "order": run.order_state,
        "draws": run.batches.draws.get_state(),
        "random": run.processes.gather(_random_state(run.fabric.device)),
        "epochs": _as_table(complete),
        "epoch_steps": _as_table(run.epoch_steps),
        "optimizer": _without_tensors(state),
        "optimizer_tensors": {name: [list(x.shape), str(x.dtype)] for name, x in inside.items()},
        "scheduler": {} if run.scheduler is None else run.scheduler.state_dict(),
        "precision": dict(run.fabric.strategy.precision.state_dict()),
        "extra": run.extra_state(),
    }
    if run.processes.several and not run.config.sync_batch_norm:
        progress[BUFFERS] = run.processes.gather(_statistics(run.bare_model))
    return checkpoint.save(
        run.record.folder,
        run.step,
        tensors,
        progress,
        {**identity(run.config, run.plan), FINGERPRINT: run.fingerprint.as_json()},
        run.processes,
        run.config.checkpoint_keep,
        run.record.check_place,
    )


def _flush(run: Run) -> None:
    """Have on the disk what was measured before a checkpoint that takes it for granted."""
    run.record.flush(durable=True)
    if run.layer_stats is not None:
        run.layer_stats.try_flush()


def restore(run: Run, resumed: GoOn) -> None:
    """Make ``run``, which has been set up and not begun, what it was at the checkpoint; all processes call it.

    Raises:
        UsageError: the checkpoint's tensors are those of another model, or its state is none that this run can have
            written.
        SaidElsewhereError: as the first process says.
    """
    parts = _restore(run, resumed)

    def work() -> None:
        with fitting(resumed.path):
            next(parts, None)

    run.processes.each(work)  # where one process refuses what it reads, no other waits for it in a collective
    run.processes.each(work)


def _restore(run: Run, resumed: GoOn) -> Iterator[None]:
    """Check all that can be checked before tensors are read, which processes do together; then read and load them."""
    progress, device = resumed.progress, run.fabric.device
    at = Checked(checkpoint.progress_file(resumed.path, resumed.manifest))
    at.random_state("draws", progress["draws"], run.batches.draws.device)
    rates = [group["lr"] for group in run.bare_optimizer.param_groups]
    if run.scheduler is not None:
        factor = run.plan.factor(resumed.step + 1)
        rates = [group["initial_lr"] * factor for group in run.bare_optimizer.param_groups]
    scheduler = check_scheduler(at, run.scheduler, progress["scheduler"], resumed.step, rates)
    precision = run.fabric.strategy.precision
    check_precision(at, dict(precision.state_dict()), progress["precision"])
    # A GradScaler leaves steps out whose gradients are not finite.
    taken = range(0 if precision.state_dict() else resumed.step, resumed.step + 1)

    table = checkpoint.read_tensor_table(resumed.path, resumed.manifest)
    there = {name: entry for name, entry in table.entries.items() if name.startswith("optimizer.")}
    described = {f"optimizer.{name}": value for name, value in _mapping(at, progress["optimizer_tensors"]).items()}
    params = [p for group in run.bare_optimizer.param_groups for p in group["params"]]
    inside = {}
    for name, entry in there.items():
        index, _, key = name.removeprefix("optimizer.").partition(".")
        if not (index.isdecimal() and key and str(int(index)) == index and int(index) < len(params)):
            raise at.refuse("a tensor of the optimizer", f"one of {len(params)} parameters", name)
        inside[f"{index}.{key}"] = _room(params[int(index)], entry.shape, entry.dtype)
        at.same(f"optimizer_tensors {name}", [list(entry.shape), str(entry.dtype)], described.get(name))
    at.keys("optimizer_tensors", described, set(there))
    check_optimizer(at, "optimizer", run.bare_optimizer, progress["optimizer"], rates)
    extra, probe = dict(run.extra_state()), getattr(run, "probe_optimizer", None)
    at.keys("extra", progress["extra"], set(extra))
    for name, saved in progress["extra"].items():
        if isinstance(part := getattr(run, name), nn.Module):
            check_module(at, f"extra.{name}", part, saved)
    if of_each := progress.get(BUFFERS):
        _check_statistics(at, run, of_each, resumed.processes)

    yield

    model = run.bare_model.state_dict()
    tensors: dict[str, Any] = {"model": model, **({"optimizer": inside} if inside else {})}
    checkpoint.load_tensors(resumed.path, table, tensors, run.processes)
    Checked(resumed.path).finite("model.", model)
    run.bare_model.load_state_dict(model)
    state = progress["optimizer"]
    for name, value in inside.items():
        index, _, key = name.partition(".")
        state["state"].setdefault(int(index), {})[key] = value
    _load_optimizer(at, "optimizer", run.bare_optimizer, state, rates, taken)
    if run.scheduler is not None:
        run.scheduler.load_state_dict(scheduler)
    precision.load_state_dict(progress["precision"])
    if probe is not None:
        steps = resumed.step if run.data.classes > 1 else 0  # without labels it takes none
        probe_rates = [group["lr"] for group in probe.param_groups]
        saved = progress["extra"]["probe_optimizer"]
        check_optimizer(at, "extra.probe_optimizer", probe, saved, probe_rates)
        _load_optimizer(at, "extra.probe_optimizer", probe, saved, probe_rates, range(steps, steps + 1))
    run.load_extra_state(progress["extra"])
    run.step, run.epoch, run.position = (progress[name] for name in ("step", "epoch", "position"))
    run.saved_at = run.epoch, run.position
    run.epoch_seconds = float(progress["seconds"])
    run.epochs, run.epoch_steps = list(resumed.epochs), list(resumed.steps)
    run.order_state = progress["order"]
    run.batches.order.set_state(progress["order"])
    run.batches.draws.set_state(progress["draws"])
    if resumed.processes == run.processes.count:
        _set_random_state(progress["random"][run.processes.rank], device)
    else:  # there is no telling who would go on with what
        torch.manual_seed((run.config.seed + run.processes.rank + run.step) % 2**32)
    if of_each:
        _set_statistics(run.bare_model, of_each, run.processes)


def _load_optimizer(at: Checked, entry: str, optimizer: Any, state: Any, rates: list[float], taken: range) -> None:
    """Load ``state``, and check what has come of it."""
    built = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    check_loaded_optimizer(at, entry, optimizer, built, rates, taken)


def _mapping(at: Checked, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise at.refuse("optimizer_tensors", "a mapping", value)
    return value


def _check_statistics(at: Checked, run: Run, of_each: Any, processes: int) -> None:
    """Refuse running statistics that are not those of this model, one set of each process."""
    here = _statistics(run.bare_model)
    if type(of_each) is not list or len(of_each) != processes:
        raise at.refuse(BUFFERS, f"a list of {processes}, one of each process", of_each)
    for rank, found in enumerate(of_each):
        at.keys(f"{BUFFERS}[{rank}]", found, set(here))
        for name, value in here.items():
            at.tensor(f"{BUFFERS}[{rank}].{name}", found[name], tuple(value.shape), value.dtype)
        at.finite(f"{BUFFERS}[{rank}].", found)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Running statistics, which each process has of its own where batch norm is not synchronized."""
    return {name: buffer.cpu() for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def _set_statistics(model: nn.Module, of_each: list[dict[str, Tensor]], processes: Processes) -> None:
    """Those of the process of this rank; of another number of processes their mean, which tests are made with."""
    for name, buffer in model.named_buffers():
        if name in of_each[0]:
            same = len(of_each) == processes.count
            mean = torch.stack([found[name] for found in of_each]).mean(0)
            buffer.copy_(of_each[processes.rank][name] if same else mean)


def _optimizer_tensors(state: dict[int, dict[str, Any]]) -> dict[str, Tensor]:
    return {
        f"{index}.{key}": value
        for index, entries in state.items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }


def _without_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's options, and what its state has that is no tensor."""
    kept = {
        index: {key: value for key, value in entries.items() if not isinstance(value, Tensor)}
        for index, entries in state["state"].items()
    }
    return {"state": kept, "param_groups": state["param_groups"]}


def _room(param: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor to read into: laid out as the parameter where it has its shape."""
    if shape and tuple(param.shape) == shape:
        return torch.zeros_like(param, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    return torch.zeros(shape, dtype=dtype, device="cpu")


def _as_table(rows: list[Any]) -> Tensor:
    """Rows as float64 (n, columns), exact for all that they hold."""
    return torch.tensor([astuple(row) for row in rows], dtype=torch.float64, device="cpu")


def _random_state(device: torch.device) -> list[Tensor]:
    """States of torch's own sources of random numbers: dropout takes from them."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
