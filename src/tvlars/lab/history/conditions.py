"""Conditions on runs, such as ``batch-size>=512``: parsed from text, and checked against the cells of a list."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from tvlars._reading import parse_number
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.history.reading import Row

COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    **{"=": operator.eq, "==": operator.eq, "!=": operator.ne},
    **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
}
TIME = "started"


@dataclass(frozen=True)
class Condition:
    """A condition on one column. In text, ``*`` matches any characters; ``none`` means an empty cell."""

    column: str
    sign: str
    text: str

    @classmethod
    def parse(cls, text: str, columns: Sequence[str]) -> Condition:
        """Return the condition of a text such as ``optimizer=lars`` or ``test-accuracy>0.9``.

        Raises:
            UsageError: the text is not a condition, or names no column.
        """
        match = re.fullmatch(r"\s*([^=<>!]+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*?)\s*", text)
        if match is None:
            raise UsageError(
                "where must be conditions as 'optimizer=lars' 'batch-size>=512', in quotes, since a shell uses < and > "
                f"for files, got {text!r}"
            )
        return cls(column_of(match[1], columns), match[2], match[3])

    def filter(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that meet the condition; an empty cell meets only ``=none`` and ``!=``.

        Raises:
            UsageError: the column has values of another kind than the condition.
        """
        compare, equality = COMPARED[self.sign], self.sign in ("=", "==", "!=")
        cells = [row.get(self.column) for row in rows]
        if self.text.lower() in ("none", ""):
            if not equality:
                raise UsageError(f"where {self.said()} must compare with a value, none is no number")
            return [row for row, cell in zip(rows, cells, strict=True) if compare(cell, None)]
        kinds = {type(cell) for cell in cells if cell is not None}
        if kinds and kinds <= {int, float}:
            number = self._number()
            met = [compare(cell, number) if cell is not None else self.sign == "!=" for cell in cells]
        elif kinds == {bool}:
            if not equality or self.text.lower() not in ("true", "false"):
                raise UsageError(f"where {self.said()} must be = or != true or false")
            met = [compare(cell, self.text.lower() == "true") for cell in cells]
        elif self.column == TIME:
            wanted = self.text.replace("T", " ")
            times = [local_time(cell) for cell in cells]
            met = [compare(time[: len(wanted)], wanted) if time else self.sign == "!=" for time in times]
        elif not equality:
            raise UsageError(f"where {self.said()} must compare with = or !=, since {_spelled(self.column)} is text")
        else:
            met = [compare(self._is_text(cell), True) for cell in cells]
        return [row for row, good in zip(rows, met, strict=True) if good]

    def said(self) -> str:
        """Return the condition as text."""
        return f"{_spelled(self.column)}{self.sign}{self.text}"

    def _number(self) -> float:
        """Return the number to compare a numeric column with; 90% is 0.9."""
        percent = self.text.endswith("%")
        try:
            number = float(parse_number(float, self.text.removesuffix("%").strip()))
        except ValueError:
            raise UsageError(f"where {self.said()} must compare with a number, got {self.text!r}") from None
        if not percent and "accuracy" in self.column and number > 1:
            raise UsageError(
                f"where {self.said()} must compare with a fraction or a percentage, as 0.9 or 90%, got {self.text}"
            )
        return number / 100 if percent else number

    def _is_text(self, cell: Any) -> bool:
        text = "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)
        pattern = re.sub(r"([\[?])", r"[\1]", self.text)  # only the * of fnmatch is special here
        return fnmatchcase(text, pattern)


def column_of(text: str, columns: Sequence[str]) -> str:
    """Return the column that ``text`` names with - or _; raise ``UsageError`` if there is none."""
    name = text.strip().replace("-", "_")
    if name not in columns:
        raise unknown("column of runs", text.strip(), map(_spelled, columns))
    return name


def local_time(text: Any) -> str | None:
    """Return a time of environment.json in local time, as 2026-11-29 15:20; None if ``text`` is not a time."""
    try:
        return datetime.fromisoformat(str(text)).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return None


def _spelled(column: str) -> str:
    return column.replace("_", "-")
