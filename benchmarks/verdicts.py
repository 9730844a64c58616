"""Error rates of comparisons: differences and equivalences that are claimed wrongly, and those that are found.

    python benchmarks/verdicts.py

Draws the right and wrong answers of all runs of a page at random: some test images are harder than others, and some
runs better than others, so that accuracies of 10,000 images differ between two arms by 0.41 points from seed to seed.
"Identical" pages have three arms of the same true accuracy at two batch sizes, so six comparisons; the share of pages
with any significant difference is the family-wise false alarm rate. Other pages have two arms, one of which gets a
share of the other's wrong answers right. Prints a table in Markdown, with 95 % intervals (Wilson's) of the shares.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from tvlars.lab.comparison.statistics import differences

WRONG = 0.12 / 3.12
"""Mean share of wrong answers."""
SPREAD = 0.06
"""Standard deviation, over runs, of the share of wrong answers that a run gets right besides."""
MARGIN = 0.3
"""Margin of equivalence in points."""
POINTS = {360: 2.0, 10_000: 0.5}
"""A true difference, by the number of test images."""


def page(
    generator: np.random.Generator, images: int, seeds: int, points: tuple[float, ...], sizes: int, keep: bool
) -> pd.DataFrame:
    """Return runs of arms that are better than the first by so many ``points``, with or without their predictions."""
    ease = generator.beta(3.0, 0.12, images)
    rows = []
    for size in range(sizes):
        for arm, better in enumerate(points):
            for seed in range(seeds):
                gain = better / 100 / WRONG + SPREAD * generator.standard_normal()
                right = generator.random(images) < ease + gain * (1 - ease)
                one = {"arm": f"arm {arm}", "batch_size": 128 * (size + 1), "seed": seed, "status": "finished"}
                rows.append({**one, "test_accuracy": right.mean(), "correct": right if keep else None})
    return pd.DataFrame(rows).assign(test_images=images)


def share(found: list[bool]) -> str:
    """Return a share in percent with its interval."""
    interval = binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    return f"{100 * np.mean(found):.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=200, help="pages drawn for each cell of the table")
    pages = parser.parse_args().pages
    print(
        "| images | predictions | seeds | identical: false alarms | identical pair: equivalent | difference | found | "
        f"true difference {MARGIN}: equivalent |\n|---|---|---|---|---|---|---|---|"
    )
    for images, points in POINTS.items():
        for keep in (True, False):
            for seeds in (3, 6, 9, 20):
                generator = np.random.default_rng(seeds)

                def drawn(arms: tuple[float, ...], sizes: int = 1) -> list[pd.DataFrame]:
                    draws = (page(generator, images, seeds, arms, sizes, keep) for _ in range(pages))  # noqa: B023
                    return [differences(one, margin=MARGIN) for one in draws]

                alarms = share([bool(one["significant"].any()) for one in drawn((0.0, 0.0, 0.0), sizes=2)])
                same = share([bool(one["equivalent"][0]) for one in drawn((0.0, 0.0))])
                better = drawn((points, 0.0))
                found = share([bool(one["significant"][0]) and one["better"][0] == "arm 0" for one in better])
                wrong = share([bool(one["equivalent"][0]) for one in drawn((MARGIN, 0.0))])
                cells = [f"{images:,}", "kept" if keep else "not kept", seeds, alarms, same, points, found, wrong]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
