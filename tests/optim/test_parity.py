"""The optimizers follow the published code, and numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import PATHS
from tvlars import LAMB, LARS, TVLARS

np = pytest.importorskip("numpy", reason="numpy is not installed")

DATA = Path(__file__).parent.parent / "data"
CASES: dict[str, dict[str, Any]] = json.loads((DATA / "published.json").read_text())


def ours(kind: str, theirs: dict[str, Any], params: list[nn.Parameter], **path: Any) -> torch.optim.Optimizer:
    """The published optimizer as a setting of ours, its filters as parameter groups."""
    theirs = dict(theirs)
    no_decay, no_adaptation = theirs.pop("weight_decay_filter", False), theirs.pop("lars_adaptation_filter", False)
    if "eta" in theirs:
        theirs["trust_coefficient"] = theirs.pop("eta")
    vectors = [p for p in params if p.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": [p for p in params if p.ndim != 1]}, {"params": vectors}]
    if no_decay:
        groups[1]["weight_decay"] = 0.0
    if no_adaptation:
        groups[1]["layer_adaptation"] = False
    if kind == "TVLARS":
        theirs["delay_factor"] = theirs.pop("lmbda")
        theirs |= dict(delay=0, alpha=0.1, gamma_min=0.0, norm_clip=10.0, phi_scope="ratio")
        return TVLARS(groups, unit_ratio_at_zero=True, **theirs, **path)
    if kind == "LARS":
        return LARS(groups, unit_ratio_at_zero=True, **theirs, **path)
    return LAMB(groups, bias_correction=False, norm_clip=10.0, **theirs, **path)


@pytest.mark.filterwarnings("ignore:.*not adapted:UserWarning")
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("case", CASES)
def test_follows_the_published_code(case: str, path: dict[str, Any]) -> None:
    meta = CASES[case]
    sizes = [int(np.prod(shape)) for shape in meta["shapes"]]

    def cut(flat: np.ndarray) -> list[Tensor]:
        parts = torch.from_numpy(flat.copy()).split(sizes)
        return [part.reshape(shape) for part, shape in zip(parts, meta["shapes"], strict=True)]

    with np.load(DATA / "published.npz") as stored:
        init, gradients, expected = (stored[f"{case}.{kind}"] for kind in ("init", "grad", "param"))
    params = [nn.Parameter(value.clone()) for value in cut(init)]
    optimizer = ours(meta["optimizer"], meta["hyperparameters"], params, **path)
    assert len(expected) == meta["steps"] >= 8
    for step in range(meta["steps"]):
        for p, gradient in zip(params, cut(gradients[step]), strict=True):
            p.grad = gradient.clone()
        optimizer.step()
        for p, value in zip(params, cut(expected[step]), strict=True):
            # 1e-6 relative, and of the layer's scale where an element has almost vanished
            torch.testing.assert_close(p.detach(), value, rtol=1e-6, atol=1e-6 * float(value.abs().max()))


# -Δw in two steps with w=[3,4], g₁=[.6,.8], g₂=[.8,-.6], lr .1 then .05, μ=.9, β=.01, η=.001
TWO_STEPS = {
    "published TVLARS": (
        lambda p, **k: TVLARS(
            p, 0.1, weight_decay=0.01, delay_factor=0.001, delay=0, alpha=0.1, norm_clip=10.0, phi_scope="ratio", **k
        ),
        [[2.72479e-4, 3.63306e-4], [3.10657e-4, 3.66153e-5]],
    ),
    "published LARS": (
        lambda p, **k: LARS(p, 0.1, weight_decay=0.01, **k),
        [[3e-4, 4e-4], [3.42220e-4, 4.01876e-5]],
    ),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("form", TWO_STEPS)
def test_two_steps_in_float64(form: str, path: dict[str, Any]) -> None:
    build, expected = TWO_STEPS[form]
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = build([w], **path)
    for gradient, lr, delta in zip([[0.6, 0.8], [0.8, -0.6]], [0.1, 0.05], expected, strict=True):
        before = w.detach().clone()
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        # the table has six digits
        torch.testing.assert_close(before - w.detach(), torch.tensor(delta, dtype=torch.float64), rtol=2e-6, atol=0)


def test_lamb_with_bias_correction_by_hand() -> None:
    # First step: m̂ = g, v̂ = g², so r = sign(g) / (1 + eps/|g|) + βw.
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    w.grad = torch.tensor([0.5, -2.0], dtype=torch.float64)
    LAMB([w], lr=0.1, eps=1e-6, weight_decay=0.01).step()
    r = np.array([0.5 / (0.5 + 1e-6) + 0.03, -2.0 / (2.0 + 1e-6) + 0.04])
    expected = np.array([3.0, 4.0]) - 0.1 * 5.0 / np.linalg.norm(r) * r
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_nesterov_by_hand(path: dict[str, Any]) -> None:
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = LARS([w], 0.1, momentum=0.9, nesterov=True, **path)
    value, m = np.array([3.0, 4.0]), np.zeros(2)
    for g in (np.array([0.6, 0.8]), np.array([0.8, -0.6])):
        w.grad = torch.from_numpy(g.copy())
        optimizer.step()
        qu = 1e-3 * np.linalg.norm(value) / np.linalg.norm(g) * g
        m = 0.9 * m + qu
        value = value - 0.1 * (qu + 0.9 * m)
    np.testing.assert_allclose(w.detach().numpy(), value, rtol=1e-12)


def test_norm_clip_bounds_both_norms_in_lars_and_the_weights_alone_in_lamb() -> None:
    w = nn.Parameter(torch.full((4,), 10.0, dtype=torch.float64))  # norm 20
    w.grad = torch.tensor([100.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    LARS([w], 1.0, momentum=0.0, trust_coefficient=0.1, norm_clip=5.0).step()
    assert w[0].item() == pytest.approx(10.0 - 0.1 * 5.0 / 5.0 * 100.0)

    w = nn.Parameter(torch.full((4,), 10.0, dtype=torch.float64))
    w.grad = torch.tensor([100.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    LAMB([w], 1.0, weight_decay=0.0, norm_clip=0.5).step()
    assert w[0].item() == pytest.approx(10.0 - 0.5)  # ‖r‖ = 1 is over the bound and stays
