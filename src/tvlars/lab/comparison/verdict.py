"""Verdicts in sentences: arms with the best mean, and significant differences."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tvlars._words import counted
from tvlars.lab.comparison.chance import failure_bound
from tvlars.lab.comparison.pair import said_margin, test_images_of
from tvlars.lab.comparison.paired import fewest_seeds
from tvlars.lab.comparison.statistics import INCONCLUSIVE, best_arms
from tvlars.lab.errors import listed
from tvlars.lab.imported import is_import_path
from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Measure

Pairs = dict[tuple[int, frozenset[str]], dict[Any, Any]]
"""Rows of :func:`tvlars.lab.comparison.statistics.differences` by batch size and the set of both arms."""
BESIDE = ("p_adjusted", "equivalence_p_adjusted", "effect_size", "seeds_needed", "verdict")
"""Columns of differences that tables of arms also have, for the difference from the best mean."""
COARSE = 0.005
"""Share of a test set beyond which a single image is worth a remark."""


def remarks(rows: pd.DataFrame, runs: pd.DataFrame, measure: Measure | None = None) -> list[str]:
    """Return sentences on limits of the numbers: seeds without a result, no interval of two, and few test images.
    ``runs`` are those of ``rows``, the result of :func:`tvlars.lab.comparison.statistics.table`."""
    measure = measure or Measure()
    found = ["2 seeds: no interval, which needs 3 seeds."] if (rows["seeds"] == 2).any() else []
    fewer = rows[(rows["seeds"] > 0) & (rows["seeds"] < rows["of"])].to_dict("records")
    if lost := [f"{row['arm']} at batch size {row['batch_size']:,}{_part(row)}" for row in fewer]:
        found.append(f"Means and differences leave out seeds without a result, and may look too good: {listed(lost)}.")
    images = None if measure.of_task else test_images_of(runs[runs["status"] == Status.FINISHED.value])
    if images is not None and images * COARSE < 1:
        split = "validation" if measure.name.startswith("validation") else "test"
        found.append(f"{counted(images, f'{split} image')}: one image is {100 / images:.1f} points.")
    return found


def untuned(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the sentence on arms with the plan's learning rate; ``configs`` are options of a run of each arm."""
    known = {arm: config for arm, config in configs.items() if "lr" in config}
    planned = [arm for arm, config in known.items() if config["lr"] is None and not is_import_path(config["optimizer"])]
    if not planned or len(known) == 1:
        return []
    of = "all arms" if len(planned) == len(known) else listed(planned)
    return [f"The learning rate of {of} is the plan's, not tuned; with tuned rates (tvlars tune) the order may change."]


def answers(
    rows: pd.DataFrame, pairs: pd.DataFrame, measure: Measure | None = None, classes: int | None = None
) -> list[str]:
    """Return one sentence per batch size: the arms with the best mean, and their differences from others.

    It begins with "no arm learned", "no verdict" or "no significant difference" if the best mean is that of no winner.

    Args:
        rows: result of :func:`tvlars.lab.comparison.statistics.table`.
        pairs: result of :func:`tvlars.lab.comparison.statistics.differences` for the same runs.
        measure: measure of the means; None (default): the test accuracy.
        classes: number of classes, which decides about "no arm learned"; None (default): it is unknown.
    """
    measure, between, found = measure or Measure(), _by_arms(pairs), []
    best: dict[Any, str] = {**best_arms(rows, measure.lower)}
    for size, here in rows.groupby("batch_size"):
        absent = [f"{row['arm']} ({row['left_out']})" for row in here[here["seeds"] == 0].to_dict("records")]
        lost = [f"no run of {listed(absent)} has a result"] if absent else []
        if size in best:
            done = {str(row["arm"]): row for row in here[here["seeds"] > 0].to_dict("records")}
            first = _unlearned(done, best[size], None if measure.of_task else classes)
            lost = [_answer(done, best[size], between, measure, first, lost)]
        found += [f"Batch size {size:,}: {one}." for one in lost]
    return found


def _unlearned(rows: dict[str, dict[Any, Any]], best: str, classes: int | None) -> list[str]:
    """Return the beginning of a sentence on arms that are all near chance level; [] if the best one is not."""
    if classes is None or rows[best]["accuracy"] > failure_bound(classes):
        return []
    said = "no arm learned: none is" if len(rows) > 1 else f"{best} did not learn: it is not"
    return [f"{said} well above chance level, {100 / classes:.3g} %"]


