"""Walk through a folder of images: all image files in order, and an account of all other files.

Links are followed; :attr:`Folder.below` lists each file once. Only regular files are opened.
"""

from __future__ import annotations

import heapq
import os
import stat
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tvlars.lab.data.account import (
    BROKEN_LINKS,
    DEVICES,
    HIDDEN_FILES,
    HIDDEN_FOLDERS,
    NO_DECODER,
    OTHER_FILES,
    REPEATED_LINKS,
    Account,
    Reason,
    shown,
)
from tvlars.lab.data.pixels import image_suffixes
from tvlars.lab.errors import UsageError

ANNOTATIONS = "val_annotations.txt"
HIDDEN = frozenset(
    {
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "lost+found", "icon\r", "__pycache__"),
        *("$recycle.bin", "#recycle", "@recycle", "system volume information"),
    }
)
"""Names, in lower case, of files that systems and programs create; names that start with a dot are ignored too."""
KNOWN_IMAGES = frozenset(
    {
        *(".avif", ".avifs", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".jpx", ".jxl", ".svg", ".svgz", ".webp"),
        *(".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".jxr", ".eps"),
        *(".wmf", ".emf"),
    }
)
"""Formats of images that some or all versions of Pillow cannot open."""

Parts = tuple[str, ...]
Key = tuple[int, int]
"""Device and inode number of a file, equal for all links to it."""


class ImageFile(NamedTuple):
    """Image file that is not opened yet."""

    path: str
    parts: Parts
    """Parts of the path below the folder of the walk."""
    size: int
    times: tuple[int, int]
    """Times of the last changes of content and inode, in ns."""
    key: Key
    is_link: bool

    @property
    def place(self) -> str:
        """Path below the folder of the walk, printable."""
        return shown("/".join(self.parts))


class Folder:
    """Folder that is listed on first use; the folder of the walk has no ``parent``."""

    def __init__(self, path: Path, parent: Folder | None = None, is_link: bool = False) -> None:
        self.path, self.name, self.is_link, self.key = path, path.name, is_link, _key(os.stat(path))
        self._annotations: Path | None = None
        if parent is None:
            real = Path(os.path.realpath(path))
            self.parts: Parts = ()
            self.account = Account()
            self._repeated: set[Parts] = set()
            self._around = {_key(os.stat(above)) for above in (real, *real.parents)}
        else:
            self.parts, self.account, self._repeated = (*parent.parts, self.name), parent.account, parent._repeated
            self._around = parent._around | {self.key}

    @property
    def place(self) -> str:
        """Path below the folder of the walk, printable."""
        return shown("/".join(self.parts))

    def __str__(self) -> str:
        return shown(str(self.path), 400)

    @cached_property
    def folders(self) -> list[Folder]:
        """Folders inside, by name."""
        return [entry for entry in self._entries if isinstance(entry, Folder)]

    @property
    def full(self) -> list[Folder]:
        """Folders inside that contain images at any depth."""
        return [folder for folder in self.folders if folder.below]

    @property
    def empty(self) -> list[Folder]:
        """Folders inside without images."""
        return [folder for folder in self.folders if not folder.below]

    @cached_property
    def images(self) -> list[ImageFile]:
        """Images directly in the folder, by name."""
        return [entry for entry in self._entries if isinstance(entry, ImageFile)]

    @property
    def annotations(self) -> Path | None:
        """File of annotations in the folder."""
        return self._annotations if self._entries is not None else None

    @cached_property
    def below(self) -> list[ImageFile]:
        """All images in the folder at any depth, in order of their paths."""
        found: list[ImageFile] = []
        seen: set[Key] = set()
        # Real entries come first, so that links to them are left out; linked folders come before linked files.
        waiting: list[tuple[int, Parts, Folder | ImageFile]] = [(0, self.parts, self)]
        while waiting:
            _, parts, entry = heapq.heappop(waiting)
            if entry.key in seen:
                self._leave_repeated(parts)
                continue
            seen.add(entry.key)
            if isinstance(entry, ImageFile):
                found.append(entry)
                continue
            for inside in entry._entries:
                is_file = isinstance(inside, ImageFile)
                if isinstance(inside, Folder) or inside.is_link:
                    heapq.heappush(waiting, (inside.is_link + is_file, inside.parts, inside))
                else:
                    found.append(inside)
                    seen.add(inside.key)
        return sorted(found, key=lambda file: file.parts)

    def leave(self, reason: Reason, *names: str, count: int = 1, why: str = "") -> None:
        """Record in the account that the folder, or its entry at ``names``, is left out."""
        self.account.leave(reason, shown("/".join((*self.parts, *names))) + why, count)

    def _leave_repeated(self, parts: Parts) -> None:
        if parts not in self._repeated:
            self._repeated.add(parts)
            self.account.leave(REPEATED_LINKS, shown("/".join(parts)))

    @cached_property
    def _entries(self) -> list[Folder | ImageFile]:
        """Folders and images inside, by name."""
        try:
            with os.scandir(self.path) as entries:
                found = [self._entry(entry) for entry in sorted(entries, key=lambda one: one.name)]
        except OSError as error:
            raise UsageError(f"{self} must be a readable folder, but is not: {error.strerror}") from error
        return [entry for entry in found if entry is not None]

    def _entry(self, entry: os.DirEntry[str]) -> Folder | ImageFile | None:
        """Return the folder or image; for anything else, add it to the account and return None."""
        name, is_link = entry.name.lower(), entry.is_symlink()
        try:
            found = entry.stat()
        except OSError as error:
            if not is_link:
                raise
            self.leave(BROKEN_LINKS, entry.name, why=f": {error.strerror}")
            return None
        is_folder, key, parts = stat.S_ISDIR(found.st_mode), _key(found), (*self.parts, entry.name)
        suffix = name[name.rfind(".") :]  # faster than splitext; without a dot it is no suffix of an image
        if name.startswith(".") or name in HIDDEN:
            self.leave(HIDDEN_FOLDERS if is_folder else HIDDEN_FILES, entry.name)
        elif is_folder and is_link and key in self._around:  # the link would lead into a loop
            self._leave_repeated(parts)
        elif is_folder:
            return Folder(Path(entry.path), self, is_link)
        elif not stat.S_ISREG(found.st_mode):
            self.leave(DEVICES, entry.name)
        elif suffix in image_suffixes():
            times = found.st_mtime_ns, found.st_ctime_ns
            return ImageFile(entry.path, parts, found.st_size, times, key, is_link)
        elif name == ANNOTATIONS:
            self._annotations = Path(entry.path)
        else:
            self.leave(NO_DECODER if suffix in KNOWN_IMAGES else OTHER_FILES, entry.name)
        return None


def _key(found: os.stat_result) -> Key:
    return found.st_dev, found.st_ino
