"""Chance level: the accuracy that a run must exceed, or it has not learned."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tvlars.lab.run_folder.record import MODEL, read_object


def failure_bound(classes: int) -> float:
    """Return the accuracy that a run must exceed, or it counts as failed.

    The bound is twice chance level, 2 / classes, but at most a tenth of the way from chance level to 1, which is less
    for fewer than 11 classes.
    """
    guess = 1 / classes
    return min(2 * guess, guess + 0.1 * (1 - guess))


def classes_of(folders: Iterable[Path]) -> int | None:
    """Return the number of classes of the first run whose folder has it; None if there is none."""
    numbers = (read_object(folder / MODEL).get("classes") for folder in folders)
    return next((number for number in numbers if type(number) is int and number > 1), None)
