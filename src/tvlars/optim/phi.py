"""φ(t), the factor of TVLARS, and where it acts; every path follows this file.

formula           ``tvlars.schedule.sigmoid_decay``
t                 the clock of a parameter group, as an integer or an int64 tensor on the device
where it acts     ``Phi.act``, which the for-loop, multi-tensor and CPU forms call
the same again    ``rates`` in ``triton/lars_kernels.py``, where t is on the device
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tvlars.optim._numerics.arithmetic import scalar
from tvlars.schedule import _sigmoid_decay


class Phi(NamedTuple):
    """φ of one parameter group at step t: (λ, d_e, α, γ_min), and the scope, "all" or "ratio"."""

    t: Any
    delay_factor: Any
    delay: Any
    alpha: Any
    gamma_min: Any
    phi_scope: str

    @classmethod
    def of(cls, group: dict[str, Any]) -> Phi:
        """Return φ of ``group`` at the step that its clock shows."""
        t = scalar(group["clock"], group["capturable"])
        return cls(t, group["delay_factor"], group["delay"], group["alpha"], group["gamma_min"], group["phi_scope"])

    def value(self) -> Any:
        """Return φ(t)."""
        return _sigmoid_decay(self.t, self.delay_factor, self.delay, self.alpha, self.gamma_min)

    def act(self, lr: Any, trust_coefficient: Any) -> tuple[Any, Any]:
        """Return lr and η, one of them multiplied by φ: lr in the scope "all", η in the scope "ratio"."""
        phi = self.value()
        return (lr * phi, trust_coefficient) if self.phi_scope == "all" else (lr, trust_coefficient * phi)
