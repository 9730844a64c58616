"""Types of the arguments that the transformations share, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from tvlars import _checks

Scalar: TypeAlias = float | jax.Array
"""A number, or what ``optax.inject_hyperparams`` makes of one."""

Schedule: TypeAlias = Callable[[Any], Any]
"""From the count of steps taken so far, 0 at the first, to a number."""

Mask: TypeAlias = Any
"""A tree of booleans, shaped as the parameters or a prefix of that, or a function from parameters to such a tree."""


def check_number(name: str, value: Any, **limits: Any) -> None:
    """Raise ``ValueError`` as the PyTorch classes do; a value that JAX is tracing is not known yet and passes."""
    if not isinstance(value, jax.core.Tracer):
        _checks.check_number(name, value, **limits)


def check_rate(learning_rate: Any) -> None:
    """Raise ``ValueError`` unless the learning rate is a number >= 0 or a schedule."""
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate)
