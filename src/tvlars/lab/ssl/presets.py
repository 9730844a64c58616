"""Presets of optimizers for self-supervised learning: of the published comparison, and corrected ones.

``corrected`` is Barlow Twins' own recipe for LARS (Zbontar et al. 2021, section 2.2): 0.2 for weights and 0.0048 for
biases and norms, times batch size / 256, 10 epochs of warm-up, cosine to 0.001 of it, weight decay 1e-6. LAMB, SGD and
AdamW get the same schedule; SGD 0.05 · B / 256 and weight decay 1e-4 (Chen and He 2021), LAMB and AdamW the plan's
rates.

``as-published`` follows the code of TVLARS's comparison (KhoiDOO/tvlars, self_sl.py): LARS's schedule lasts 100 epochs,
20 of them warm-up, while training runs 1,000, so that after a tenth of the run the cosine rises and falls again and
again; biases and norms have the rate of weights; LAMB has neither trust ratio (``adam=True``) nor bias correction; φ of
TVLARS acts on the trust ratio alone and starts to fall at once. Shares of the run are kept: 2 % warm-up, 10 % for the
schedule. TVLARS's rate is the first of its README, 1.0 at any batch size. The README has none for LARS and LAMB: LARS
has that of ``corrected``, LAMB the plan's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tvlars.lab.errors import UsageError
from tvlars.plan import Plan

WARMUP_EPOCHS = 10.0
SCHEDULE_SHARE, WARMUP_SHARE = 0.1, 0.02
FEWEST = 5
"""Fewest steps between the end of the warm-up and the end of a repeating schedule."""
BIAS_NORM = 3e-4
"""Ratio of the rates of biases and norms to that of weights for LARS and TVLARS without a preset; from digits."""


@dataclass(frozen=True)
class Preset:
    """Settings of one optimizer: options of ``tvlars.plan`` and of the optimizer's constructor.

    ``base_lr`` is the learning rate at batch size 256, and scales linearly; ``layer_adaptation`` switches the trust
    ratio; with ``repeats`` the schedule lasts a tenth of the run, and repeats.
    """

    base_lr: float | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    layer_adaptation: bool = True
    repeats: bool = False


_MOMENTUM: dict[str, Any] = dict(momentum=0.9, nesterov=False)
_COSINE: dict[str, Any] = dict(warmup_epochs=WARMUP_EPOCHS, final_factor=1e-3)
_PUBLISHED: dict[str, Any] = dict(bias_norm_lr_scale=1.0, weight_decay=5e-4)
_PUBLISHED_PHI: dict[str, Any] = dict(delay=0.0, alpha=0.1, delay_factor=1e-3, gamma_min=0.0)
PRESETS: dict[str, dict[str, Preset]] = {
    "corrected": {
        "tvlars": Preset(plan=dict(weight_decay=1e-6, bias_norm_lr_scale=BIAS_NORM)),
        "lars": Preset(0.2, dict(bias_norm_lr_scale=0.024, weight_decay=1e-6, **_MOMENTUM, **_COSINE)),
        "lamb": Preset(plan=_COSINE),
        "sgd": Preset(0.05, dict(weight_decay=1e-4, **_MOMENTUM, **_COSINE)),
        "adamw": Preset(plan=_COSINE),
    },
    "as-published": {
        "tvlars": Preset(
            plan=dict(lr=1.0, **_PUBLISHED, **_PUBLISHED_PHI, **_MOMENTUM),
            optimizer=dict(phi_scope="ratio", norm_clip=10.0, unit_ratio_at_zero=True),
        ),
        "lars": Preset(0.2, {**_PUBLISHED, **_MOMENTUM}, dict(unit_ratio_at_zero=True), repeats=True),
        "lamb": Preset(plan=_PUBLISHED, optimizer=dict(bias_correction=False), layer_adaptation=False, repeats=True),
    },
}


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

    def __str__(self) -> str:
        made_for = f"then, made for {self.schedule_steps} steps and going on, cosine to"
        return super().__str__().replace("then cosine to", made_for)


def preset_of(name: str, optimizer: str) -> Preset:
    """Return the preset ``name`` for an optimizer; raise ``UsageError`` if it has none."""
    if optimizer not in PRESETS[name]:
        raise UsageError(f"preset {name!r} is for {', '.join(PRESETS[name])}, got {optimizer!r}")
    return PRESETS[name][optimizer]


def describe_preset(name: str, preset: Preset) -> str:
    """Return in words the settings of a preset that are not part of the plan."""
    said = [f"{key} {value}" for key, value in preset.optimizer.items()]
    said += ["trust ratio off"] if not preset.layer_adaptation else []
    said += ["schedule made for a tenth of the run"] if preset.repeats else []
    return f"{name}: {', '.join(said)}" if said else name


def preset_plan(preset: Preset, batch_size: int, epochs: int, schedule: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return options of ``tvlars.plan``: those ``given``, or the preset's if they are None. A ``schedule`` of another
    kind than the preset's ignores the preset's. Raise ``UsageError`` if the run is shorter than its warm-up."""
    cosine = schedule in ("auto", "cosine")
    made = {} if preset.base_lr is None else {"lr": preset.base_lr * batch_size / 256}
    made.update({name: value for name, value in preset.plan.items() if cosine or name not in _COSINE})
    made.update({name: value for name, value in given.items() if value is not None})
    if "warmup_steps" in made:
        made.pop("warmup_epochs" if given.get("warmup_epochs") is None else "", None)
    if preset.repeats and cosine and "warmup_steps" not in made:
        made.setdefault("warmup_epochs", WARMUP_SHARE * epochs)
    if given.get("warmup_epochs") is None and made.get("warmup_epochs", 0.0) >= epochs:
        raise UsageError(
            f"epochs must be > {WARMUP_EPOCHS:g}, the warm-up of this preset, or warmup_epochs be given, got {epochs}"
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
