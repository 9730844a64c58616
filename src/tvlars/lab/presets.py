"""Presets of optimizers: MLPerf's for classification; those of the comparison published with TVLARS; corrected ones.

``mlperf`` has the reference points of LARS in MLPerf Training for ResNet-50 on ImageNet, see ``MLPERF``: rate, warm-up,
momentum and weight decay by batch size; then polynomial decay of power 2 to a rate of 1e-4, label smoothing 0.1, and
the same rate for biases and norms as for weights.

For classification
------------------
``as-published`` follows the code of TVLARS's comparison (KhoiDOO/tvlars at b331dcf: clf.py, opt/,
scheduler/lars_warmup.py). φ acts on the trust ratio alone and falls from the first step on, biases and norms keep the
rate of weights to the end, norms are clamped to 10. LARS warms up over a fifth of the run, then follows a cosine to
0.001; with ``schedule="constant"`` there is no warm-up. LAMB has no bias correction, and adapts and decays biases and
norms too. The rates and λ that were tried are in ``PUBLISHED_GRIDS``; the defaults are the middle rate and
λ = 0.001, the code's default. The authors' scripts have no rates of LAMB: it has the code's default at batch size 256.

``corrected`` has the same weight decay and momentum, but φ falls over the run and acts on the rate of all layers; no
clamps, the plan's rates, and LAMB with bias correction and only on weights.

For self-supervised learning
----------------------------
``corrected`` is Barlow Twins' own recipe for LARS (Zbontar et al. 2021, section 2.2): 0.2 for weights and 0.0048 for
biases and norms, times batch size / 256, 10 epochs of warm-up, cosine to 0.001 of it, weight decay 1e-6. LAMB, SGD and
AdamW get the same schedule; SGD 0.05 · B / 256 and weight decay 1e-4 (Chen and He 2021), LAMB and AdamW the plan's
rates.

``as-published`` follows self_sl.py of the same code: LARS's schedule lasts 100 epochs, 20 of them warm-up, while
training runs 1,000, so that after a tenth of the run the cosine rises and falls again and again; biases and norms have
the rate of weights; LAMB has neither trust ratio (``adam=True``) nor bias correction; φ of TVLARS acts on the trust
ratio alone and starts to fall at once. Shares of the run are kept: 2 % warm-up, 10 % for the schedule. TVLARS's rate is
the first of its README, 1.0 at any batch size. The README has none for LARS and LAMB: LARS has that of ``corrected``,
LAMB the plan's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tvlars.lab.errors import UsageError
from tvlars.plan import FALLING, Plan

WARMUP_EPOCHS = 10.0
SCHEDULE_SHARE, WARMUP_SHARE = 0.1, 0.02
OF_FALLING = ("warmup_epochs", "final_factor", "power")
"""Options of presets for schedules that fall to the end of the run."""
FEWEST = 5
"""Fewest steps between the end of the warm-up and the end of a repeating schedule."""
BIAS_NORM = 3e-4
"""Ratio of the rates of biases and norms to that of weights for LARS and TVLARS without a preset; from digits."""


@dataclass(frozen=True)
class Preset:
    """Settings of one optimizer: options of ``tvlars.plan`` and of the optimizer's constructor.

    ``base_lr`` is the learning rate at batch size 256, and scales linearly; ``layer_adaptation`` switches the trust
    ratio, and with ``adapt_bias_norm`` biases and norms are adapted and decayed too; with ``repeats`` the schedule
    lasts a tenth of the run, and repeats. ``last_lr`` is the rate at the end of the run. ``said`` describes the preset.
    """

    base_lr: float | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    layer_adaptation: bool = True
    adapt_bias_norm: bool = False
    repeats: bool = False
    schedule: str = "auto"
    last_lr: float | None = None
    label_smoothing: float = 0.0
    said: str = ""


class _Point(NamedTuple):
    """Settings of LARS at a batch size in samples."""

    batch_size: int
    lr: float
    warmup_epochs: float
    momentum: float
    weight_decay: float


# Google's reference convergence points of the benchmark "resnet", in mlperf_logging/rcp_checker/training_4.0.0/
# rcps_resnet.json of github.com/mlcommons/logging; end rate and power are in rcp_checker/1.0.0/rcps_resnet.json.
MLPERF = (
    _Point(4096, 10.0, 5.0, 0.9, 2e-4),
    _Point(8192, 17.0, 5.0, 0.9, 2e-4),
    _Point(32768, 21.2, 16.0, 0.94, 2.5e-5),
    _Point(65536, 24.699, 31.0, 0.951807, 1e-4),
)


def mlperf(batch_size: int) -> Preset:
    """Return MLPerf's settings of LARS for a batch size in samples.

    Between two points rate and weight decay are interpolated geometrically, warm-up and momentum linearly, over the
    logarithm of the batch size. Below the first point its settings hold, with a rate that falls with the square root of
    the batch size; above the last one its settings hold.
    """
    first, last = MLPERF[0], MLPERF[-1]
    if batch_size < first.batch_size:
        point = first._replace(lr=first.lr * math.sqrt(batch_size / first.batch_size))
        said = f"settings of batch size {first.batch_size:,}, lr x sqrt({batch_size:,} / {first.batch_size:,})"
    elif batch_size >= last.batch_size:
        point, said = last, f"settings of batch size {last.batch_size:,}"
    else:
        low, high = next(pair for pair in itertools.pairwise(MLPERF) if batch_size < pair[1].batch_size)
        share = math.log(batch_size / low.batch_size) / math.log(high.batch_size / low.batch_size)
        point = _Point(
            batch_size,
            low.lr * (high.lr / low.lr) ** share,
            low.warmup_epochs + share * (high.warmup_epochs - low.warmup_epochs),
            low.momentum + share * (high.momentum - low.momentum),
            low.weight_decay * (high.weight_decay / low.weight_decay) ** share,
        )
        said = f"settings of batch size {low.batch_size:,}"
        if share:
            said = f"settings between batch sizes {low.batch_size:,} and {high.batch_size:,}"
    plan = {**point._asdict(), "nesterov": False, "bias_norm_lr_scale": 1.0, "power": 2.0}
    del plan["batch_size"]
    return Preset(plan=plan, schedule="polynomial", last_lr=1e-4, label_smoothing=0.1, said=said)


_MOMENTUM: dict[str, Any] = dict(momentum=0.9, nesterov=False)
_COSINE: dict[str, Any] = dict(warmup_epochs=WARMUP_EPOCHS, final_factor=1e-3)
_PUBLISHED: dict[str, Any] = dict(bias_norm_lr_scale=1.0, weight_decay=5e-4)
_PUBLISHED_PHI: dict[str, Any] = dict(delay=0.0, alpha=0.1, delay_factor=1e-3, gamma_min=0.0)


class PublishedGrid(NamedTuple):
    """Settings that the published comparison tried at a batch size in samples.

    ``lrs`` are the rates of TVLARS and of LARS without warm-up, ``delay_factors`` λ of TVLARS (1/step), each with each
    rate.
    """

    batch_size: int
    lrs: tuple[float, ...]
    delay_factors: tuple[float, ...]


_SIX = (12.0, 15.0, 17.0, 20.0, 25.0, 30.0)
_LAMBDAS = (1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2)
# script/tvlars/script.json at 4cae49b and script/lars/script.json at f497c8a of github.com/KhoiDOO/tvlars.
PUBLISHED_GRIDS = (
    PublishedGrid(512, (1.0, 2.0, 3.0), _LAMBDAS[:4]),
    PublishedGrid(1024, (5.0, 8.0, 10.0), _LAMBDAS[:5]),
    PublishedGrid(2048, (10.0, 12.0, 15.0), _LAMBDAS[:6]),
    PublishedGrid(4096, _SIX[:4], _LAMBDAS),
    PublishedGrid(8192, _SIX, _LAMBDAS),
    PublishedGrid(16384, (*_SIX, 35.0), _LAMBDAS),
    PublishedGrid(32768, (*_SIX, 35.0), _LAMBDAS),
)
PUBLISHED_WARM_LRS = (0.1, 0.3, 0.5)
"""Rates of LARS with warm-up in the published comparison, at batch size 256: they scale linearly."""


def published_grid(batch_size: int) -> PublishedGrid:
    """Return the published settings for a batch size in samples: of the largest batch size in the table that is not
    larger, and below 512 of 512."""
    return max((one for one in PUBLISHED_GRIDS if one.batch_size <= batch_size), default=PUBLISHED_GRIDS[0])


def published_tvlars(batch_size: int) -> Preset:
    """Return TVLARS of the published classification for a batch size in samples, at the middle of its rates."""
    grid = published_grid(batch_size)
    return Preset(
        plan=dict(lr=grid.lrs[(len(grid.lrs) - 1) // 2], **_PUBLISHED, **_PUBLISHED_PHI, **_MOMENTUM),
        optimizer=dict(phi_scope="ratio", norm_clip=10.0, unit_ratio_at_zero=True),
        said=f"a rate of batch size {grid.batch_size:,}",
    )


_BARLOW: dict[str, Any] = dict(weight_decay=1e-6)
_AT_ZERO: dict[str, Any] = dict(unit_ratio_at_zero=True)
_CORRECTED: dict[str, Any] = dict(weight_decay=5e-4)
Presets = dict[str, dict[str, Preset | Callable[[int], Preset]]]
CLASSIFICATION_PRESETS: Presets = {
    "mlperf": {"lars": mlperf},
    "corrected": {
        "tvlars": Preset(plan={**_CORRECTED, **_MOMENTUM}),
        "lars": Preset(plan={**_CORRECTED, **_MOMENTUM, "final_factor": 1e-3}, schedule="cosine"),
        "lamb": Preset(plan={**_CORRECTED, "final_factor": 1e-3}),
    },
    "as-published": {
        "tvlars": published_tvlars,
        "lars": Preset(0.3, {**_PUBLISHED, **_MOMENTUM, "final_factor": 1e-3}, _AT_ZERO, schedule="cosine"),
        "lamb": Preset(
            0.01,
            {**_PUBLISHED, "final_factor": 1e-3},
            dict(bias_correction=False, norm_clip=10.0),
            adapt_bias_norm=True,
        ),
    },
}
SELF_SUPERVISED_PRESETS: Presets = {
    "corrected": {
        "tvlars": Preset(plan={**_BARLOW, "bias_norm_lr_scale": BIAS_NORM}),
        "lars": Preset(0.2, {**_BARLOW, "bias_norm_lr_scale": 0.024, **_MOMENTUM, **_COSINE}, schedule="cosine"),
        "lamb": Preset(plan=_COSINE),
        "sgd": Preset(0.05, dict(weight_decay=1e-4, **_MOMENTUM, **_COSINE)),
        "adamw": Preset(plan=_COSINE),
    },
    "as-published": {
        "tvlars": Preset(
            plan=dict(lr=1.0, **_PUBLISHED, **_PUBLISHED_PHI, **_MOMENTUM),
            optimizer=dict(phi_scope="ratio", norm_clip=10.0, unit_ratio_at_zero=True),
        ),
        "lars": Preset(0.2, {**_PUBLISHED, **_MOMENTUM}, _AT_ZERO, repeats=True, schedule="cosine"),
        "lamb": Preset(plan=_PUBLISHED, optimizer=dict(bias_correction=False), layer_adaptation=False, repeats=True),
    },
}
PRESETS = tuple(CLASSIFICATION_PRESETS)
"""Names of all presets."""


def presets_of(self_supervised: bool) -> Presets:
    """Return the presets for a kind of task, by name and optimizer."""
    return SELF_SUPERVISED_PRESETS if self_supervised else CLASSIFICATION_PRESETS


@dataclass(frozen=True)
class RepeatingPlan(Plan):
    """A plan with warm-up and cosine over ``schedule_steps`` of a longer run, in which the cosine repeats."""

    schedule_steps: int = 1

    def factor(self, step: float) -> float:
        """Return the factor of a linear warm-up, then an endless cosine between 1 and ``final_factor``."""
        warmup, last = self.warmup_steps or 0, self.final_factor or 0.0
        if step <= warmup:
            return step / warmup
        progress = (step - warmup) / (self.schedule_steps - warmup)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * progress))

    def scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return the scheduler, to be stepped after each optimizer step."""
        return LambdaLR(optimizer, lambda done: self.factor(done + 1))

    def _schedule_lines(self) -> list[str]:
        made_for = f"cosine, made for {self.schedule_steps} steps and repeating, to"
        return [line.replace("cosine to", made_for) for line in super()._schedule_lines()]


