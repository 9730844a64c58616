"""Pages of the studies a2, b1 and b3: tables, verdicts and sentences of CSVs made by hand."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tvlars.lab import LoadedRun, TrainConfig
from tvlars.lab.protocol import Protocol
from tvlars.lab.run_folder.status import Status

STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(STUDIES))
    run, results, sharpness, scaling, warmup = map(
        importlib.import_module, ("run", "results", "sharpness", "steps_to_target", "warmup")
    )
A2, NAN = ("phi", "cosine", "cosine-warm20", "cosine-warm20-fast"), math.nan


def protocol_of(name: str, patch: pytest.MonkeyPatch) -> Any:
    patch.chdir(STUDIES.parents[1])
    return Protocol.read(STUDIES / "protocols" / f"{name}.yaml")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the pages, copies of those of the repository, with that of CSVs and figures in it."""
    monkeypatch.syspath_prepend(str(results.DOCS / "figures"))
    tables = tmp_path / "studies"
    tables.mkdir()
    monkeypatch.setattr(importlib.import_module("_style"), "HERE", tables)
    for module in (results, sharpness, scaling, warmup):
        monkeypatch.setattr(module, "RESULTS", tables)
    for name in results.PAGES.values():
        text = (results.DOCS / "results" / f"{name}.md").read_text(encoding="utf-8")
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    return tmp_path


