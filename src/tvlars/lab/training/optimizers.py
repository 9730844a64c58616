"""Optimizer of a run, built from its config and plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tvlars.groups import layer_groups
from tvlars.lab.config import TrainConfig
from tvlars.optim import LAMB, LARS, TVLARS
from tvlars.plan import Plan

CLASSES: dict[str, type[Optimizer]] = {
    "tvlars": TVLARS,
    "lars": LARS,
    "lamb": LAMB,
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
}


def build_optimizer(config: TrainConfig, plan: Plan, model: nn.Module) -> Optimizer:
    """Return the optimizer of a run. Biases and norms are not decayed, nor adapted by layer-wise optimizers."""
    groups = layer_groups(model, plan)
    preset = config.optimizer_preset()
    if not preset.layer_adaptation:
        groups[0]["layer_adaptation"] = False
    arguments: dict[str, Any] = plan.optimizer_arguments()
    if config.optimizer in ("tvlars", "lars") and config.trust_coefficient is not None:
        arguments["trust_coefficient"] = config.trust_coefficient
    if config.optimizer == "tvlars":
        arguments["phi_scope"] = config.phi_scope or preset.optimizer.get("phi_scope", "all")
    return CLASSES[config.optimizer](groups, **{**preset.optimizer, **arguments})
