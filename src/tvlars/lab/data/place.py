"""Normalized paths of data, so that the folder of a run's data does not depend on the working directory."""

from __future__ import annotations

from pathlib import Path

from tvlars.lab.imported import GIVEN, is_import_path, short_name, spelled_path
from tvlars.lab.options import expanded

FOLDER_PREFIX = "imagefolder:"
TORCHVISION_PREFIX = "torchvision:"


def absolute(path: Path) -> Path:
    """Return ``path`` as an absolute path without "." and a final slash; links are followed to remove ".."."""
    path = Path.cwd() / path
    return path.resolve() if ".." in path.parts else path


def spelled(data: str, data_dir: Path | None) -> str:
    """Return the normal spelling of a data set's name; ``data_dir`` is absolute.

    A folder gets an absolute path, unless there is a ``data_dir``, which may change when a run resumes.

    Raises:
        UsageError: the user named after ~ does not exist.
    """
    if not data.startswith(FOLDER_PREFIX):
        return spelled_path(data) if is_imported(data) else data
    path = expanded("data", _path(data))
    return f"{FOLDER_PREFIX}{path if data_dir is not None and not path.is_absolute() else absolute(path)}"


def is_imported(data: str) -> bool:
    """Return True if a data set's name is an import path."""
    return is_import_path(data) and not data.startswith((FOLDER_PREFIX, TORCHVISION_PREFIX, GIVEN))


def short(data: str) -> str:
    """Return a data set's name for use in file names: the last part of a path, without a prefix."""
    if data.startswith(FOLDER_PREFIX):
        return _path(data).resolve().name
    return short_name(data) if is_imported(data) else data.rpartition(":")[2]


def same_folder(data: str, data_dir: Path | None, other: str, other_dir: Path | None = None) -> bool:
    """Return whether two names of data sets are equal, or name the same folder."""
    if not (data.startswith(FOLDER_PREFIX) and other.startswith(FOLDER_PREFIX)):
        return data == other
    return folder_of(data, data_dir) == folder_of(other, other_dir)


def same_name(data: object, other: object) -> bool:
    """Return whether two names of data sets name folders of images with the same last part."""
    texts = (data, other)
    if not all(isinstance(text, str) and text.startswith(FOLDER_PREFIX) for text in texts):
        return False
    return len({absolute(_path(str(text))).name for text in texts}) == 1


def looked_for(data: str, data_dir: Path | None) -> str:
    """Return the name of a run's data set below the current ``data_dir``; a folder keeps the last part of its path."""
    moved = data_dir is not None and data.startswith(FOLDER_PREFIX) and _path(data).is_absolute()
    return f"{FOLDER_PREFIX}{_path(data).name}" if moved else data


def folder_of(data: str, data_dir: Path | None) -> Path:
    """Return the absolute path of the folder in imagefolder:PATH.

    Raises:
        UsageError: the user named after ~ does not exist.
    """
    return absolute((data_dir or Path()) / expanded("data", _path(data)))


def _path(data: str) -> Path:
    return Path(data.removeprefix(FOLDER_PREFIX))
