"""Options of parameter groups: a tuple for each rule, shared texts of docstrings, and checks when a group is added."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from tvlars._checks import check_flag, check_number, plain_number, shown
from tvlars.optim._numerics.sharded import layout
from tvlars.optim.phi import Phi
from tvlars.optim.triton import availability


class LarsOptions(NamedTuple):
    """Options of LARS and TVLARS, which every form of the rule takes.

    Args:
        lr: learning rate >= 0, a number or a one-element tensor. 1 to 64 are usual, since the trust ratio is
            about 1e-3. Needed unless every group has its own.
        momentum: μ in [0, 1). Default 0.9. At 0 no buffer is kept.
        weight_decay: β >= 0, added to the gradient before the trust ratio. Default 0.0. The ratio acts with
            or without it.
        trust_coefficient: η > 0. Default 1e-3.
        nesterov: look ahead along the momentum; needs momentum > 0. Default False.
        norm_clip: upper bound (> 0) on both norms before the ratio is computed; None (default) for no bound.
        unit_ratio_at_zero: use q = 1 where ‖w‖ or ‖u‖ is 0, as the published code does. The step then uses lr without
            a trust ratio, which with an lr of 1 or more blows up layers that start at zero. Default False.
    """

    lr: Any
    momentum: Any
    weight_decay: Any
    trust_coefficient: Any
    nesterov: bool
    norm_clip: Any
    unit_ratio_at_zero: bool
    layer_adaptation: bool
    maximize: bool
    capturable: bool
    phi: Phi | None = None
    """φ at this step; only TVLARS has one."""

    def rates(self) -> tuple[Any, Any]:
        """Return lr and η, one of them multiplied by φ if there is a φ."""
        return (self.lr, self.trust_coefficient) if self.phi is None else self.phi.act(self.lr, self.trust_coefficient)


class LambOptions(NamedTuple):
    """Options of LAMB, which every form of the rule takes."""

    lr: Any
    betas: tuple[Any, Any]
    eps: Any
    weight_decay: Any
    bias_correction: bool
    norm_clip: Any
    layer_adaptation: bool
    maximize: bool
    capturable: bool


def make_plain(group: dict[str, Any]) -> None:
    """Convert options such as NumPy numbers and fractions to Python numbers, which all of torch accepts."""
    for name, value in group.items():
        group[name] = tuple(map(plain_number, value)) if name == "betas" else plain_number(value)


# -- docstrings -------------------------------------------------------------------------------------------


def completed(doc: str, *sources: Any) -> str:
    """Return ``doc`` with entries from the docstrings of ``sources`` in place of lines such as ``{foreach, fused}``."""
    entries = {
        re.match(r"\w+", block)[0]: block  # type: ignore[index]
        for source in sources
        for block in re.findall(r"^    (\w.*(?:\n     .*)*)", inspect.getdoc(source) or "", re.MULTILINE)
    }
    return re.sub(
        r"^    \{(.*)\}$",
        lambda line: "\n".join(f"    {entries[name]}" for name in line[1].split(", ")),
        inspect.cleandoc(doc),
        flags=re.MULTILINE,
    )


# -- checks -----------------------------------------------------------------------------------------------


def check_params(params: Any) -> None:
    """Raise TypeError unless ``params`` may be parameters or groups: torch would iterate over some modules."""
    if isinstance(params, nn.Module):
        raise TypeError(
            f"params must be parameters or groups of them, got a {type(params).__name__}: take its .parameters(), "
            "or layer_groups(model, plan), which leaves biases and norms neither adapted nor decayed"
        )
    if isinstance(params, (str, bytes, dict)) or not isinstance(params, Iterable):
        hint = ": put the group into a list" if isinstance(params, dict) else ""
        raise TypeError(f"params must be parameters or a list of groups of them, got {shown(params)}{hint}")


def check_options(who: str, group: dict[str, Any], defaults: dict[str, Any], forms: Collection[str]) -> None:
    """Check the options that all rules have; ``add_param_group`` documents the errors.

    Args:
        who: name of the optimizer.
        group: the group to check.
        defaults: defaults of the optimizer.
        forms: paths for which the rule has a form.
    """
    if group["lr"] is None:
        raise ValueError(f"lr must be given, to {who} or in every parameter group")
    check_number("lr", group["lr"])
    for flag in ("layer_adaptation", "maximize", "capturable", "differentiable"):
        check_flag(flag, group[flag])
    for flag in ("foreach", "fused"):
        check_flag(flag, group[flag], optional=True)
    if group["differentiable"] != defaults["differentiable"]:
        raise ValueError(
            f"differentiable must be the same in all groups, got {group['differentiable']} and "
            f"{defaults['differentiable']}"
        )
    devices = sorted({str(p.device) for p in group["params"]})
    if group["capturable"] and len(devices) > 1:
        raise ValueError(f"params must be on one device in a group with capturable=True, got {', '.join(devices)}")
    for flag in ("foreach", "fused"):
        if group[flag] and group["differentiable"]:
            raise ValueError(f"{flag} must be None or False where differentiable=True, got True")
    if group["fused"]:
        _check_fused(who, group, forms)
    if isinstance(group["lr"], Tensor) and group["foreach"] and not group["capturable"]:
        raise ValueError("lr must be a number where foreach=True and capturable=False, got a tensor")
    for p in group["params"]:
        if p.is_complex() or (p.requires_grad and not p.is_floating_point()):
            raise TypeError(f"params must be real floating point tensors, got one of {p.dtype} in {who}")


def check_tensors(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise ValueError if an option is a tensor that the step could not use."""
    known = (*defaults, *Phi._fields)  # TVLARS has no defaults of d_e and λ, which may follow from total_steps
    options = {name: x for name, x in group.items() if name in known}
    betas = options.pop("betas", ())
    options.update({f"betas[{i}]": x for i, x in enumerate(betas if isinstance(betas, (tuple, list)) else ())})
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


