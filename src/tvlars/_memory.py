"""Words by which libraries report that memory ran out; their errors have many types."""

from __future__ import annotations

import errno
import re

WORDS = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|alloc_failed|"
    r"failed to allocate|unable to allocate|can't start new thread|could not create a memory object|"
    r"failed to map segment|memoryerror",
    re.IGNORECASE,
)


def says_so(error: BaseException) -> bool:
    """Return whether the text of ``error`` contains any of the words."""
    return WORDS.search(str(error)) is not None


def has_ended(error: BaseException) -> bool:
    """Return whether ``error`` means that this machine or a device ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError | SystemError) and says_so(error)
