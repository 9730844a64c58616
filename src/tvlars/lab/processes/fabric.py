"""Imports Lightning Fabric without torchmetrics, which it would import whole, where it is there, to read its version.

torchmetrics brings torchvision and scipy: about half of the time that a command takes to start.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from importlib import metadata

from tvlars._environment import check_early


def import_fabric() -> None:
    """Import ``lightning_fabric`` while a module with nothing but the version stands for torchmetrics.

    Raises:
        VariableError: an environment variable that Fabric reads then is no number.
    """
    if "lightning_fabric" in sys.modules or "torchmetrics" in sys.modules:
        return
    check_early()
    spec = importlib.util.find_spec("torchmetrics")
    if spec is None:
        return
    stands_in = types.ModuleType("torchmetrics")
    stands_in.__spec__ = spec
    stands_in.__version__ = metadata.version("torchmetrics")  # type: ignore[attr-defined]
    sys.modules["torchmetrics"] = stands_in
    try:
        import lightning_fabric  # noqa: F401
    finally:
        del sys.modules["torchmetrics"]


import_fabric()
