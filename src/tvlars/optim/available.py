"""Paths of the update rule that a device can run, and reasons for the others, found by trying each path."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tvlars._checks import one_line
from tvlars.optim._paths import routes
from tvlars.optim.lars import LARS
from tvlars.optim.triton import availability

PATHS: dict[str, dict[str, Any]] = {
    "for-loop": dict(foreach=False, fused=False),
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
    "triton": dict(fused=True),
}
"""Paths, as ``routes`` names them, and the options that select each."""


def why_not(path: str, device: torch.device) -> str | None:
    """Return why no float32 layer on ``device`` can take ``path``, a key of ``PATHS``, or None if one can."""
    if path == "fused" and device.type != "cpu":
        return "these are torch's kernels for a CPU"
    if path == "triton" and (reason := availability.why_not(device)):
        return reason
    try:
        optimizer = _stepped(device, **PATHS[path])
    except Exception as error:  # whatever a device may raise
        return one_line(error)
    taken = _path(optimizer)
    return None if taken == path else f"the {taken} path is taken instead"


def usual(device: torch.device) -> str | None:
    """Return the default path of a float32 layer on ``device``, or None if no path works."""
    try:
        return _path(_stepped(device))
    except Exception:
        return None


def why_not_compiled(device: torch.device) -> str | None:
    """Return why ``torch.compile`` with its default backend cannot be used on ``device``, or None if it can.

    Takes some seconds, since only compiling shows whether the compiler works.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(lambda x: x.mul(2).add(1))(torch.ones(3, device=device))
    except Exception as error:  # whatever a compiler or driver may raise
        return one_line(error)
    return None


def _stepped(device: torch.device, **options: Any) -> LARS:
    w = nn.Parameter(torch.ones(3, device=device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # if fused=True falls back, the path shows it
        optimizer = LARS([w], lr=0.1, **options)
    w.grad = torch.ones_like(w)
    optimizer.step()
    return optimizer


def _path(optimizer: LARS) -> str:
    group = optimizer.param_groups[0]
    w: Tensor = group["params"][0]
    assert w.grad is not None
    return routes(group, optimizer._forms(), [w], [w.grad], [optimizer.state[w]["momentum_buffer"]])[0].path
