"""TVLARS: LARS without warm-up, its learning rate multiplied by a factor that starts high and decays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from tvlars._checks import check_choice, check_number
from tvlars.optim._loading import Kind
from tvlars.optim._numerics.arithmetic import is_off, scalar
from tvlars.optim.lars import check_lars_group, lars
from tvlars.optim.layerwise import LayerwiseOptimizer, Pending
from tvlars.optim.phi import Factor
from tvlars.schedule import _check_sigmoid_decay, _sigmoid_decay, _slope_and_delay


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
    dampening. With ``nesterov``, w ← w − lr φ(t) (q u + μ m). Norms are exact to float32 or better, whatever the
    size of elements; those of a sharded layer (DTensor: FSDP2, tensor parallel) are the whole tensor's, at one
    collective a step and mesh dimension. Every argument but ``params`` is an option of a parameter group too.

    t is the run's clock: one count for the optimizer, which advances in every step in which any parameter
    has a gradient. It is kept as ``"clock"`` in each parameter group, and so in ``state_dict``; a group that is
    added later starts at the count the others have. It is an integer (with ``capturable`` an int64 tensor). Under
    ``ZeroRedundancyOptimizer`` each process counts for the parameters that it updates, and all counts agree unless all
    of a process's lack gradients in some step.

    Args:
        params: parameters, named parameters, or groups. :func:`tvlars.layer_groups` makes groups that leave
            biases and norms neither adapted nor decayed, and can give them an lr of their own.
        lr: learning rate >= 0, a number or a one-element tensor. 1 to 64 are usual, since the trust ratio is
            about 1e-3. Needed unless every group has its own.
        momentum: μ in [0, 1). Default 0.9. At 0 no buffer is kept.
        weight_decay: β >= 0, added to the gradient before the trust ratio. Default 0.0. The ratio acts with
            or without it.
        trust_coefficient: η > 0. Default 1e-3.
        nesterov: look ahead along the momentum; wants momentum > 0. Default False.
        norm_clip: both norms are clamped to at most this (> 0) before the ratio; None (default) leaves them.
        unit_ratio_at_zero: take q = 1 where ‖w‖ or ‖u‖ is 0, as the published code does. That is the learning rate
            raw, which with lr of 1 and more blows up layers that start at zero. Default False.
        maximize: ascend instead of descend. Default False.
        foreach: True takes the multi-tensor path, False the for-loop; None (default) the faster one. Sharded
            layers always take the multi-tensor path, on their local parts.
        fused: True takes fused kernels. On a CPU these are torch's, which want float32 or float64 and one layout of
            parameter, gradient and state; other layers take the for-loop. On a CUDA device they are Triton's, two
            launches for all layers of one dtype (float32, bfloat16 or float16; arithmetic in float32); other layers
            take the multi-tensor path, and all do, with a warning that says why, where Triton cannot run. Every
            path computes the same. None (default) takes the kernels where they fit, False never. With True for all
            layers, all on CUDA devices, a ``GradScaler`` leaves it to the step to unscale and to skip, with no wait.
        capturable: lr and every factor stay tensors on the device, so that a CUDA graph can capture the
            step. Default False.
        differentiable: gradients flow through the step, to parameters, gradients and options that are tensors of one
            element. Default False, where options other than lr are to be numbers.
        total_steps: optimizer steps of the run, >= 1. d_e and λ follow from it as in :func:`tvlars.plan`: φ - γ_min is
            at half its start at 75 % of the steps and at 2 % of it at the last.
        delay: d_e >= 0 (steps), where φ - γ_min is at half of its bound if alpha is 1.
        delay_factor: λ >= 0 (1/step), the slope of the decay.
        alpha: α > 0; φ is at most 1/α + γ_min. Default 1.0.
        gamma_min: γ_min >= 0, the floor that φ ends at. Default 0.0.
        phi_scope: ``"all"`` (default), as above: φ multiplies the learning rate of every parameter, so that
            TVLARS is LARS under the schedule φ. ``"ratio"``, as the authors' code does: φ multiplies the
            trust ratio, q = η φ(t) ‖w‖ / ‖u‖, enters the momentum, and does not act where q is 1 (without
            adaptation, and with ``unit_ratio_at_zero`` where a norm is 0).
        layer_adaptation (group option): whether the trust ratio acts. Default True.

    φ has to know how long the run is, so either ``total_steps``, or ``delay`` and ``delay_factor`` must be given, here
    or in every parameter group; :func:`tvlars.plan` gives the latter, and a learning rate. A group that gives one or
    the other has a φ of its own. The groups themselves hold ``delay`` and ``delay_factor``, whichever was given.

    Raises:
        ValueError: an argument is out of its range, NaN or infinite, or two contradict; the length of the run is not
            given, or is given twice; a parameter is one of ``FullyShardedDataParallel`` (FSDP1), whose flat shards are
            no layers: ``fully_shard`` (FSDP2) is right.
        TypeError: a parameter is complex, or not of floating point though it is to be trained; params is a module.
        RuntimeError: ``fused=True`` for a parameter that is neither on the CPU nor on a CUDA device; in ``step``, where
            a gradient is sparse, or a sharded parameter has one that is not, or a CUDA graph captures it in spite of
            ``capturable=False``.

    A gradient is never modified. A non-finite one is the caller's business, as in ``torch.optim``: it makes
    the layer it belongs to non-finite, and no other.

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
        if any(value is not None for value in self._length.values()):  # else every group has to say
            _slope_and_delay(type(self).__name__, **self._length)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; it starts at the step count that the optimizer has.

        Where it gives neither ``total_steps`` nor ``delay`` and ``delay_factor``, those of the constructor are taken.

        Raises:
            ValueError: a hyperparameter is out of its range, NaN or infinite, or options contradict; the length of the
                run is given neither here nor in the constructor; a parameter is one of FSDP1's.
            TypeError: a parameter is complex, or not of floating point though it is to be trained; params is a module.
        """
        if isinstance(param_group, dict):  # a copy, so that the clock is no other optimizer's
            self._check_params(param_group.get("params", ()))
            clock = self.param_groups[0]["clock"] if self.param_groups else 0
            clock = clock.clone() if isinstance(clock, Tensor) else clock
            param_group = {**self._with_shape(param_group), "clock": clock}
        super().add_param_group(param_group)

    def _with_shape(self, group: dict[str, Any]) -> dict[str, Any]:
        """``group`` with d_e and λ in place of the length of the run."""
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
        """φ of each parameter group at the latest step (at step 1 before the first). Waits for the device."""
        return [
            float(_sigmoid_decay(max(int(group["clock"]), 1), *_sigmoid_arguments(group)))
            for group in self.param_groups
        ]

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lars_group(group)
        _check_sigmoid_decay(*_sigmoid_arguments(group))
        check_choice("phi_scope", group["phi_scope"], ("all", "ratio"))

    def _begin_step(self) -> None:
        for group in self.param_groups:
            device = group["params"][0].device if group["params"] else torch.device("cpu")
            (group["clock"],) = self._advanced([group["clock"]], [device], group["capturable"])

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> Pending:
        return lars(
            params,
            grads,
            self._buffers(params, *([] if is_off(group["momentum"]) else ["momentum_buffer"])),
            group,
            lr=scalar(group["lr"], group["capturable"] or group["differentiable"]),
            observers=self.observers,
            factor=Factor(scalar(group["clock"], group["capturable"]), _sigmoid_arguments(group), group["phi_scope"]),
        )


def _sigmoid_arguments(group: dict[str, Any]) -> tuple[float, float, float, float]:
    return group["delay_factor"], group["delay"], group["alpha"], group["gamma_min"]
