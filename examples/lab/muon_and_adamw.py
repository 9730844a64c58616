"""Muon for matrices, AdamW for the rest: ``tvlars train --optimizer examples/lab/muon_and_adamw.py:muon_and_adamw``."""

import torch
from torch import nn

from tvlars import Plan


def muon_and_adamw(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return both optimizers, which step as one; the schedule of the plan multiplies both rates."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=3e-3)]
