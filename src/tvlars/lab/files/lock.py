"""Lock of a run folder, for one process at a time; the system releases the lock when the process dies."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tvlars._reading import check_regular, reason
from tvlars.lab.errors import LockedError, UsageError

LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems without locks, such as some network file systems."""


@contextlib.contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the existing ``folder``; wait at most ``wait`` seconds for another process.

    Raises:
        LockedError: another process holds the lock.
        UsageError: the file system has no locks, or something else is in place of the lock file.
    """
    try:
        check_regular(os.lstat(folder / LOCK))
    except FileNotFoundError:
        pass
    except OSError as error:  # opening a link would empty its target
        raise UsageError(f"{folder / LOCK} must be the lock of a folder, but {reason(error)}") from error
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise LockedError(f"out must be a folder that no other process uses, got {str(folder)!r}") from error
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            raise UsageError(
                f"out must be on a file system that can lock files, but that of {str(folder)!r} cannot: "
                f"{error.strerror}"
            ) from error
        raise OSError(error.errno, error.strerror or str(error), str(folder / LOCK)) from error
    try:
        yield
    finally:
        lock.release()
