"""One process at a time in a run folder, whatever becomes of it: the system lets go of the lock when it dies."""

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
"""Errors of file systems that have no locks, as some network file systems are set up."""


@contextlib.contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of ``folder``, which exists; wait ``wait`` seconds for another process at most.

    Raises:
        LockedError: another process holds it.
        UsageError: the file system has no locks, or something else is in the place of the lock.
    """
    try:
        check_regular(os.lstat(folder / LOCK))
    except FileNotFoundError:
        pass
    except OSError as error:  # a link would have the file it leads to emptied
        raise UsageError(f"{folder / LOCK} must be the lock of a folder, but {reason(error)}") from error
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise LockedError(f"out must be a folder that no other process works in, got {str(folder)!r}") from error
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            raise UsageError(
                f"out must lie on a file system that can lock files, and that of {str(folder)!r} cannot: "
                f"{error.strerror}"
            ) from error
        raise OSError(error.errno, error.strerror or str(error), str(folder / LOCK)) from error
    try:
        yield
    finally:
        lock.release()
