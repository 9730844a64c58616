"""Regrets of the plan's candidates."""

from __future__ import annotations

from types import ModuleType

import numpy as np
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


def test_a_diverged_run_counts_as_guessing_and_parts_of_seeds_do_not_count(regret: ModuleType) -> None:
    runs = frame({("phi75", 16.0): (0.8, 0.9), ("phi75", 32.0): (0.8, 0.9, 0.7)})
    runs.loc[1, ["status", "validation_accuracy"]] = ["diverged", float("nan")]
    assert regret.accuracies(runs).loc[("phi75", 16.0)].tolist() == pytest.approx([80.0, 10.0])


def test_the_best_is_chosen_by_other_seeds_than_it_is_judged_by(regret: ModuleType) -> None:
    cells = {("phi75", 16.0): (0.9, 0.6, 0.6), ("phi75", 32.0): (0.7, 0.7, 0.7), ("cosine", 16.0): (0.5, 0.5, 0.5)}
    table = regret.accuracies(frame(cells))
    assert regret.best_of_others(table).tolist() == pytest.approx([70.0, 60.0, 60.0])  # the lucky 90 does not count
    assert regret.regret_by_seed(table, "phi75", 30.0).tolist() == pytest.approx([0.0, -10.0, -10.0])


def test_equal_runs_have_no_regret_on_average(regret: ModuleType) -> None:
    draw = np.random.default_rng(0)
    lost = []
    for _ in range(200):
        cells = {("phi75", float(lr)): tuple(draw.normal(0.8, 0.004, 3)) for lr in range(1, 21)}
        lost.append(regret.regret_by_seed(regret.accuracies(frame(cells)), "phi75", 1.0).mean())
    assert abs(np.mean(lost)) < 0.06  # the best mean of twenty less that of one is 0.43


def test_the_regret_is_to_the_best_cell_and_the_least_worst_one_comes_first(regret: ModuleType) -> None:
    names = ("phi50", "phi75", "phi90")
    small = {("phi50", 16.0): (0.91,) * 2, ("phi75", 16.0): (0.90,) * 2, ("phi90", 16.0): (0.85,) * 2}
    large = {(arm, 16.0): (0.8,) * 2 for arm in names}
    small |= {(arm, 32.0): (0.7,) * 2 for arm in names}
    large |= {("phi50", 32.0): (0.7,) * 2, ("phi75", 32.0): (0.805,) * 2, ("phi90", 32.0): (0.81,) * 2}
    lost = regret.regrets({"s": (256, regret.accuracies(frame(small))), "l": (8192, regret.accuracies(frame(large)))})
    rows = lost.set_index(["schedule", "peak"])
    assert rows.loc[("phi75", "16"), ["s", "l", "worst"]].tolist() == pytest.approx([1.0, 1.0, 1.0])
    # 16 at a batch size of 256, and the limit, 32, at 8,192
    assert rows.loc[("phi75", "16 √(B / 256), at most 32"), ["s", "l"]].tolist() == pytest.approx([1.0, 0.5])
    # phi50 at the small batch and phi90 at the large one
    noise = rows.loc[(regret.BY_SIZE, "16 √(B / 256), at most 32")]
    assert noise[["s", "l", "worst", "mean"]].tolist() == pytest.approx([0.0, 0.0, 0.0, 0.0])
    assert lost.iloc[0]["schedule"] == regret.BY_SIZE
    assert lost["worst"].is_monotonic_increasing


def test_a_rate_that_one_workload_lacks_is_no_candidate(regret: ModuleType) -> None:
    names = ("phi50", "phi75", "phi90")
    wide = regret.accuracies(frame({(arm, lr): (0.8,) * 2 for arm in names for lr in (8.0, 16.0)}))
    narrow = regret.accuracies(frame({(arm, 16.0): (0.8,) * 2 for arm in names}))
    peaks = set(regret.regrets({"w": (256, wide), "n": (8192, narrow)})["peak"])
    assert "16" in peaks
    assert "8" not in peaks


def test_regrets_of_the_defaults_have_an_interval_over_seeds(regret: ModuleType) -> None:
    cells = {("trapezoid", 22.6): (0.82, 0.82, 0.82), ("phi75", 22.6): (0.81, 0.82, 0.80)}
    cells |= {("linear", 32.0): (0.8, 0.8, 0.8), ("linear", 22.6): (0.1, 0.1, 0.1), ("phi", 22.6): (0.79, 0.79, 0.79)}
    cells |= {("cosine-warm20", 45.3): (0.7, 0.7, 0.7)}
    found = {"w": (1024, regret.accuracies(frame(cells)))}
    lost = regret.tested(found, regret.DEFAULTS)
    assert lost["lr"].tolist() == pytest.approx([32, 22.6, 22.6, 22.6, 32])
    assert lost["regret"].tolist() == pytest.approx([2.0, 3.0, 0.0, 1.0, 12.0])
    assert lost["half"].tolist() == pytest.approx([0.0, 0.0, 0.0, 2.484, 0.0], abs=1e-3)
    table = regret.test_table(found, lost).splitlines()
    assert table[0].startswith("| workload | best | LARS: linear | TVLARS: φ by batch size | trapezoid |")
    said = (
        "| w | trapezoid at 22.6: 82.00 % | +2.00 ± 0.00 | +3.00 ± 0.00 | +0.00 ± 0.00 | +1.00 ± 2.48 | +12.00 ± 0.00 |"
    )
    assert table[-1] == said


def test_the_table_of_schedules_has_the_best_rate_of_each(regret: ModuleType) -> None:
    table = regret.accuracies(frame({("phi75", 8.0): (0.7,), ("phi75", 16.0): (0.8,), ("linear", 8.0): (0.75,)}))
    assert (
        regret.text_table(regret.best_shares({"w": (256, table)})).splitlines()[-1] == "| w | 75.00 (8) | 80.00 (16) |"
    )
