"""One walk through a folder of images: every image file in order, and an account of all that is none.

Folders and files that links lead to are read as if they lay there, once for each folder that :meth:`Walk.below` is
asked for. Only regular files are ever opened.
"""

from __future__ import annotations

import heapq
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

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
"""Names, in lower case, that systems and programs leave in folders, besides names that begin with a dot."""
KNOWN_IMAGES = frozenset(
    {
        *(
            ".avif",
            ".avifs",
            ".heic",
            ".heif",
            ".hif",
            ".j2k",
            ".jp2",
            ".jpx",
            ".jxl",
            ".svg",
            ".svgz",
            ".webp",
            ".exr",
        ),
        *(
            ".hdr",
            ".dng",
            ".cr2",
            ".cr3",
            ".nef",
            ".arw",
            ".orf",
            ".rw2",
            ".raf",
            ".raw",
            ".jxr",
            ".eps",
            ".wmf",
            ".emf",
        ),
    }
)
"""Formats of images that not every Pillow opens, or none does."""

Parts = tuple[str, ...]
Key = tuple[int, int]
"""Device and number of a file: the same for all links to it."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file, not opened yet."""

    path: str
    parts: Parts
    """Its place below the folder that is walked."""
    size: int
    times: tuple[int, int]
    """When contents and entry changed, in ns."""

    @property
    def place(self) -> str:
        """Its place, as it can be printed."""
        return shown("/".join(self.parts))


@dataclass
class _Listing:
    images: list[tuple[ImageFile, Key, bool]] = field(default_factory=list)
    """With key, and whether it is a link."""
    folders: list[tuple[str, Key, bool]] = field(default_factory=list)
    annotations: str | None = None


class Walk:
    """A walk through ``folder``, each part of which is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.account = folder, Account()
        self._listings: dict[Parts, _Listing] = {}
        self._below: dict[Parts, list[ImageFile]] = {}
        self._repeated: set[Parts] = set()
        real = Path(os.path.realpath(folder))
        self._above = {_key(os.stat(path)) for path in (real, *real.parents)}

    def folders(self, parts: Parts = ()) -> list[str]:
        """Names of the folders in the folder ``parts``, in order."""
        return sorted(name for name, _, _ in self._list(parts).folders)

    def images(self, parts: Parts = ()) -> list[ImageFile]:
        """The images in the folder ``parts`` itself, in order."""
        return sorted((file for file, _, _ in self._list(parts).images), key=lambda file: file.parts)

    def annotations(self, parts: Parts = ()) -> str | None:
        """The path of the file of annotations in the folder ``parts``."""
        return self._list(parts).annotations

    def below(self, parts: Parts = ()) -> list[ImageFile]:
        """All images in the folder ``parts`` and below it, in the order of their places."""
        if parts not in self._below:
            self._below[parts] = self._collect(parts)
        return self._below[parts]

    def _collect(self, start: Parts) -> list[ImageFile]:
        found: list[ImageFile] = []
        linked: list[tuple[Parts, Key, ImageFile]] = []
        seen: set[Key] = set()
        files: set[Key] = set()
        own: list[Parts] = [start]
        links: list[tuple[Parts, Key]] = []
        while own or links:  # what lies here first, so that links to it are what is left out
            if own:
                here = own.pop()
            else:
                here, key = heapq.heappop(links)
                if key in seen:
                    self._repeats(here)
                    continue
                seen.add(key)
            listing = self._list(here)
            for file, key, is_link in listing.images:
                if is_link:
                    linked.append((file.parts, key, file))
                else:
                    found.append(file)
                    files.add(key)
            for name, key, is_link in listing.folders:
                if is_link:
                    heapq.heappush(links, ((*here, name), key))
                elif key in seen:
                    self._repeats((*here, name))
                else:
                    seen.add(key)
                    own.append((*here, name))
        for parts, key, file in sorted(linked, key=lambda one: one[0]):
            if key in files:
                self._repeats(parts)
            else:
                found.append(file)
                files.add(key)
        return sorted(found, key=lambda file: file.parts)

    def _around(self, parts: Parts) -> set[Key]:
        """A folder and all that it lies in: a link to one of them would lead into a circle."""
        return self._above | {_key(os.stat(self._path(parts[:depth]))) for depth in range(1, len(parts) + 1)}

    def _repeats(self, place: Parts) -> None:
        if place not in self._repeated:
            self._repeated.add(place)
            self.account.leave(REPEATED_LINKS, shown("/".join(place)))

    def _path(self, parts: Parts) -> str:
        return os.path.join(self.folder, *parts)

    def _list(self, parts: Parts) -> _Listing:
        if parts not in self._listings:
            try:
                self._listings[parts] = self._scan(parts)
            except OSError as error:
                where = shown(self._path(parts), 400)
                raise UsageError(f"{where} must be a folder that can be read, but is not: {error.strerror}") from error
        return self._listings[parts]

    def _scan(self, parts: Parts) -> _Listing:
        listing, suffixes = _Listing(), image_suffixes()

        def leave(reason: Reason, name: str, why: str = "") -> None:
            self.account.leave(reason, shown("/".join((*parts, name))) + why)

        with os.scandir(self._path(parts)) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                is_link = entry.is_symlink()
                try:
                    found = entry.stat()
                except OSError as error:
                    if not is_link:
                        raise
                    leave(BROKEN_LINKS, entry.name, f": {error.strerror}")
                    continue
                name, suffix = entry.name.lower(), os.path.splitext(entry.name)[1].lower()
                is_folder = stat.S_ISDIR(found.st_mode)
                if name.startswith(".") or name in HIDDEN:
                    leave(HIDDEN_FOLDERS if is_folder else HIDDEN_FILES, entry.name)
                elif is_folder and is_link and _key(found) in self._around(parts):
                    self._repeats((*parts, entry.name))
                elif is_folder:
                    listing.folders.append((entry.name, _key(found), is_link))
                elif not stat.S_ISREG(found.st_mode):
                    leave(DEVICES, entry.name)
                elif suffix in suffixes:
                    times = found.st_mtime_ns, found.st_ctime_ns
                    file = ImageFile(self._path((*parts, entry.name)), (*parts, entry.name), found.st_size, times)
                    listing.images.append((file, _key(found), is_link))
                elif name == ANNOTATIONS:
                    listing.annotations = entry.path
                else:
                    leave(NO_DECODER if suffix in KNOWN_IMAGES else OTHER_FILES, entry.name)
        return listing


def _key(found: os.stat_result) -> Key:
    return found.st_dev, found.st_ino
