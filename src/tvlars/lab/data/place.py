"""Where data lie, spelled in one way: however a user wrote a path, a run says from anywhere which folder it was."""

from __future__ import annotations

from pathlib import Path

from tvlars.lab.options import expanded

FOLDER_PREFIX = "imagefolder:"


def absolute(path: Path) -> Path:
    """``path`` from the root, without "." and a slash at its end; links are followed where ".." is to be taken away."""
    path = Path.cwd() / path
    return path.resolve() if ".." in path.parts else path


def spelled(data: str, data_dir: Path | None) -> str:
    """The one spelling of the name of a data set, which goes with an absolute ``data_dir``.

    That of a folder is its path from the root; where there is a ``data_dir``, which may be another one in a run that
    goes on, a relative path stays one.

    Raises:
        UsageError: ~ stands for nobody's home.
    """
    if not data.startswith(FOLDER_PREFIX):
        return data
    path = expanded("data", Path(data.removeprefix(FOLDER_PREFIX)))
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
    one, two = (absolute(Path(str(text).removeprefix(FOLDER_PREFIX))).name for text in texts)
    return one == two


def looked_for(data: str, data_dir: Path | None) -> str:
    """The name of a run's data set where somebody says that it lies below ``data_dir`` now: of a folder, that of the
    same name there."""
    path = Path(data.removeprefix(FOLDER_PREFIX))
    moved = data_dir is not None and data.startswith(FOLDER_PREFIX) and path.is_absolute()
    return f"{FOLDER_PREFIX}{path.name}" if moved else data


def folder_of(data: str, data_dir: Path | None) -> Path:
    """The folder, from the root, that imagefolder:PATH stands for.

    Raises:
        UsageError: ~ stands for nobody's home.
    """
    path = expanded("data", Path(data.removeprefix(FOLDER_PREFIX)))
    return absolute((data_dir or Path()) / path)
