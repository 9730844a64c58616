"""Loading of a model's weights from a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from tvlars._checks import one_line
from tvlars.lab import memory
from tvlars.lab.errors import UsageError
from tvlars.lab.models.head import head_of

WRAPPERS = ("state_dict", "model")
"""Entries of a checkpoint that contain the model's state dict."""
PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DDP and torch.compile put before names."""
SHOWN = 3
"""Most names of each kind in an error."""


def load_weights(model: nn.Module, file: Path, name: str) -> str:
    """Load a state dict into a model with its ``load_state_dict``; a classifier for other classes is left out.

    Args:
        file: file written by ``torch.save``, read with ``weights_only=True``, or a .safetensors file.
        name: name of the model, for errors.

    Returns:
        A description, which also says if the classifier was left out.

    Raises:
        UsageError: the file is missing, damaged or not a state dict, or its entries do not fit the model.
    """
    state, own = _read(file), model.state_dict()
    left = ""
    for key in _head_keys(model):
        there = state.get(key)
        if there is not None and there.shape[1:] == own[key].shape[1:] and len(there) != len(own[key]):
            left = f" without their classifier of {len(there):,} classes"
            state[key] = own[key]
    missing, extra = [key for key in own if key not in state], [key for key in state if key not in own]
    other = [
        f"{key} ({_shape(state[key])} there, {_shape(own[key])} here)"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    said = [f"{what} {_some(keys)}" for what, keys in (("lacks", missing), ("also has", extra), ("has", other)) if keys]
    if said:
        raise UsageError(f"weights must fit the model {name}, but {str(file)!r} {' and '.join(said)}")
    model.load_state_dict(state)
    return f"weights of {file.name}{left}"


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UsageError(f"weights {str(file)!r} need the package safetensors: {error}") from error
    except OSError as error:
        raise UsageError(f"weights must be a readable file, got {str(file)!r}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"weights must be a state dict, tensors by name, but {str(file)!r} contains other objects, which are not "
            "loaded"
        ) from error
    except Exception as error:  # torch and safetensors raise errors of many types for a damaged file
        if memory.has_ended(error):
            raise
        raise UsageError(f"weights {str(file)!r} cannot be read: {one_line(error)}") from error
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        raise UsageError(f"weights must be a state dict, tensors by name, but {str(file)!r} contains something else")
    state = dict(found)
    for prefix in PREFIXES:
        consume_prefix_in_state_dict_if_present(state, prefix)
    return state


def _head_keys(model: nn.Module) -> list[str]:
    try:
        path, head = head_of(model)
    except UsageError:
        return []
    return [f"{path}.{key}" for key in head.state_dict()]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
