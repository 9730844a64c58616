"""The doctor: what somebody who trains with large batches would point out about a model and its optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tvlars._checks import check_count, check_number
from tvlars.groups import _trainable
from tvlars.optim import LAMB, TVLARS
from tvlars.optim.base import LayerwiseOptimizer
from tvlars.plan import FEW_STEPS
from tvlars.schedule import WarmupCosineLR, _sigmoid_decay

LARGEST_RAW_LR = 1.0
LARGEST_RAW_MOVE = 1.0
"""Of the longest layer that is not adapted, by one step of any of them."""
LARGEST_MOVE, SMALLEST_MOVE = 0.1, 1e-6
"""Of a layer's norm, by one step at the highest learning rate, momentum aside."""
SMALL_BATCH = 128
FAR_ABOVE = 10
"""Batch size over noise scale."""
SMALL_MICRO_BATCH, MUCH_SMALLER = 64, 8


@dataclass(frozen=True)
class Finding:
    """One thing to look at: ``what`` it is in a word, the ``evidence`` with its numbers, and the way out."""

    what: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.evidence}; {self.remedy}"


class Findings(list[Finding]):
    """All findings, an empty list where there are none; ``str()`` gives a line each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing found"


def check(
    model: nn.Module,
    optimizer: Optimizer,
    loader: Any = None,
    *,
    epochs: int | None = None,
    total_steps: int | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    scheduler: Any = None,
    scaler: Any = None,
    noise_scale: Any = None,
) -> Findings:
    """Look for what spoils large-batch training. Nothing is changed and nothing is run.

    ==================  ====================================================================================
    finding             when
    ==================  ====================================================================================
    adapted norms       a bias or a parameter of a norm is in a group with the trust ratio
    decayed norms       ... in a group with weight decay
    raw learning rate   layers that are not adapted take an lr above 1
    large steps         lr, φ and trust coefficient together move a layer by more than 10 % of its norm a step
    small steps         ... by less than 1e-6
    idle schedule       φ keeps more than 90 % of its start to the end of the run
    early schedule      φ is below half of its start before the first epoch ends
    schedule length     an LR scheduler is longer or shorter than the run
    few steps           the run has fewer than 50 steps
    scaled gradients    a scaled loss, or a sum, reaches layers that are not adapted
    batch too large     the batch is more than 10 times the measured noise scale
    batch too small     a layer-wise optimizer with fewer than 128 samples a step
    batch norm          it sees fewer than 64 samples, and the batch is at least 8 times as large
    ==================  ====================================================================================

    What is not known is not checked.

    Args:
        model: the module that is trained.
        optimizer: any torch optimizer; that a layer is adapted can be said of LARS, TVLARS and LAMB alone.
        loader: a ``DataLoader`` of this process; gives ``micro_batch_size``, and with ``epochs`` the length of the run.
        epochs: of the run.
        total_steps: optimizer steps of the run; default: from loader, batch size and epochs.
        batch_size: samples per optimizer step over all processes. Default: the loader's, times the processes.
        micro_batch_size: samples per forward pass on one process. Default: the loader's.
        scheduler: an LR scheduler that is stepped with the optimizer.
        scaler: a ``GradScaler`` that will divide the gradients before the step.
        noise_scale: B_simple in samples, or what :func:`tvlars.noise_scale.noise_scale` returns.

    Returns:
        A list of :class:`Finding`; ``print`` shows a line each.

    Raises:
        ValueError: a count is out of its range.

    Example:
        >>> print(check(model, optimizer, loader, epochs=90, scheduler=scheduler))
    """
    for name, value in (
        ("epochs", epochs),
        ("total_steps", total_steps),
        ("batch_size", batch_size),
        ("micro_batch_size", micro_batch_size),
    ):
        if value is not None:
            check_count(name, value)
    noise = None if noise_scale is None else getattr(noise_scale, "value", noise_scale)
    if noise is not None and noise != float("inf"):
        check_number("noise_scale", noise, unit="samples")

    processes = torch.distributed.get_world_size() if _is_distributed() else 1
    micro_batch_size = micro_batch_size or getattr(loader, "batch_size", None)
    if batch_size is None and micro_batch_size is not None:
        batch_size = micro_batch_size * processes
    steps_per_epoch = None
    batches = _length_of(loader)
    if batches and batch_size and micro_batch_size:
        steps_per_epoch = max(batches * micro_batch_size * processes // batch_size, 1)
    if total_steps is None and steps_per_epoch and epochs:
        total_steps = steps_per_epoch * epochs
    if steps_per_epoch is None and total_steps and epochs:
        steps_per_epoch = max(total_steps // epochs, 1)

    return Findings(
        [
            *_groups(model, optimizer),
            *_steps(optimizer),
            *_phi(optimizer, total_steps, steps_per_epoch),
            *_length(scheduler, total_steps, epochs),
            *_scaling(optimizer, scaler),
            *_batch(model, optimizer, batch_size, micro_batch_size, noise),
        ]
    )


def _groups(model: nn.Module, optimizer: Optimizer) -> Iterator[Finding]:
    """Biases and norms that are adapted or decayed, and what takes a learning rate raw."""
    plain = {id(p): name for name, p, adapted in _trainable(model) if not adapted}
    ours = isinstance(optimizer, LayerwiseOptimizer)
    adapted, decayed = [], []
    for group in optimizer.param_groups:
        names = [plain[id(p)] for p in group["params"] if id(p) in plain]
        if ours and group["layer_adaptation"]:
            adapted += names
        if group.get("weight_decay"):
            decayed += names
    way = "take layer_groups(model, weight_decay=...)"
    if adapted:
        evidence = f"the trust ratio acts on {_list(adapted)}, whose norms say nothing of a good step"
        yield Finding("adapted norms", evidence, way)
    if decayed:
        yield Finding("decayed norms", f"weight decay pulls {_list(decayed)} to 0", way)
    for group in optimizer.param_groups:
        lr = _peak_lr(group) * (1.0 if group.get("phi_scope") == "ratio" else _start_of_phi(group))
        if ours and group["params"] and not group["layer_adaptation"] and lr > LARGEST_RAW_LR:
            yield Finding(
                "raw learning rate",
                f"{len(group['params'])} layers that are not adapted take lr = {lr:g} without a trust ratio",
                "give layer_groups a bias_norm_lr_scale, for example 0.03",
            )


def _steps(optimizer: Optimizer) -> Iterator[Finding]:
    """By what share of its norm a step moves an adapted layer."""
    if not isinstance(optimizer, LayerwiseOptimizer):
        return
    for i, group in enumerate(optimizer.param_groups):
        if not (group["layer_adaptation"] and group["params"]):
            continue
        coefficient = 1.0 if isinstance(optimizer, LAMB) else float(group["trust_coefficient"])
        if group["norm_clip"] is not None or not _peak_lr(group):
            continue  # the ratio is another, or the group is not to move
        move = _peak_lr(group) * _start_of_phi(group) * coefficient
        what = f"a step of group {i} moves a layer by {move:.3g} of its norm, momentum aside (lr {_peak_lr(group):g}"
        what += f", trust coefficient {coefficient:g})" if coefficient != 1.0 else ")"
        if move > LARGEST_MOVE:
            yield Finding("large steps", what, f"take an lr below {_peak_lr(group) * LARGEST_MOVE / move:.3g}")
        elif move < SMALLEST_MOVE:
            yield Finding("small steps", what, "with a trust coefficient of 1e-3, lr is 1 to 64 for LARS and TVLARS")


def _phi(optimizer: Optimizer, total_steps: int | None, steps_per_epoch: int | None) -> Iterator[Finding]:
    """A factor φ that does not act in this run, or at once."""
    if not isinstance(optimizer, TVLARS):
        return
    group = optimizer.param_groups[0]
    shape = (group["delay_factor"], group["delay"], group["alpha"], group["gamma_min"])
    start, way = _sigmoid_decay(1.0, *shape), "take delay and delay_factor from plan(...)"
    said = f"with λ = {shape[0]:.4g} per step and d_e = {shape[1]:g} steps φ"
    if total_steps and _sigmoid_decay(float(total_steps), *shape) > 0.9 * start:
        kept = _sigmoid_decay(float(total_steps), *shape) / start
        yield Finding("idle schedule", f"{said} keeps {100 * kept:.0f} % to the last step, {total_steps}", way)
    elif steps_per_epoch and (total_steps or steps_per_epoch + 1) > steps_per_epoch:
        left = _sigmoid_decay(float(steps_per_epoch), *shape) / start
        if left < 0.5:
            evidence = f"{said} is down to {100 * left:.0f} % when the first epoch ends, at step {steps_per_epoch}"
            yield Finding("early schedule", evidence, way)


def _length(scheduler: Any, total_steps: int | None, epochs: int | None) -> Iterator[Finding]:
    """A scheduler that ends elsewhere than the run, and a run too short for one."""
    length = getattr(scheduler, "total_steps", getattr(scheduler, "T_max", None))
    if total_steps and isinstance(length, int) and length > 0:
        per_epoch = not isinstance(scheduler, WarmupCosineLR) and length == epochs
        if length != total_steps and not per_epoch:
            evidence = f"{type(scheduler).__name__} ends after {length} steps and the run after {total_steps}"
            yield Finding("schedule length", evidence, "give it the run's number of optimizer steps")
    if total_steps and total_steps < FEW_STEPS:
        yield Finding(
            "few steps",
            f"{total_steps} optimizer steps are too few for a schedule to act",
            f"more epochs or a smaller batch size give more, take at least {FEW_STEPS}",
        )


def _scaling(optimizer: Optimizer, scaler: Any) -> Iterator[Finding]:
    """Gradients whose scale the trust ratio takes out of adapted layers, and nothing out of the others."""
    if not isinstance(optimizer, LayerwiseOptimizer):
        return
    plain = [(p, float(g["lr"])) for g in optimizer.param_groups if not g["layer_adaptation"] for p in g["params"]]
    stage = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer), {}).get("stage")
    will_divide = scaler is not None and scaler.is_enabled() and getattr(stage, "name", "READY") == "READY"
    scale = float(scaler.get_scale()) if will_divide else 1.0
    # What a step changes, beside the weights of a whole layer of that kind: single biases may well be close to 0.
    moves = [(lr * float(p.grad.detach().float().norm()) / scale, p) for p, lr in plain if p.grad is not None]
    size = max((float(p.detach().float().norm()) for _, p in moves), default=0.0)
    worst = max((move for move, _ in moves), default=0.0)
    if size and worst > LARGEST_RAW_MOVE * size:
        yield Finding(
            "scaled gradients",
            f"one step moves a layer that is not adapted by {worst:.3g}, and the longest of them is {size:.3g} long",
            "unscale before the step (scaler.step(optimizer) does), and take the mean over the batch as the loss",
        )


def _batch(
    model: nn.Module, optimizer: Optimizer, batch_size: int | None, micro_batch_size: int | None, noise: float | None
) -> Iterator[Finding]:
    """A batch size that does not go with the noise, the optimizer or batch norm."""
    if not batch_size:
        return
    if noise is not None and batch_size > FAR_ABOVE * noise:
        yield Finding(
            "batch too large",
            f"the batch of {batch_size:,} is far above the measured noise scale of {noise:,.0f} samples",
            f"{max(FAR_ABOVE * noise, 1):,.0f} samples a step would need hardly more steps",
        )
    if isinstance(optimizer, LayerwiseOptimizer) and batch_size < SMALL_BATCH:
        evidence = f"{batch_size} samples a step are few for {type(optimizer).__name__}"
        yield Finding("batch too small", evidence, "plain SGD is the better choice here")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    local = [m for m in norms if not (isinstance(m, nn.SyncBatchNorm) and _is_distributed())]
    seen = micro_batch_size or batch_size
    if local and seen < SMALL_MICRO_BATCH and batch_size >= MUCH_SMALLER * seen:
        yield Finding(
            "batch norm",
            f"{len(local)} batch norms take their statistics from {seen} of {batch_size:,} samples",
            f"take micro-batches of {SMALL_MICRO_BATCH} or more, SyncBatchNorm, or another norm",
        )


def _peak_lr(group: dict[str, Any]) -> float:
    """The highest lr of a group: where a scheduler warms up, the one that it starts from is not it."""
    return max(float(group[name]) for name in ("lr", "initial_lr", "max_lr") if name in group)


def _start_of_phi(group: dict[str, Any]) -> float:
    """φ(1) of TVLARS, the highest there is; 1 where there is no φ."""
    if "delay_factor" not in group:
        return 1.0
    return _sigmoid_decay(1.0, group["delay_factor"], group["delay"], group["alpha"], group["gamma_min"])


def _length_of(loader: Any) -> int | None:
    """Batches an epoch, None where the loader cannot say (of an iterable data set)."""
    try:
        return len(loader)
    except TypeError:
        return None


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