def _answer(
    rows: dict[str, dict[Any, Any]], best: str, pairs: Pairs, measure: Measure, first: list[str], lost: list[str]
) -> str:
    """Return the result at one batch size: ``rows`` by arm, and clauses that come first and after the best mean."""
    row, value = rows[best], f"{measure.text(rows[best]['accuracy'])}{measure.unit}"
    if len(rows) == 1:
        seeds = "one seed" if row["seeds"] == 1 else f"mean of {row['seeds']} seeds"
        has = f"a {measure.name} of {value}" if measure.of_task else f"{value} {measure.name}"
        return "; ".join([*first, f"{best} has {has}{_part(row) or f' ({seeds})'}", *lost])
    named = {arm: f"{arm}{_part(other)}" for arm, other in rows.items()}
    equal = [arm for arm in rows if math.isclose(rows[arm]["accuracy"], row["accuracy"], rel_tol=1e-9)]
    said = f"{listed([named[arm] for arm in equal])} share the {measure.best} mean {measure.name}, {value}"
    if len(equal) == 1:
        said = f"{best} has the {measure.best} mean {measure.name}, {value}{_part(row)}"
    found = {arms: pair for (size, arms), pair in pairs.items() if size == row["batch_size"]}
    subjects = _subjects(list(rows), equal, found)
    clauses, told, every = [], [], set()
    for subject, others in subjects.items():
        relations: dict[tuple[int, str], list[str]] = {}
        for arm in others:
            pair = found.get(frozenset((subject, arm)))
            words = _relation(subject, pair, measure, subject in equal)
            relations.setdefault(words, []).append(arm if arm in equal else named[arm])
            told += [pair] if pair is not None else []
        name = f"{subject if subject in equal else named[subject]}: "
        name *= list(subjects) != [best] and len(rows) > 2
        said_of = [words.format(listed(arms)) for (_, words), arms in sorted(relations.items())]
        clauses.append(name + ", and ".join(said_of))
        every |= {words for _, words in relations}
    undecided = _undecided(told)
    if undecided and len(equal) > 1 and len(every) == 1:  # the same is true of all pairs, so that it is said once
        clauses = [re.sub(r" (from|against|on|with) {}", "", every.pop())]
    return f"{'; '.join([*(first or undecided), said, *lost, *clauses])}{_basis(told)}{_power(told, measure)}"


def _undecided(told: list[dict[Any, Any]]) -> list[str]:
    """Return the beginning of a sentence in which no pair has been decided, so that no arm reads as the winner."""
    if any(pair["significant"] or pair["equivalent"] for pair in told):
        return []
    return ["no significant difference" if any(pair["verdict"] == INCONCLUSIVE for pair in told) else "no verdict"]


def _subjects(arms: list[str], equal: list[str], pairs: dict[frozenset[str], dict[Any, Any]]) -> dict[str, list[str]]:
    """Return, by subject of a sentence, the arms that it is related to: for the best arms all others or, if the family
    leaves out pairs, for one arm of each pair the other arm; the subject is the reference if the family has one."""
    if all(pair["in_family"] for pair in pairs.values()):
        found = {leader: [arm for arm in arms if arm not in equal[: i + 1]] for i, leader in enumerate(equal)}
        return {leader: others for leader, others in found.items() if others}
    tested = [pair for pair in pairs.values() if pair["in_family"]]
    times = Counter(arm for pair in tested for arm in (pair["better"], pair["worse"]))
    chosen: dict[str, list[str]] = {}
    for pair in tested:
        subject, other = sorted((pair["better"], pair["worse"]), key=lambda arm: times[arm])
        chosen.setdefault(subject, []).append(other)
    return chosen