def check_preset(name: str, optimizer: str, self_supervised: bool) -> None:
    """Raise ``UsageError`` if the preset ``name`` is for another kind of task or for other optimizers."""
    known = presets_of(self_supervised)
    if name not in known:
        task = "self-supervised learning" if self_supervised else "classification"
        raise UsageError(f"preset must be {' or '.join(known)} for {task}, got {name!r}")
    if optimizer not in known[name]:
        raise UsageError(f"preset {name!r} is for {', '.join(known[name])}, got {optimizer!r}")


def preset_of(name: str, optimizer: str, batch_size: int, self_supervised: bool) -> Preset:
    """Return the preset ``name`` of an optimizer that has it, for a batch size in samples and a kind of task."""
    found = presets_of(self_supervised)[name][optimizer]
    return found if isinstance(found, Preset) else found(batch_size)


def describe_preset(name: str, preset: Preset) -> str:
    """Return in words the settings of a preset that are not part of the plan."""
    said = [preset.said] * bool(preset.said) + [f"{key} {value}" for key, value in preset.optimizer.items()]
    said += ["trust ratio off"] * (not preset.layer_adaptation)
    said += ["biases and norms adapted and decayed"] * preset.adapt_bias_norm
    said += ["schedule made for a tenth of the run"] * preset.repeats
    return f"{name}: {', '.join(said)}" if said else name


