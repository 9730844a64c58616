"""What the layer-wise optimizers share: checks, state, loading and the step itself.

An optimizer adds its update rule in forms of one signature, as ``torch.optim`` does: a for-loop form that reads like
the formula, one on ``torch._foreach_*`` for many tensors at once, one on torch's fused CPU kernels, and one for Triton
kernels on CUDA devices.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable

from tvlars._checks import check_flag, check_number, plain_number, shown
from tvlars.optim._flattened import refuse_flat_group, refuse_flat_parameters
from tvlars.optim._loading import Kind, check_form, prepared, reorder_by_name
from tvlars.optim._numerics.arithmetic import Count, on, to_device
from tvlars.optim._numerics.norms import PLAIN
from tvlars.optim._numerics.sharded import Layout, laid_out_like, layout
from tvlars.optim._observers import Observer
from tvlars.optim._paths import kernels_fit
from tvlars.optim.foreach import MultiTensor, run_together
from tvlars.optim.triton import availability
from tvlars.optim.triton.forms import Part
from tvlars.optim.triton.launcher import Launcher

Pending = list[tuple[MultiTensor | Part, list[Layout]]]
"""What is left to be run with the layers of other groups, with the layouts of those that are sharded."""


class LayerwiseOptimizer(Optimizer, ABC):
    """Base of LARS, TVLARS and LAMB. Not for direct use.

    A subclass gives ``_check_group`` (the ranges of its hyperparameters) and ``_update`` (one step for the
    parameters of one group that have a gradient).
    """

    _kind: Kind

    observers: tuple[Observer, ...] = ()
    """Told of every adapted layer, while there are any; see :class:`tvlars.stats.LayerStats`."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._check_params(params)
        self._warned_raw_lr = False
        self._launcher = Launcher()
        super().__init__(params, {"layer_adaptation": True, **defaults})

    # -- checks ---------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, checked like the arguments of the constructor.

        Raises:
            ValueError: a hyperparameter is out of its range, NaN or infinite, or options contradict; a parameter is
                one of FSDP1's.
            TypeError: a parameter is complex, or not of floating point though it is to be trained.
            RuntimeError: ``fused=True`` for a parameter that is neither on the CPU nor on a CUDA device.

        Where some groups have names and others have none, those get names by their place.
        """
        if isinstance(param_group, dict):
            if "params" not in param_group:
                raise ValueError(
                    f"a parameter group must have 'params', got {', '.join(map(str, param_group)) or 'none'}"
                )
            self._check_params(param_group["params"])
            param_group = self._named_as_the_others(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            refuse_flat_parameters(type(self).__name__, group["params"])
            self._check_options(group)
            self._check_group(group)
            self._check_tensors(group)
        except Exception:
            self.param_groups.pop()
            raise
        _make_plain(group)
        self._place_counts(group)
        self._warn_raw_lr(group)

    def _check_params(self, params: Any) -> None:
        """Raise TypeError where something stands for parameters: a module, which torch may even iterate over, say."""
        if isinstance(params, nn.Module):
            raise TypeError(
                f"params must be parameters or groups of them, got a {type(params).__name__}: take its .parameters(), "
                "or layer_groups(model, plan), which leaves biases and norms neither adapted nor decayed"
            )
        if isinstance(params, (str, bytes, dict)) or not isinstance(params, Iterable):
            hint = ": put the group into a list" if isinstance(params, dict) else ""
            raise TypeError(f"params must be parameters or a list of groups of them, got {shown(params)}{hint}")

    def _named_as_the_others(self, group: dict[str, Any]) -> dict[str, Any]:
        """``group`` with names where the others have some, and the others with names where it has some.

        torch wants all or none, and names that :func:`tvlars.layer_groups` gave would rule out every group without.
        """
        if not self.param_groups:
            return group
        params = group.get("params")
        params = [params] if isinstance(params, Tensor) else params
        if isinstance(params, (set, frozenset)) or not isinstance(params, Iterable):
            return group  # torch says what is wrong with it
        group = {**group, "params": list(params)}
        named = "param_names" in group or any(isinstance(p, tuple) for p in group["params"])
        if named:
            for i, other in enumerate(self.param_groups):
                other.setdefault("param_names", _names_by_place(i, len(other["params"])))
        elif "param_names" in self.param_groups[0]:
            group["param_names"] = _names_by_place(len(self.param_groups), len(group["params"]))
        return group

    @abstractmethod
    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError where a hyperparameter of ``group`` is out of its range."""

    def _check_options(self, group: dict[str, Any]) -> None:
        name = type(self).__name__
        if group["lr"] is None:
            raise ValueError(f"lr must be given, to {name} or in every parameter group")
        check_number("lr", group["lr"])
        for flag in ("layer_adaptation", "maximize", "capturable", "differentiable"):
            check_flag(flag, group[flag])
        for flag in ("foreach", "fused"):
            check_flag(flag, group[flag], optional=True)
        if group["differentiable"] != self.defaults["differentiable"]:
            raise ValueError(
                f"differentiable must be the same in all groups, got {group['differentiable']} and "
                f"{self.defaults['differentiable']}"
            )
        devices = sorted({str(p.device) for p in group["params"]})
        if group["capturable"] and len(devices) > 1:
            raise ValueError(f"params must be on one device in a group with capturable=True, got {', '.join(devices)}")
        for flag in ("foreach", "fused"):
            if group[flag] and group["differentiable"]:
                raise ValueError(f"{flag} must be None or False where differentiable=True, got True")
        if group["fused"]:
            self._check_fused(group)
        if isinstance(group["lr"], Tensor) and group["foreach"] and not group["capturable"]:
            raise ValueError("lr must be a number where foreach=True and capturable=False, got a tensor")
        for p in group["params"]:
            if p.is_complex() or (p.requires_grad and not p.is_floating_point()):
                raise TypeError(f"params must be real floating point tensors, got one of {p.dtype} in {name}")

    def _check_tensors(self, group: dict[str, Any]) -> None:
        """Raise ValueError where an option is a tensor and nothing could be made of that."""
        options = {name: x for name, x in group.items() if name in (*self.defaults, "delay", "delay_factor")}
        betas = options.pop("betas", ())
        options.update(
            {f"betas[{i}]": beta for i, beta in enumerate(betas if isinstance(betas, (tuple, list)) else ())}
        )
        for name, x in options.items():
            if not isinstance(x, Tensor) or name == "lr":
                continue
            if not group["differentiable"]:
                raise ValueError(
                    f"{name} must be a number where differentiable=False, got a tensor: take its .item(), and set the "
                    "group's option where it is to change"
                )
            if any(layout(p) is not None for p in group["params"]):
                raise ValueError(f"{name} must be a number for sharded parameters, got a tensor")

    def _check_fused(self, group: dict[str, Any]) -> None:
        if group["foreach"]:
            raise ValueError("foreach must not be True where fused=True")
        devices = {p.device for p in group["params"]}
        elsewhere = sorted({device.type for device in devices} - {"cpu", *availability.DEVICE_TYPES})
        if elsewhere:
            raise RuntimeError(
                f"fused=True needs parameters on the CPU or a CUDA device, and {type(self).__name__} got some on "
                f"{', '.join(elsewhere)}: there is no fused kernel for those yet, leave fused=None"
            )
        for device in devices:
            if device.type not in availability.DEVICE_TYPES:
                if group["capturable"]:
                    raise ValueError("capturable must not be True where fused=True, for parameters on the CPU")
            elif reason := availability.why_not(device):
                availability.warn_once(
                    f"fused=True takes the multi-tensor path on {device}: {reason}", _stacklevel_of_caller()
                )

    def _warn_raw_lr(self, group: dict[str, Any]) -> None:
        """Say once an optimizer that unadapted parameters take a LARS-scale learning rate raw."""
        if self._warned_raw_lr or group["layer_adaptation"] or not group["params"]:
            return
        lr = float(group["lr"].detach()) if isinstance(group["lr"], Tensor) else float(group["lr"])
        if lr > 1.0:
            self._warned_raw_lr = True
            warnings.warn(
                f"{len(group['params'])} parameters that are not adapted (biases, norms) take lr = {lr:g} as "
                "it is, without a trust ratio of about 1e-3. Give their group a smaller lr, for example "
                "layer_groups(model, weight_decay=..., lr=lr, bias_norm_lr_scale=0.03).",
                stacklevel=_stacklevel_of_caller(),
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, matched by name where it was saved with names and this optimizer has them.

        Names come from ``model.named_parameters()`` or :func:`tvlars.layer_groups`. Another order of parameters is
        right then; without names, or where two are equal, position decides as in torch. Options that the state
        lacks, since it is older, are those of this optimizer's constructor.

        Moments and step counts of other optimizers are taken over where they mean the same: LAMB takes those of Adam,
        AdamW and other libraries' LAMB, LARS those of TVLARS and other libraries' LARS. All options stay those of this
        optimizer then. Step counts may be numbers or tensors of whatever dtype.

        Raises:
            ValueError: parameters are missing, extra or in another group (they are listed), or the groups differ in
                number or size; a tensor has another shape than its parameter, a step count is no whole number, an
                option is out of its range; it is of an optimizer whose state means something else. Nothing has been
                loaded then.
        """
        given: Any = state_dict
        if not isinstance(given, dict):  # which torch would take apart before any hook
            check_form(given)
        # As the last hook, so that hooks of the user may repair names before.
        last = self.register_load_state_dict_pre_hook(lambda _, state: self._prepared(state))
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            _make_plain(group)
            self._place_counts(group)

    def _prepared(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        check_form(state_dict)
        state_dict = prepared(reorder_by_name(state_dict, self.param_groups), self._kind, self.param_groups)
        pairs = zip(
            state_dict["param_groups"], self.param_groups, strict=False
        )  # torch says where they are not as many
        for i, (there, here) in enumerate(pairs):
            try:
                merged = {**here, **there, "params": here["params"]}
                check_number("lr", merged["lr"])
                self._check_group(merged)
                self._check_tensors(merged)
            except ValueError as error:
                raise ValueError(
                    f"state_dict must have options in their range, but in parameter group {i} {error}"
                ) from None
        return state_dict

    def _place_counts(self, group: dict[str, Any]) -> None:
        """Step counts on the device, where a CUDA graph may read them from the first step on."""
        if group["capturable"] and group["params"]:
            if "clock" in group:
                group["clock"] = on(group["clock"], group["params"][0].device)
            for p in group["params"]:
                if "step" in self.state.get(p, {}):
                    self.state[p]["step"] = on(self.state[p]["step"], p.device)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_warned_raw_lr": self._warned_raw_lr}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_launcher", Launcher())  # of a copy, or what was pickled

    # -- gradients that a GradScaler has scaled ----------------------------------------------------------

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler may leave it to the step to unscale, and to skip where a gradient is not finite.

        It asks for this name. As with torch's own optimizers that wants ``fused=True``: in such a step gradients are
        still scaled, which hooks and gradient clipping have to know.
        """
        return all(
            group["fused"] and group["params"] and all(kernels_fit((p,)) for p in group["params"])
            for group in self.param_groups
        )

    @property
    def _skips_on_device(self) -> bool:
        """Whether only the device knows if this step is to be skipped."""
        return getattr(self, "found_inf", None) is not None

    def _advanced(self, counts: list[Count], devices: list[torch.device], capturable: bool) -> list[Count]:
        """Step counts after this step, which counts for all of them or, where a GradScaler has it skipped, for none.

        A count is a Python integer, which has no end that a run could reach. It is an int64 tensor on the device where
        the host may not read it: with ``capturable``, where CUDA graphs read one tensor for good, and where only the
        device knows if the step is skipped; and one on the CPU under ``torch.compile``, where a number that changes
        would be a reason to compile anew.
        """
        on_device, compiling = capturable or self._skips_on_device, torch.compiler.is_compiling()
        if not on_device and not compiling:
            return [x + 1 if isinstance(x, Tensor) and not x.is_cpu else int(x) + 1 for x in counts]
        cpu = torch.device("cpu")
        tensors = [on(x, device if on_device else cpu) for x, device in zip(counts, devices, strict=True)]
        if not self._skips_on_device:
            torch._foreach_add_(tensors, 1)
            return [*tensors]
        for device in {x.device for x in tensors}:
            found_inf = to_device(self.found_inf, device)  # type: ignore[attr-defined]
            tick = (found_inf == 0).to(torch.int64).reshape(())
            torch._foreach_add_([x for x in tensors if x.device == device], tick)
        return [*tensors]

    def _refuse_scaled(self, params: list[Tensor]) -> None:
        """Raise RuntimeError unless all layers are for the kernels, which alone unscale and skip."""

        def fits(p: Tensor) -> bool:
            state = [x for key, x in self.state.get(p, {}).items() if key != "step"]
            return kernels_fit((p, p.grad, *state))  # type: ignore[arg-type]

        if not all(group["fused"] for group in self.param_groups) or not all(map(fits, params)):
            raise RuntimeError(
                "grad_scale and found_inf are for optimizers whose groups all have fused=True, on CUDA devices, with "
                "one dtype (float32, bfloat16 or float16) of a parameter, its gradient and its state"
            )

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
            RuntimeError: a gradient is sparse, or scaled where not all groups are fused on a CUDA device (no parameter
                has been changed then); a CUDA graph captures the step, and a group has ``capturable=False``.
            ValueError: in the first step, where FSDP1 or DeepSpeed's ZeRO has flattened the model since the optimizer
                was made.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        work = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                work.append((group, params, [p.grad for p in params]))
        for group, params, grads in work:
            self._refuse_sparse(params, grads)
            if not self.state:  # in the first step alone, since it is a look at every layer
                refuse_flat_parameters(type(self).__name__, params)
                refuse_flat_group(type(self).__name__, group)
        scale = getattr(self, "grad_scale", None)
        if scale is not None or self._skips_on_device:
            self._refuse_scaled([p for _, params, _ in work for p in params])
        # ZeroRedundancyOptimizer may leave a process without parameters, whose clock has to go with the others' all
        # the same.
        if work or not any(group["params"] for group in self.param_groups):
            self._begin_step()
        forms, parts = [], []
        for group, params, grads in work:
            for form, layouts in self._update(group, params, grads):
                if isinstance(form, Part):
                    parts.append(form)
                else:
                    forms.append((form, layouts))
        run_together(forms)
        if parts:
            self._launcher.run(parts, scale, getattr(self, "found_inf", None))
        return loss

    def _begin_step(self) -> None:
        """Called once before the updates of a step in which any parameter has a gradient, or there is no parameter."""

    @abstractmethod
    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> Pending:
        """One step for ``params``, the parameters of ``group`` that have a gradient.

        Layers on the multi-tensor path are returned, to be run together with those of the other groups.
        """

    def _refuse_sparse(self, params: list[Tensor], grads: list[Tensor]) -> None:
        for p, g in zip(params, grads, strict=True):
            if not p.is_floating_point():
                raise TypeError(
                    f"params must be real floating point tensors where they have a gradient, got one of {p.dtype} in "
                    f"{type(self).__name__}"
                )
            if g.layout != torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__} does not support sparse gradients, and a parameter of shape "
                    f"{tuple(p.shape)} has one: the norm of a layer needs its whole gradient "
                    "(for an embedding, set sparse=False)"
                )

    def _buffers(self, params: list[Tensor], *keys: str) -> list[list[Tensor]]:
        """For each of ``keys`` the state tensors of ``params``, zeros where a parameter meets its first step.

        Without keys a parameter has a state all the same, an empty one: torch's distributed checkpoints take an
        optimizer without any state for one that has taken no step yet, and make it take one.
        """
        lists: list[list[Tensor]] = [[] for _ in keys]
        for p in params:
            state = self.state[p]
            for key, tensors in zip(keys, lists, strict=True):
                if key not in state:
                    state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)
                elif type(p) not in PLAIN:
                    state[key] = laid_out_like(state[key], p)
                tensors.append(state[key])
        return lists


def _names_by_place(group: int, count: int) -> list[str]:
    return [f"param_groups.{group}.params.{i}" for i in range(count)]


def _make_plain(group: dict[str, Any]) -> None:
    """Turn options that are numbers of NumPy, fractions and the like into Python's, which all of torch takes."""
    for name, value in group.items():
        group[name] = tuple(map(plain_number, value)) if name == "betas" else plain_number(value)


def _stacklevel_of_caller() -> int:
    """The ``stacklevel`` that makes a warning point at the first frame outside torch and tvlars."""
    import sys

    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "tvlars"):
        level, frame = level + 1, frame.f_back
    return level
