"""What a run is at a step, taken apart for a checkpoint and put together again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tvlars.lab import checkpoint
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.record import EpochRow, StepRow
from tvlars.plan import Plan

if TYPE_CHECKING:
    from tvlars.lab.loop import Run

FREE = (
    *("out", "resume", "checkpoint_every", "checkpoint_keep", "data_dir", "accelerator", "tensorboard"),
    *("devices", "nodes", "rendezvous", "shard", "timeout", "evaluations", "profile"),
)
"""Options that may change when a run goes on; all others decide what is computed."""


@dataclass(frozen=True)
class Resumed:
    """A checkpoint that a run goes on from."""

    path: Path
    progress: dict[str, Any]
    processes: int
    """How many processes wrote it."""

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.progress["step"])

    @property
    def epoch(self) -> int:
        """The epoch that it is in; all before it are complete."""
        return int(self.progress["epoch"])


def identity(config: TrainConfig, plan: Plan) -> dict[str, Any]:
    """What has to be the same in the run that goes on: options and plan, as JSON has them."""
    options = {name: value for name, value in json.loads(config.to_json()).items() if name not in FREE}
    return {"config": options, "plan": {"steps": plan.total_steps, "steps_per_epoch": plan.steps_per_epoch}}


def find(folder: Path, config: TrainConfig, plan: Plan, tell: Callable[[str], None]) -> Resumed | None:
    """The newest good checkpoint of a run folder; None where there is none.

    Raises:
        UsageError: it is of another run, another version, or holds what it should not.
    """
    found = checkpoint.newest(folder, tell)
    if found is None:
        return None
    path, manifest = found
    here = identity(config, plan)
    for part in ("config", "plan"):
        there = manifest.run.get(part)
        if not isinstance(there, dict):
            raise UsageError(f"{path} must say what run it is of, but its manifest has no {part}")
        different = [name for name in {**there, **here[part]} if there.get(name) != here[part].get(name)]
        if different:
            said = ", ".join(f"{name} {there.get(name)!r} there, {here[part].get(name)!r} here" for name in different)
            raise UsageError(f"{path} must be a checkpoint of this run, but its {part} is another: {said}")
    progress = checkpoint.read_progress(path)
    if missing := [name for name in PROGRESS if name not in progress]:
        raise UsageError(f"{path / 'progress.pt'} must hold all of a run, but lacks {', '.join(missing)}")
    return Resumed(path, progress, manifest.processes)


PROGRESS = (
    *("step", "epoch", "position", "seconds", "order", "draws", "random", "epochs", "epoch_steps"),
    *("optimizer", "optimizer_tensors", "scheduler", "precision", "extra"),
)


def save(run: Run) -> Path:
    """Write a checkpoint of ``run``, which is between two steps; all processes call it.

    Raises:
        OSError: it could not be written.
    """
    state = run.bare_optimizer.state_dict()
    tensors: dict[str, Any] = {"model": run.bare_model.state_dict()}
    inside = _optimizer_tensors(state["state"])
    if inside:
        tensors["optimizer"] = inside
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
    return checkpoint.save(
        run.record.folder,
        run.step,
        tensors,
        progress,
        identity(run.config, run.plan),
        run.processes,
        run.config.checkpoint_keep,
    )


def restore(run: Run, resumed: Resumed) -> None:
    """Make ``run``, which has been set up and not begun, what it was at the checkpoint.

    Raises:
        UsageError: the checkpoint's tensors are those of another model.
    """
    try:
        _restore(run, resumed)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        if isinstance(error, UsageError):
            raise
        reason = ascii(" ".join(str(error).split())[:120])  # it may quote what a file had in place of a name
        raise UsageError(f"{resumed.path} must be a checkpoint of this run, but does not fit it: {reason}") from error


def _restore(run: Run, resumed: Resumed) -> None:
    progress, device = resumed.progress, run.fabric.device
    params = [p for group in run.bare_optimizer.param_groups for p in group["params"]]
    inside = {
        name: _room(params[int(name.split(".")[0])], shape, dtype)
        for name, (shape, dtype) in progress["optimizer_tensors"].items()
    }
    model = run.bare_model.state_dict()
    tensors: dict[str, Any] = {"model": model, **({"optimizer": inside} if inside else {})}
    checkpoint.load_tensors(resumed.path, tensors, run.processes)
    run.bare_model.load_state_dict(model)
    state = progress["optimizer"]
    for name, value in inside.items():
        index, _, key = name.partition(".")
        state["state"].setdefault(int(index), {})[key] = value
    run.bare_optimizer.load_state_dict(state)
    if run.scheduler is not None:
        run.scheduler.load_state_dict(progress["scheduler"])
    run.fabric.strategy.precision.load_state_dict(progress["precision"])
    run.load_extra_state(progress["extra"])
    run.step, run.epoch, run.position = (int(progress[name]) for name in ("step", "epoch", "position"))
    run.epoch_seconds = float(progress["seconds"])
    run.epochs = _rows(progress["epochs"], EpochRow)
    run.epoch_steps = _rows(progress["epoch_steps"], StepRow)
    run.order_state = progress["order"]
    run.batches.order.set_state(progress["order"])
    run.batches.draws.set_state(progress["draws"])
    if resumed.processes == run.processes.count:
        _set_random_state(progress["random"][run.processes.rank], device)
    else:  # there is no telling who would go on with what
        torch.manual_seed((run.config.seed + run.processes.rank + run.step) % 2**32)


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


def _room(param: Tensor, shape: list[int], dtype: str) -> Tensor:
    """A tensor to read into: laid out as the parameter where it has its shape."""
    kind = getattr(torch, dtype.removeprefix("torch."))
    if shape and list(param.shape) == shape:
        return torch.zeros_like(param, dtype=kind, requires_grad=False, memory_format=torch.preserve_format)
    return torch.zeros(shape, dtype=kind)


def _as_table(rows: list[Any]) -> Tensor:
    """Rows as float64 (n, columns), exact for all that they hold."""
    return torch.tensor([astuple(row) for row in rows], dtype=torch.float64)


def _rows(table: Tensor, kind: Any) -> list[Any]:
    whole = [field.type == "int" for field in fields(kind)]
    return [
        kind(*(int(value) if is_whole else value for value, is_whole in zip(row, whole, strict=True)))
        for row in table.tolist()
    ]


def _random_state(device: torch.device) -> list[Tensor]:
    """States of torch's own sources of random numbers: dropout takes from them."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