def preset_plan(preset: Preset, batch_size: int, epochs: float, schedule: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return options of ``tvlars.plan``: those ``given``, or the preset's if they are None.

    Warm-up and end of the preset apply to schedules that fall to the end of the run. Raise ``UsageError`` if the run is
    shorter than the warm-up.
    """
    falls = schedule in ("auto", *FALLING)
    made = {} if preset.base_lr is None else {"lr": preset.base_lr * batch_size / 256}
    made.update({name: value for name, value in preset.plan.items() if falls or name not in OF_FALLING})
    if schedule != "polynomial":
        made.pop("power", None)
    made.update({name: value for name, value in given.items() if value is not None})
    if preset.last_lr is not None and falls:
        made.setdefault("final_factor", min(preset.last_lr / made["lr"], 1.0))
    if given.get("warmup_steps") is not None:
        if given.get("warmup_epochs") is None:
            made.pop("warmup_epochs", None)
    elif preset.repeats and schedule in ("auto", "cosine"):
        made.setdefault("warmup_epochs", WARMUP_SHARE * epochs)
    if given.get("warmup_epochs") is None and (warmup := made.get("warmup_epochs", 0.0)) >= epochs:
        raise UsageError(
            f"epochs must be > {warmup:g}, the warm-up of this preset, or warmup_epochs be given, got {epochs:g}"
        )
    return made


def repeating(plan: Plan) -> RepeatingPlan:
    """Return the plan with a schedule over a tenth of the run; raise ``UsageError`` if that is too short."""
    steps = round(SCHEDULE_SHARE * plan.total_steps)
    if steps - (plan.warmup_steps or 0) < FEWEST:
        raise UsageError(
            f"this preset makes its schedule for a tenth of the run, {steps} of {plan.total_steps} steps: they must be "
            f"{FEWEST} more than the warm-up's {plan.warmup_steps}: take more epochs or a smaller batch_size"
        )
    known = {one.name: getattr(plan, one.name) for one in fields(Plan)}
    return RepeatingPlan(**known, schedule_steps=steps)
