"""Weights of the best epoch by validation: best-EPOCH.pt in the run folder, a state dict."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvlars._reading import open_regular
from tvlars.lab.run_folder.checkpoints.pickles import read_torch_file
from tvlars.lab.run_folder.rows import EpochRow


def best_epoch(rows: Iterable[EpochRow], ranks: Mapping[int, float] | None = None) -> int | None:
    """Return the epoch with the highest validation accuracy, or the lowest loss if there is none; None without results.

    Of equal accuracies, the one with the lower loss is best, and of equal losses the first.

    Args:
        rows: epochs to choose from.
        ranks: numbers by epoch that come before the accuracy, larger for better epochs; an epoch without one is worse
            than all others.
    """
    first = ranks or {}

    def key(row: EpochRow) -> tuple[float, float, float]:
        rank, accuracy = first.get(row.epoch, -math.inf), row.validation_accuracy
        accuracy = accuracy if accuracy == accuracy else 0.0
        return rank if rank == rank else -math.inf, accuracy, -row.validation_loss

    best = max((row for row in rows if row.evaluated), key=key, default=None)  # the first of equal ones
    return None if best is None else best.epoch


def best_file(folder: Path, epoch: int) -> Path:
    """Return the file with the weights after ``epoch``."""
    return folder / f"best-{epoch}.pt"


def epochs_kept(folder: Path) -> list[int]:
    """Return the epochs whose weights are in a run folder, in ascending order."""
    found = (re.fullmatch(r"best-([1-9]\d{0,8})\.pt", path.name) for path in folder.glob("best-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def prune_best(
    folder: Path, rows: Sequence[EpochRow], resumable: Iterable[int], ranks: Mapping[int, float] | None = None
) -> None:
    """Remove best weights that are neither the best of ``rows``, nor needed to resume after one of the epochs
    ``resumable``; ``ranks`` as for :func:`best_epoch`."""
    needed = {best_epoch(rows, ranks), *(best_epoch(rows[:count], ranks) for count in resumable)}
    for epoch in epochs_kept(folder):
        if epoch not in needed:
            best_file(folder, epoch).unlink(missing_ok=True)


def read_weights(file: Path) -> dict[str, Any]:
    """Return a state dict; raise an error of any type if the file holds anything but plain data and tensors."""
    with open_regular(file) as opened:  # a link to another disk is followed: weights are not shown
        found: dict[str, Any] = read_torch_file(opened)
    return found
