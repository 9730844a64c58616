"""Objects of users by import path, and tracebacks of users' code.

An import path is ``package.module.Name``, ``package.module:name`` or ``./file.py:name``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tvlars._checks import one_line
from tvlars._memory import has_ended
from tvlars.lab.errors import UsageError, unknown

FORMS = "package.module.Name, package.module:name or ./file.py:name"
GIVEN = "given:"
"""Beginning of the name of an object that was given in Python; no object can be found by such a name."""
OURS = Path(__file__).parents[1]


def is_import_path(text: object) -> bool:
    """Return True if ``text`` has the form of an import path, also if no object exists there."""
    if not isinstance(text, str):
        return False
    where, colon, name = text.rpartition(":")
    if colon and where.endswith(".py"):
        return name.isidentifier()
    parts = text.replace(":", ".").split(".")
    return len(parts) > 1 and text.count(":") <= 1 and all(part.isidentifier() for part in parts)


def spelled_path(text: str) -> str:
    """Return an import path in its normal spelling: files from the root, so that the working directory may change."""
    where, _, name = text.rpartition(":")
    if not where.endswith(".py"):
        return text
    return f"{_absolute(Path(where))}:{name}"


def short_name(text: str) -> str:
    """Return the last name of an import path, which is fit for file names."""
    return text.replace(":", ".").rpartition(".")[2]


def said_path(text: str) -> str:
    """Return an import path for tables and pages: files without their folder, as in "mine.py:build"."""
    where, _, name = text.rpartition(":")
    return f"{Path(where).name}:{name}" if where.endswith(".py") else text


def load_object(text: str, what: str) -> Any:
    """Return the object at an import path.

    Modules of the working directory are found too. A file is run once, and finds modules beside it.

    Args:
        text: the import path.
        what: name of the option, for errors, as in "optimizer".

    Raises:
        UsageError: ``text`` is no import path, nothing is there, or an installed package cannot be imported.
        Exception: whatever the user's own module raises; :func:`is_theirs` returns True for it.
    """
    if not is_import_path(text):
        raise UsageError(f"{what} must be an import path, as {FORMS}, got {text!r}")
    where, colon, name = text.rpartition(":")
    if where.endswith(".py"):
        return _named(_run_file(_absolute(Path(where)), what, text), [name], what, text)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    if colon:
        return _named(_import(where, what, text), [name], what, text)
    parts = text.split(".")
    module, rest = _longest_module(parts, what, text)
    return _named(module, rest, what, text)


def path_of(found: Any, what: str) -> str:
    """Return the import path of a class or function through its outermost package, as torch.optim.NAdam.

    Raises:
        UsageError: it cannot be imported, such as a function of the running script, or one inside another.
    """
    name, module = str(getattr(found, "__name__", "")), str(getattr(found, "__module__", ""))
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        where = ".".join(parts[:end])
        if module != "__main__" and getattr(sys.modules.get(where), name, None) is found:
            return f"{where}.{name}"
    where = "of the script that runs" if module == "__main__" else f"no name of the module {module}"
    raise UsageError(
        f"{what} must be importable, but {name} is {where}: put it into a file of its own, and give './file.py:{name}'"
    )


def file_of(text: str) -> Path | None:
    """Return the file of an import path, or of its outermost package; None if there is none. Nothing is run."""
    where, _, _ = text.rpartition(":")
    if where.endswith(".py"):
        return _absolute(Path(where))
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = importlib.util.find_spec(text.replace(":", ".").partition(".")[0])
    except ValueError:  # __main__ of an interactive session
        return None
    origin = None if found is None else found.origin or next(iter(found.submodule_search_locations or ()), None)
    return None if origin is None or not Path(origin).exists() else Path(origin)


def source_digest(text: str) -> str:
    """Return a digest of the file of an import path to a file, "" for other paths and missing files."""
    where, _, _ = text.rpartition(":")
    try:
        return hashlib.sha256(_absolute(Path(where)).read_bytes()).hexdigest()[:16] if where.endswith(".py") else ""
    except OSError:
        return ""


def is_theirs(error: BaseException | None) -> bool:
    """Return True if ``error`` was raised in or below the user's code, which is no part of tvlars, Python or a package.

    A module that tvlars itself imports is a library, wherever it lies.
    """
    if error is None:
        return False
    if _is_users_syntax(error):
        return True
    importing = ("<frozen importlib", importlib.__file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(importing)]
    first = next((i for i, frame in enumerate(frames) if _is_users_file(frame.filename)), None)
    if first is None:
        return False
    before = Path(frames[first - 1].filename).resolve() if first else Path(__file__).resolve()
    of_library = frames[first].name == "<module>" and before.is_relative_to(OURS) and before != Path(__file__).resolve()
    return not of_library


@contextlib.contextmanager
def refused(sentence: str) -> Iterator[None]:
    """Raise ``UsageError`` "SENTENCE: REASON" in place of an error of a library inside, which may have any type.

    Errors of the user's own code, and errors of memory that ran out, stay as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UsageError) or has_ended(error) or is_theirs(error):
            raise
        raise UsageError(f"{sentence}: {one_line(error)}") from error


