"""Regrets of the plan's candidates."""

from __future__ import annotations

from types import ModuleType

import pandas as pd
import pytest

from tests.study_modules import study_module


@pytest.fixture(scope="module")
def regret() -> ModuleType:
    return study_module("regret")


def frame(cells: dict[tuple[str, float], tuple[float, ...]]) -> pd.DataFrame:
    rows = [
        dict(arm=arm, lr=lr, seed=seed, status="finished", validation_accuracy=value)
        for (arm, lr), values in cells.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_diverged_run_counts_as_guessing(regret: ModuleType) -> None:
    runs = frame({("phi75", 16.0): (0.8, 0.9)})
    runs.loc[1, ["status", "validation_accuracy"]] = ["diverged", float("nan")]
    assert regret.means(runs).loc["phi75", 16.0] == pytest.approx(45.0)


def test_the_regret_is_to_the_best_cell_and_the_least_worst_one_comes_first(regret: ModuleType) -> None:
    names = ("phi50", "phi75", "phi90")
    small = {("phi50", 16.0): (0.90, 0.92), ("phi75", 16.0): (0.90,), ("phi90", 16.0): (0.85,)}
    large = {(arm, 16.0): (0.8,) for arm in names}
    small |= {(arm, 32.0): (0.7,) for arm in names}
    large |= {("phi50", 32.0): (0.7,), ("phi75", 32.0): (0.805,), ("phi90", 32.0): (0.81,)}
    lost = regret.regrets({"s": (256, regret.means(frame(small))), "l": (8192, regret.means(frame(large)))})
    rows = lost.set_index(["schedule", "peak"])
    assert rows.loc[("phi75", "16"), ["s", "l", "worst"]].tolist() == pytest.approx([1.0, 1.0, 1.0])
    # 16 at a batch size of 256, and the limit, 32, at 8,192
    assert rows.loc[("phi75", "16 √(B / 256), at most 32"), ["s", "l"]].tolist() == pytest.approx([1.0, 0.5])
    # phi50 at the small batch and phi90 at the large one
    noise = rows.loc[(regret.BY_NOISE, "16 √(B / 256), at most 32")]
    assert noise[["s", "l", "worst", "mean"]].tolist() == pytest.approx([0.0, 0.0, 0.0, 0.0])
    assert lost.iloc[0]["schedule"] == regret.BY_NOISE
    assert lost["worst"].is_monotonic_increasing


def test_the_table_of_schedules_has_the_best_rate_of_each(regret: ModuleType) -> None:
    table = regret.means(frame({("phi75", 8.0): (0.7,), ("phi75", 16.0): (0.8,), ("linear", 8.0): (0.75,)}))
    assert (
        regret.text_table(regret.best_shares({"w": (256, table)})).splitlines()[-1] == "| w | 75.00 (8) | 80.00 (16) |"
    )
