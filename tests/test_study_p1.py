"""Study P1: its protocols have the published grids, and its waterfall reads runs as it says."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from tests.study_modules import STUDIES, study_module
from tvlars.lab import LoadedRun, TrainConfig
from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.presets import PUBLISHED_WARM_LRS, published_grid
from tvlars.lab.run_folder.rows import TEST_SHARE
from tvlars.lab.run_folder.status import Status


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


def trial(
    arm: str,
    share: tuple[float, float],
    test: float,
    validation: float,
    seed: int = 0,
    status: Status = Status.FINISHED,
) -> LoadedRun:
    """Return a finished run of two epochs."""
    config = TrainConfig(optimizer="lars", arm=arm, epochs=2, seed=seed)
    epochs = pd.DataFrame({"epoch": [1, 2], TEST_SHARE: share, "validation_accuracy": [0.0, validation]})
    epochs = epochs.assign(validation_loss=1.0, test_loss=math.nan, test_accuracy=math.nan)
    none = pd.DataFrame()
    return LoadedRun(Path(arm), config, status, epochs, none, none, none, summary={"test_accuracy": test})


def test_readings_of_the_published_grids(p1: ModuleType) -> None:
    trials = {
        "tvlars": [
            trial("tvlars", (0.90, 0.80), 0.70, 0.5),
            trial("tvlars", (0.80, 0.85), 0.75, 0.6),
            trial("tvlars", (0.70, 0.60), 0.65, 0.7),
            trial("tvlars", (0.70, 0.60), 0.60, 0.4),
        ],
        "lars-warm": [trial("lars-warm", (0.5, 0.6), value, value) for value in (0.5, 0.6, 0.7)],
        "lars-cold": [trial("lars-cold", (0.5, 0.6), 0.5, 0.5)],
        "lamb": [trial("lamb", (0.5, 0.4), 0.45, 0.5)],
    }
    found = p1.readings(trials, {"tvlars": 4, "lars-warm": 3, "lars-cold": 3, "lamb": 1})
    tvlars = [row["tvlars"] for row in found]
    assert tvlars[:3] == pytest.approx([90.0, 85.0, 75.0])
    assert tvlars[3] == pytest.approx((3 * 75 + 70) / 4)  # the best is in three of the four draws of three trials
    assert tvlars[4] == pytest.approx((3 * 65 + 75) / 4)  # chosen by validation: 65, or 75 where that is not drawn
    assert [row["lead over lars-warm"] for row in found][2] == pytest.approx(5.0)
    assert [row["lamb"] for row in found] == pytest.approx([50.0, 40.0, 45.0, 45.0, 45.0])
    assert all(math.isnan(row["lars-cold"]) for row in found)  # two of its runs are not over


def test_final_runs_of_a_tuning(p1: ModuleType) -> None:
    trials = {
        arm: [trial(arm, (0.0, 0.0), test, 0.0, seed) for seed, test in enumerate(values)]
        for arm, values in {"tvlars": (0.80, 0.82, 0.84), "lars-warm": (0.79, 0.81, 0.83)}.items()
    }
    trials["lamb"] = [trial("lamb", (0.0, 0.0), 0.9, 0.0, seed, Status.DIVERGED) for seed in range(3)]
    row = p1.tuned("all corrections", trials)
    assert (row["tvlars"], row["lars-warm"], row["lamb"]) == pytest.approx((82.0, 81.0, 10.0))
    assert (row["lead over lars-warm"], row["interval of lars-warm"]) == pytest.approx((1.0, 0.0))
    assert math.isnan(row["lead over lars-cold"])
    table = p1.markdown(pd.DataFrame([{"step": "as published", "tvlars": 80.0, "lead over lamb": -1.5}, row]))
    assert table.splitlines()[2:] == [
        "| 1 | as published | 80.00 | - | - | -1.50 |",
        "| 2 | all corrections | 82.00 | - | +1.00 ± 0.00 | +72.00 ± 4.97 |",
    ]


def test_the_waterfall_of_no_runs_has_no_numbers(p1: ModuleType, tmp_path: Path) -> None:
    found = p1.waterfall(512, tmp_path)
    assert found["step"].tolist() == [reading.name for reading in p1.READINGS]
    assert found.drop(columns="step").isna().all().all()