def eigenvalues(seeds: int, ratios: dict[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs and measurements: λ₁ of phi is 100, with a factor of 1.01 per seed, that of an arm ratio times it."""
    keys = [(arm, seed) for seed in range(1, seeds + 1) for arm in A2]
    runs = pd.DataFrame([dict(arm=arm, seed=seed, status="finished", test_accuracy=0.8) for arm, seed in keys])
    rows = [
        dict(
            **dict(arm=arm, seed=seed, at=at, step=step, loss=2.0 - step / 50, statistics="fresh"),
            **dict(hessian_max=value, hessian_max_at_initial_norm=2 * value, worst_case=value / 100),
        )
        for arm, seed in keys
        for at, step in (("step 6", 6), ("step 12; loss 1", 12), ("step 18", 18))
        for value in [100 * ratios[arm] * 1.01 ** (seed * (arm == "phi"))]
    ]
    return runs, pd.DataFrame(rows)


RATIOS = {"phi": 1.0, "cosine": 1.5, "cosine-warm20": 0.5, "cosine-warm20-fast": 1.04}


def test_sharpness_of_seven_seeds_is_tested_by_signs_under_holm() -> None:
    found = sharpness.Sharpness(*eigenvalues(7, RATIOS), list(A2), "phi")
    assert found.moments == ["step 6", "step 12", "step 18", "loss 1"]
    tests = found.tests().set_index("arm")
    assert tests["to"].tolist() == ["phi"] * 3
    assert tests["ratio"].tolist() == pytest.approx([ratio / 1.01**4 for ratio in (1.5, 0.5, 1.04)])
    assert tests.loc[["cosine", "cosine-warm20"], "p"].tolist() == pytest.approx([2 / 2**7] * 2)
    assert tests.loc[["cosine", "cosine-warm20"], "adjusted"].tolist() == pytest.approx([6 / 2**7] * 2)
    assert tests.loc["cosine-warm20-fast", "p"] > 0.5  # 1.04 / 1.01^seed is above 1 for some seeds, below for others
    cosine, warm, fast = found.answers()
    assert cosine.startswith("At step 6 λ₁ of cosine is 1.44 (1.41 to 1.47) times that of phi; exact p = 0.0156")
    assert "by Holm 0.0469: sharper." in cosine
    assert "less sharp." in warm
    assert "no significant difference." in fast
    norms, loss = "1.44 (1.41 to 1.47) with kernels at their initial norms", "1.44 (1.41 to 1.47) at a training loss 1."
    assert cosine.endswith(f"Ratios: {norms}, {loss}")
    tables = found.tables()
    assert "| phi | 104 (102 to 106) | 104 (102 to 106) |" in tables
    assert "| cosine / phi | 1.44 (1.41 to 1.47) |" in tables
    assert "| cosine | 1.880 | 1.760 | 1.640 | 1.760, step 12.0 | 80.00 ± 0.00 |" in tables


def test_sharpness_of_fewer_seeds_is_not_tested_and_parts_of_seeds_do_not_count() -> None:
    runs, rows = eigenvalues(7, RATIOS)
    found = sharpness.Sharpness(runs.iloc[:-1], rows, list(A2), "phi")
    assert found.seeds == [1, 2, 3, 4, 5, 6]
    assert found.tests()["p"].isna().all()
    assert "no test is made with 6 seeds" in found.answers()[0]


def test_a_level_that_an_arm_never_reached_is_empty() -> None:
    runs, rows = eigenvalues(7, RATIOS)
    rows["at"] = rows["at"].where(rows["arm"] != "cosine", rows["at"].str.partition("; ")[0])
    found = sharpness.Sharpness(runs, rows, list(A2), "phi")
    assert "| cosine / phi | 1.44 (1.41 to 1.47) | 1.44 (1.41 to 1.47) | 1.44 (1.41 to 1.47) | - |" in found.tables()
    assert "at a training loss" not in found.answers()[0]
    assert "at a training loss" in found.answers()[1]


def folders(folder: Path, patch: pytest.MonkeyPatch, module: Any, runs: dict[str, LoadedRun]) -> None:
    """Let ``module`` load these runs from folders of their names."""
    for name in runs:
        (folder / name).mkdir()
        (folder / name / "config.json").touch()
    patch.setattr(module, "load_run", lambda file: replace(runs[file.name], folder=file))


def test_measurements_are_collected_from_runs_that_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {name: [1.0] for name in sharpness.COLUMNS[2:-2] if name not in ("at", "statistics")}
    rows, none = pd.DataFrame(measured | {"at": "step 6", "statistics": "fresh"}), pd.DataFrame()
    config = TrainConfig(optimizer="lars", arm="cosine", seed=3)
    whole = LoadedRun(tmp_path, config, Status.FINISHED, none, none, rows, none)
    runs = {"a": whole, "b": replace(whole, status=Status.UNFINISHED), "c": replace(whole, sharpness=none)}
    folders(tmp_path, monkeypatch, sharpness, runs)
    found = sharpness.measurements(tmp_path, "abc")
    assert tuple(found.columns) == sharpness.COLUMNS
    assert found[["arm", "seed", "at", "protocol", "run"]].values.tolist() == [["cosine", 3, "step 6", "abc", "a"]]


def test_runs_of_a_number_of_steps_have_it_as_their_horizon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, none = TrainConfig(epochs=None, steps=40), pd.DataFrame()
    end = LoadedRun(tmp_path, config, Status.DIVERGED, none, none, none, none, summary={"steps": 7})
    folders(tmp_path, monkeypatch, results, {"a": end})
    row = results.rows_of(tmp_path, "abc").iloc[0]
    assert (row["horizon"], row["steps"], row["status"]) == (40, 7, "diverged")


def test_the_page_of_a2(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, rows = eigenvalues(7, RATIOS)
    runs.to_csv(page / "studies" / "a2.csv")
    rows.to_csv(page / "studies" / "a2-sharpness.csv")
    run.make_page(protocol_of("a2", monkeypatch))
    text = (page / "sharpness.md").read_text(encoding="utf-8")
    assert "28 of 28 runs: seeds 1 2 3 4 5 6 7." in text
    assert "![Largest eigenvalue" in text
    assert "There are no results yet." not in text
    assert (page / "studies" / "study-a2-dark.svg").is_file()


def steps_of(critical: dict[str, float], least: float = 20.0, seeds: int = 2) -> pd.DataFrame:
    """Return runs of b1 whose steps to 0.82 are exactly least (1 + critical / B), at the better of two rates."""
    rows = [
        dict(
            **dict(arm=arm, batch_size=size, horizon=horizon, steps=horizon, lr=lr, seed=seed, status="finished"),
            **dict(validation_accuracy=0.82 + 0.05 * math.log(horizon / steps) - 0.01 * lr, seconds=1.0, run="r"),
        )
        for arm, one in critical.items()
        for size in (128, 512, 2048, 8192)
        for steps in [least * (1 + one / size)]
        for horizon in (10, 40, 160, 640)
        for lr in (0.0, 2.0)
        for seed in range(1, seeds + 1)
    ]
    return pd.DataFrame(rows)


def test_critical_batch_sizes_of_runs_made_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = steps_of({"cosine": 500.0, "phi": 1000.0})
    found = scaling.result_of(protocol_of("b1", monkeypatch), frame)
    assert found.arms == ["phi", "cosine"]  # in the order of the protocol
    assert found.fits()["critical"].tolist() == pytest.approx([1000, 500], rel=1e-4)
    table = scaling.tables(found)
    assert (
        "| phi | 176 (176 to 176) | 59 (59 to 59) | 30 (30 to 30) | 22 (22 to 22) | 1,000 (1,000 to 1,000) |" in table
    )
    said = scaling.answers(found)
    assert said[-1] == "The critical batch size of phi is 2.00 times that of cosine; their intervals do not overlap."


def test_a_diverged_run_guesses_and_parts_of_seeds_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, frame = protocol_of("b1", monkeypatch), steps_of({"phi": 1000.0})
    assert scaling.result_of(protocol, frame.iloc[:-1]).config.seeds == (1,)
    bad = (frame["lr"] == 0.0) & (frame["seed"] == 2) & (frame["batch_size"] == 8192)
    frame.loc[bad, ["status", "validation_accuracy"]] = ["diverged", NAN]
    row = scaling.result_of(protocol, frame).targets().iloc[-1]
    assert row["lr"] == 2.0  # the other rate loses 0.36 in one of two seeds
    assert row["steps"] == pytest.approx(20 * (1 + 1000 / 8192) * math.exp(0.02 / 0.05))
    with pytest.raises(SystemExit, match="all runs of a seed"):
        scaling.result_of(protocol, frame.iloc[:0])


def test_the_target_is_nine_tenths_of_what_the_reference_gains() -> None:
    values = {0.1: (0.88, 0.90), 0.2: (0.90, 0.92), 0.4: (0.95, NAN)}
    frame = pd.DataFrame(
        [
            dict(lr=lr, seed=seed, validation_accuracy=value, status="diverged" if math.isnan(value) else "finished")
            for lr, some in values.items()
            for seed, value in enumerate(some)
        ]
    )
    target, rates = scaling.target_of(frame)
    assert target == 0.829  # 0.1 + 0.9 (0.91 - 0.1)
    assert rates["mean"].tolist() == pytest.approx([89.0, 91.0, 52.5])  # one that diverged counts as 10 %


def test_the_pages_of_b1(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps_of({"phi": 1000.0, "cosine": 500.0, "sgd": 100.0}).to_csv(page / "studies" / "b1.csv")
    run.make_page(protocol_of("b1", monkeypatch))
    rates = pd.DataFrame(dict(lr=[0.1, 0.1, 0.2, 0.2], seed=[1, 2, 1, 2], status="finished"))
    rates.assign(validation_accuracy=[0.8, 0.8, 0.9, 0.9]).to_csv(page / "studies" / "b1-target.csv")
    run.make_page(protocol_of("b1-target", monkeypatch))
    text = (page / "steps-to-target.md").read_text(encoding="utf-8")
    assert "The best rate is 0.2. It is at an edge of the grid. The target is 0.820." in text
    assert "192 of 216 runs: seeds 1 2." in text
    assert "figures/study-b1.svg" in text


def rates_of(values: dict[str, list[float]]) -> pd.DataFrame:
    """Return runs of b3, two seeds with the same accuracies in percent over six rates; the rest is 80 everywhere."""
    content = Protocol.read(STUDIES / "protocols" / "b3-vit.yaml").content
    return pd.DataFrame(
        [
            dict(arm=arm, lr=lr, seed=seed, status="finished", validation_accuracy=value / 100)
            for arm, rates in content["space"]["lr"].items()
            for lr, value in zip(rates, values.get(arm, [70, 80, 80, 80, 70, 60]), strict=True)
            for seed in (1, 2)
        ]
    )


def verdict(values: dict[str, list[float]]) -> list[str]:
    frame = rates_of(values)
    found: list[str] = warmup.verdict(results.Robustness(frame, list(dict.fromkeys(frame["arm"])), 1.0))
    return found


def test_a_network_on_which_all_do_alike_tests_nothing() -> None:
    sgd, lamb, network = verdict({})
    assert sgd.startswith("sgd: best mean 80.00 % without warm-up and 80.00 % with it; plateau 2.20 octaves without")
    assert "does not need warm-up" in sgd
    assert "does not need warm-up" in lamb
    assert "cannot be tested on this network" in network


@pytest.mark.parametrize(
    ("values", "needs"),
    [
        ([70, 79, 78, 78, 70, 60], False),  # a point less, and a plateau of 2.16 octaves
        ([70, 78.9, 78, 78, 70, 60], True),  # more than a point
        ([70, 79.5, 79.5, 70, 60, 60], False),  # 1.21 octaves in place of 2.2
        ([60, 60, 80, 60, 60, 60], True),  # 0.1 octaves
        ([10, 10, 10, 10, 10, 10], True),
    ],
)
def test_a_network_needs_warm_up_by_a_point_or_an_octave(values: list[float], needs: bool) -> None:
    assert ("**The network needs warm-up" in " ".join(verdict({"lamb": values}))) == needs


@pytest.mark.parametrize(("phi", "said"), [(79, "TVLARS does without it"), (78.9, "TVLARS needs it too")])
def test_tvlars_does_without_warm_up_within_a_point(phi: float, said: str) -> None:
    sentences = verdict({"sgd": [10] * 6, "phi": [60, 60, phi, 60, 60, 60]})
    assert said in sentences[2]
    assert "that of LARS with warm-up 80.00 % and without it 80.00 %.**" in sentences[2]
    assert sentences[3:] == ["sgd fails at all rates."]


def test_optimizers_with_other_rates_have_tables_of_their_own(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates_of({"phi": [60, 60, 60, 60, 60, 80]}).to_csv(page / "studies" / "b3-vit.csv")
    run.make_page(protocol_of("b3-vit", monkeypatch))
    text = (page / "warm-up.md").read_text(encoding="utf-8")
    assert "| arm | 0.0125 | 0.025 | 0.05 | 0.1 | 0.2 | 0.4 |\n" in text
    assert "| arm | 2 | 4 | 8 | 16 | 32 | 64 |\n" in text
    assert "The best rate of phi is at an edge of its grid, 64." in text
    assert text.count("There are no results yet.") == 2  # of the other networks