def _is_users_syntax(error: BaseException) -> bool:
    """Return True if a file of the user cannot be parsed; no frame of the traceback is in it."""
    return isinstance(error, SyntaxError) and error.filename is not None and _is_users_file(error.filename)


def their_traceback(error: BaseException) -> str:
    """Return the traceback of an error of the user's code without the frames of tvlars and of its callers."""
    shown = traceback.TracebackException.from_exception(error)
    seen: list[traceback.TracebackException] = []
    one: traceback.TracebackException | None = shown
    while one is not None and one not in seen:
        seen.append(one)
        frames = list(one.stack)
        none = len(frames) if _is_users_syntax(error) else 0
        first = next((i for i, frame in enumerate(frames) if _is_users_file(frame.filename)), none)
        kept = [frame for frame in frames[first:] if not Path(frame.filename).is_relative_to(OURS)]
        one.stack = traceback.StackSummary.from_list(kept)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "".join(shown.format())


def where_raised(error: BaseException) -> str:
    """Return the last file and line of the user's code in the traceback of ``error``, as in "mine.py, line 12"."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users_file(f.filename)]
    if not frames and isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


# -- finding ------------------------------------------------------------------------------------------------------


def _absolute(path: Path) -> Path:
    try:
        return (Path.cwd() / path.expanduser()).resolve()
    except (RuntimeError, OSError):  # ~ without a home
        return Path.cwd() / path


def _run_file(file: Path, what: str, text: str) -> ModuleType:
    """Return the module of a file, which is run on the first call."""
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        near = ", ".join(sorted(other.name for other in file.parent.glob("*.py"))[:8]) if file.parent.is_dir() else ""
        raise UsageError(
            f"{what} must name a file that exists, got {text!r}"
            + (f"; Python files there: {near}" if near else f", and there is no Python file in {file.parent}")
        )
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # modules beside the file
    sys.modules[name] = module  # dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _longest_module(parts: list[str], what: str, text: str) -> tuple[ModuleType, list[str]]:
    """Return the longest module that the first ``parts`` name, and the remaining parts."""
    module, rest = _import(parts[0], what, text), parts[1:]
    while len(rest) > 1 and not hasattr(module, rest[0]):
        module, rest = _import(f"{module.__name__}.{rest[0]}", what, text), rest[1:]
    if not hasattr(module, rest[0]) and importlib.util.find_spec(module.__name__) is not None:
        at = getattr(module, "__path__", None)
        if at is not None and importlib.util.find_spec(f"{module.__name__}.{rest[0]}") is not None:
            module, rest = _import(f"{module.__name__}.{rest[0]}", what, text), rest[1:]
    return module, rest


def _import(name: str, what: str, text: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{what} {text!r} cannot be imported: there is no module {error.name!r} here; "
                "install its package, or write ./file.py:name for a file"
            ) from error
        if is_theirs(error):
            raise
        raise UsageError(f"{what} {text!r} cannot be imported: it needs the module {error.name!r}") from error
    except Exception as error:
        if is_theirs(error):
            raise
        raise UsageError(f"{what} {text!r} cannot be imported: {one_line(error)}") from error


def _named(owner: Any, names: list[str], what: str, text: str) -> Any:
    if not names:
        raise UsageError(f"{what} must name an object in a module, as {FORMS}, got the module {text!r}")
    for name in names:
        if not hasattr(owner, name):
            own = [one for one in dir(owner) if not one.startswith("_")]
            public = [one for one in own if not isinstance(getattr(owner, one), ModuleType)]
            file = Path(getattr(owner, "__file__", None) or "")
            where = file.name if text.rpartition(":")[0].endswith(".py") else getattr(owner, "__name__", owner)
            raise unknown(f"{what} in {where}", name, public)
        owner = getattr(owner, name)
    if isinstance(owner, ModuleType):
        raise UsageError(f"{what} must name an object in a module, as {FORMS}, got the module {text!r}")
    return owner


# -- whose code ---------------------------------------------------------------------------------------------------


@cache
def _installed() -> tuple[Path, ...]:
    """Return the folders of tvlars, Python and installed packages."""
    paths = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    with_user = [*paths, *site.getsitepackages(), site.getusersitepackages()]
    return OURS, *(Path(path).resolve() for path in with_user)


@cache
def _is_users_file(name: str) -> bool:
    if name.startswith("<"):  # code that has no file
        return False
    path = Path(name).resolve()
    return path.suffix == ".py" and not any(path.is_relative_to(folder) for folder in _installed())
