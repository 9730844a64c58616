"""Types and checks of the arguments that the transformations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from tvlars import _checks

Scalar: TypeAlias = float | jax.Array
"""A number, or the array that ``optax.inject_hyperparams`` makes of a number."""

Schedule: TypeAlias = Callable[[Any], Any]
"""Function from the number of steps taken so far, 0 at the first step, to a number."""

Mask: TypeAlias = Any
"""A tree of booleans with the structure of the parameters or a prefix of it, or a function that returns such a tree."""


def check_number(name: str, value: Any, **limits: Any) -> None:
    """Raise ``ValueError`` like the PyTorch classes; a value that JAX traces is unknown, so it is not checked."""
    if not isinstance(value, jax.core.Tracer):
        _checks.check_number(name, value, **limits)


def check_rate(learning_rate: Any) -> None:
    """Raise ``ValueError`` unless the learning rate is a number >= 0 or a schedule."""
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate)
