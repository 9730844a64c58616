"""Problems of a set-up for large-batch training, each with its evidence and a fix."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tvlars._ahead import is_per_epoch, rates_ahead
from tvlars._checks import check_count, check_number, shown
from tvlars._notebook import page, paragraph, table
from tvlars._roles import is_norm
from tvlars._words import counted
from tvlars.groups import NORMALIZATION, _trainable
from tvlars.optim import LAMB, LARS, TVLARS
from tvlars.optim._numerics.sharded import layout
from tvlars.optim.layerwise import LayerwiseOptimizer
from tvlars.plan import FEW_STEPS, few_steps
from tvlars.schedule import Schedule, ScheduleLR, _sigmoid_decay

LARGEST_RAW_LR = 1.0
LARGEST_RAW_MOVE = 1.0
"""Largest move of a layer that is not adapted by one step, relative to the norm of the longest such layer."""
LARGEST_MOVE, SMALLEST_MOVE = 0.1, 1e-6
DEEP, LARGEST_MOVE_WITHOUT_NORMS = 10, 3e-3
"""Bounds on the move of an adapted layer by one step, relative to its norm: at the highest lr, without momentum."""
SMALLEST_LARS_MOVE = 1.5e-4
"""Lower bound for LARS and TVLARS: SGD's usual lr of 0.1 with a trust coefficient of 1e-3 moves a layer by 1e-4."""
IDLE = 0.9
"""A schedule that stays above this share of its maximum to the end has no effect."""
DEAD, DEAD_SHARE = 1e-3, 0.1
"""A schedule is dead below the first share of its maximum; a finding if that lasts for the second share of the run."""
AT_FLOOR, FLOOR_SHARE = 0.01, 0.5
"""phi is at its floor if above gamma_min by less than the first share of its start; a finding for the second share."""
SMALL_BATCH = 128
FAR_ABOVE = 10
"""Batch size over noise scale."""
SMALL_MICRO_BATCH, MUCH_SMALLER = 64, 8

Shape: TypeAlias = tuple[float, float, float, float]
"""delay_factor, delay, alpha and gamma_min of a phi."""


@dataclass(frozen=True)
class Finding:
    """Problem found by :func:`check`: ``what`` names it, ``evidence`` has its numbers, ``remedy`` is the fix."""

    what: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.evidence}; {self.remedy}"


