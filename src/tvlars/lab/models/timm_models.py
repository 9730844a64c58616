"""Models of timm for images of any number of channels and classes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from tvlars._checks import one_line
from tvlars.lab import memory
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.models.stem import fit_stem

PATIENCE = 5.0
"""Seconds to wait for a server, before weights are searched only in the cache."""


def build_timm(
    name: str, channels: int, image_size: int, classes: int, stem: str | None = None, pretrained: bool = False
) -> tuple[nn.Module, str]:
    """Build the model ``name`` of timm with ``timm.create_model(name, in_chans=..., num_classes=...)``.

    Models for a fixed image size, such as transformers, also get ``img_size``.

    Args:
        stem: "standard" (default) or "small", see :func:`~tvlars.lab.models.stem.fit_stem`.
        pretrained: load timm's weights of the model from Hugging Face's cache or the network.

    Raises:
        UsageError: timm is not installed or has no model ``name`` for these images, or weights cannot be loaded.
    """
    try:
        import timm
    except ImportError as error:
        raise UsageError(f"model timm:{name} needs the package timm, which cannot be imported: {error}") from error
    if not timm.is_model(name):
        raise unknown("model of timm", name, timm.list_models())
    options: dict[str, Any] = {"in_chans": channels, "num_classes": classes}
    try:
        cfg: Any = timm.get_pretrained_cfg(name)
        if cfg is not None and cfg.fixed_input_size:
            options["img_size"] = image_size
        with _cache_alone_without_server() if pretrained else contextlib.nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # timm raises errors of many types for bad arguments
        if memory.has_ended(error):
            raise
        if pretrained:
            raise UsageError(_said_missing(name, error)) from error
        raise UsageError(
            f"model timm:{name} cannot be built for images of {channels} channels and image_size {image_size}: "
            f"{one_line(error)}"
        ) from error
    if stem is None:
        return model, "timm's"
    return model, f"timm's, {fit_stem(model, channels, stem, name)}"


@contextlib.contextmanager
def _cache_alone_without_server() -> Iterator[None]:
    """Make Hugging Face's client use only its cache if the server does not answer, instead of waiting a minute."""
    from huggingface_hub import constants

    server = urlsplit(constants.ENDPOINT)
    away: OSError | None = None
    if not constants.HF_HUB_OFFLINE and not getproxies().keys() & {server.scheme, "all"}:
        try:
            port = server.port or {"http": 80}.get(server.scheme, 443)
            socket.create_connection((server.hostname or "", port), PATIENCE).close()
        except OSError as error:
            away = error
    if away is None:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:
        raise ConnectionError(f"{server.hostname} cannot be reached, {one_line(away)}") from error
    finally:
        constants.HF_HUB_OFFLINE = False


def _said_missing(name: str, error: Exception) -> str:
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        having = timm.list_models(f"{name.partition('_')[0]}*", pretrained=True)[:3]
        near = f"; models with weights: {', '.join(having)}" if having else ""
        return f"pretrained must not be given for model timm:{name}, for which timm has no weights{near}"
    where = f"{cfg.hf_hub_id} of Hugging Face" if cfg.hf_hub_id else str(cfg.file or cfg.url)
    cache = ""
    if cfg.hf_hub_id:
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = f", in the cache {HF_HUB_CACHE!r} or from the network"
    return (
        f"pretrained weights of timm:{name} must be those of {where}{cache}, but they could not be loaded: "
        f"{one_line(error)}"
    )
