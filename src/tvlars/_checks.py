"""Argument checks; each error is one sentence that names the argument, the range and the value.

The checks recognize tensors and modules without importing torch: before torch is imported there are none.
"""

from __future__ import annotations

import math
import numbers
import operator
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs


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
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and math.prod(shape) != 1:
        raise ValueError(f"{name} must be a number or a tensor of one element, got one of shape {tuple(shape)}")
    if _is_tensor(value) and (value.is_complex() or str(value.dtype) == "torch.bool"):
        raise ValueError(f"{name} must be a real number, got a tensor of {value.dtype}")
    if _is_tensor(value) and not has_value(value):
        return
    number = _as_float(value)
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if math.isfinite(number) and above and below:
        return
    parts = [f"{'>' if open_low else '>='} {low:g}"] if math.isfinite(low) else []
    if math.isfinite(high):
        parts.append(f"{'<' if open_high else '<='} {high:g}")
    wanted = " and ".join(parts) or "finite"
    raise ValueError(f"{name} must be {wanted}{f' ({unit})' if unit else ''}, got {shown(value)}")


def check_count(name: str, value: Any, *, low: int = 1, unit: str = "") -> int:
    """Return ``value`` as an int; raise ``ValueError`` unless it is an integer, NumPy's too, of at least ``low``."""
    if not (isinstance(value, bool) or _is_tensor(value)):
        try:
            count = operator.index(value)
        except TypeError:
            count = low - 1
        if count >= low:
            return count
    raise ValueError(f"{name} must be an integer >= {low}{f' ({unit})' if unit else ''}, got {shown(value)}")


def check_flag(name: str, value: Any, *, optional: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is True or False (or None, where ``optional``)."""
    if value is True or value is False or (optional and value is None):
        return
    raise ValueError(f"{name} must be {'None, ' if optional else ''}True or False, got {shown(value)}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def shown(value: Any) -> str:
    """Return ``value`` as text for a message: short, on one line, and for data sets with the number of samples."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = ""
    if text and len(text) <= 60 and "\n" not in text and " at 0x" not in text:
        return text
    if isinstance(value, (str, bytes, int)):
        return f"{text[:57]}..." if text else "an integer of thousands of digits"
    kind = f"a {type(value).__name__}"
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].nn.Module):
        return kind
    data = getattr(value, "dataset", value)  # of a DataLoader
    return f"{kind} of {len(data)} samples" if hasattr(data, "__getitem__") and hasattr(data, "__len__") else kind


def one_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__


def has_value(tensor: Tensor) -> bool:
    """Return whether ``tensor`` has elements to read: not on the meta device, nor under a ``FakeTensorMode``."""
    return not (tensor.is_meta or type(tensor).__name__ == "FakeTensor")


def plain_number(value: Any) -> Any:
    """Return a number of another library, such as NumPy, as a Python number, and anything else unchanged."""
    if type(value) in (bool, int, float) or _is_tensor(value):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (numbers.Real, Decimal)):
        return float(value)
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _is_tensor(value: Any) -> TypeIs[Tensor]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_float(value: Any) -> float:
    if _is_tensor(value):
        return float(value.detach()) if value.numel() == 1 and not value.is_complex() else math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        try:  # numpy scalars and the like
            return math.nan if isinstance(value, (bool, str, bytes)) else float(value)
        except (TypeError, ValueError):
            return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer too large for a float
        return math.inf
