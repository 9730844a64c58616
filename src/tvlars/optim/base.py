"""What the layer-wise optimizers share: checks, choice of the path, the trust ratio and the step itself.

An optimizer adds its update rule twice with one signature, as ``torch.optim`` does: a for-loop form that
reads like the formula, and a form on ``torch._foreach_*`` that does the same for many tensors at once.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable

from tvlars._checks import check_flag, check_number
from tvlars.optim._named_state import reorder_by_name

Tensors = list[Tensor] | tuple[Tensor, ...]
PLAIN = (Tensor, torch.nn.Parameter)
ROW = 1024


class LayerwiseOptimizer(Optimizer, ABC):
    """Base of LARS, TVLARS and LAMB. Not for direct use.

    A subclass gives ``_check_group`` (the ranges of its hyperparameters) and ``_update`` (one step for the
    parameters of one group that have a gradient).
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._warned_raw_lr = False
        super().__init__(params, {"layer_adaptation": True, **defaults})

    # -- checks ---------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, checked like the arguments of the constructor.

        Raises:
            ValueError: a hyperparameter is out of its range, NaN or infinite, or options contradict.
            TypeError: a parameter is not a real floating point tensor.
            RuntimeError: ``fused=True`` for a parameter that is not on the CPU.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_options(group)
            self._check_group(group)
        except Exception:
            self.param_groups.pop()
            raise
        self._warn_raw_lr(group)

    @abstractmethod
    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError where a hyperparameter of ``group`` is out of its range."""

    def _check_options(self, group: dict[str, Any]) -> None:
        name = type(self).__name__
        check_number("lr", group["lr"])
        for flag in ("layer_adaptation", "maximize", "capturable", "differentiable"):
            check_flag(flag, group[flag])
        for flag in ("foreach", "fused"):
            check_flag(flag, group[flag], optional=True)
        for flag in ("foreach", "fused"):
            if group[flag] and group["differentiable"]:
                raise ValueError(f"{flag} must be None or False where differentiable=True, got True")
        if group["fused"]:
            for flag in ("foreach", "capturable"):
                if group[flag]:
                    raise ValueError(f"{flag} must not be True where fused=True")
            devices = sorted({p.device.type for p in group["params"]} - {"cpu"})
            if devices:
                raise RuntimeError(
                    f"fused=True needs parameters on the CPU, and {name} got some on {', '.join(devices)}: "
                    "there is no fused kernel for those yet, leave fused=None"
                )
        if isinstance(group["lr"], Tensor) and group["foreach"] and not group["capturable"]:
            raise ValueError("lr must be a number where foreach=True and capturable=False, got a tensor")
        for p in group["params"]:
            if not p.is_floating_point():
                raise TypeError(f"params must be real floating point tensors, got one of {p.dtype} in {name}")

    def _warn_raw_lr(self, group: dict[str, Any]) -> None:
        """Say once an optimizer that unadapted parameters take a LARS-scale learning rate raw."""
        if self._warned_raw_lr or group["layer_adaptation"] or not group["params"]:
            return
        lr = float(torch.as_tensor(group["lr"]).detach())
        if lr > 1.0:
            self._warned_raw_lr = True
            warnings.warn(
                f"{len(group['params'])} parameters that are not adapted (biases, norms) take lr = {lr:g} as "
                "it is, without a trust ratio of about 1e-3. Give their group a smaller lr, for example "
                "layer_groups(model, weight_decay, lr=lr, bias_norm_lr_scale=0.03).",
                stacklevel=_stacklevel_of_caller(),
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, matched by name where it was saved with names and this optimizer has them.

        Names come from ``model.named_parameters()`` or :func:`tvlars.layer_groups`. Another order of parameters is
        right then; without names torch matches by position.

        Raises:
            ValueError: parameters are missing, extra or in another group (they are listed), or the groups
                differ in number or size.
        """
        super().load_state_dict(reorder_by_name(state_dict, self.param_groups))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_warned_raw_lr": self._warned_raw_lr}

    # -- the step -------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss; called once, before the update.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a gradient is sparse; no parameter has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        with_grad = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        for params in with_grad:
            self._refuse_sparse(params)
        if any(with_grad):
            self._begin_step()
        for group, params in zip(self.param_groups, with_grad, strict=True):
            if params:
                self._update(group, params, [p.grad for p in params if p.grad is not None])
        return loss

    def _begin_step(self) -> None:
        """Called once before the updates of a step in which any parameter has a gradient."""

    @abstractmethod
    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """One step for ``params``, the parameters of ``group`` that have a gradient."""

    def _refuse_sparse(self, params: list[Tensor]) -> None:
        for p in params:
            if p.grad is not None and p.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__} does not support sparse gradients, and a parameter of shape "
                    f"{tuple(p.shape)} has one: the norm of a layer needs its whole gradient "
                    "(for an embedding, set sparse=False)"
                )

    def _buffers(self, params: list[Tensor], key: str) -> list[Tensor]:
        """The state tensors ``key`` of ``params``, zeros where a parameter meets its first step."""
        for p in params:
            if key not in self.state[p]:
                self.state[p][key] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p][key] for p in params]


