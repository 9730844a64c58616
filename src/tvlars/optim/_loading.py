"""States that an optimizer can load: its own, also from older versions or in another order, and other optimizers'.

A state is checked before anything in the optimizer changes. From other optimizers' states only moments and step counts
are loaded: their options have other meanings under the same names, so ours stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tvlars._checks import has_value, shown

THEIRS = frozenset(
    (
        *("dampening", "eta", "trust_coeff", "trust_clip", "always_adapt"),  # of other libraries' LARS
        *("grad_averaging", "max_grad_norm", "amsgrad", "weight_decouple", "fixed_decay", "caution"),  # LAMB, Adam
    )
)
"""Options that only optimizers of other libraries have."""


@dataclass(frozen=True)
class Kind:
    """The state of one of our optimizers, and the options by which it and equivalent states are recognized."""

    title: str
    options: frozenset[str]
    """Options that groups of this kind have in every version."""
    tensors: tuple[str, ...]
    """Names of the state tensors of a parameter."""
    counts: bool = False
    """True if each parameter also has a step count."""
    clock: bool = False
    """True if each group has a clock."""
    foreign: frozenset[str] = frozenset()
    """Options that mark another kind, whose groups have all ``options`` of this kind too."""
    akin: frozenset[str] = frozenset()
    """Options; every group of another optimizer has one or more of them if its tensors mean the same."""


def prepared(state_dict: Any, kind: Kind, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``state_dict`` as this version writes it, with step counts as integers. The arguments are not modified.

    Args:
        state_dict: the state to load.
        kind: kind of the optimizer that loads it.
        groups: parameter groups of that optimizer.

    Raises:
        ValueError: it is no state of such an optimizer, and none that could be converted; its names differ.
    """
    check_form(state_dict)
    state_dict = reorder_by_name(state_dict, groups)
    saved = state_dict["param_groups"]
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in groups]:
        return dict(state_dict)  # torch raises the error
    state = _by_id(state_dict["state"], saved)
    if all(kind.options <= set(group) and not (THEIRS | kind.foreign) & set(group) for group in saved):
        new_groups = [_with_clock(group, kind) if kind.clock else dict(group) for group in saved]
    else:
        state = _taken_over(state, saved, kind)
        new_groups = [{**here, "params": there["params"]} for there, here in zip(saved, groups, strict=True)]
    names = {
        index: (name, p)
        for there, here in zip(saved, groups, strict=True)
        for index, name, p in zip(there["params"], _names(here), here["params"], strict=True)
    }
    return {
        **state_dict,
        "state": {index: _entry(entry, kind, *names[index]) for index, entry in state.items()},
        "param_groups": new_groups,
    }


def check_form(state_dict: Any) -> None:
    """Raise ValueError unless ``state_dict`` has the form of an optimizer's state."""
    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= set(state_dict):
        has = ", ".join(map(str, list(state_dict)[:4])) if isinstance(state_dict, dict) else type(state_dict).__name__
        raise ValueError(f"state_dict must have 'state' and 'param_groups', as optimizer.state_dict() has, got {has}")
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(state, dict) or not all(isinstance(entry, dict) for entry in state.values()):
        raise ValueError("state_dict['state'] must be a dictionary with one for each parameter in it")
    lists = isinstance(groups, (list, tuple)) and all(
        isinstance(group, dict) and isinstance(group.get("params"), (list, tuple)) for group in groups
    )
    if not lists:
        raise ValueError("state_dict['param_groups'] must be a list of dictionaries, each with its list 'params'")
    for group in groups:
        if "param_names" in group and len(group["param_names"]) != len(group["params"]):
            count = f"{len(group['param_names'])} for {len(group['params'])}"
            raise ValueError(f"state_dict['param_groups'] must have a name for each parameter, got {count}")


def step_count(value: Any, where: str) -> int | Tensor:
    """Return ``value`` as an integer: a number of Python or NumPy, or a tensor of one element of any dtype.

    Raises:
        ValueError: ``value`` is no whole number of steps.
    """
    number = value
    if isinstance(value, Tensor) and not has_value(value):
        return value.detach().clone().to(torch.int64)
    if isinstance(value, Tensor) or (hasattr(value, "item") and hasattr(value, "dtype")):
        number = value.item() if math.prod(value.shape) == 1 else None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63:
        return number
    raise ValueError(f"{where} must be a whole number of steps, from 0 to 2**63 - 1, got {shown(value)}")


