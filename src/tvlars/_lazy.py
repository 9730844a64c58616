"""Packages whose public names are imported on first use, so that importing the package itself is quick."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """Package that imports a module when one of the module's public names is first used.

    All its public modules are attributes too, so ``import tvlars`` is enough for ``tvlars.sharpness``.
    """

    _modules: dict[str, str]
    """The module of each name."""

    def __getattr__(self, name: str) -> Any:
        module = vars(self).get("_modules", {}).get(name)
        if module is not None:
            value = getattr(self._imported(module), name)
        elif not name.startswith("_") and importlib.util.find_spec(f"{self.__name__}.{name}"):
            value = self._imported(f"{self.__name__}.{name}")
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def _imported(self, module: str) -> ModuleType:
        """Import a module; if a package is missing, raise an error that names the extra that installs it."""
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            extra = vars(self).get("_extra")
            if not extra or error.name is None or error.name.partition(".")[0] == "tvlars":
                raise
            said = f"{self.__name__} needs {error.name!r}: pip install '.[{extra}]' in the source folder"
            raise ModuleNotFoundError(said, name=error.name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep a function like ``tvlars.plan`` where Python binds the module of the same name after importing it."""
        if isinstance(value, ModuleType) and name in vars(self).get("_modules", {}):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> Iterable[str]:
        own = vars(self)
        return sorted({*(name for name in own if name.startswith("__")), *own["__all__"], *own["_public"]})


def import_when_asked(
    package: str, names: Mapping[str, Iterable[str]], modules: Iterable[str] = (), extra: str = ""
) -> None:
    """Make the public names of ``package`` lazy; its ``__init__.py`` calls this.

    Args:
        package: ``__name__`` of the package.
        names: public names by module. Type checkers need them imported under TYPE_CHECKING too.
        modules: public modules of the package, which ``dir`` lists beside ``__all__``. Completion imports what is
            listed, so they must not need another extra.
        extra: extra that all names need; the error for a missing package names it.
    """
    module = sys.modules[package]
    vars(module)["_modules"] = {name: source for source, some in names.items() for name in some}
    vars(module).update(_public=tuple(modules), _extra=extra)
    module.__class__ = LazyPackage
