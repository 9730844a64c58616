"""Where data lie, spelled in one way: however a user wrote a path, a run says from anywhere which folder it was."""

from __future__ import annotations

from pathlib import Path

from tvlars.lab.options import expanded

FOLDER_PREFIX = "imagefolder:"


def absolute(path: Path) -> Path:
    """Return ``path`` from the root, without "." and a slash at its end; links are followed to take ".." away."""
    path = Path.cwd() / path
    return path.resolve() if ".." in path.parts else path


def spelled(data: str, data_dir: Path | None) -> str:
    """Return the one spelling of the name of a data set, which goes with an absolute ``data_dir``.

    That of a folder is its path from the root; where there is a ``data_dir``, which may be another one in a run that
    goes on, a relative path stays one.

    Raises:
        UsageError: ~ stands for nobody's home.
    """
    if not data.startswith(FOLDER_PREFIX):
        return data
    path = expanded("data", _path(data))
    return f"{FOLDER_PREFIX}{path if data_dir is not None and not path.is_absolute() else absolute(path)}"


def same_folder(data: str, data_dir: Path | None, other: str, other_dir: Path | None = None) -> bool:
    """Return whether two names of data sets are the same one, or the same folder."""
    if not (data.startswith(FOLDER_PREFIX) and other.startswith(FOLDER_PREFIX)):
        return data == other
    return folder_of(data, data_dir) == folder_of(other, other_dir)


def same_name(data: object, other: object) -> bool:
    """Return whether two names of data sets stand for folders of images with one name, wherever they lie."""
    texts = (data, other)
    if not all(isinstance(text, str) and text.startswith(FOLDER_PREFIX) for text in texts):
        return False
    return len({absolute(_path(str(text))).name for text in texts}) == 1


def looked_for(data: str, data_dir: Path | None) -> str:
    """Return the name of a run's data set, below ``data_dir`` now: of a folder, that of the same name there."""
    moved = data_dir is not None and data.startswith(FOLDER_PREFIX) and _path(data).is_absolute()
    return f"{FOLDER_PREFIX}{_path(data).name}" if moved else data


def folder_of(data: str, data_dir: Path | None) -> Path:
    """Return the folder, from the root, that imagefolder:PATH stands for.

    Raises:
        UsageError: ~ stands for nobody's home.
    """
    return absolute((data_dir or Path()) / expanded("data", _path(data)))


def _path(data: str) -> Path:
    return Path(data.removeprefix(FOLDER_PREFIX))
