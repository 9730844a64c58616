"""Names of models: the kind of each name, and its builder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.imported import GIVEN, is_import_path, load_object, said_path, spelled_path
from tvlars.lab.models.named import MODELS

TIMM, TORCHVISION = "timm:", "torchvision:"
FORMS = ("timm:NAME", "torchvision:NAME", "./file.py:NAME")
"""Forms of a model's name other than the keys of ``MODELS``."""
ALIASES = {"channels": ("in_channels", "in_chans"), "image_size": ("img_size",), "classes": ("num_classes",)}
"""Usual names of builders' arguments, by the argument name in this package."""

Builder = Callable[..., Any]


def check_model_name(name: Any) -> None:
    """Raise ``UsageError`` unless ``name`` has the form of a model's name; nothing is imported."""
    if isinstance(name, str) and (name in MODELS or is_import_path(name)):
        return
    if not isinstance(name, str) or not name.startswith((TIMM, TORCHVISION, GIVEN)) or name.endswith(":"):
        raise unknown("model", name, [*MODELS, *FORMS])


def spelled_model(name: str) -> str:
    """Return the normalized name of a model, with absolute paths of builders' files."""
    return spelled_path(name) if has_code(name) else name


def said_model(name: str) -> str:
    """Return a model's name for tables and pages, with builders' files without their folder."""
    return said_path(name) if has_code(name) else name


def has_code(name: str) -> bool:
    """Return True if a model's name is the import path of a user's builder."""
    return name not in MODELS and not name.startswith((TIMM, TORCHVISION, GIVEN))


def given_name(model: nn.Module | Builder) -> str:
    """Return the name of a model that was given as a module or a builder, as in "given:Net"."""
    return f"{GIVEN}{type(model).__name__ if isinstance(model, nn.Module) else _name_of(model)}"


def builder_of(name: str, given: nn.Module | Builder | None = None) -> Builder:
    """Return the function that builds the model ``name``.

    Raises:
        UsageError: the name is unknown, there is nothing at its import path, or the name refers to a module that was
            given in Python, and ``given`` is None.
    """
    check_model_name(name)
    if name in MODELS:
        return MODELS[name]
    if name.startswith(TIMM):
        from tvlars.lab.models.timm_models import build_timm

        return partial(build_timm, name.removeprefix(TIMM))
    if name.startswith(TORCHVISION):
        from tvlars.lab.models.torchvision_models import build_torchvision

        return partial(build_torchvision, name.removeprefix(TORCHVISION))
    if name.startswith(GIVEN):
        if given is None:
            raise UsageError(
                "model must be given again, as in train(config, model=...) or load_run(folder, model=...), since it "
                f"was the {name.removeprefix(GIVEN)} that train was called with"
            )
        return given
    found = load_object(name, "model")
    if isinstance(found, nn.Module):
        raise UsageError(
            f"model must be a function or class that builds a model, but {said_path(name)} is an existing module, "
            "which would be the same for every seed"
        )
    if inspect.isclass(found) and not issubclass(found, nn.Module):
        raise UsageError(f"model must be a class of nn.Module, or a function, but {said_path(name)} is another class")
    if not callable(found) or inspect.isbuiltin(found):
        raise UsageError(f"model must be a function or class, but {said_path(name)} is of type {type(found).__name__}")
    built: Builder = found
    return built


def taken_arguments(builder: Builder, name: str, ours: dict[str, Any]) -> dict[str, Any]:
    """Return those of the arguments ``ours`` that a user's builder accepts, under the builder's argument names.

    Raises:
        UsageError: the builder requires another argument.
    """
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (ValueError, TypeError):  # of a builtin
        parameters = {}.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    by_name = {alias: own for own in ours for alias in (own, *ALIASES.get(own, ()))}
    taken = {p.name: ours[by_name[p.name]] for p in named if p.name in by_name}
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if lacking := [one for one in wanted if one not in taken]:
        raise UsageError(
            f"model {said_model(name)} must need no arguments other than channels, image_size and classes, but it also "
            f"needs {', '.join(lacking)}"
        )
    return taken


def _name_of(builder: Any) -> str:
    return str(getattr(builder, "__name__", type(builder).__name__))
