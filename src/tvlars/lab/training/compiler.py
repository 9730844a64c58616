"""torch.compile, and one sentence for what its compiler raises."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tvlars.lab.errors import UsageError


def compiled(model: nn.Module) -> Any:
    """Return the model, to be compiled when it is first called."""
    try:
        return torch.compile(model)
    except RuntimeError as error:  # of a Python that torch's compiler does not know yet
        raise cannot_compile(error) from error


def is_compilers(error: Exception) -> bool:
    """Return whether an error is one of torch's compiler."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import, where nothing has been compiled

    return isinstance(error, TorchDynamoException)


def cannot_compile(error: Exception) -> UsageError:
    """Return the error that says in one sentence why a model cannot be compiled."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if not line.startswith("backend=")), type(error).__name__)
    return UsageError(f"compile must be false on this machine, whose compiler does not work: {reason:.200}")
