"""Optimizers of the studies that the laboratory does not know by name."""

from __future__ import annotations

import torch
from torch import nn

from tvlars import Plan


def muon(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Return Muon for hidden weights, with AdamW inside for the rest, as Muon's author recommends (Jordan 2024).

    Kernels count as matrices (outputs, all else). Muon has the rate of the plan; AdamW, which has the first layer, the
    classifier, biases and norms, a tenth of it.
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