def _relation(arm: str, pair: dict[Any, Any] | None, measure: Measure, leads: bool) -> tuple[int, str]:
    """Return the words that relate ``arm`` to the other arm of the pair, with their place in a sentence.

    Args:
        arm, pair: the arm, and its row of differences, None if the arms have no seed in common.
        measure: measure of the means.
        leads: True if the arm has the best mean.
    """
    if pair is None:
        return 7, "no seed in common with {}"
    side = "below" if (pair["better"] == arm) == measure.lower else "above"
    survivors = " on the seeds that both have" if leads and pair["better"] != arm else ""
    within = f"within {said_margin(pair['margin'], measure.of_task)}"
    if pair["significant"]:
        equivalent = f" but equivalent {within}" if pair["equivalent"] else ""
        return (3 if survivors else 0) + bool(equivalent), f"significantly {side} {{}}{survivors}{equivalent}"
    if pair["equivalent"]:
        return 2, f"equivalent to {{}} {within}"
    if pair["verdict"] == INCONCLUSIVE:
        return 5, "inconclusive against {}"
    if "test image" in pair["verdict"]:
        return 6, "no verdict on {}, since the number of test images is not known or is 1"
    seeds = counted(pair["seeds"], "seed")
    return 6, f"{seeds} cannot show a difference from {{}} at 5 %, {fewest_seeds(pair['comparisons'])} can"


def _basis(told: list[dict[Any, Any]]) -> str:
    """Return the basis of verdicts on pairs, as in " (9 seeds, Holm over 6 comparisons)"; "" if there is none."""
    judged = [pair for pair in told if pair["significant"] or pair["equivalent"] or pair["verdict"] == INCONCLUSIVE]
    if not judged:
        return ""
    seeds, count = [pair["seeds"] for pair in judged], judged[0]["comparisons"]
    low, high = min(seeds), max(seeds)
    number = f"{low} seeds" if low == high else f"{low} to {high} seeds"
    return f" ({number}, Holm over {count} comparisons)" if count > 1 else f" ({number}, one comparison)"


def _power(told: list[dict[Any, Any]], measure: Measure) -> str:
    """Return a sentence on the seeds needed to show a difference as large as the margin, for inconclusive pairs."""
    open_ones = [pair for pair in told if not (pair["significant"] or pair["equivalent"])]
    needed = [pair["seeds_needed"] for pair in open_ones if not math.isnan(pair["seeds_needed"])]
    if not needed:
        return ""
    low, high = min(needed), max(needed)
    number = "more test images" if math.isinf(high) else f"{low:,.0f}{f' to {high:,.0f}' * (low != high)} seeds"
    return f". A difference of {said_margin(open_ones[0]['margin'], measure.of_task)} would need {number}"


def _part(row: dict[Any, Any]) -> str:
    """Return the number of runs in an arm's mean, as in " (2 of 3 runs, 1 diverged)"; "" if all finished."""
    return f" ({row['seeds']} of {row['of']} runs, {row['left_out']})" if row["seeds"] < row["of"] else ""


def beside_best(rows: pd.DataFrame, pairs: pd.DataFrame, measure: Measure | None = None) -> pd.DataFrame:
    """Compare each arm of ``rows`` with the arm with the best mean at its batch size.

    Columns: ``BESIDE``, with the difference of the arm from the best; numbers may be NaN; verdict is in words.
    """
    measure = measure or Measure()
    best, between, found = best_arms(rows, measure.lower), _by_arms(pairs), []
    for size, arm, seeds in zip(rows["batch_size"], rows["arm"], rows["seeds"], strict=True):
        first = best.get(size, "")
        pair = between.get((size, frozenset((arm, first))))
        if not seeds or not first:
            found.append({"verdict": "no result"})
        elif pair is None:
            found.append({"verdict": f"{measure.best} mean" if arm == first else "no seed in common"})
        else:
            sign = 1 if (pair["better"] == first) == measure.lower else -1
            signed = {name: sign * pair[name] for name in ("difference", "effect_size")}
            found.append({**pair, **signed})
    return pd.DataFrame(found, columns=["difference", "interval", *BESIDE])


def with_verdicts(rows: pd.DataFrame, pairs: pd.DataFrame, measure: Measure | None = None) -> pd.DataFrame:
    """Return ``rows`` with each arm's against_best, its difference from the best mean, and ``BESIDE``."""
    beside = beside_best(rows, pairs, measure).set_index(rows.index)
    return rows.assign(against_best=beside["difference"], **{name: beside[name] for name in BESIDE})


def _by_arms(pairs: pd.DataFrame) -> Pairs:
    return {(pair["batch_size"], frozenset((pair["better"], pair["worse"]))): pair for pair in pairs.to_dict("records")}
