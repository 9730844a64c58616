"""Declared family of a comparison: the pairs of arms that are tested, and whose p-values are adjusted together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tvlars._checks import check_number
from tvlars._words import counted
from tvlars.lab.arguments import split_outside
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.options import option

ALL = "all"
"""Family of all pairs of arms."""
MARGIN = 0.3
"""Margin of the equivalence test of accuracies, in points."""


@dataclass(frozen=True)
class Declared:
    """Family of comparisons and margin of equivalence, declared before the runs or with a page."""

    family: str = ALL
    margin: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Declared:
        """Return the declaration in a JSON file of a comparison or sweep; defaults for files of earlier versions.

        Raises:
            UsageError: the margin is not a number > 0.
        """
        return cls(str(values.get("family", ALL)), check_margin(values.get("margin")))

    def as_json(self) -> dict[str, Any]:
        """Return the entries for a JSON file; :meth:`of` reads them."""
        return {"family": self.family} | ({} if self.margin is None else {"margin": self.margin})


def family_option() -> Any:
    """Return the field of the option ``family``, the same for all commands."""
    return option(
        ALL,
        "pairs to test, whose p-values are adjusted together: all (default), an arm to compare with each other arm, "
        "or pairs as in tvlars:lars,tvlars:lamb",
    )


def margin_option() -> Any:
    """Return the field of the option ``margin``, the same for all commands."""
    text = (
        "margin of equivalence: arms are equivalent if their difference is shown to be smaller; in points of accuracy "
        "(default: 0.3), for your own task in the unit of its measure (default: no test)"
    )
    return option(None, text, within=(0, None), above=True)


def check_family(family: str, arms: Iterable[str]) -> None:
    """Raise ``UsageError`` unless ``family`` is "all", one of ``arms``, or pairs of them."""
    arms = list(dict.fromkeys(arms))
    if family == ALL or _named(family, arms):
        return
    for part in split_outside(family, ",") or [family]:
        if _split(part, arms) is not None:
            continue
        names = [name.strip() for name in part.split(":")]
        if len(names) == 1:
            raise unknown("arm of family", part, [*arms, ALL])
        for name in names if len(names) == 2 else ():
            if not _named(name, arms):
                raise unknown("arm of family", name, arms)
        example = ":".join([*arms, "lars", "lamb"][:2])
        raise UsageError(f"family must be all, an arm, or pairs of two arms as in {example}, got {part!r}")


def check_margin(margin: Any) -> float | None:
    """Return a margin of equivalence, or None; raise ``UsageError`` for other values than numbers > 0."""
    if margin is None:
        return None
    try:
        check_number("margin", margin, low=0.0, open_low=True)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return float(margin)


def pairs_of(family: str, arms: Iterable[str]) -> set[frozenset[str]]:
    """Return the pairs of ``arms`` that belong to a family; names of other arms are ignored."""
    arms = list(dict.fromkeys(arms))
    if family == ALL:
        return {frozenset((a, b)) for a in arms for b in arms if a != b}
    if references := _named(family, arms):
        return {frozenset((a, b)) for a in references for b in arms if b not in references}
    found = [_split(part, arms) for part in split_outside(family, ",")]
    return {frozenset((a, b)) for one in found if one is not None for a in one[0] for b in one[1]}


def said_family(family: str, comparisons: int) -> str:
    """Return the tested pairs in words, for example "all pairs of arms (6)"."""
    return f"{'all pairs of arms' if family == ALL else family} ({counted(comparisons, 'comparison')})"


def _named(name: str, arms: Collection[str]) -> list[str]:
    """Return the arms that a name means: the arm itself, or all arms of that name with settings in brackets."""
    return [name] if name in arms else [arm for arm in arms if arm.startswith(f"{name} (")]


def _split(text: str, arms: Collection[str]) -> tuple[list[str], list[str]] | None:
    """Return the arms of both sides of ``A:B``; None if ``text`` is not a pair. Names may contain colons."""
    for place in (i for i, sign in enumerate(text) if sign == ":"):
        a, b = _named(text[:place].strip(), arms), _named(text[place + 1 :].strip(), arms)
        if a and b and a != b:
            return a, b
    return None
