"""Methods of self-supervised learning by name. To add one, write a subclass of ``Method`` and enter it here."""

import math

from torch import nn

from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.ssl.methods.barlow_twins import BarlowTwins
from tvlars.lab.ssl.methods.byol import BYOL
from tvlars.lab.ssl.methods.method import Method, parse_widths
from tvlars.lab.ssl.methods.simclr import SimCLR
from tvlars.lab.ssl.methods.vicreg import VICReg

__all__ = [
    "BYOL",
    "METHODS",
    "BarlowTwins",
    "Method",
    "SimCLR",
    "VICReg",
    "build_method",
    "parse_options",
    "parse_widths",
]

METHODS: dict[str, type[Method]] = {"barlow-twins": BarlowTwins, "simclr": SimCLR, "vicreg": VICReg, "byol": BYOL}
LARGE, SMALL = "4096-4096-4096", "512-512-512"
"""Default projectors on an accelerator and on a CPU."""


def build_method(
    name: str, backbone: nn.Module, features: int, projector: str | None, options: str | None, on_cpu: bool
) -> tuple[Method, str]:
    """Return the method ``name`` around a backbone with ``features`` outputs, and a line that describes it.

    ``projector`` is text for :func:`parse_widths`; None: ``LARGE``, or ``SMALL`` if the method is trained ``on_cpu``.
    ``options`` is text for :func:`parse_options`. Bad text raises ``UsageError``.
    """
    widths = parse_widths((SMALL if on_cpu else LARGE) if projector is None else projector)
    chosen = parse_options(name, options)
    method = METHODS[name](backbone, features, widths, **chosen)
    said = ", ".join(f"{key} {value:g}" for key, value in method.options.items())
    heads = sum(p.numel() for part in method.HEADS for p in method.get_submodule(part).parameters())
    text = f"{name} ({said}), projector {features}-{'-'.join(map(str, widths))}, {heads:,} parameters in heads"
    return method, text


def parse_options(name: str, text: str | None) -> dict[str, float]:
    """Return the options of the method ``name`` from text such as "lambda_param=0.005,other=1"; others have defaults.

    Raise ``UsageError`` if a name or a value is bad.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    found: dict[str, float] = {}
    for entry in filter(None, (text or "").split(",")):
        key, _, value = entry.partition("=")
        key = key.strip().replace("-", "_")
        if key not in METHODS[name].OPTIONS:
            raise unknown(f"method option of {name}", key, METHODS[name].OPTIONS)
        low, high = METHODS[name].RANGES.get(key, (0.0, math.inf))
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = math.nan
        if not low <= found[key] <= high or math.isinf(found[key]):
            reach = f">= {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise UsageError(f"method option {key} must be a number {reach}, got {value!r}")
    return found
