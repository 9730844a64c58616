"""Counts and lists in messages."""

from __future__ import annotations

from collections.abc import Collection


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun, as in "1 class" or "1,234 classes"; the plural is ``many`` or, if "", one + s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def several(noun: str, values: Collection[object]) -> str:
    """Return values after their noun, as in "seed 0" or "seeds 0, 1"."""
    return f"{noun}{'s' * (len(values) != 1)} {', '.join(map(str, values))}"
