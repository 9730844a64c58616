"""Argument checks shared by the core: one sentence that names the argument, the range and the value."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def check_number(
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    unit: str = "",
) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite real number between ``low`` and ``high``.

    ``open_low`` and ``open_high`` exclude the bound itself. A one-element tensor counts as a number.
    """
    number = _as_float(value)
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if math.isfinite(number) and above and below:
        return
    parts = [f"{'>' if open_low else '>='} {low:g}"] if math.isfinite(low) else []
    if math.isfinite(high):
        parts.append(f"{'<' if open_high else '<='} {high:g}")
    wanted = " and ".join(parts) or "finite"
    raise ValueError(f"{name} must be {wanted}{f' ({unit})' if unit else ''}, got {value!r}")


def check_count(name: str, value: Any, *, low: int = 1, unit: str = "") -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= low:
        return
    raise ValueError(f"{name} must be an integer >= {low}{f' ({unit})' if unit else ''}, got {value!r}")


def check_flag(name: str, value: Any, *, optional: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is True or False (or None, where ``optional``)."""
    if value is True or value is False or (optional and value is None):
        return
    raise ValueError(f"{name} must be {'None, ' if optional else ''}True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _as_float(value: Any) -> float:
    if isinstance(value, Tensor):
        return float(value.detach()) if value.numel() == 1 and not value.is_complex() else math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        try:  # numpy scalars and the like
            return math.nan if isinstance(value, (bool, str, bytes)) else float(value)
        except (TypeError, ValueError):
            return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond the floats
        return math.inf