class Findings(list[Finding]):
    """List of findings, empty if nothing was found; ``str()`` has one line per finding."""

    def __repr__(self) -> str:
        return f"Findings([{', '.join(one.what for one in self)}])"

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing found"

    def _repr_html_(self) -> str:
        """Return a table of the findings, for notebooks."""
        if not self:
            return page(paragraph("nothing found"))
        return page(table(("finding", "evidence", "what to do"), ((f.what, f.evidence, f.remedy) for f in self)))


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
    """Look for problems that spoil large-batch training. Nothing is changed and nothing is run.

    ==================  ====================================================================================
    finding             when
    ==================  ====================================================================================
    other parameters    the optimizer holds none of the model's parameters, so that nothing else can be checked
    adapted norms       a bias, a parameter of a norm or the like is in a group with the trust ratio
    decayed norms       ... in a group with weight decay
    raw learning rate   layers that are not adapted have an lr above 1
    large steps         lr, φ and trust coefficient together move a layer by more than 10 % of its norm per step
    small steps         ... by less than 0.015 % (LARS and TVLARS: such an lr suits SGD), or 1e-6 (LAMB)
    no norms            10 adapted layers or more, none of the modules a norm, and LARS or TVLARS moves them by 0.3 % of
                        their norm per step or more
    zero layers         adapted layers that are 0, which LAMB and ``unit_ratio_at_zero`` move without a trust ratio
    no schedule         LARS or LAMB keeps its lr to the end, or TVLARS with a ``delay_factor`` of 0 does
    idle schedule       φ keeps more than 90 % of its start to the end of the run
    early schedule      φ is below half of its start before the first epoch ends
    dead schedule       φ, or an LR scheduler's rate, is below 0.1 % of its maximum for more than a tenth of the run
    early floor         φ is at ``gamma_min`` for more than half of the run
    schedule length     an LR scheduler is longer or shorter than the run
    few steps           the run has fewer than 50 steps
    scaled gradients    a scaled loss, or a sum, reaches layers that are not adapted
    batch too large     the batch is more than 10 times the measured noise scale
    batch too small     a layer-wise optimizer with fewer than 128 samples per step
    batch norm          a batch norm sees fewer than 64 samples, and the batch is at least 8 times as large
    ==================  ====================================================================================

    Unknown quantities are not checked. A copy of a torch LR scheduler is stepped through the run: once per epoch if its
    length or its milestones are counted in epochs, else after every optimizer step.

    Args:
        model: the module that is trained.
        optimizer: any torch optimizer; the adapted layers are known only for LARS, TVLARS and LAMB.
        loader: a ``DataLoader`` of this process; provides ``micro_batch_size`` (also from its ``batch_sampler``) and,
            with ``epochs``, the length of the run.
        epochs: number of epochs of the run.
        total_steps: optimizer steps of the run; default: from loader, batch size and epochs.
        batch_size: samples per optimizer step over all processes. Default: the loader's, times the processes.
        micro_batch_size: samples per forward pass on one process. Default: the loader's.
        scheduler: an LR scheduler that is stepped with the optimizer.
        scaler: a ``GradScaler`` that will divide the gradients before the step.
        noise_scale: B_simple in samples, or the result of :func:`tvlars.noise_scale.noise_scale`.

    Returns:
        A list of :class:`Finding`; ``print`` shows one line per finding.

    Raises:
        TypeError: an argument has the wrong type, such as the optimizer in place of the model.
        ValueError: a count is out of its range.

    Example:
        >>> print(check(model, optimizer, loader, epochs=90, scheduler=scheduler))
    """
    optimizer = _checked_kinds(model, optimizer, loader)
    scheduler = _checked_scheduler(scheduler)
    if not (scaler is None or hasattr(scaler, "is_enabled")):
        raise TypeError(f"scaler must be a torch.amp.GradScaler, got {shown(scaler)}")
    counts = dict(epochs=epochs, total_steps=total_steps, batch_size=batch_size, micro_batch_size=micro_batch_size)
    epochs, total_steps, batch_size, micro_batch_size = (
        None if value is None else check_count(name, value) for name, value in counts.items()
    )
    noise = None if noise_scale is None else getattr(noise_scale, "value", noise_scale)
    if noise is not None and noise != float("inf"):
        check_number("noise_scale", noise, unit="samples")

    processes = torch.distributed.get_world_size() if _is_distributed() else 1
    micro_batch_size = micro_batch_size or _batch_size_of(loader)
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
            *_others(model, optimizer),
            *_groups(model, optimizer),
            *_steps(optimizer),
            *_no_norms(model, optimizer),
            *_zero_layers(model, optimizer),
            *_phi(optimizer, scheduler, total_steps, steps_per_epoch),
            *_schedule(optimizer, scheduler, total_steps, epochs),
            *_scaling(optimizer, scaler),
            *_batch(model, optimizer, batch_size, micro_batch_size, noise),
        ]
    )