def _by_id(state: dict[Any, Any], saved: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return the state by the numbers of the groups' parameters, which JSON turns into strings."""
    known = {index for group in saved for index in group["params"]}
    found, lost = {}, []
    for key, entry in state.items():
        index = int(key) if isinstance(key, str) and key not in known and key.isdecimal() else key
        if index in known:
            found[index] = entry
        else:
            lost.append(key)
    if lost:
        raise ValueError(f"state_dict must have state of its groups' parameters alone, but has that of {_list(lost)}")
    return found


def _with_clock(group: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Return the group of a TVLARS with its clock, which older versions called "step"."""
    group = dict(group)
    if "clock" not in group:
        if "step" not in group:
            raise _no_state_of(kind, "it has no step count in its parameter groups")
        group["clock"] = group.pop("step")
    group["clock"] = step_count(group["clock"], "the clock of a parameter group in state_dict")
    return group


def _taken_over(state: dict[Any, Any], saved: list[dict[str, Any]], kind: Kind) -> dict[Any, dict[str, Any]]:
    """Return the state of another optimizer under our names."""
    options = {name for group in saved for name in group} - {"params", "param_names"}
    if kind.clock:
        raise _no_state_of(kind, f"it has no step count in its parameter groups, which have {_list(sorted(options))}")
    if not all(kind.akin & set(group) for group in saved):  # as for SGD, whose momentum contains no trust ratio
        raise _no_state_of(kind, f"its parameter groups have {_list(sorted(options))}")
    taken: dict[Any, dict[str, Any]] = {}
    group_of = {index: group for group in saved for index in group["params"]}
    for index, group in group_of.items():
        entry = {name: x for name, x in state.get(index, {}).items() if x is not None}
        if not entry:
            continue
        if "mu" in entry:  # the published LARS
            entry["momentum_buffer"] = entry.pop("mu")
        if kind.counts and "step" not in entry and "step" in group:  # timm, apex: one count per group
            entry["step"] = group["step"]
        wanted = (*kind.tensors, *(["step"] if kind.counts else []))
        if (kind.counts and set(entry) != set(wanted)) or set(entry) - set(wanted):
            raise _no_state_of(
                kind, f"a parameter has {_list(sorted(entry))} in it, where {_list([*wanted])} can be used"
            )
        taken[index] = entry
    return taken


def _entry(entry: dict[str, Any], kind: Kind, name: str, p: Tensor) -> dict[str, Any]:
    """Return the state of one parameter, checked against the parameter."""
    where = f"state_dict, for {name}"
    entry = {key: x for key, x in entry.items() if not (x is None and key in kind.tensors)}
    there = [key for key in kind.tensors if key in entry]
    if kind.counts and (there or "step" in entry):
        missing = [key for key in (*kind.tensors, "step") if key not in entry]
        if missing:
            raise ValueError(f"{where}, must have {', '.join((*kind.tensors, 'step'))}, but lacks {', '.join(missing)}")
        entry["step"] = step_count(entry["step"], f"step in {where}")
    for key in there:
        x = entry[key]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind_of = f"one of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{key} in {where}, must be a tensor of real floating point numbers, got {kind_of}")
        if x.shape != p.shape:
            raise ValueError(
                f"{key} in {where}, must have the parameter's shape {tuple(p.shape)}, got {tuple(x.shape)}"
            )
    return entry


def _names(group: dict[str, Any]) -> Iterator[str]:
    names = group.get("param_names")
    yield from names or (f"parameter {i} of its group" for i in range(len(group["params"])))


def _no_state_of(kind: Kind, reason: str) -> ValueError:
    return ValueError(f"state_dict must be of {kind.title}, but {reason}")


def _list(names: list[Any]) -> str:
    shown = ", ".join(map(str, names[:8]))
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


# -- parameters matched by name ---------------------------------------------------------------------------------


def reorder_by_name(state_dict: dict[str, Any], param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``state_dict`` with its parameters in the order of ``param_groups``, matched by name.

    It is returned unchanged if either side has no names or a duplicate name, or if the numbers of groups differ, for
    which torch raises an error. The arguments are not modified.

    Raises:
        ValueError: the names differ; all that are missing or extra, or in another group, are listed.
    """
    saved_groups = state_dict["param_groups"]
    groups = [*saved_groups, *param_groups]
    if len(saved_groups) != len(param_groups) or not all("param_names" in group for group in groups):
        return state_dict
    for side in (saved_groups, param_groups):
        names = [name for group in side for name in group["param_names"]]
        if len(set(names)) < len(names):  # as from named_parameters() of two modules
            return state_dict
    saved = _group_of_name(saved_groups)
    current = _group_of_name(param_groups)
    complaints = []
    if missing := [name for name in current if name not in saved]:
        complaints.append(f"it lacks {', '.join(missing)}")
    if extra := [name for name in saved if name not in current]:
        complaints.append(f"it has {', '.join(extra)}, which the optimizer has not")
    for name in current:
        if name in saved and saved[name] != current[name]:
            complaints.append(f"{name} is in group {saved[name]} there and in group {current[name]} here")
    if complaints:
        raise ValueError(f"state_dict must have the parameters of the optimizer, but {'; '.join(complaints)}")

    reordered = []
    for there, here in zip(saved_groups, param_groups, strict=True):
        index = dict(zip(there["param_names"], there["params"], strict=True))
        names = list(here["param_names"])
        reordered.append({**there, "params": [index[name] for name in names], "param_names": names})
    return {**state_dict, "param_groups": reordered}


def _group_of_name(groups: list[dict[str, Any]]) -> dict[str, int]:
    return {name: i for i, group in enumerate(groups) for name in group["param_names"]}
