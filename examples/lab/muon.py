"""Muon for matrices, AdamW for the rest, at the rate that ``--lr`` or ``--lrs`` gives: see docs/guides/scaling.md."""

import torch
from torch import nn

from tvlars import Plan


def muon(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return both optimizers; Muon has the rate ``plan.lr``, AdamW a tenth of it."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=plan.lr), torch.optim.AdamW(others, lr=plan.lr / 10)]
