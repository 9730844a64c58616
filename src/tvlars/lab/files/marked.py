"""Output files named by a user: a command writes a new file, or replaces a file that the same command wrote.

Each file format has a place for a mark of the command that wrote the file; a file without a mark is not replaced.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tvlars._reading import open_regular, reason
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import write_whole

HEAD = 2**16
"""Bytes at the beginning of a file that are searched for its mark."""
RUN_FILES = (
    *("epochs.csv", "steps.csv", "sharpness.csv", "noise.csv", "representation.csv", "landscape.csv", "line.csv"),
    *("views.png", "landscape.png", "line.png"),
)
"""Reserved names of a run folder, with suffixes that commands write."""


def mark(command: str) -> str:
    """Return the text that marks a file of ``tvlars COMMAND``."""
    return f"tvlars {command}"


def check_output(file: Path, name: str, suffixes: Sequence[str], marks: Sequence[bytes]) -> None:
    """Raise ``UsageError`` unless ``file``, which the user gave as ``name``, may be written.

    The file must end in one of ``suffixes`` (lower case; empty: any), and be new or have one of ``marks`` in its head.
    """
    if suffixes and file.suffix.lower() not in suffixes:
        raise UsageError(f"{name} must end in {' or '.join(suffixes)}, got {str(file)!r}")
    if file.name in RUN_FILES and any(os.path.lexists(file.parent / own) for own in ("config.json", "epochs.csv")):
        raise UsageError(f"{name} must not be {str(file)!r}, a reserved name of run folders")
    if "\0" in str(file):
        raise UsageError(f"{name} must be a path, got {str(file)!r}")
    if not os.path.lexists(file):
        return
    wanted = f"{name} must be a new file, or one that this command wrote, but {str(file)!r}"
    if file.is_symlink():
        raise UsageError(f"{wanted} is a link")
    try:
        with open_regular(file) as opened:
            head = opened.read(HEAD)
    except OSError as error:
        raise UsageError(f"{wanted} cannot be read: {reason(error)}") from error
    if head and not any(one in head for one in marks):  # an empty file loses nothing
        raise UsageError(f"{wanted} is neither: name another, or move it away")


def write_output(file: Path, content: bytes, name: str) -> None:
    """Write ``content`` whole or not at all, into a folder that is created if needed; failures are ``UsageError``."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} must be a writable file, got {str(file)!r}: {reason(error)}") from error
