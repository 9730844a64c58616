"""Rise of the loss near the weights: Keskar's ε-sharpness, and the worst and average case in a ball."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tvlars._checks import check_count, check_flag, check_number
from tvlars.sharpness._surface import Batches, Estimate, Loss, LossSurface, draw, flatten, seeded, unflatten


def keskar_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    *,
    epsilon: float = 1e-3,
    iterations: int = 10,
    adaptive: bool = False,
    seed: int = 0,
) -> float:
    r"""ε-sharpness of Keskar et al.: how far the loss can rise in a small box, in percent.

    .. math:: 100 \; \frac{\max_{z \in C} L(w + z) - L(w)}{1 + L(w)}, \qquad
        C = \{z : |z_i| \le \epsilon (|w_i| + 1)\}

    SciPy's L-BFGS-B searches for the maximum from z = 0, as in the paper, so the result is a lower bound of the true
    value. After few iterations rounding changes it by about 1e-4 of its value.

    Args:
        model, loss, data: as for :func:`hessian_eigenvalues`. The model is left as it was, bit for bit.
        epsilon: ε > 0. Default 1e-3; the paper uses 1e-3 and 5e-4.
        iterations: iterations of L-BFGS-B, >= 1. Default 10, as in the paper.
        adaptive: use C with ε |w_i| alone, which does not change when layers are rescaled to the same function.
        seed: seed of the start of the search if the gradient is exactly 0.

    Raises:
        ValueError: an argument is out of its range, the loss is not differentiable, or nothing needs a gradient.
        ImportError: the extra ``sharpness`` is not installed.

    Source: Keskar et al., "On Large-Batch Training for Deep Learning", arXiv 1609.04836, metric 2.1.
    """
    check_number("epsilon", epsilon, open_low=True)
    check_count("iterations", iterations)
    check_flag("adaptive", adaptive)
    from tvlars.sharpness.hessian import _needed

    optimize = _needed("scipy.optimize")
    with LossSurface(model, loss, data) as surface:
        w = flatten(p.detach() for p in surface.params)
        bound = epsilon * (w.abs() + (0.0 if adaptive else 1.0))
        base, gradient = surface.gradient()
        if base <= -1.0:
            raise ValueError(f"loss must be > -1 for this metric, which divides by 1 + loss, got {base:g}")
        slope = float((flatten(gradient) * bound).double().abs().max())
        start = torch.zeros(w.numel(), dtype=torch.float64, device="cpu")
        if slope == 0.0:
            generator = torch.Generator().manual_seed(seed)
            start += torch.rand(w.numel(), generator=generator, dtype=torch.float64, device="cpu") * 0.2 - 0.1

        def negative(u: Any) -> tuple[float, Any]:
            """Return value and gradient in units of the box and the slope at w, which stopping rules then ignore."""
            with surface.moved(unflatten(torch.as_tensor(u, device="cpu").to(w) * bound, surface.params)):
                value, gradient = surface.gradient()
            scale = slope or 1.0
            return -(value - base) / scale, -(flatten(gradient) * bound).double().cpu().numpy() / scale

        found = optimize.minimize(
            negative,
            start.numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=optimize.Bounds(-1.0, 1.0),
            options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
        )
        rise = -float(found.fun) * (slope or 1.0)
        return 100.0 * (rise if math.isnan(rise) else max(rise, 0.0)) / (1.0 + base)


def worst_case_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    *,
    rho: float = 0.05,
    m: int | None = None,
    steps: int = 10,
    adaptive: bool = False,
    seed: int = 0,
) -> float:
    r"""m-sharpness in the worst case: how far the loss can rise in a ball, a mean over groups of m samples.

    .. math:: \frac1n \sum_{G} \max_{\lVert T^{-1} \delta \rVert_2 \le \rho} L_G(w + \delta) - L_G(w)

    with T = 1, or T = diag(|w|) if ``adaptive``, which does not change when layers are rescaled so that the model
    computes the same function. The search moves, in each step, to the edge of the ball along the gradient,
    δ ← ρ T² g / ‖T g‖; its first step is the step of SAM, and the highest loss seen counts.

    Args:
        model, loss, data: as for :func:`hessian_eigenvalues`. The model is left as it was, bit for bit.
        rho: ρ > 0, the radius. Default 0.05 (SAM); 0.5 is usual for the adaptive form (ASAM).
        m: samples in a group (the last may be smaller); None (default) for one group of all. Groups are weighted by
            the denominators of their losses: the number of samples if all have the same weight.
        steps: steps of the search, >= 1. Default 10.
        adaptive: scale-invariant form. Default False.
        seed: seed of the direction used if the gradient is exactly 0.

    Raises:
        ValueError: an argument is out of its range, the loss is not differentiable, or nothing needs a gradient.

    Source: Foret et al., arXiv 2010.01412 (SAM, m-sharpness); Kwon et al., arXiv 2102.11600 (adaptive form).
    """
    check_number("rho", rho, open_low=True)
    check_count("steps", steps)
    check_flag("adaptive", adaptive)
    if m is not None:
        check_count("m", m, unit="samples")
    with LossSurface(model, loss, data) as surface:
        generator = seeded(surface, seed)
        scale = _scale(surface, adaptive)
        total = weight = 0.0
        for group in surface.groups(m):
            counts = sum(batch.count for batch in group)
            if not counts:  # all targets are ignored
                continue
            base, direction = surface.gradient(group)
            rise = 0.0
            if not any(bool(g.any()) for g in direction):
                direction = draw(surface, generator)
            for step in range(steps):
                scaled = [t * g for t, g in zip(scale, direction, strict=True)]
                length = float(torch.linalg.vector_norm(flatten(scaled).double()))
                if length == 0.0:
                    break
                shift = [t * g * (rho / length) for t, g in zip(scale, scaled, strict=True)]
                with surface.moved(shift):
                    if step + 1 < steps:
                        value, direction = surface.gradient(group)
                    else:
                        value = surface.value(group)
                if not value - base <= rise:  # also true if the loss is NaN
                    rise = value - base
                if math.isnan(rise):
                    break
            total, weight = total + rise * counts, weight + counts
        return total / weight


def average_case_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    *,
    rho: float = 0.05,
    samples: int = 16,
    adaptive: bool = False,
    seed: int = 0,
) -> Estimate:
    r"""Return the average rise of the loss under random perturbations of the weights, with a standard error.

    .. math:: E_{\delta \sim N(0, \rho^2 T^2)} L(w + \delta) - L(w)

    with T = 1, or T = diag(|w|) where ``adaptive``. Each draw is used with both signs, so that the slope at w cancels.
    A mean over samples does not depend on how they are grouped, so there is no m here.

    Args:
        model, loss, data: as for :func:`hessian_eigenvalues`. The model is left as it was, bit for bit.
        rho: ρ > 0, the standard deviation of each weight's noise. Default 0.05.
        samples: pairs of draws, >= 2. Default 16.
        adaptive: scale-invariant form. Default False.
        seed: seed of the draws.

    Raises:
        ValueError: an argument is out of its range, or nothing needs a gradient.

    Source: Andriushchenko et al., "A Modern Look at the Relationship between Sharpness and Generalization",
    arXiv 2302.07011, equations 1 and 2.
    """
    check_number("rho", rho, open_low=True)
    check_count("samples", samples, low=2)
    check_flag("adaptive", adaptive)
    with LossSurface(model, loss, data) as surface:
        generator, scale = seeded(surface, seed), _scale(surface, adaptive)
        base = surface.value()
        draws = []
        for _ in range(samples):
            noise = [rho * t * z for t, z in zip(scale, draw(surface, generator), strict=True)]
            pair = 0.0
            for sign in (1, -1):
                with surface.moved([sign * z for z in noise]):
                    pair += surface.value() / 2
            draws.append(pair - base)
        return Estimate.of(draws)


def _scale(surface: LossSurface, adaptive: bool) -> list[Tensor]:
    return [p.detach().abs().clone() if adaptive else torch.ones_like(p) for p in surface.params]
