"""TVLARS: LARS without warm-up, its learning rate multiplied by φ(t), which starts high and decays.

formula       docstring of ``TVLARS``
φ             ``phi.py``: the clock, φ(t), and where it acts
reference     for-loop form, in the letters of the formula: ``lars._single_tensor_lars``
fast paths    multi-tensor form: ``lars._multi_tensor_lars``
              torch's fused CPU kernels: ``cpu.fused_lars``
              Triton kernels: ``triton.forms.triton_lars``, which ``triton/lars_kernels.py`` runs
options       ``_options.LarsOptions``
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from tvlars._checks import check_choice, check_number
from tvlars.optim._loading import Kind
from tvlars.optim._options import LarsOptions, check_params
from tvlars.optim.lars import FORMS, check_lars_group, kept_by_lars
from tvlars.optim.layerwise import Form, LayerwiseOptimizer
from tvlars.optim.phi import Phi
from tvlars.schedule import _check_sigmoid_decay, _slope_and_delay


class TVLARS(LayerwiseOptimizer):
    r"""Time-varying LARS: early steps are large and explore, late steps are plain LARS.

    At optimizer step t (1 at the first), for each parameter tensor w ("layer") with gradient g:

    .. math::
        \varphi(t) &= \frac{1}{\alpha + \exp(\lambda (t - d_e))} + \gamma_{min} \\
        u &= g + \beta w \\
        q &= \eta \, \lVert w \rVert / \lVert u \rVert \\
        m &\leftarrow \mu m + q u \\
        w &\leftarrow w - lr \; \varphi(t) \; m

    Where ‖w‖ = 0 it counts as 1, q = η / ‖u‖: a layer that starts at zero (a zeroed last layer, LoRA's B) first
    moves by lr φ η, whatever the scale of its gradient, and follows the rule from then on. Where ‖u‖ = 0, q = η,
    and q u is 0. In groups with ``layer_adaptation=False`` q = 1. The first step has m = q u and there is no
    dampening. With ``nesterov``, w ← w − lr φ(t) (q u + μ m). Norms are exact to float32 or better, for elements of
    any size; norms of a sharded layer (DTensor: FSDP2, tensor parallel) are the whole tensor's, at one collective per
    step and mesh dimension. Every argument but ``params`` can also be set per parameter group.

    t is the run's clock: one count for the optimizer, which advances in every step in which any parameter
    has a gradient. It is kept as ``"clock"`` in each parameter group, and so in ``state_dict``; a group that is
    added later starts at the count the others have. It is an integer (with ``capturable`` an int64 tensor). Under
    ``ZeroRedundancyOptimizer`` each process counts for the parameters that it updates, and all counts agree unless in
    some step none of a process's parameters has a gradient.

    An LR scheduler is allowed, as with any torch optimizer, and multiplies φ: the rate of a step is its lr times φ(t).
    A warm-up or a cosine beside φ thus decays the rate twice, so a plan for TVLARS has no scheduler.

    Args:
        {params}
        {lr, momentum, weight_decay, trust_coefficient, nesterov, norm_clip, unit_ratio_at_zero}
        {maximize, foreach, fused, capturable, differentiable}
        total_steps: optimizer steps of the run, >= 1. d_e and λ follow from it: φ - γ_min is half way down at 75 % of
            the steps, as in :func:`tvlars.plan` at a batch size of 2,048, and at 2 % of its start at the last step.
        delay: d_e >= 0 (steps), where φ - γ_min is at half of its bound if alpha is 1.
        delay_factor: λ >= 0 (1/step), the slope of the decay.
        alpha: α > 0; φ is at most 1/α + γ_min. Default 1.0.
        gamma_min: γ_min >= 0, the floor that φ ends at. Default 0.0.
        phi_scope: ``"all"`` (default), as above: φ multiplies the learning rate of every parameter, so that
            TVLARS is LARS under the schedule φ. ``"ratio"``, as the authors' code does: φ multiplies the
            trust ratio, q = η φ(t) ‖w‖ / ‖u‖, enters the momentum, and does not act where q is 1 (without
            adaptation, and with ``unit_ratio_at_zero`` where a norm is 0).
        {layer_adaptation}

    φ depends on the length of the run, so either ``total_steps``, or ``delay`` and ``delay_factor`` must be given, here
    or in every parameter group; :func:`tvlars.plan` gives the latter, and a learning rate. A group that gives one or
    the other has its own φ. Parameter groups always hold ``delay`` and ``delay_factor``, not ``total_steps``.

    Raises:
        ValueError: the length of the run is not given, or is given twice.
        {ValueError, TypeError, RuntimeError}

    A gradient is never modified. Non-finite gradients are not handled, as in ``torch.optim``: each makes its own layer
    non-finite, and no other.

    Source: Do et al., "Revisiting LARS for Large Batch Training Generalization of Neural Networks",
    arXiv 2309.14053. The published code is ``momentum=0.9, weight_decay=5e-4, delay=0, alpha=0.1,
    gamma_min=0.0, norm_clip=10.0, unit_ratio_at_zero=True, phi_scope="ratio"``.

    Example:
        >>> p = plan(batch_size=4096, dataset_size=60_000, epochs=15)
        >>> groups = layer_groups(model, p)
        >>> optimizer = TVLARS(groups, **p.optimizer_arguments())
        >>> loss_fn(model(x), y).backward()
        >>> optimizer.step()
    """

    _kind = Kind("a TVLARS", frozenset(("trust_coefficient", "phi_scope")), ("momentum_buffer",), clock=True)
    _options = LarsOptions

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        nesterov: bool = False,
        norm_clip: float | None = None,
        unit_ratio_at_zero: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        total_steps: int | None = None,
        delay: float | None = None,
        delay_factor: float | None = None,
        alpha: float = 1.0,
        gamma_min: float = 0.0,
        phi_scope: str = "all",
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            nesterov=nesterov,
            norm_clip=norm_clip,
            unit_ratio_at_zero=unit_ratio_at_zero,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            differentiable=differentiable,
            alpha=alpha,
            gamma_min=gamma_min,
            phi_scope=phi_scope,
        )
        self._length: dict[str, Any] = dict(total_steps=total_steps, delay=delay, delay_factor=delay_factor)
        if any(value is not None for value in self._length.values()):  # else every group has to give them
            _slope_and_delay(type(self).__name__, **self._length)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; it starts at the step count that the optimizer has.

        If it gives neither ``total_steps`` nor ``delay`` and ``delay_factor``, the constructor's are used.

        Raises:
            ValueError: a hyperparameter is out of its range, NaN or infinite, or options contradict; the length of the
                run is given neither here nor in the constructor; a parameter is one of FSDP1's.
            TypeError: a parameter is complex, or not of floating point though it is to be trained; params is a module.
        """
        if isinstance(param_group, dict):  # a copy, so that the clock is no other optimizer's
            check_params(param_group.get("params", ()))
            clock = self.param_groups[0]["clock"] if self.param_groups else 0
            clock = clock.clone() if isinstance(clock, Tensor) else clock
            param_group = {**self._with_shape(param_group), "clock": clock}
        super().add_param_group(param_group)

    def _with_shape(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return ``group`` with d_e and λ in place of the length of the run."""
        own = {name: group.get(name) for name in self._length}
        if all(value is None for value in own.values()):
            own = self._length
        elif own["total_steps"] is None:  # one of d_e and λ may be the constructor's
            own.update({name: self._length[name] for name in ("delay", "delay_factor") if own[name] is None})
        alpha = group.get("alpha", self.defaults["alpha"])
        check_number("alpha", alpha, open_low=True)
        if own["total_steps"] is not None and isinstance(alpha, Tensor):
            raise ValueError(
                "alpha must be a number where total_steps is given, since delay follows from both; got a tensor"
            )
        delay_factor, delay = _slope_and_delay(type(self).__name__, **own, alpha=alpha)
        rest = {name: value for name, value in group.items() if name != "total_steps"}
        return {**rest, "delay": delay, "delay_factor": delay_factor}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_length": self._length}

    def phi(self) -> list[float]:
        """Return φ of each parameter group at the latest step (at step 1 before the first). Waits for the device."""
        return [float(Phi.of(group)._replace(t=max(int(group["clock"]), 1)).value()) for group in self.param_groups]

    def _forms(self) -> Mapping[str, Form]:
        return FORMS

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lars_group(group)
        _check_sigmoid_decay(group["delay_factor"], group["delay"], group["alpha"], group["gamma_min"])
        check_choice("phi_scope", group["phi_scope"], ("all", "ratio"))

    def _kept(self, group: dict[str, Any]) -> tuple[str, ...]:
        return kept_by_lars(group)

    def _read(self, group: dict[str, Any], *more: Any) -> Any:
        return super()._read(group, Phi.of(group), *more)

    def _begin_step(self) -> None:
        for group in self.param_groups:
            device = group["params"][0].device if group["params"] else torch.device("cpu")
            (group["clock"],) = self._advanced([group["clock"]], [device], group["capturable"])
