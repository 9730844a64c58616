"""Classifier of a model: found and replaced."""

from __future__ import annotations

from typing import Any

from torch import nn

from tvlars.lab.errors import UsageError


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the name and the module of a model's classifier.

    This is the result of timm's ``get_classifier()`` if the model has this method, else the last linear layer.

    Raises:
        UsageError: the classifier is not a linear layer with a bias.
    """
    get: Any = getattr(model, "get_classifier", None)
    if callable(get):
        found = get()
        names = [name for name, module in model.named_modules() if module is found]
        what = f"is {_kind(found)}"
    else:
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
        found = model.get_submodule(names[0]) if names else None
        what = "has no linear layer"
    if isinstance(found, nn.Linear) and names and names[0] and found.bias is not None:
        return names[0], found
    if isinstance(found, nn.Linear):
        what = "is the whole model" if names == [""] else "has no bias"
    raise UsageError(
        f"model must end in a linear layer with a bias, which can be removed, but the classifier of "
        f"{type(model).__name__} {what}"
    )


def put_head(model: nn.Module, name: str, head: nn.Module) -> None:
    """Replace the classifier found by :func:`head_of`; with ``nn.Identity()``, outputs are features (n, d)."""
    owner, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(owner), own_name, head)


def _kind(found: object) -> str:
    if isinstance(found, (tuple, list)):
        return f"{len(found)} layers"
    return f"of type {type(found).__name__}"
