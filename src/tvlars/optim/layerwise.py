"""The step of a layer-wise optimizer, with all that LARS, TVLARS and LAMB share.

A rule is a subclass that defines

    _kind           the state that it keeps for each parameter
    _options        a NamedTuple with the options that its forms take: lr first, those that no group holds last, with
                    defaults
    _forms          its forms by path: "for-loop" and "foreach", and where there are kernels "fused" and "triton"
    _check_group    the ranges of its options

A form updates layers in place. It takes lists of parameters, gradients, each tensor of the state and, where the rule
counts steps, counts; then the options, and an observer or None. The for-loop form reads like the formula and is the
reference for the others. The multi-tensor form is a generator (``foreach.py``), the one for CPUs calls torch's fused
kernels (``cpu.py``), and the one for CUDA devices describes the work for the Triton kernels (``triton/forms.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable

from tvlars._checks import check_number
from tvlars.optim._flattened import refuse_flat_group, refuse_flat_parameters
from tvlars.optim._loading import Kind, check_form, prepared
from tvlars.optim._numerics.arithmetic import Count, on, scalar, to_device
from tvlars.optim._numerics.norms import PLAIN
from tvlars.optim._numerics.sharded import Layout, laid_out_like
from tvlars.optim._observers import Observer, by_place
from tvlars.optim._options import check_options, check_params, check_tensors, completed, make_plain, warn_raw_lr
from tvlars.optim._paths import kernels_fit, routes
from tvlars.optim.foreach import MultiTensor, run_together
from tvlars.optim.triton.forms import Part
from tvlars.optim.triton.launcher import Launcher

Form = Callable[..., MultiTensor | Part | None]
"""One form of a rule: updates layers, or returns work to be run together with the layers of other groups."""
Deferred = list[tuple[MultiTensor | Part, list[Layout]]]
"""Work to be run together with the layers of other groups, with the layouts of sharded layers."""


class LayerwiseOptimizer(Optimizer, ABC):
    """Base of LARS, TVLARS and LAMB. Not for direct use.

    Lines such as ``{foreach, fused}`` in a subclass's docstring are replaced by entries of this one or of ``_options``.

    Args:
        params: parameters, named parameters, or groups. :func:`tvlars.layer_groups` makes groups that leave
            biases and norms neither adapted nor decayed, and can give them an lr of their own.
        maximize: ascend instead of descend. Default False.
        foreach: True uses the multi-tensor path, False the for-loop; None (default) the faster one. Sharded
            layers always use the multi-tensor path, on their local parts.
        fused: True uses fused kernels. On a CPU these are torch's, which need float32 or float64 and one layout of
            parameter, gradient and state; other layers use the for-loop. On a CUDA device they are Triton's, two
            launches for all layers of one dtype (float32, bfloat16 or float16; arithmetic in float32); other layers
            use the multi-tensor path, and if Triton cannot run all layers do, with a warning that says why. Every
            path computes the same. None (default) uses the kernels where they fit, False never. If it is True for all
            layers, all on CUDA devices, the step itself unscales and skips for a ``GradScaler``, without a wait.
        capturable: lr, factors and step counts stay tensors on the device, so that a CUDA graph can capture the
            step. Default False.
        differentiable: gradients flow through the step, to parameters, gradients and options that are tensors of one
            element. Default False; options other than lr must then be numbers.
        layer_adaptation (group option): whether the trust ratio acts. Default True.

    Raises:
        ValueError: an argument is out of its range, NaN or infinite, or two contradict; a parameter is one of
            ``FullyShardedDataParallel`` (FSDP1), whose flat shards are no layers: use ``fully_shard`` (FSDP2).
        TypeError: a parameter is complex, or not of floating point though it is to be trained; params is a module.
        RuntimeError: ``fused=True`` for a parameter that is neither on the CPU nor on a CUDA device; in ``step``, where
            a gradient is sparse, or a sharded parameter has one that is not, or a CUDA graph captures it in spite of
            ``capturable=False``.
    """

    _kind: ClassVar[Kind]
    _options: ClassVar[Any]
    _other_options: ClassVar[tuple[str, ...]]
    """Fields of ``_options`` between lr and those with a default."""

    observers: tuple[Observer, ...] = ()
    """Called in each step with all adapted layers; see :class:`tvlars.stats.LayerStats`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_options" not in vars(cls):
            return
        first, *others = [name for name in cls._options._fields if name not in cls._options._field_defaults]
        if first != "lr":
            raise TypeError(f"{cls.__name__}._options must have lr as its first field, got {first}")
        cls._other_options = tuple(others)
        if cls.__doc__:  # there is none under python -OO
            cls.__doc__ = completed(cls.__doc__, LayerwiseOptimizer, cls._options)

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        check_params(params)
        self._warned_raw_lr = False
        self._launcher = Launcher()
        super().__init__(params, {"layer_adaptation": True, **defaults})

    # -- groups and their options -----------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, checked like the arguments of the constructor.

        If some groups have names and others have none, the others get names by their place.

        Raises:
            ValueError: a hyperparameter is out of its range, NaN or infinite, or options contradict; a parameter is
                one of FSDP1's.
            TypeError: a parameter is complex, or not of floating point though it is to be trained.
            RuntimeError: ``fused=True`` for a parameter that is neither on the CPU nor on a CUDA device.
        """
        if isinstance(param_group, dict):
            if "params" not in param_group:
                raise ValueError(
                    f"a parameter group must have 'params', got {', '.join(map(str, param_group)) or 'none'}"
                )
            check_params(param_group["params"])
            param_group = self._named_as_the_others(param_group)
        super().add_param_group(param_group)
        group, who = self.param_groups[-1], type(self).__name__
        try:
            refuse_flat_parameters(who, group["params"])
            check_options(who, group, self.defaults, self._forms())
            self._check_group(group)
            check_tensors(group, self.defaults)
        except Exception:
            self.param_groups.pop()
            raise
        make_plain(group)
        self._place_counts(group)
        self._warned_raw_lr = self._warned_raw_lr or warn_raw_lr(group)

    def _named_as_the_others(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return ``group`` with names if the other groups have names, and name the other groups if ``group`` has names.

        torch accepts names for all groups or none, and :func:`tvlars.layer_groups` gives names.
        """
        if not self.param_groups:
            return group
        params = group.get("params")
        params = [params] if isinstance(params, Tensor) else params
        if isinstance(params, (set, frozenset)) or not isinstance(params, Iterable):
            return group  # torch raises the error
        group = {**group, "params": list(params)}
        named = "param_names" in group or any(isinstance(p, tuple) for p in group["params"])
        if named:
            for i, other in enumerate(self.param_groups):
                other.setdefault("param_names", _names_by_place(i, len(other["params"])))
        elif "param_names" in self.param_groups[0]:
            group["param_names"] = _names_by_place(len(self.param_groups), len(group["params"]))
        return group

    @abstractmethod
    def _forms(self) -> Mapping[str, Form]:
        """Return the forms of the rule by path."""

    @abstractmethod
    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError if a hyperparameter of ``group`` is out of its range."""

    # -- loading ----------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, matched by name where it was saved with names and this optimizer has them.

        Names come from ``model.named_parameters()`` or :func:`tvlars.layer_groups`. Parameters may then be in another
        order; without names, or if two are equal, position decides as in torch. Options that an older state lacks
        are taken from this optimizer's constructor.

        Moments and step counts of other optimizers are loaded if they mean the same: LAMB loads states of Adam, AdamW
        and other libraries' LAMB, LARS states of TVLARS and other libraries' LARS. This optimizer's options then stay
        as they are. Step counts may be numbers or tensors of any dtype.

        Raises:
            ValueError: parameters are missing, extra or in another group (they are listed), or the groups differ in
                number or size; a tensor has another shape than its parameter, a step count is no whole number, an
                option is out of its range; the state is of an optimizer whose state means something else. Nothing has
                been loaded in any of these cases.
        """
        given: Any = state_dict
        if not isinstance(given, dict):  # torch would read it before any hook runs
            check_form(given)
        # As the last hook, so that the user's hooks can repair names before.
        last = self.register_load_state_dict_pre_hook(lambda _, state: self._prepared(state))
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            make_plain(group)
            self._place_counts(group)

    def _prepared(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        state_dict = prepared(state_dict, self._kind, self.param_groups)
        pairs = zip(
            state_dict["param_groups"], self.param_groups, strict=False
        )  # torch raises an error if their numbers differ
        for i, (there, here) in enumerate(pairs):
            try:
                merged = {**here, **there, "params": here["params"]}
                check_number("lr", merged["lr"])
                self._check_group(merged)
                check_tensors(merged, self.defaults)
            except ValueError as error:
                raise ValueError(
                    f"state_dict must have options in their range, but in parameter group {i} {error}"
                ) from None
        return state_dict

    def _place_counts(self, group: dict[str, Any]) -> None:
        """Put the step counts of a capturable group on the device, for CUDA graphs to read from the first step on."""
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
        self.__dict__.setdefault("_launcher", Launcher())  # of a copy or an unpickled optimizer

    # -- gradients that a GradScaler has scaled ----------------------------------------------------------

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """True if the step itself unscales gradients for a GradScaler, and skips if a gradient is not finite.

        GradScaler looks this name up. As with torch's own optimizers it needs ``fused=True``: gradients are still
        scaled in such a step, which hooks and gradient clipping have to take into account.
        """
        return "triton" in self._forms() and all(
            group["fused"] and group["params"] and all(kernels_fit((p,)) for p in group["params"])
            for group in self.param_groups
        )

    @property
    def _skips_on_device(self) -> bool:
        """True if only the device knows whether to skip this step."""
        return getattr(self, "found_inf", None) is not None

    def _advanced(self, counts: list[Count], devices: Iterable[torch.device], capturable: bool) -> list[Count]:
        """Return the step counts after this step: all advanced or, if a GradScaler skips the step, none.

        A count is a Python integer, which cannot overflow. It is an int64 tensor on the device if the host may not
        read it: with ``capturable``, since CUDA graphs keep reading one tensor, and if only the device knows whether
        the step is skipped. It is a tensor on the CPU under ``torch.compile``, where a number that changes would cause
        a recompilation.
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
        """Raise RuntimeError unless all layers use the kernels, since no other path unscales and skips."""

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
            if not self.state:  # in the first step alone, since it checks every layer
                refuse_flat_parameters(type(self).__name__, params)
                refuse_flat_group(type(self).__name__, group)
        scale = getattr(self, "grad_scale", None)
        if scale is not None or self._skips_on_device:
            self._refuse_scaled([p for _, params, _ in work for p in params])
        # ZeroRedundancyOptimizer may leave a process without parameters, whose clock must still advance.
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
        """Prepare a step; called once before its updates if any parameter has a gradient, or there is no parameter."""

    def _read(self, group: dict[str, Any], *more: Any) -> Any:
        """Return the options that the forms take: options of ``group``, and ``more``, which no group holds."""
        lr = scalar(group["lr"], group["capturable"] or group["differentiable"])
        return self._options(lr, *map(group.__getitem__, self._other_options), *more)

    def _kept(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the state tensors that ``group`` keeps, all in ``_kind`` or some.

        Forms get an empty list for each of the others.
        """
        return self._kind.tensors

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> Deferred:
        """Update ``params``, the parameters of ``group`` that have a gradient, or return the work that does so."""
        forms, options, kept = self._forms(), self._read(group), self._kept(group)
        steps = self._advance(params, group["capturable"]) if self._kind.counts else None
        deferred: Deferred = []
        for route in routes(group, forms, params, grads, *self._buffers(params, *kept)):
            lists: list[Any] = route.lists
            if kept != self._kind.tensors:
                lists = self._with_empty_lists(lists, kept)
            if steps is not None:
                lists = [*lists, [scalar(steps[i], group["capturable"]) for i in route.indices]]
            form = forms[route.path](*lists, options, by_place(self.observers, params, route.indices))
            if form is not None:
                deferred.append((form, route.layouts))
        return deferred

    def _with_empty_lists(self, lists: list[list[Tensor]], kept: tuple[str, ...]) -> list[list[Tensor]]:
        """Return parameters, gradients and the state in the order of ``_kind``, empty lists for what is not kept."""
        unknown = [name for name in kept if name not in self._kind.tensors]
        if unknown:
            raise ValueError(f"{type(self).__name__}._kept must return names from _kind, got {', '.join(unknown)}")
        params, grads, *state = lists
        by_name = dict(zip(kept, state, strict=True))
        return [params, grads, *[by_name.get(name, []) for name in self._kind.tensors]]

    def _advance(self, params: list[Tensor], capturable: bool) -> list[Count]:
        """Advance the step count of each parameter, which the bias correction of its own moments needs."""
        states = [self.state[p] for p in params]
        steps = self._advanced([x.get("step", 0) for x in states], (p.device for p in params), capturable)
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        return steps

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
        """Return the state tensors of ``params`` for each of ``keys``, zeros in the first step of a parameter.

        Without keys a parameter still has an empty state: torch's distributed checkpoints assume that an optimizer
        without any state has taken no step yet, and make it take one.
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
