"""Study P1: its protocols have the published grids, and its waterfall reads runs as it says."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from tests.study_modules import STUDIES, study_module
from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.presets import PUBLISHED_WARM_LRS, published_grid


@pytest.fixture(scope="module")
def p1() -> ModuleType:
    return study_module("p1")


@pytest.mark.parametrize("batch_size", [512, 2048, 8192])
def test_protocols_have_the_published_grids(batch_size: int) -> None:
    content, published = read_yaml(STUDIES / "protocols" / f"p1-{batch_size}.yaml"), published_grid(batch_size)
    rates = content["space"]["lr"]
    assert rates["tvlars"] == rates["lars-cold"] == list(published.lrs)
    scale = {512: 9_800 / 1_900, 2048: 2_500 / 400, 8192: 700 / 100}[batch_size]  # of the steps of both runs
    factors = [scale * one for one in published.delay_factors]
    assert content["space"]["delay_factor"]["tvlars"] == pytest.approx(factors, rel=1e-3)
    assert rates["lars-warm"] == pytest.approx([lr * batch_size / 256 for lr in PUBLISHED_WARM_LRS])
    assert (content["options"]["preset"], content["options"]["test_share"]) == ("as-published", 0.25)


def trials(arm: str, *accuracies: tuple[float, ...], part: str = "", status: str = "finished") -> pd.DataFrame:
    """Return a run for each tuple: accuracy on the random share (best, last), on the whole test set, and validation."""
    names = ["share_best", "share_last", "test_accuracy", "validation_accuracy"]
    seeds = range(1, len(accuracies) + 1)
    return pd.DataFrame(accuracies, columns=names).assign(arm=arm, part=part, status=status, seed=seeds)


def test_readings_of_the_published_grids(p1: ModuleType) -> None:
    runs = pd.concat(
        [
            trials("tvlars", (0.9, 0.8, 0.7, 0.5), (0.8, 0.85, 0.75, 0.6), (0.7, 0.6, 0.65, 0.7), (0.7, 0.6, 0.6, 0.4)),
            trials("lars-warm", *((0.6, 0.6, value, value) for value in (0.5, 0.6, 0.7))),
            trials("lars-cold", (0.6, 0.6, 0.5, 0.5)),
            trials("lamb", (0.5, 0.4, 0.45, 0.5)),
        ]
    )
    found = p1.readings(runs, {"tvlars": 4, "lars-warm": 3, "lars-cold": 3, "lamb": 1})
    tvlars = [row["tvlars"] for row in found]
    assert tvlars[:3] == pytest.approx([90.0, 85.0, 75.0])
    assert tvlars[3] == pytest.approx((3 * 75 + 70) / 4)  # the best is in three of the four draws of three trials
    assert tvlars[4] == pytest.approx((3 * 65 + 75) / 4)  # chosen by validation: 65, or 75 where that is not drawn
    assert [row["lead over lars-warm"] for row in found][2] == pytest.approx(5.0)
    assert [row["lamb"] for row in found] == pytest.approx([50.0, 40.0, 45.0, 45.0, 45.0])
    assert all(math.isnan(row["lars-cold"]) for row in found)  # two of its runs are not over


def test_a_diverged_trial_counts_as_nothing(p1: ModuleType) -> None:
    nothing = trials("lars-warm", (math.nan,) * 4, status="diverged")
    runs = pd.concat([nothing, trials("lars-warm", (0.6, 0.6, 0.5, 0.5))])
    found = p1.readings(runs, {"lars-warm": 2})
    assert [row["lars-warm"] for row in found] == pytest.approx([60.0, 60.0, 50.0, 50.0, 50.0])


def test_final_runs_of_a_tuning(p1: ModuleType) -> None:
    runs = pd.concat(
        [
            trials("tvlars", *((0.0, 0.0, value, 0.0) for value in (0.80, 0.82, 0.84)), part="final"),
            trials("tvlars", (0.0, 0.0, 0.1, 0.0), part="trial"),
            trials("lars-warm", *((0.0, 0.0, value, 0.0) for value in (0.79, 0.81, 0.83)), part="final"),
            trials("lamb", *((0.0, 0.0, value, 0.0) for value in (0.85, 0.85, 0.85)), part="final"),
        ]
    )
    pairs = pd.DataFrame(
        {
            "better": ["tvlars", "lamb", "lamb"],
            "worse": ["lars-warm", "tvlars", "lars-warm"],
            "difference": [0.01, 0.03, 0.04],
            "interval": [0.0, 0.0497, 0.05],
        }
    )
    row = p1.tuned("all corrections", runs, pairs)
    assert (row["tvlars"], row["lars-warm"], row["lamb"]) == pytest.approx((82.0, 81.0, 85.0))
    assert (row["lead over lars-warm"], row["interval of lars-warm"]) == pytest.approx((1.0, 0.0))
    assert row["lead over lamb"] == pytest.approx(-3.0)
    assert "lead over lars-cold" not in row
    assert math.isnan(row["lars-cold"])
    table = p1.markdown(pd.DataFrame([{"step": "as published", "tvlars": 80.0, "lead over lamb": -1.5}, row]))
    assert table.splitlines()[2:] == [
        "| 1 | as published | 80.00 | - | - | -1.50 |",
        "| 2 | all corrections | 82.00 | - | +1.00 ± 0.00 | -3.00 ± 4.97 |",
    ]


def test_final_runs_at_their_best_epoch(p1: ModuleType) -> None:
    names = ["arm", "part", "status", "seed", "validation_best"]
    rows = [("tvlars", "final", "finished", seed, 0.70 + 0.01 * seed) for seed in (1, 2, 3)]
    rows += [("lars-warm", "final", "finished", seed, 0.72 + 0.01 * seed) for seed in (2, 3)]
    rows += [(arm, "final", "diverged", 1, math.nan) for arm in ("lars-warm", "lars-cold", "lamb")]
    rows += [(arm, "final", "finished", 3, 0.80) for arm in ("lars-cold", "lamb")]
    rows += [("tvlars", "trial", "finished", 9, 0.1)]
    row = p1.best_epochs("best", pd.DataFrame(rows, columns=names))
    assert (row["tvlars"], row["lars-warm"], row["lamb"]) == pytest.approx((72.0, 74.5, 80.0))
    assert row["lead over lars-warm"] == pytest.approx(-2.0)  # over the two seeds that both have
    assert row["lead over lars-cold"] == pytest.approx(-7.0)


@pytest.mark.parametrize("batch_size", [512, 8192])
def test_the_page_has_the_waterfall_of_the_runs(p1: ModuleType, batch_size: int) -> None:
    page = (STUDIES.parents[1] / "docs" / "results" / "published-lead.md").read_text(encoding="utf-8")
    assert p1.markdown(p1.waterfall(batch_size)) in page


def test_the_waterfall_wants_the_published_runs(p1: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"p1-512\.csv must be there"):
        p1.waterfall(512, tmp_path)
