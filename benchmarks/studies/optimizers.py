"""Optimizers of the studies that the laboratory does not know by name."""

from __future__ import annotations

import torch
from torch import nn

from tvlars import Plan


def muon(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Return Muon at the rate of the plan for hidden weights, kernels as matrices (outputs, the rest), with AdamW inside
    at a tenth of the rate for the first layer, the classifier, biases and norms, as its author recommends (Jordan 2024).
    """
    from pytorch_optimizer import Muon

    weights = [p for p in model.parameters() if p.ndim > 1]
    hidden = weights[1:-1]
    among = {id(p) for p in hidden}
    others = [p for p in model.parameters() if id(p) not in among]
    groups = [
        dict(params=hidden, use_muon=True, lr=plan.lr),
        dict(params=others, use_muon=False, lr=plan.lr / 10),
    ]
    return Muon(groups)
