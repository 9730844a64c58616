"""φ(t), the factor of TVLARS, and where it acts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tvlars.schedule import _sigmoid_decay


@dataclass(frozen=True)
class Factor:
    """φ(t) of TVLARS: t, (λ, d_e, α, γ_min), and whether it acts on "all" or on the trust "ratio"."""

    step: float | Tensor
    shape: tuple[float, float, float, float]
    scope: str

    def act(self, lr: float | Tensor, coefficient: float) -> tuple[float | Tensor, float | Tensor]:
        """Learning rate and trust coefficient with φ in them."""
        phi = _sigmoid_decay(self.step, *self.shape)
        return (lr * phi, coefficient) if self.scope == "all" else (lr, coefficient * phi)
