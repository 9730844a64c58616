"""Verdict of the studies b3: does a network need warm-up, and does TVLARS do without it there?"""

from __future__ import annotations

import pandas as pd
from results import FAILED, RESULTS, Robustness, draw, said_runs, write_page

from tvlars.lab.protocol import Protocol

WARM = {"sgd": "sgd-warm20", "lamb": "lamb-warm20"}
"""Arms that tell if a network needs warm-up, each with the same optimizer with warm-up."""
FIRST, REFERENCE, COLD = "phi", "cosine-warm20", "cosine"
POINTS, OCTAVES, ROUNDING = 1.0, 1.0, 1e-9
"""Differences of best means and of widths of plateaus that are held to count, and their error of rounding."""


def verdict(found: Robustness) -> list[str]:
    """Return the declared verdict in sentences: one for each optimizer, then that on the network and on TVLARS."""
    said, needing = [], []
    for cold, warm in WARM.items():
        gap, narrower = best(found, warm) - best(found, cold), octaves(found, warm) - octaves(found, cold)
        needs = gap > POINTS + ROUNDING or narrower >= OCTAVES - ROUNDING
        if needs:
            needing.append(cold)
        said.append(
            f"{cold}: best mean {best(found, cold):.2f} % without warm-up and {best(found, warm):.2f} % with it; "
            f"plateau {_width(found, cold)} octaves without and {_width(found, warm)} with it. It "
            f"{'needs' if needs else 'does not need'} warm-up by the protocol's criterion."
        )
    if not needing:
        said.append("**The claim cannot be tested on this network: neither SGD nor LAMB needs warm-up.**")
    else:
        without = best(found, REFERENCE) - best(found, FIRST) <= POINTS + ROUNDING
        said.append(
            f"**The network needs warm-up, and TVLARS {'does without it' if without else 'needs it too'}: its best "
            f"mean is {best(found, FIRST):.2f} %, that of LARS with warm-up {best(found, REFERENCE):.2f} % and without "
            f"it {best(found, COLD):.2f} %.**"
        )
    return said + notes(found)


def notes(found: Robustness) -> list[str]:
    """Return sentences on arms that fail everywhere, and on best rates at an edge of the grid."""
    said = []
    for arm in found.arms:
        rates, values = found.cells[arm]
        at = int(values.mean(1).argmax())
        if best(found, arm) <= 100 * FAILED:
            said.append(f"{arm} fails at all rates.")
        elif at in (0, len(rates) - 1):
            said.append(f"The best rate of {arm} is at an edge of its grid, {rates[at]:g}.")
    return said


def best(found: Robustness, arm: str) -> float:
    """Return the best mean over seeds, in percent."""
    return float(found.cells[arm][1].mean(1).max())


def octaves(found: Robustness, arm: str) -> float:
    """Return the width of the plateau, 0 of an arm that fails at all rates."""
    return found.plateau(arm).octaves if best(found, arm) > 100 * FAILED else 0.0


def _width(found: Robustness, arm: str) -> str:
    ends = found.plateau(arm)
    at_least = octaves(found, arm) > 0 and (ends.open_low or ends.open_high)
    return f"{'at least ' * at_least}{octaves(found, arm):.2f}"


def make_page(protocol: Protocol) -> None:
    """Draw the figure of a network, and put figure, tables and verdict into its section of the page b3."""
    name = protocol.name
    frame = pd.read_csv(RESULTS / f"{name}.csv")
    found = Robustness(frame, list(protocol.content["arms"]), protocol.config.within)
    if not found.seeds:
        raise SystemExit(f"{RESULTS / f'{name}.csv'} must have all runs of a seed at least")
    words = (
        "Accuracy over the learning rate with and without warm-up, a panel for each optimizer, and bars for plateaus"
    )
    figure = draw(f"study-{name}", found.painter(), words, 6.4)
    sentences = "\n".join(f"- {one}" for one in verdict(found))
    text = f"{said_runs(protocol, found.frame)}\n\n{sentences}\n\n{figure}\n\n{found.tables()}"
    write_page("b3", f"python benchmarks/studies/run.py {name}", text)
