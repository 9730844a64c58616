"""Identity of a run's folder: if the folder is moved away, nothing is written into a folder that replaces it."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from tvlars.lab.errors import MovedFolderError


class Place:
    """The existing folder ``folder``, identified by its inode number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if hasattr(os, "O_DIRECTORY"):
            # While the handle is open, no other folder gets the same number.
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            weakref.finalize(self, os.close, handle)
        self._number = self._now()

    def _now(self) -> tuple[int, int]:
        found = os.stat(self.folder)
        return found.st_dev, found.st_ino

    def check(self) -> None:
        """Raise ``MovedFolderError`` if another folder or none is at the path, ``OSError`` if this is unknown."""
        try:
            now = self._now()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MovedFolderError(self.folder) from error
        if now != self._number:
            raise MovedFolderError(self.folder)
