"""Tables of a page beside that of the arms: estimates on an axis, settings, and how soon a target is reached."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.lab.report.test_report import another, frame, one
from tvlars.lab import load_run, report
from tvlars.lab.comparison.colors import colors_of
from tvlars.lab.comparison.statistics import differences, table
from tvlars.lab.report.arms import make_arms
from tvlars.lab.report.parts import parts_of
from tvlars.lab.report.tables.intervals import Estimate, Intervals, estimates, gaps, over_seeds
from tvlars.lab.report.tables.settings import settings
from tvlars.lab.report.tables.targets import said_time, targets
from tvlars.lab.tasks import Measure

__all__ = ["one"]
NUMBERS = {"a": [0.80, 0.85, 0.90] * 3, "b": [0.70, 0.75, 0.801] * 3, "c": [0.79, 0.86, 0.89] * 3}
COLORS = dict.fromkeys("abcdefghij", "#000000")


def test_estimates_and_differences_stand_on_their_axes() -> None:
    runs = frame(NUMBERS)
    means = estimates(table(runs), COLORS, Measure())
    a, b, _ = means.rows
    assert a.text.startswith("85.00 ± ")
    assert a.low < a.value < a.high
    assert len(a.points) == 9
    assert 0 <= (means.place(b.value) or 0) < (means.place(a.value) or 0) <= 100
    pairs = gaps(differences(runs), COLORS, Measure(), "a")
    assert [(row.name, row.against[0], row.kind) for row in pairs.rows] == [
        ("a", "b", "significant"),
        ("a", "c", "open"),
        ("c", "b", "significant"),
    ]
    assert pairs.rows[0].verdict == "significant, p 0.012"
    assert pairs.within == pytest.approx(0.3)
    assert pairs.place(0.0) is not None


def test_of_many_pairs_those_with_the_best_arm_are_drawn() -> None:
    runs = frame({name: [0.8 - 0.01 * i, 0.81 - 0.01 * i] for i, name in enumerate("abcdef")})
    pairs = gaps(differences(runs), COLORS, Measure(), "a")
    assert {row.name for row in pairs.rows} == {"a"}
    assert len(pairs.rows) == 5
    assert pairs.note == "5 of 15 pairs; all of them are in the table below."


def test_of_a_loss_the_better_arm_is_below() -> None:
    runs = frame({"a": [0.2, 0.3, 0.25], "b": [0.5, 0.6, 0.7]}).assign(value=lambda f: f["test_accuracy"], better="min")
    (row,) = gaps(differences(runs), COLORS, Measure("test loss", "min"), "a").rows
    assert (row.name, row.against[0]) == ("a", "b")
    assert row.value == pytest.approx(-0.35)
    assert row.text.startswith("−0.35")


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values",
    [[5.0], [5.0, 5.0], [1e-7, 3e4], [math.nan], [], [0.0], [-3.0, 2.0], [math.inf, 1.0], [97.1, 97.3, 12.0]],
    ids=str,
)
def test_an_axis_has_a_place_for_all_that_there_is(values: list[float], log: bool) -> None:
    rows = [Estimate(str(value), value, "", value - 1e9, value + 1e9) for value in values]
    for view in (Intervals("", rows, log=log), Intervals("", rows, log=log, limits=(0.001, 100.0))):
        low, high = view.range
        assert low < high
        places = [
            place for row in rows for end in (row.low, row.value, row.high) if (place := view.place(end)) is not None
        ]
        assert all(0 <= place <= 100 for place in places)
        labels = [label for _, label in view.ticks()]
        assert len(labels) == len(set(labels)) <= 9


def test_an_interval_that_goes_far_is_cut_and_leaves_the_estimates_apart() -> None:
    view = Intervals("", [Estimate("a", 90.0, "", -300.0, 480.0), Estimate("b", 92.0, "", 91.0, 93.0)])
    a, b = view.rows
    assert view.cut(a.low)
    assert view.cut(a.high)
    assert not view.cut(b.low)
    assert (view.place(b.value) or 0) - (view.place(a.value) or 0) > 20


def test_intervals_that_are_all_wider_than_the_estimates_are_apart_are_whole() -> None:
    rows = [
        Estimate("", value, "", value - half, value + half) for value, half in ((0.32, 0.91), (0.28, 2.45), (0.6, 2.25))
    ]
    view = Intervals("", rows, zero=True)
    assert not any(view.cut(end) for row in view.rows for end in (row.low, row.high))
    same = Intervals("", [Estimate("", 1.0, "", 0.0, 2.0)] * 2)
    assert (same.cut(0.0), same.cut(2.0)) == (False, False)


def test_means_of_seeds_may_be_geometric() -> None:
    found = over_seeds("a", [(1.0, "seed 0"), (100.0, "seed 1"), (math.nan, "seed 2")], "#000000", ".3g", log=True)
    assert found.value == pytest.approx(10.0)
    assert found.points == [(1.0, "seed 0: 1"), (100.0, "seed 1: 100")]
    assert over_seeds("a", [(5.0, "seed 0")], "#000000", ".3g").text == "5"
    assert over_seeds("a", [], "#000000", ".3g").text == "-"


def test_twelve_arms_differ_in_colour_or_dash() -> None:
    found = colors_of({f"arm {i}": "lars" if i % 2 else "mine.py:Own" for i in range(12)})
    assert len(set(found.values())) == 12


# -- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_those_that_act_and_differences_are_marked(one: Path, tmp_path: Path) -> None:
    plan = json.loads((one / "plan.json").read_text())
    folders = [another(one, tmp_path / name, optimizer=name) for name in ("tvlars", "lars", "lamb")]
    for folder, lr in zip(folders, (16.0, 16.0, 0.011), strict=True):
        own = {"lr": lr, "momentum": 0.9 if lr == 16 else None, "optimizer": folder.name}
        (folder / "plan.json").write_text(json.dumps({**plan, **own}))
    (part,) = parts_of(list(map(load_run, folders)))
    found = settings(part.arms, part.batch_sizes)
    assert [name for name, _, _ in found.heads] == ["tvlars", "lars", "lamb"]
    rows = {row.name: row for row in found.rows}
    assert rows["learning rate (peak)"].values == ["16", "16", "0.011"]
    assert rows["learning rate (peak)"].odd == [False, False, True]
    assert "optimizer" not in rows  # the heads name it
    assert rows["momentum"].values == ["0.9", "0.9", "–"]
    assert rows["trust coefficient"].values == ["0.001", "0.001", "–"]
    assert rows["layer adaptation"].values == ["yes"] * 3
    assert ("weight decay", "0.0001") in found.shared
    assert "weight decay" not in [row.name for row in found.different]
    alone = settings(part.arms[:1], part.batch_sizes)
    assert not alone.shared
    assert "weight decay" in [row.name for row in alone.different]


# -- time to a target -------------------------------------------------------------------------------------------------


def curve(one: Path, folder: Path, accuracies: Sequence[float], status: str = "finished", **options: Any) -> Path:
    """A run with these accuracies, each after five steps and two seconds more."""
    shutil.copytree(one, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    rows = pd.read_csv(folder / "epochs.csv")
    rows = rows.iloc[[0] * len(accuracies)].assign(test_accuracy=accuracies, seconds=2.0)
    number = range(1, len(rows) + 1)
    rows.assign(epoch=number, step=[5 * i for i in number]).to_csv(folder / "epochs.csv", index=False)
    (folder / "summary.json").write_text(json.dumps({"status": status, "epochs": len(rows)}))
    return folder


def test_steps_samples_and_time_to_a_target_are_of_the_median_seed(one: Path, tmp_path: Path) -> None:
    folders = [
        curve(one, tmp_path / "0", [0.5, 0.91, 0.96], seed=0),
        curve(one, tmp_path / "1", [0.3, 0.8, 0.92], seed=1),
        curve(one, tmp_path / "2", [0.3, 0.89, 0.955], seed=2),
        curve(one, tmp_path / "3", [0.6, 0.7, 0.8], optimizer="lars", seed=0),
        curve(one, tmp_path / "4", [], "diverged", optimizer="lars", seed=1),
        curve(one, tmp_path / "5", [0.99], "unfinished", optimizer="lars", seed=2),
    ]
    arms = make_arms(list(map(load_run, folders)))
    found = targets(arms, "test_accuracy", Measure())
    assert [one.name for one in found] == ["15 % error", "10 % error", "5 % error"]
    tvlars, lars = found[1].rows
    assert tvlars == {
        "arm": "tvlars",
        "steps": "15 (10 to 15)",
        "samples": "3,840 (2,560 to 3,840)",
        "training time": "6 s (4 s to 6 s)",
        "seeds that reach it": "3 of 3",
    }
    assert (lars["steps"], lars["seeds that reach it"]) == ("not reached", "0 of 2")
    assert targets(arms, "validation_accuracy", Measure()) == []
    assert found[2].rows[0] == {  # median 15: seed 1 never reaches it
        "arm": "tvlars",
        "steps": "15; 1 of 3 seeds never reached it",
        "samples": "3,840",
        "training time": "6 s",
        "seeds that reach it": "2 of 3",
    }
    assert found[0].rows[1]["steps"] == "not reached"
    few = [curve(one, tmp_path / f"6{i}", [last], optimizer="lars", seed=i) for i, last in enumerate((0.91, 0.1, 0.1))]
    lars = targets(make_arms(list(map(load_run, [*folders[:3], *few]))), "test_accuracy", Measure())[1].rows[1]
    assert (lars["steps"], lars["seeds that reach it"]) == ("not reached by 2 of 3 seeds", "1 of 3")
    assert [said_time(seconds) for seconds in (0.52, 100, 300, 7300)] == ["0.52 s", "100 s", "5 min", "2.03 h"]


def test_a_measure_of_a_task_has_targets_between_its_first_and_best_value(one: Path, tmp_path: Path) -> None:
    arms = make_arms([load_run(curve(one, tmp_path / "0", [2.0, 1.5, 1.0]))])
    found = targets(arms, "test_accuracy", Measure("test loss", "min"))
    assert [(target.name, target.rows[0]["steps"]) for target in found] == [
        ("loss 1.5", "10"),
        ("loss 1.2", "15"),
        ("loss 1.05", "15"),
    ]


# -- odd inputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arms", [1, 12])
def test_a_page_of_one_or_many_arms_has_no_hole(one: Path, tmp_path: Path, arms: int) -> None:
    names = [f"an-arm-with-{i}-and-a-very-long-name" for i in range(arms)]
    folders = [another(one, tmp_path / str(i), shift=-0.001 * i, arm=name) for i, name in enumerate(names)]
    diverged = another(one, tmp_path / "diverged", arm="gone")
    (diverged / "summary.json").write_text('{"status": "diverged"}')
    text = report([*folders, diverged], tmp_path / "page.html").read_text()
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert not re.search(r"\b(nan|inf|None|undefined)\b", shown, re.IGNORECASE)
    assert shown.count('class="mean"') == arms + (arms - 1)
