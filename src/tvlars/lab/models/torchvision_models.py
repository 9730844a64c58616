"""Models of torchvision for images of any number of channels and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tvlars.lab.errors import unknown
from tvlars.lab.imported import refused
from tvlars.lab.models.head import head_of, put_head
from tvlars.lab.models.stem import fit_stem

AUXILIARY = ("googlenet", "inception_v3")
"""Models with auxiliary classifiers, which are removed, since a model must return one tensor."""


def build_torchvision(
    name: str, channels: int, image_size: int, classes: int, stem: str | None = None, pretrained: bool = False
) -> tuple[nn.Module, str]:
    """Build the classification model ``name`` of torchvision.

    Args:
        stem: "standard" (default) or "small", see :func:`~tvlars.lab.models.stem.fit_stem`.
        pretrained: load torchvision's weights of the model from its cache or the network; a classifier for another
            number of classes is replaced by a new one.

    Raises:
        UsageError: there is no model ``name``, or none for these images, or the weights cannot be loaded.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("model of torchvision", name, known)
    options: dict[str, Any] = {"num_classes": classes}
    if name in AUXILIARY:
        options |= {"aux_logits": False, "init_weights": not pretrained}
    elif name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    if pretrained:
        model = _pretrained(name, {key: value for key, value in options.items() if key != "num_classes"})
        path, head = head_of(model)
        if head.out_features != classes:
            put_head(model, path, nn.Linear(head.in_features, classes))
    else:
        with refused(f"model torchvision:{name} cannot be built for images of image_size {image_size}"):
            model = models.get_model(name, **options)
    said = fit_stem(model, channels, stem or "standard", name, keep=pretrained)
    return model, f"torchvision's, {said}"


def _pretrained(name: str, options: dict[str, Any]) -> Any:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    wanted = f"must be at {str(file)!r} or to be downloaded from {weights.url}, but they could not be loaded"
    with refused(f"pretrained weights of torchvision's {name} {wanted}"):
        return models.get_model(name, weights=weights, **options)
