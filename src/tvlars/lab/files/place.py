"""A run's folder is the one that it began in: where it is moved away, nothing is written into what takes its place."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from tvlars.lab.errors import MovedFolderError


class Place:
    """The folder ``folder``, which exists, told from others by its number on its file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if hasattr(os, "O_DIRECTORY"):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # while it is open, no other folder gets its number
            weakref.finalize(self, os.close, handle)
        self._number = self._now()

    def _now(self) -> tuple[int, int]:
        found = os.stat(self.folder)
        return found.st_dev, found.st_ino

    def check(self) -> None:
        """Raise ``MovedFolderError`` where another folder, or none, is in its place, ``OSError`` if none can say."""
        try:
            now = self._now()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MovedFolderError(self.folder) from error
        if now != self._number:
            raise MovedFolderError(self.folder)
