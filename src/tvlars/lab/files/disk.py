"""Writing of files so that a crash, a power cut or a full disk cannot damage them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvlars._reading import check_regular

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
"""Temporary errors: the disk may get free space again, or be connected again."""


DIGEST = "digest"
"""Entry of a JSON file with the digest of its other entries."""


def digest_of(entries: dict[str, Any]) -> str:
    """Return the SHA-256 of the other entries of a JSON file, equal in all versions: a wrong digest means damage."""
    rest = {name: value for name, value in entries.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()


def cannot_write(error: OSError) -> str:
    """Return a clause on the file that could not be written, and the reason."""
    where = f" {error.filename}" if error.filename else ""
    return f"cannot write{where}: {error.strerror or error}"


def write_synced(file: Path, content: bytes) -> None:
    """Write ``content`` to a new file, which is on the disk when this function returns; remove an old file before."""
    with named(file):
        file.unlink(missing_ok=True)  # a link that somebody has laid there would have us write where it leads
    with named(file), open(file, "xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def write_whole(file: Path, content: bytes) -> None:
    """Replace ``file`` by ``content``, whole or not at all, even if the machine crashes."""
    part = file.with_name(file.name + ".part")
    with named(file):
        try:
            write_synced(part, content)
            os.replace(part, file)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def append_whole(file: Path, content: bytes) -> None:
    """Append ``content`` to a regular file, whole or not at all."""
    with named(file):
        handle = open_to_append(file)
        size = os.fstat(handle).st_size
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(handle, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
        finally:
            os.close(handle)


def open_to_append(file: Path) -> int:
    """Return a handle to append to a new or existing regular file, without following links or waiting for pipes."""
    with named(file):
        with contextlib.suppress(FileNotFoundError):
            check_regular(os.lstat(file))
        careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | careful, 0o666)


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk when this function returns."""
    with named(path):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def named(file: Path) -> Iterator[None]:
    """Add the name of ``file`` to an ``OSError``."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error
