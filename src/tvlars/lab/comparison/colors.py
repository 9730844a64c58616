"""Colors of arms, the same on pages and in notebooks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

OKABE_ITO = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#999999")
"""Colours that colour-blind readers can distinguish, legible on light and dark backgrounds."""
OWN = {"tvlars": 0, "lars": 1, "lamb": 2, "sgd": 3, "adamw": 4}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px", "2px,2px")


def colors_of(optimizers: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the color and dash of each arm: its optimizer's own for the optimizer's first arm, else unused ones."""
    places: dict[str, int] = {}
    for arm, optimizer in optimizers.items():
        own = OWN.get(optimizer)
        if own is not None and own not in places.values():
            places[arm] = own
    free = iter([place for place in range(len(OKABE_ITO)) if place not in places.values()])
    more = itertools.chain(free, itertools.count(len(OKABE_ITO)))
    places.update({arm: next(more) for arm in optimizers if arm not in places})
    rounds = {arm: divmod(place, len(OKABE_ITO)) for arm, place in places.items()}
    return {arm: (OKABE_ITO[rounds[arm][1]], DASHES[sum(rounds[arm]) % len(DASHES)]) for arm in optimizers}
