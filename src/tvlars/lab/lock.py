"""One process at a time in a run folder, whatever becomes of it: the system lets go of the lock when it dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tvlars.lab.errors import LockedError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the run folder ``folder``.

    Args:
        folder: an existing folder.
        wait: seconds to wait for another process at most.

    Raises:
        LockedError: another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise LockedError(f"out must be a folder that no other process works in, got {str(folder)!r}") from error
    try:
        yield
    finally:
        lock.release()
