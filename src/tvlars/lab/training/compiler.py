"""torch.compile, and one sentence for errors of its compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tvlars.lab.errors import UsageError


def compiled(model: nn.Module) -> Any:
    """Return the model; torch compiles it on its first call."""
    try:
        return torch.compile(model)
    except RuntimeError as error:  # Python is too new for torch's compiler
        raise cannot_compile(error) from error


def is_compilers(error: Exception) -> bool:
    """Return True if an error is one of torch's compiler."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    return isinstance(error, TorchDynamoException)


def cannot_compile(error: Exception) -> UsageError:
    """Return an error with the reason why the model cannot be compiled."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if not line.startswith("backend=")), type(error).__name__)
    return UsageError(f"compile must be false on this machine, whose compiler does not work: {reason:.200}")
