"""Decoded images that do not fit into memory, in a file that is mapped into it.

    ~/.cache/tvlars/decoded/NAME-HASH.u8       uint8 (N, 3, H, W), as numpy.memmap reads it

The hash is of the files' names, sizes and times and of the size they are scaled to: a changed folder is decoded anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tvlars.lab.errors import UsageError

CACHE = Path("~/.cache/tvlars/decoded")
SHARE = 0.5
"""The part of the machine's memory that decoded images may take."""


def must_map(size: int) -> bool:
    """Whether ``size`` bytes are more than may be kept in memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return False
    return size > SHARE * memory


def mapped_file(name: str, files: Sequence[Path], shape: tuple[int, ...], image_size: int | None) -> Path:
    """Where the decoded form of these files belongs."""
    digest = hashlib.sha256(f"{shape} {image_size}".encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    folder = Path(os.environ.get("TVLARS_CACHE", CACHE)).expanduser()
    return folder / f"{name}-{digest.hexdigest()[:16]}.u8"


def open_mapped(file: Path, shape: tuple[int, ...]) -> Tensor:
    """The images in ``file``, which stay there until they are used.

    Raises:
        UsageError: it is not of that shape.
    """
    try:
        array = np.memmap(file, np.uint8, "r+", shape=shape)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} must hold decoded images of shape {shape}, but cannot be read: {error}") from error
    return torch.from_numpy(array)


def new_mapped(file: Path, shape: tuple[int, ...]) -> Tensor:
    """Room for images, in a file that is renamed to ``file`` by :func:`finish_mapped` when it is full.

    Raises:
        UsageError: the disk has no room.
    """
    size = int(np.prod(shape))
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as out:
            os.posix_fallocate(out.fileno(), 0, size) if hasattr(os, "posix_fallocate") else out.truncate(size)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"TVLARS_CACHE must be a folder with room for {size / 2**30:.1f} GiB of decoded images, and {file.parent} "
            f"cannot take them: {error.strerror}"
        ) from error
    return open_mapped(part, shape)


def finish_mapped(file: Path) -> None:
    """The file is whole."""
    os.replace(file.with_suffix(".part"), file)
