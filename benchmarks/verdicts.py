"""How often does a comparison claim a difference that is none, and how often does it find one that is there?

    python benchmarks/verdicts.py

Draws the right and wrong answers of all runs of a page at random, 360 test images (as many as digits has), some of
them harder than others. "Identical" pages have three arms of the same true accuracy at two batch sizes, so six
comparisons; the share of pages with any significant difference is the family-wise false alarm rate. Other pages have
two arms, one of which gets a share of the other's wrong answers right. Prints a table in Markdown, with 95 % intervals
(Wilson's) of the shares.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from tvlars.lab.comparison.statistics import differences

IMAGES = 360


def page(generator: np.random.Generator, seeds: int, gains: tuple[float, ...], sizes: int, keep: bool) -> pd.DataFrame:
    """Return runs of arms that get the shares ``gains`` of wrong answers right, with or without their predictions."""
    ease = generator.beta(3.0, 0.12, IMAGES)  # mean 0.96
    rows = []
    for size in range(sizes):
        for arm, gain in enumerate(gains):
            for seed in range(seeds):
                right = generator.random(IMAGES) < ease + gain * (1 - ease)
                one = {"arm": f"arm {arm}", "batch_size": 128 * (size + 1), "seed": seed, "status": "finished"}
                rows.append({**one, "test_accuracy": right.mean(), "correct": right if keep else None})
    return pd.DataFrame(rows).assign(test_images=IMAGES)


def share(found: list[bool]) -> str:
    """Return a share in percent with its interval."""
    interval = binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    return f"{100 * np.mean(found):.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=200, help="pages drawn for each cell of the table")
    pages = parser.parse_args().pages
    print("| seeds | predictions | identical: false alarms | difference, points | found |\n|---|---|---|---|---|")
    for keep in (True, False):
        for seeds in (2, 3, 5):
            generator = np.random.default_rng(seeds)
            drawn = [differences(page(generator, seeds, (0, 0, 0), 2, keep)) for _ in range(pages)]
            alarms = share([bool(one["significant"].any()) for one in drawn])
            for gain in (0.5, 0.9):
                drawn = [differences(page(generator, seeds, (gain, 0), 1, keep)) for _ in range(pages)]
                points = 100 * np.mean([one["difference"][0] for one in drawn])
                found = share([bool(one["significant"][0]) and one["better"][0] == "arm 0" for one in drawn])
                print(f"| {seeds} | {'kept' if keep else 'not kept'} | {alarms} | {points:.1f} | {found} |", flush=True)


if __name__ == "__main__":
    main()