def split_by_path(group: dict[str, Any], params: list[Tensor], *lists: list[Any]) -> list[tuple[str, list[list[Any]]]]:
    """Cut parallel lists (gradients, state) into runs that take one path and share device and dtypes.

    Returns:
        (path, [params, *lists] cut to the run) for each run; path is "for-loop", "foreach" or "fused".
    """
    runs: dict[tuple[Any, ...], list[list[Any]]] = {}
    for layer in zip(params, *lists, strict=True):
        tensors = [x for x in layer if isinstance(x, Tensor)]
        key = (choose_path(group, tensors), tensors[0].device, *[x.dtype for x in tensors])
        run = runs.get(key)
        if run is None:
            run = runs[key] = [[] for _ in layer]
        for cut, x in zip(run, layer, strict=True):
            cut.append(x)
    return [(key[0], run) for key, run in runs.items()]


def choose_path(group: dict[str, Any], tensors: list[Tensor]) -> str:
    """The path for one layer: what the user asked for, else the fastest that is right for it.

    ``tensors`` are the parameter, its gradient and its state. On a CPU ``torch._foreach_*`` runs tensor after
    tensor, and the for-loop form beats it by finishing with a tensor while it is in the cache.
    """
    if group["foreach"]:
        return "foreach"
    if group["fused"]:
        return "fused" if fusable(tensors) else "for-loop"
    tensor_lr = isinstance(group["lr"], Tensor) and group["lr"].device.type != "cpu"
    if group["foreach"] is False or group["differentiable"] or torch.compiler.is_compiling():
        return "for-loop"
    if type(tensors[0]) in PLAIN and tensors[0].device.type in ("cuda", "xpu"):
        return "foreach" if group["capturable"] or not tensor_lr else "for-loop"
    if group["fused"] is None and not group["capturable"] and not tensor_lr and fusable(tensors):
        return "fused"
    return "for-loop"


def fusable(tensors: list[Tensor]) -> bool:
    """Whether torch's fused CPU kernels may be given these tensors of one layer.

    The kernels walk through memory without a look at strides, so all have to be laid out alike.
    """
    first = tensors[0]
    dtype = first.dtype
    if dtype not in (torch.float32, torch.float64):
        return False
    contiguous = True
    for x in tensors:
        if type(x) not in PLAIN or not x.is_cpu or x.dtype != dtype:
            return False
        contiguous = contiguous and x.is_contiguous()
    return contiguous or (first.ndim == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors))


def norm(x: Tensor) -> Tensor:
    """‖x‖ as a 0-d tensor on the device of ``x``, accumulated in at least float32.

    On a CPU torch sums all squares of a tensor in a row, which costs digits: at ten million elements the norm
    is off by 4e-4 of its value in float32. Rows of 1,024 and the norm of their norms are exact to rounding.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    result: Tensor
    plain = type(x) in PLAIN and x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not plain or x.numel() <= 64 * ROW:
        result = torch.linalg.vector_norm(x, dtype=dtype)
        return result
    flat = in_memory_order(x)
    rest = flat.numel() % ROW
    parts = torch.linalg.vector_norm(flat[: flat.numel() - rest].view(-1, ROW), dim=1, dtype=dtype)
    if rest:
        parts = torch.cat([parts, torch.linalg.vector_norm(flat[-rest:], dtype=dtype).view(1)])
    result = torch.linalg.vector_norm(parts, dtype=torch.float64).to(dtype)
    return result


def norms(tensors: Tensors) -> Tensor:
    """‖x‖ of every tensor as one vector, accumulated in at least float32."""
    if tensors[0].device.type == "cpu":
        return torch.stack([norm(x) for x in tensors])
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))


def in_memory_order(x: Tensor) -> Tensor:
    """The elements of ``x`` in one dimension, a view where its layout is contiguous or channels_last."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


def readable(x: Tensor) -> Tensor:
    """``x`` for use in a formula before it is overwritten: a copy where autograd will want it again.

    Autograd is on in a step only where the optimizer is differentiable.
    """
    return x.clone() if torch.is_grad_enabled() else x


def clip(norm: Tensor, norm_clip: float | None) -> Tensor:
    """min(norm, norm_clip), or ``norm`` itself where there is no bound."""
    return norm if norm_clip is None else norm.clamp(max=norm_clip)


def trust_ratio(w_norm: Tensor, u_norm: Tensor, coefficient: float | Tensor) -> Tensor:
    """q = coefficient * ‖w‖ / ‖u‖, elementwise, and 1 where ‖w‖ or ‖u‖ is 0. Never waits for the device."""
    both = (w_norm > 0) & (u_norm > 0)
    # Where a norm is 0 the quotient is not used; a divisor of 1 there keeps its derivative finite.
    return torch.where(both, coefficient * w_norm / torch.where(both, u_norm, 1.0), 1.0)


def descend(w: Tensor, direction: Tensor, lr: float | Tensor) -> None:
    """w ← w − lr · direction."""
    if isinstance(lr, Tensor):
        w.sub_(direction * lr)
    else:
        w.add_(direction, alpha=-lr)


def foreach_descend(params: Tensors, directions: Tensors, lr: float | Tensor) -> None:
    """w ← w − lr · direction for every parameter."""
    if isinstance(lr, Tensor):
        torch._foreach_sub_(params, torch._foreach_mul(directions, lr))
    else:
        torch._foreach_add_(params, directions, alpha=-lr)


def scalar(value: float | Tensor, keep_tensor: bool) -> float | Tensor:
    """``value`` as a number, or as a 0-d tensor where it has to stay on the device."""
    if not isinstance(value, Tensor):
        return value
    if keep_tensor or value.device.type != "cpu" or torch.compiler.is_compiling():
        return value.reshape(())
    return value.item()


def _stacklevel_of_caller() -> int:
    """The ``stacklevel`` that makes a warning point at the first frame outside torch and tvlars."""
    import sys

    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "tvlars"):
        level, frame = level + 1, frame.f_back
    return level
