"""Whether options go with the number of processes, and with where they meet."""

from __future__ import annotations

import re
from typing import Any

from tvlars.lab.errors import UsageError


def check_batch(batch_size: int, micro_batch_size: int, processes: int) -> None:
    """Raise ``UsageError`` where a batch is too small for so many processes, or leaves one sample in some part of it.

    Parts are those of ``setup.micro_batches``: the share of each process is split evenly.
    """
    if batch_size < 2 * processes:
        raise UsageError(
            f"batch_size must be >= {2 * processes}, two samples for each of {processes} processes, got {batch_size}"
        )
    smallest, largest = batch_size // processes, -(-batch_size // processes)

    def fits(size: int) -> bool:
        return smallest // -(-largest // size) >= 2

    if not fits(micro_batch_size):
        enough = next(size for size in range(micro_batch_size, largest + 1) if fits(size))
        over = "" if processes == 1 else f" over {processes} processes"
        raise UsageError(
            f"micro_batch_size must leave two samples in every part of a batch of {batch_size}{over}, "
            f"since batch norm has no statistics of one, got {micro_batch_size}: take {enough} or more"
        )


def check_rendezvous(place: Any) -> None:
    """Raise ``UsageError`` unless this is HOST:PORT; an IPv6 address stands in brackets."""
    match = re.fullmatch(r"(?:[\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", str(place), re.ASCII)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise UsageError(
            "rendezvous must be HOST:PORT of the first machine, as node1:29500, with a port from 1 to 65535, "
            f"got {place!r}"
        )