def _check_fused(who: str, group: dict[str, Any], forms: Collection[str]) -> None:
    if group["foreach"]:
        raise ValueError("foreach must not be True where fused=True")
    devices = {p.device for p in group["params"]}
    elsewhere = sorted({device.type for device in devices} - {"cpu", *availability.DEVICE_TYPES})
    if elsewhere:
        raise RuntimeError(
            f"fused=True needs parameters on the CPU or a CUDA device, and {who} got some on "
            f"{', '.join(elsewhere)}: there is no fused kernel for those yet, leave fused=None"
        )
    for device in devices:
        if device.type not in availability.DEVICE_TYPES:
            if group["capturable"]:
                raise ValueError("capturable must not be True where fused=True, for parameters on the CPU")
        elif reason := availability.why_not(device) if "triton" in forms else f"{who} has no Triton kernels":
            availability.warn_once(
                f"fused=True takes the multi-tensor path on {device}: {reason}", _stacklevel_of_caller()
            )


def warn_raw_lr(group: dict[str, Any]) -> bool:
    """Warn, and return True, if parameters that are not adapted would use a learning rate as large as LARS's."""
    if group["layer_adaptation"] or not group["params"]:
        return False
    lr = float(group["lr"].detach()) if isinstance(group["lr"], Tensor) else float(group["lr"])
    if lr <= 1.0:
        return False
    warnings.warn(
        f"{len(group['params'])} parameters that are not adapted (biases, norms) use lr = {lr:g} as "
        "it is, without a trust ratio of about 1e-3. Give their group a smaller lr, for example "
        "layer_groups(model, weight_decay=..., lr=lr, bias_norm_lr_scale=0.03).",
        stacklevel=_stacklevel_of_caller(),
    )
    return True


def _stacklevel_of_caller() -> int:
    """Return the ``stacklevel`` that makes a warning point at the first frame outside torch and tvlars."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "tvlars"):
        level, frame = level + 1, frame.f_back
    return level
