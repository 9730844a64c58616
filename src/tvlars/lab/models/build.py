"""Models built for images and classes, and checked before they are trained."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tvlars.lab.errors import UsageError
from tvlars.lab.imported import GIVEN, refused
from tvlars.lab.models.head import head_of, put_head
from tvlars.lab.models.init import initialize
from tvlars.lab.models.source import Builder, builder_of, has_code, said_model, taken_arguments
from tvlars.lab.models.weights import load_weights

Model = nn.Module | Builder
"""A model given in Python: a module, or a function that builds one."""


def build_model(
    name: str,
    channels: int,
    image_size: int,
    classes: int,
    init: str = "default",
    *,
    stem: str | None = None,
    pretrained: bool = False,
    weights: Path | None = None,
    given: Model | None = None,
) -> tuple[nn.Module, str]:
    """Return the model ``name`` for images of ``channels`` x ``image_size`` x ``image_size``, and a description.

    Args:
        name: a key of ``MODELS``, timm:NAME, torchvision:NAME, the import path of a builder, or given:NAME.
        init: a key of ``INITS``.
        stem: "standard" or "small"; None (default): the builder chooses.
        pretrained: load the builder's own weights.
        weights: file of a state dict to load; None (default): none.
        given: the module, which is copied, or the builder that given:NAME refers to.

    Raises:
        UsageError: the name is unknown, or the model cannot be built with these arguments.
    """
    builder = builder_of(name, given)
    ours = {"channels": channels, "image_size": image_size, "classes": classes}
    asked = {"stem": stem, "pretrained": pretrained or None}
    asked = {option: value for option, value in asked.items() if value is not None}
    if isinstance(builder, nn.Module):
        _refuse(asked, name, "it is built already")
        built: Any = copy.deepcopy(builder)
    else:
        own = has_code(name) or name.startswith(GIVEN)
        takes = _parameters(builder)
        _refuse([one for one in asked if one not in takes], name, "whose builder has no such argument")
        built = (
            _call(builder, taken_arguments(builder, name, ours | asked), name)
            if own
            else builder(*ours.values(), **asked)
        )
    model, description = built if isinstance(built, tuple) and len(built) == 2 else (built, type(built).__name__)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model {said_model(name)} must return an nn.Module, got an object of type {_type(model)}")
    if any(is_lazy(p) for p in model.parameters()):
        with torch.no_grad():
            model(torch.zeros(2, channels, image_size, image_size))
    initialize(model, init)
    texts = [description] if init == "default" else [description, f"{init} weights"]
    if pretrained:
        texts.append("pretrained")
    if weights is not None:
        texts.append(load_weights(model, weights, said_model(name)))
    count = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    return model, f"{said_model(name)}: {', '.join([texts[0], count, *texts[1:]])}"


@cache  # compared runs mostly have the same model
def check_model(
    name: str, channels: int, image_size: int, classes: int, *, features: bool = False, **options: Any
) -> None:
    """Build a model by :func:`build_model` with ``options``, and test it on two black images.

    Args:
        features: True if the classifier will be removed for self-supervised learning.

    Raises:
        UsageError: the model cannot be built, does not accept images of this shape, or does not return logits
            (n, classes); or, with ``features``, has no linear classifier that can be removed.
    """
    said, shape = said_model(name), (2, channels, image_size, image_size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model, _ = build_model(name, channels, image_size, classes, **options)
        images = torch.zeros(shape)
        for training in (True, False):
            out = _outputs(model.train(training), images, said)
            if not _is_batch(out, classes):
                raise UsageError(
                    f"model {said} must return logits, a float tensor of shape (n, {classes}) for n images, but for "
                    f"two images of {channels} x {image_size} x {image_size} it returns {_describe(out)}"
                )
        if features:
            path, head = head_of(model)
            last: list[Tensor] = []
            with head.register_forward_hook(lambda module, inputs, output: last.append(output)):
                out = _outputs(model, images, said)
            put_head(model, path, nn.Identity())
            if not (last and torch.equal(last[-1], out) and _is_batch(_outputs(model, images, said), head.in_features)):
                raise UsageError(
                    f"model {said} must end in a linear layer, which can be removed, but its last one, {path}, does "
                    f"not map features of shape (n, {head.in_features}) to the output of the model"
                )


def _outputs(model: nn.Module, images: Tensor, said: str) -> Any:
    channels, size = images.shape[1:3]
    shape = f"{channels} x {size} x {size}"
    with refused(f"model {said} does not accept images of {shape}; another image_size may work"):
        return model(images)


def _call(builder: Builder, arguments: dict[str, Any], name: str) -> Any:
    with refused(f"model {said_model(name)} cannot be built"):
        return builder(**arguments)


def _refuse(options: Any, name: str, reason: str) -> None:
    for option in options:
        raise UsageError(f"{option} must not be given for model {said_model(name)}, {reason}")


def _parameters(builder: Builder) -> set[str]:
    try:
        return set(inspect.signature(builder).parameters)
    except (ValueError, TypeError):  # of a builtin
        return set()


def _is_batch(out: Any, width: int) -> bool:
    return isinstance(out, Tensor) and out.is_floating_point() and tuple(out.shape) == (2, width)


def _describe(out: Any) -> str:
    if isinstance(out, Tensor):
        return f"{str(out.dtype).removeprefix('torch.')} of shape {tuple(out.shape)}"
    return f"an object of type {_type(out)}"


def _type(value: Any) -> str:
    return type(value).__name__
