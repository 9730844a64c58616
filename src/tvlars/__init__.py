"""tvlars: layer-wise optimizers for large-batch training (TVLARS, LARS, LAMB) and what belongs to them."""

import tvlars._command  # noqa: F401  (before torch is imported)
from tvlars.convert import Conversion, convert
from tvlars.findings import Finding, Findings, check
from tvlars.groups import LayerGroups, layer_groups
from tvlars.optim import LAMB, LARS, TVLARS
from tvlars.plan import Plan, plan
from tvlars.schedule import SigmoidDecayLR, WarmupCosineLR, scale_lr, sigmoid_decay, warmup_cosine

__version__ = "0.1.0"

__all__ = [
    "LAMB",
    "LARS",
    "TVLARS",
    "Conversion",
    "Finding",
    "Findings",
    "LayerGroups",
    "Plan",
    "SigmoidDecayLR",
    "WarmupCosineLR",
    "check",
    "convert",
    "layer_groups",
    "plan",
    "scale_lr",
    "sigmoid_decay",
    "warmup_cosine",
]
