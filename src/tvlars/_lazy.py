"""Packages whose public names are imported when they are first asked for: importing the package itself is quick."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package whose names come from its modules, each module imported when one of its names is first asked for.

    All its public modules are attributes too, so ``import tvlars`` is enough for ``tvlars.sharpness``.
    """

    _modules: dict[str, str]
    """The module of each name."""

    def __getattr__(self, name: str) -> Any:
        module = vars(self).get("_modules", {}).get(name)
        if module is not None:
            value = getattr(importlib.import_module(module), name)
        elif not name.startswith("_") and importlib.util.find_spec(f"{self.__name__}.{name}"):
            value = importlib.import_module(f"{self.__name__}.{name}")
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep a function like ``tvlars.plan`` where Python binds the module of the same name after importing it."""
        if isinstance(value, ModuleType) and name in vars(self).get("_modules", {}):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> Iterable[str]:
        return sorted({*super().__dir__(), *self._modules, *_children(self)})


def _children(package: LazyPackage) -> set[str]:
    """Return the names of the package's own modules that its names come from.

    ``dir`` lists these alone: completion imports everything that is listed, and other modules need further packages.
    """
    above = f"{package.__name__}."
    modules = vars(package).get("_modules", {}).values()
    return {module.removeprefix(above).partition(".")[0] for module in modules if module.startswith(above)}


def import_when_asked(package: str, names: Mapping[str, Iterable[str]]) -> None:
    """Make the public names of ``package`` lazy; its ``__init__.py`` calls this.

    Args:
        package: its ``__name__``.
        names: by module, the names that come from it. Type checkers need them imported under TYPE_CHECKING too.
    """
    module = sys.modules[package]
    vars(module)["_modules"] = {name: source for source, some in names.items() for name in some}
    module.__class__ = LazyPackage
