"""tvlars: layer-wise optimizers for large-batch training (TVLARS, LARS, LAMB), with plans, checks and measurements."""

import tvlars._command  # noqa: F401, I001  (before all that takes long to import)
from typing import TYPE_CHECKING

from tvlars._lazy import import_when_asked

if TYPE_CHECKING:
    from tvlars.convert import Conversion, convert
    from tvlars.findings import Finding, Findings, check
    from tvlars.groups import LayerGroups, layer_groups
    from tvlars.optim import LAMB, LARS, TVLARS
    from tvlars.plan import Plan, plan
    from tvlars.schedule import (
        ConstantSchedule,
        CosineSchedule,
        LinearSchedule,
        PolynomialSchedule,
        Schedule,
        ScheduleLR,
        SigmoidSchedule,
        TrapezoidSchedule,
        scale_lr,
        sigmoid_decay,
    )

__version__ = "0.1.0"

__all__ = [
    "LAMB",
    "LARS",
    "TVLARS",
    "ConstantSchedule",
    "Conversion",
    "CosineSchedule",
    "Finding",
    "Findings",
    "LayerGroups",
    "LinearSchedule",
    "Plan",
    "PolynomialSchedule",
    "Schedule",
    "ScheduleLR",
    "SigmoidSchedule",
    "TrapezoidSchedule",
    "check",
    "convert",
    "layer_groups",
    "plan",
    "scale_lr",
    "sigmoid_decay",
]

import_when_asked(
    __name__,
    {
        "tvlars.convert": ["Conversion", "convert"],
        "tvlars.findings": ["Finding", "Findings", "check"],
        "tvlars.groups": ["LayerGroups", "layer_groups"],
        "tvlars.optim": ["LAMB", "LARS", "TVLARS"],
        "tvlars.plan": ["Plan", "plan"],
        "tvlars.schedule": [
            "ConstantSchedule",
            "CosineSchedule",
            "LinearSchedule",
            "PolynomialSchedule",
            "Schedule",
            "ScheduleLR",
            "SigmoidSchedule",
            "TrapezoidSchedule",
            "scale_lr",
            "sigmoid_decay",
        ],
    },
    modules=["lab", "noise_scale", "optim", "schedule", "sharpness", "stats"],
)
