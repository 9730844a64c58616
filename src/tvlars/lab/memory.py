"""Errors of memory that ran out, on a device or under ``ulimit -v``: one sentence that says what needed memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from tvlars._memory import has_ended as has_ended
from tvlars.lab.errors import UsageError


def amount(error: BaseException) -> str:
    """Return the requested amount in brackets after a space, "" if ``error`` does not name it."""
    found = re.search(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGTPE]i?B)", str(error), re.IGNORECASE)
    if found is None:
        return ""
    return f" (no room for {found[2] or f'{int(found[1]):,} bytes'})"


@contextlib.contextmanager
def needed(by: str) -> Iterator[None]:
    """Raise ``UsageError`` "BY, but memory ran out" if memory runs out inside.

    ``by`` is a requirement, as in "data 'imagefolder:x' must fit into memory".
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UsageError) or not has_ended(error):
            raise
        raise UsageError(f"{by}, but memory ran out{amount(error)}") from error
