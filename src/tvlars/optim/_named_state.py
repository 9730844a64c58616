"""Matching a saved optimizer state by parameter name instead of by position."""

from __future__ import annotations

from typing import Any


def reorder_by_name(state_dict: dict[str, Any], param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    """``state_dict`` with its parameters in the order that ``param_groups`` have, matched by name.

    It is returned as it came where either side has no names or one twice, or where the groups differ in number
    (torch says so). Nothing that was given is modified.

    Raises:
        ValueError: the names differ; all that are missing or extra, or in another group, are listed.
    """
    saved_groups = state_dict["param_groups"]
    groups = [*saved_groups, *param_groups]
    if len(saved_groups) != len(param_groups) or not all("param_names" in group for group in groups):
        return state_dict
    for side in (saved_groups, param_groups):
        names = [name for group in side for name in group["param_names"]]
        if len(set(names)) < len(names):  # as of two modules' named_parameters()
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