def _checked_kinds(model: Any, optimizer: Any, loader: Any) -> Optimizer:
    """Return the optimizer itself, without the wrapper of accelerate or the like."""
    if isinstance(model, Optimizer) and isinstance(optimizer, nn.Module):
        raise TypeError(
            "check takes the model first and the optimizer second, "
            f"got {type(model).__name__} and {type(optimizer).__name__}; write check(model, optimizer)"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {shown(model)}")
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {shown(optimizer)}")
    if isinstance(loader, (torch.utils.data.Dataset, nn.Module, Optimizer, LRScheduler, str, int, float)):
        raise TypeError(f"loader must be a torch.utils.data.DataLoader, got {shown(loader)}")
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return cast(Optimizer, optimizer)


def _checked_scheduler(scheduler: Any) -> Any:
    """Return the scheduler itself, also from the dictionary that Lightning's ``configure_optimizers`` returns."""
    if isinstance(scheduler, dict) and "scheduler" in scheduler:
        scheduler = scheduler["scheduler"]
    wrong = isinstance(scheduler, (type, Optimizer, nn.Module)) or not callable(getattr(scheduler, "step", None))
    if scheduler is not None and wrong:
        raise TypeError(f"scheduler must be an LR scheduler, got {shown(scheduler)}")
    return scheduler


def _others(model: nn.Module, optimizer: Optimizer) -> Iterator[Finding]:
    """Find an optimizer of another model, or of a model that has changed since."""
    own = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if held and not any(id(p) in own for p in held):
        evidence = f"{type(optimizer).__name__} holds none of the parameters of {type(model).__name__}"
        yield Finding("other parameters", evidence, "give check the model whose parameters it holds")


def _groups(model: nn.Module, optimizer: Optimizer) -> Iterator[Finding]:
    """Find biases and norms that are adapted or decayed, and large learning rates without a trust ratio."""
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
        evidence = (
            f"the trust ratio acts on {_list(adapted)} (biases, norms and the like), whose norm is no scale for a step"
        )
        yield Finding("adapted norms", evidence, way)
    if decayed:
        yield Finding("decayed norms", f"weight decay pulls {_list(decayed)} to 0", way)
    for group in optimizer.param_groups:
        lr = _peak_lr(group) * (1.0 if group.get("phi_scope") == "ratio" else _start_of_phi(group))
        if ours and group["params"] and not group["layer_adaptation"] and lr > LARGEST_RAW_LR:
            layers = counted(len(group["params"]), "layer that is not adapted uses", "layers that are not adapted use")
            yield Finding(
                "raw learning rate",
                f"{layers} lr = {lr:g} without a trust ratio",
                "give layer_groups a bias_norm_lr_scale, for example 0.03",
            )


def _steps(optimizer: Optimizer) -> Iterator[Finding]:
    """Find steps that move an adapted layer by too large or too small a share of its norm."""
    if not isinstance(optimizer, LayerwiseOptimizer):
        return
    for i, group in enumerate(optimizer.param_groups):
        if not (group["layer_adaptation"] and group["params"]):
            continue
        coefficient = 1.0 if isinstance(optimizer, LAMB) else float(group["trust_coefficient"])
        if group["norm_clip"] is not None or not _peak_lr(group):
            continue  # the ratio has another meaning, or the group does not move
        move = _peak_lr(group) * _start_of_phi(group) * coefficient
        what = f"a step of group {i} moves a layer by {move:.3g} of its norm, momentum aside (lr {_peak_lr(group):g}"
        what += f", trust coefficient {coefficient:g})" if coefficient != 1.0 else ")"
        if move > LARGEST_MOVE:
            yield Finding("large steps", what, f"use an lr below {_peak_lr(group) * LARGEST_MOVE / move:.3g}")
        elif move < (SMALLEST_MOVE if isinstance(optimizer, LAMB) else SMALLEST_LARS_MOVE):
            usual = "1e-3 to 0.05 for LAMB" if isinstance(optimizer, LAMB) else "1 to 64 for LARS and TVLARS"
            small = "" if isinstance(optimizer, LAMB) else "such an lr suits SGD: with a trust coefficient of 1e-3, "
            yield Finding("small steps", what, f"{small}lr is {usual}")


def _no_norms(model: nn.Module, optimizer: Optimizer) -> Iterator[Finding]:
    """Find rates that were measured on networks with norms, on a deep network without any (docs/results/plan.md)."""
    if not isinstance(optimizer, LARS | TVLARS):
        return
    if any(isinstance(one, NORMALIZATION) or is_norm(type(one).__name__) for one in model.modules()):
        return
    groups = [group for group in optimizer.param_groups if group["layer_adaptation"] and group["norm_clip"] is None]
    layers = sum(len(group["params"]) for group in groups)
    move = max((_peak_lr(one) * _start_of_phi(one) * float(one["trust_coefficient"]) for one in groups), default=0.0)
    if layers >= DEEP and move >= LARGEST_MOVE_WITHOUT_NORMS:
        yield Finding(
            "no norms",
            f"a step moves a layer by {move:.3g} of its norm, and no module beside the {layers} adapted layers is a "
            "norm",
            "try an lr of 0.5 to 1: a plain network of 20 layers learned nothing at 8 and more",
        )


def _zero_layers(model: nn.Module, optimizer: Optimizer) -> Iterator[Finding]:
    """Find adapted layers whose norm is 0, which follow a rule without a trust ratio."""
    if not isinstance(optimizer, LayerwiseOptimizer):
        return
    names = {id(p): name for name, p in model.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        if not (group["layer_adaptation"] and group["params"] and _peak_lr(group)):
            continue
        zero = [names.get(id(p), f"parameter {j} of group {i}") for j, p in enumerate(group["params"]) if _is_zero(p)]
        if not zero:
            continue
        lr = float(group["lr"]) * (1.0 if group.get("phi_scope") == "ratio" else _start_of_phi(group))
        start = f"the weights of {_list(zero)} are 0"
        if isinstance(optimizer, LAMB):
            yield Finding(
                "zero layers",
                f"{start}: LAMB first takes Adam's step there, at lr = {lr:g}, and then grows them by at most "
                f"{100 * _peak_lr(group):.3g} % of their norm per step",
                "start them at small random values, or give them a group with layer_adaptation=False and lr = 5e-4",
            )
        elif group.get("unit_ratio_at_zero") and lr > LARGEST_RAW_LR:
            yield Finding(
                "zero layers",
                f"{start}, and with unit_ratio_at_zero they use lr = {lr:g} without a trust ratio",
                "leave unit_ratio_at_zero at False, or start them at small random values",
            )


def _phi(
    optimizer: Optimizer, scheduler: Any, total_steps: int | None, steps_per_epoch: int | None
) -> Iterator[Finding]:
    """Find a factor phi that has no effect in this run, acts too early, or has decayed long before the end."""
    if not isinstance(optimizer, TVLARS):
        return
    shapes = [_shape(group) for group in optimizer.param_groups if group["params"]]
    for shape in dict.fromkeys(shapes):  # groups may have a phi of their own
        if scheduler is not None and not shape[0]:
            continue  # switched off; an LR scheduler is used instead
        yield from _phi_of(shape, total_steps, steps_per_epoch)


def _phi_of(shape: Shape, total_steps: int | None, steps_per_epoch: int | None) -> Iterator[Finding]:
    delay_factor, delay, _, floor = shape
    start, way = _sigmoid_decay(1.0, *shape), "take total_steps, or delay and delay_factor from plan(...)"
    said = f"with delay_factor = {delay_factor:.4g} per step and delay = {delay:g} steps phi"

    def first_below(value: float) -> int:
        """Return the first step of the run at which phi is below ``value``, or the step after the last."""
        return (
            bisect_left(
                range(1, cast(int, total_steps) + 1), True, key=lambda t: _sigmoid_decay(float(t), *shape) < value
            )
            + 1
        )

    if total_steps == 1:
        return  # too short to decay
    if total_steps and _sigmoid_decay(float(total_steps), *shape) > IDLE * start:
        kept = _sigmoid_decay(float(total_steps), *shape) / start
        yield Finding("idle schedule", f"{said} keeps {100 * kept:.0f} % to the last step, {total_steps}", way)
        return
    if total_steps and total_steps + 1 - (dead := first_below(DEAD * start)) > DEAD_SHARE * total_steps:
        yield Finding("dead schedule", _dead(said, dead, total_steps), way)
        return
    if steps_per_epoch and (total_steps or steps_per_epoch + 1) > steps_per_epoch:
        left = _sigmoid_decay(float(steps_per_epoch), *shape) / start
        if left < 0.5:
            evidence = f"{said} is down to {100 * left:.0f} % when the first epoch ends, at step {steps_per_epoch}"
            yield Finding("early schedule", evidence, way)
            return
    if total_steps and floor:
        arrived = first_below(floor + AT_FLOOR * (start - floor))
        if total_steps + 1 - arrived > FLOOR_SHARE * total_steps:
            evidence = f"{said} is at its floor, gamma_min = {floor:g}, from step {arrived} of {total_steps} on"
            yield Finding("early floor", evidence, way)


def _dead(what: str, step: int, total_steps: int, unit: str = "step") -> str:
    share = f"{100 * DEAD:g} % of its maximum"
    return f"{what} is below {share} from {unit} {step} of {total_steps} on, where adapted layers hardly move any more"


def _schedule(optimizer: Optimizer, scheduler: Any, total_steps: int | None, epochs: int | None) -> Iterator[Finding]:
    """Find a missing schedule, one that does not end with the run or is dead before, and a run too short for any."""
    curve = scheduler.schedule if isinstance(scheduler, ScheduleLR) else scheduler
    length = getattr(curve, "total_steps", getattr(curve, "T_max", None))
    per_epoch = curve is scheduler and is_per_epoch(scheduler, epochs, total_steps)
    if scheduler is None:
        attached = any("initial_lr" in group for group in optimizer.param_groups)  # torch's schedulers leave it there
        if not attached and _needs_schedule(optimizer, total_steps):
            yield _no_schedule(optimizer, "no LR scheduler is attached to it, and none is given")
    elif total_steps and isinstance(length, int) and length > 0 and length != total_steps and not per_epoch:
        evidence = f"{type(curve).__name__} ends after {length} steps and the run after {total_steps}"
        yield Finding("schedule length", evidence, "give it the run's number of optimizer steps")
    elif total_steps:
        yield from _rates(optimizer, scheduler, total_steps, epochs, per_epoch)
    if total_steps and total_steps < FEW_STEPS:
        yield Finding("few steps", *few_steps(total_steps))


def _needs_schedule(optimizer: Optimizer, total_steps: int | None) -> bool:
    """Return whether nothing but an LR scheduler could lower the rate; of an idle phi another finding says so."""
    if isinstance(optimizer, TVLARS):
        return total_steps is None and not any(float(group["delay_factor"]) for group in optimizer.param_groups)
    return isinstance(optimizer, (LARS, LAMB))


def _no_schedule(optimizer: Optimizer, why: str) -> Finding:
    evidence = f"nothing lowers the learning rate of {type(optimizer).__name__}: {why}"
    return Finding("no schedule", evidence, "take plan(...).scheduler(optimizer), or give check the scheduler")


def _rates(
    optimizer: Optimizer, scheduler: Any, total_steps: int, epochs: int | None, per_epoch: bool
) -> Iterator[Finding]:
    """Find an LR scheduler under which the learning rate never falls, or is almost 0 for long."""
    calls, unit = (cast(int, epochs), "epoch") if per_epoch else (total_steps, "step")
    done = max(getattr(scheduler, "last_epoch", 0), 0)
    name = type(curve if isinstance(curve := getattr(scheduler, "schedule", None), Schedule) else scheduler).__name__
    rates = rates_ahead(scheduler, optimizer, calls - done)
    if not rates or not rates[0]:
        return
    peaks = [max(*ahead, _peak_lr(group)) for ahead, group in zip(rates, optimizer.param_groups, strict=True)]
    late = [min(ahead[len(ahead) // 2 :]) / peak for ahead, peak in zip(rates, peaks, strict=True) if peak]
    if late and min(late) > IDLE and not done and _needs_schedule(optimizer, None):
        yield _no_schedule(optimizer, f"{name} keeps {100 * min(late):.0f} % of it to the last {unit}, {calls}")
    for ahead, peak in zip(rates, peaks, strict=True):
        dead = _dead_calls(ahead, peak)
        if len(dead) <= DEAD_SHARE * calls:
            continue
        way = "make it as long as the run, or end it at a higher rate"
        if not per_epoch and epochs and epochs < total_steps:
            by_epoch = rates_ahead(scheduler, optimizer, max(epochs - done, 1)) or []
            if not any(len(_dead_calls(a, p)) > DEAD_SHARE * epochs for a, p in zip(by_epoch, peaks, strict=True)):
                way += "; stepped once per epoch it would fit"
        yield Finding(
            "dead schedule",
            f"with {name} stepped after every {'epoch' if per_epoch else 'optimizer step'}, a learning rate is below "
            f"{100 * DEAD:g} % of its maximum for {len(dead)} of {calls} {unit}s, from {unit} {done + dead[0] + 1} on",
            way,
        )
        return


def _dead_calls(rates: list[float], peak: float) -> list[int]:
    """Return the calls with a learning rate of almost 0; a floor of ``DEAD`` times the maximum does not count."""
    return [i for i, rate in enumerate(rates) if rate < (1 - 1e-6) * DEAD * peak]


def _scaling(optimizer: Optimizer, scaler: Any) -> Iterator[Finding]:
    """Find scaled gradients: the trust ratio cancels their scale in adapted layers, and nothing does in the others."""
    if not isinstance(optimizer, LayerwiseOptimizer):
        return
    plain = [(p, float(g["lr"])) for g in optimizer.param_groups if not g["layer_adaptation"] for p in g["params"]]
    stage = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer), {}).get("stage")
    will_divide = scaler is not None and scaler.is_enabled() and getattr(stage, "name", "READY") == "READY"
    scale = float(scaler.get_scale()) if will_divide else 1.0
    # Moves are compared with the longest layer that is not adapted, since single biases may be close to 0.
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
    """Find a batch size that does not suit the noise scale, the optimizer or batch norm."""
    if not batch_size:
        return
    if noise is not None and batch_size > FAR_ABOVE * noise:
        yield Finding(
            "batch too large",
            f"the batch of {batch_size:,} is far above the measured noise scale of {noise:,.0f} samples",
            f"{max(FAR_ABOVE * noise, 1):,.0f} samples per step would need hardly more steps",
        )
    if isinstance(optimizer, LayerwiseOptimizer) and batch_size < SMALL_BATCH:
        evidence = f"{batch_size} samples per step are few for {type(optimizer).__name__}"
        yield Finding("batch too small", evidence, "it was made for large batches: compare with plain SGD first")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    local = [m for m in norms if not (isinstance(m, nn.SyncBatchNorm) and _is_distributed())]
    seen = micro_batch_size or batch_size
    if local and seen < SMALL_MICRO_BATCH and batch_size >= MUCH_SMALLER * seen:
        norms_take = counted(len(local), "batch norm takes its", "batch norms take their")
        yield Finding(
            "batch norm",
            f"{norms_take} statistics from {seen} of {batch_size:,} samples",
            f"take micro-batches of {SMALL_MICRO_BATCH} or more, SyncBatchNorm, or another norm",
        )


def _peak_lr(group: dict[str, Any]) -> float:
    """Return the highest lr of a group; its current lr is lower while a scheduler warms up."""
    return max(float(group[name]) for name in ("lr", "initial_lr", "max_lr") if name in group)


def _start_of_phi(group: dict[str, Any]) -> float:
    """Return φ(1) of TVLARS, its maximum; 1 without φ."""
    if "delay_factor" not in group:
        return 1.0
    return _sigmoid_decay(1.0, *_shape(group))


def _shape(group: dict[str, Any]) -> Shape:
    delay_factor, delay, alpha, floor = (float(group[name]) for name in ("delay_factor", "delay", "alpha", "gamma_min"))
    return delay_factor, delay, alpha, floor


def _is_zero(parameter: Tensor) -> bool:
    """Return whether all of a parameter is 0; False for a shard, since checking the whole would need a collective."""
    if parameter.is_meta or layout(parameter) is not None or not parameter.numel():
        return False
    return not bool(parameter.detach().any())


def _batch_size_of(loader: Any) -> int | None:
    """Return the batch size that a loader, or its batch sampler, declares."""
    sampler = getattr(loader, "batch_sampler", None)
    for owner in (loader, sampler):
        size = getattr(owner, "batch_size", None)
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            return size
    if isinstance(sampler, Sequence) and sampler:  # lists of indices, the last of which may be shorter
        return max(map(len, sampler)) or None
    return None


def _length_of(loader: Any) -> int | None:
    """Return the batches per epoch, None if the loader does not know (an iterable data set)."""
    try:
        return len(loader)
    except TypeError:
        return None


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
