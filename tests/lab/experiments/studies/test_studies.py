"""Robustness and scaling: options, runs, tables, files and pages; runs in this process on a few digits."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.command import tvlars
from tvlars.cli import main
from tvlars.lab import (
    Arm,
    ImageData,
    RobustnessConfig,
    RobustnessResult,
    ScalingConfig,
    ScalingResult,
    TrainConfig,
    UsageError,
    load_run,
    robustness,
    scaling,
)
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.robustness.page import report_of as report_of_robustness
from tvlars.lab.experiments.robustness.page import save_results as save_robustness
from tvlars.lab.experiments.scaling.page import report_of as report_of_scaling
from tvlars.lab.experiments.scaling.page import save_results as save_scaling
from tvlars.lab.experiments.studies.runs import Ran
from tvlars.lab.report.chart import powers_of_two
from tvlars.lab.run_folder.status import Status

BASE = TrainConfig(epochs=2, batch_size=128, accelerator="cpu", validation=0.2)


class Names(Board):
    """Silent; keeps the names of runs that ended, and may stop after some."""

    def __init__(self, stop_after: int = -1) -> None:
        self.names: list[str] = []
        self.stop_after = stop_after

    def ended(self, job: Any, status: Status, note: str = "") -> None:
        super().ended(job, status, note)
        self.names.append(job.name)
        if len(self.names) == self.stop_after:
            raise KeyboardInterrupt


def rows_of(table: dict[tuple[str, float, int], float], **more: Any) -> pd.DataFrame:
    """Runs of a study by (arm, lr, seed): finished with this accuracy, diverged at NaN."""
    rows = [
        dict(
            **dict(arm=arm, batch_size=128, horizon=math.nan, lr=lr, scale=math.nan, seed=seed, note=""),
            **dict(status="diverged" if math.isnan(value) else "finished", accuracy=value),
            **dict(failed=not value > 0.19, steps=10.0, seconds=1.0, folder=f"{arm}-{lr}-{seed}"),
        )
        | more
        for (arm, lr, seed), value in table.items()
    ]
    return pd.DataFrame(rows)


def result_of(table: dict[tuple[str, float, int], float], folder: Path, **options: Any) -> RobustnessResult:
    arms = tuple(dict.fromkeys(arm for arm, _, _ in table))
    seeds = tuple(dict.fromkeys(seed for _, _, seed in table))
    config = RobustnessConfig(base=BASE, optimizers=arms, seeds=seeds, lrs=("1",), **options)
    return RobustnessResult(folder, config, Ran(rows_of(table), 0.1, "validation accuracy", "Held out."))


def test_table_sentences_and_notes_of_hand_made_runs(tmp_path: Path) -> None:
    accuracy = {1.0: 0.80, 2.0: 0.90, 4.0: 0.90, 8.0: 0.10}
    table = {("lars", lr, seed): value + 0.002 * seed for lr, value in accuracy.items() for seed in (0, 1)}
    table |= {("tvlars", lr, seed): 0.9 for lr in accuracy for seed in (0, 1)}
    table["lars", 8.0, 1] = math.nan
    result = result_of(table, tmp_path)
    lars, tvlars = result.table().to_dict("records")
    assert (lars["best_lr"], lars["accuracy"], lars["at_least"]) == (2.0, pytest.approx(0.901), "")
    assert lars["octaves"] == pytest.approx(1 + 0.1 + 0.01 / 0.801)
    assert lars["octaves_low"] == pytest.approx(lars["octaves"], abs=0.01)
    assert (lars["failed"], lars["runs"]) == (pytest.approx(2 / 8), 8)
    assert (tvlars["octaves"], tvlars["at_least"], tvlars["failed"]) == (3.0, "both", 0.0)
    rates = result.rates().set_index(["arm", "lr"])
    assert rates.loc[("lars", 8.0), "accuracy"] == pytest.approx(0.1)  # 0.1 and, diverged, that of guessing
    assert rates.loc[("lars", 8.0), "failed"] == 1.0
    assert repr(result) == f"RobustnessResult(lars, tvlars: 16 runs, folder {str(tmp_path)!r})"
    assert all(sentence in result._repr_html_() for sentence in (*result.answers(), "Held out."))
    first, second = result.answers()
    assert first.startswith("lars: within 1 point of its best validation accuracy, 90.10% at lr 2, over 1.1 octaves")
    assert first.endswith("25% of 8 runs failed.")
    assert "at least 3 octaves (range of 2 seeds: 3 to 3), from lr 1 to 8" in second
    assert result.notes() == [
        "10 optimizer steps are too few for a schedule to act; more epochs or a smaller batch size give more, take at "
        "least 50.",
        "tvlars: the plateau reaches the lowest and highest rate tried, so its width is a lower bound.",
        "A bootstrap interval from 2 seeds is no wider than their range: it contains the true value in at most 50% of "
        "studies, not in 95 %.",
    ]
    plateaus, rates_table = report_of_robustness(result).tables
    assert plateaus.head[-2] == "range of 2 seeds"
    assert "±" not in plateaus.caption + rates_table.caption
    assert plateaus.caption.startswith("Best validation accuracy: mean over 2 seeds, no interval; the widest range")
    assert "(range of 2 seeds: bootstrap over seeds)" in plateaus.caption
    assert rates_table.caption == "Validation accuracy at each rate: mean over 2 seeds, no interval."
    three = result_of(table | {(arm, lr, 2): 0.5 for arm, lr, _ in table}, tmp_path)
    plateaus, rates_table = report_of_robustness(three).tables
    assert plateaus.head[-2] == "95 %"
    assert "mean over 3 seeds ± half the width of its 95 % interval (Student's t)" in rates_table.caption
    wide = result_of(table, tmp_path, within=20.0).table()
    assert wide["octaves"].iloc[0] == pytest.approx(2 + 0.2 / 0.801, abs=0.01)


def test_files_page_and_figure_of_robustness(tmp_path: Path) -> None:
    table = {("lars", 2.0**i, seed): 0.9 - 0.1 * abs(i - 2) for i in range(5) for seed in (0, 1)}
    save_robustness(result_of(table, tmp_path / "r"))
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {"results.csv", *(f"robustness.{one}" for one in ("json", "csv", "html", "md", "tex", "svg"))}
    page = (tmp_path / "r" / "robustness.html").read_text()
    assert "lars: within 1 point of its best validation accuracy, 90.00% at lr 4" in page
    assert 'src="http' not in page
    svg = (tmp_path / "r" / "robustness.svg").read_text()
    assert "learning rate" in svg
    stored = json.loads((tmp_path / "r" / "robustness.json").read_text())
    assert stored["arms"][0]["best_lr"] == 4.0
    assert (tmp_path / "r" / "robustness.tex").read_text().count(r"\begin{table}") == 2
    assert "| lars | 90.00 | 4 |" in (tmp_path / "r" / "robustness.md").read_text()
    before = (tmp_path / "r" / "robustness.svg").read_bytes()
    save_robustness(result_of(table, tmp_path / "r"))
    assert (tmp_path / "r" / "robustness.svg").read_bytes() == before


@pytest.fixture(scope="module")
def done(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> RobustnessResult:
    """A study that was interrupted and then continued."""
    folder = tmp_path_factory.mktemp("studies") / "r"
    arms = (Arm("cold", "lars", {"warmup_epochs": 0.0}),)
    config = RobustnessConfig(
        base=BASE, optimizers=("tvlars",), arms=arms, seeds=(0, 1), lrs=("8", "1e30", "cold=8"), out=folder
    )
    first = Names(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        robustness(config, data=few, board=first)
    assert len(pd.read_csv(folder / "results.csv")["failed"].dropna()) == 2
    second = Names()
    result = robustness(config, data=few, board=second)
    assert len({*first.names, *second.names}) == len(first.names) + len(second.names) == 6
    third = Names()
    again = robustness(config, data=few, board=third)
    assert third.names == []
    pd.testing.assert_frame_equal(again.runs, result.runs)
    return result


def test_a_study_does_each_run_once_on_validation_alone(done: RobustnessResult) -> None:
    runs = done.runs
    assert runs[["arm", "lr", "seed"]].values.tolist() == [
        *(["tvlars", 8.0, 0], ["tvlars", 1e30, 0], ["cold", 8.0, 0]),
        *(["tvlars", 8.0, 1], ["tvlars", 1e30, 1], ["cold", 8.0, 1]),
    ]
    assert runs["status"].tolist() == ["finished", "diverged", "finished"] * 2
    assert runs["failed"].iloc[1]
    assert done.ran.measure == "validation accuracy"
    assert "the test set was not read" in done.ran.protocol
    for row in runs[runs["status"] == "finished"].to_dict("records"):
        run = load_run(done.folder / "runs" / row["folder"])
        assert run.epochs["test_accuracy"].isna().all()
        assert row["accuracy"] == pytest.approx(run.validation_accuracy, abs=1e-6)
        assert run.config is not None
        assert run.config.warmup_epochs == (0.0 if row["arm"] == "cold" else None)
    assert "8 points" not in str(done)


def test_without_validation_the_test_accuracy_is_reported_and_said(tmp_path: Path, few: ImageData) -> None:
    base = replace(BASE, validation=None, epochs=1)
    config = RobustnessConfig(base=base, optimizers=("sgd",), seeds=(0,), lr_scales=(0.5, 1.0), out=tmp_path / "r")
    result = robustness(config, data=few, board=Board())
    assert result.ran.measure == "test accuracy"
    assert result.ran.protocol.startswith("Nothing was held out")
    assert result.runs["scale"].tolist() == [0.5, 1.0]
    assert result.runs["lr"].tolist() == pytest.approx([0.025, 0.05])  # 0.1 at 256, linear
    assert "There is only one seed, so there are no intervals." in result.notes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lrs=("4", "4.0")), "lrs must be different numbers, got 4 4.0"),
        (
            dict(lrs=("4", "x")),
            "lrs must be numbers, LOW:HIGH:xFACTOR as 4:64:x2 or 4:64:xsqrt2, or tvlars=A,B,C for one alone, got 'x'",
        ),
        (dict(lrs=("4:64:x1",)), "lrs must be numbers, LOW:HIGH:xFACTOR"),
        (dict(lrs=("-4:64:x2",)), "lrs must be numbers, LOW:HIGH:xFACTOR"),
        (dict(lrs=("4:64",)), "lrs must be numbers, LOW:HIGH:xFACTOR"),
        (dict(lrs=("larz=4",)), "unknown name in lrs 'larz': did you mean 'lars'"),
        (dict(lrs=("lars=4",)), "lrs must have rates for tvlars too, got lars=4"),
        (dict(lrs=("0",)), "lrs must be > 0 and <= 1e+30, got 0"),
        (dict(lrs=("4",), lr_scales=(1.0,)), "lr_scales must not be given with lrs, got 1.0"),
        (dict(lr_scales=(0.0,)), "lr_scales must be > 0"),
        (dict(lrs=(4,), overrides=(("lars", "lr", 2.0),)), "lr must not be set for lars with lrs"),
        (dict(base=TrainConfig(lr=3.0)), "lr must not be given for robustness, which needs several: use lrs"),
        (dict(base=TrainConfig(task="./mine.py:MyTask")), "task must have an accuracy for robustness, got "),
        (dict(seeds=()), "seeds must name at least one, got none"),
        (dict(within=-1.0), "within must be >= 0"),
    ],
)
def test_bad_options_of_robustness_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        RobustnessConfig(**{"optimizers": ("tvlars", "lars"), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(horizons=()), "horizons must name at least one number of steps, as in 20 40 80, got none"),
        (dict(horizons=("1.5",)), "horizons must be integers, LOW:HIGH:xFACTOR as 4:64:x2"),
        (dict(horizons=("0",)), "horizons must be >= 1 and <= 1000000000 (optimizer steps), got 0"),
        (dict(horizons=("128=4",)), "horizons must have steps for batch size 256 too, got 128=4"),
        (dict(horizons=("64=4",)), "unknown name in horizons '64'"),
        (dict(batch_sizes=(128,)), "batch_sizes must be two or more different ones, got 128"),
        (dict(base=TrainConfig(epochs=3)), "horizons must be given for scaling in place of epochs and steps, got 3 ep"),
        (dict(base=TrainConfig(keep_best=True, validation=0.1)), "keep_best must not be given for scaling"),
        (dict(target=1.5), "target must be > 0 and < 1"),
    ],
)
def test_bad_options_of_scaling_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        ScalingConfig(**{"optimizers": ("lars",), "horizons": ("20",), "batch_sizes": (256, 128), **options})


def test_an_axis_within_an_octave_has_ticks_between_powers_of_two() -> None:
    assert powers_of_two([19.0, 25.0]) == [16.0, 20.0, 24.0, 28.0, 32.0]
    assert powers_of_two([5.0, 25.0]) == [4.0, 8.0, 16.0, 32.0]


def test_rates_and_horizons_a_factor_apart() -> None:
    config = RobustnessConfig(optimizers=("tvlars", "lars"), lrs=("5.66:32:xsqrt2", "lars=4:16:x2,24"))
    assert config.rates_of("tvlars") == (5.66, 8.00445, 11.32, 16.0089, 22.64, 32.0178)
    assert config.rates_of("lars") == (4.0, 8.0, 16.0, 24.0)
    steps = ScalingConfig(optimizers=("lars",), batch_sizes=(128, 256), horizons=("10:80:x2", "256=7:14:xsqrt2"))
    assert (steps.horizons_of(128), steps.horizons_of(256)) == ((10, 20, 40, 80), (7, 10, 14))


def test_configs_are_read_back_from_json() -> None:
    arms = (Arm("cold", "lars", {"warmup_epochs": 0.0}),)
    for config in (
        RobustnessConfig(optimizers=("tvlars",), arms=arms, lrs=(4, "cold=8,16"), within=0.5),
        ScalingConfig(arms=arms, horizons=(20, "256=40"), batch_sizes=(256, 128), lr_scales=(0.5, 1.0), out=Path("s")),
    ):
        assert type(config).from_mapping(json.loads(config.to_json())) == config
    with pytest.raises(UsageError, match="unknown option 'horizon'"):
        ScalingConfig.from_mapping({"horizon": [3]})


def test_a_folder_of_something_else_stays_as_it_is(tmp_path: Path, few: ImageData) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    config = RobustnessConfig(base=BASE, optimizers=("lars",), seeds=(0,), lrs=(4,), out=tmp_path)
    with pytest.raises(UsageError, match="out must be a new or empty folder, or one of robustness"):
        robustness(config, data=few, board=Board())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def scaling_of(
    steps: dict[int, float], folder: Path, seeds: tuple[int, ...] = (0, 1, 2), spread: float = 0.0
) -> ScalingResult:
    """A study of lars whose accuracy at rate 2 crosses 0.8 after these steps, by batch size; at rates 1 and 4 later."""
    sizes = tuple(steps)
    config = ScalingConfig(
        optimizers=("lars",),
        seeds=seeds,
        lrs=(1, 2, 4),
        batch_sizes=sizes,
        horizons=(10, 40, 160, 640, 2560),
        target=0.8,
    )
    rows = []
    for size, need in steps.items():
        for horizon in (10, 40, 160, 640, 2560):
            for lr in (1.0, 2.0, 4.0):
                for seed in seeds:
                    late = 1.0 if lr == 2 else 2.0
                    value = 0.8 + 0.03 * math.log2(horizon / (need * late)) + spread * (seed - 1)
                    value = min(max(value, 0.1), 0.99)
                    more = dict(batch_size=size, horizon=float(horizon), seconds=0.01 * horizon)
                    rows.append(rows_of({("lars", lr, seed): value}, **more))
    frame = pd.concat(rows, ignore_index=True)
    return ScalingResult(folder, config, Ran(frame, 0.1, "validation accuracy", "Held out."))


def test_steps_and_critical_batch_size_of_hand_made_runs(tmp_path: Path) -> None:
    steps = {size: 50 * (1 + 400 / size) for size in (64, 128, 256, 512)}
    result = scaling_of(steps, tmp_path)
    targets = result.targets()
    assert targets["steps"].tolist() == pytest.approx(list(steps.values()), rel=1e-6)
    assert targets["samples"].tolist() == pytest.approx([size * one for size, one in steps.items()], rel=1e-6)
    assert targets["lr"].tolist() == [2.0] * 4
    assert targets["seconds"].tolist() == pytest.approx([6.4, 6.4, 1.6, 1.6])  # of the run that reaches it
    assert targets["low"].tolist() == pytest.approx(targets["steps"].tolist())  # seeds are all alike
    (fit,) = result.fits().to_dict("records")
    assert (fit["critical"], fit["least"]) == (pytest.approx(400, rel=1e-3), pytest.approx(50, rel=1e-3))
    assert (fit["low"], fit["high"]) == (pytest.approx(400, rel=0.01), pytest.approx(400, rel=0.01))
    assert fit["extrapolated"] == ""  # 400 is between 64 and 512
    fewer = scaling_of({size: steps[size] for size in (64, 128, 256)}, tmp_path)
    assert fewer.fits()["extrapolated"].tolist() == ["64 to 256"]
    for one, legend in ((result, "lars: critical batch size"), (fewer, "lars: critical batch size (extrapolated)")):
        assert [span.name for span in report_of_scaling(one).charts[0].spans] == [legend]
    assert result.answers() == [
        "lars: 362 steps to 0.8 at batch size 64, 89 at 512; critical batch size 400 samples (95 %: 400 to 400), "
        "fewest steps 50."
    ]
    (note,) = result.notes()
    assert "in at most 75% of studies" in note
    assert scaling_of(steps, tmp_path, seeds=tuple(range(6))).notes() == []


def test_two_seeds_of_a_study_of_scaling_have_a_range_and_those_that_fail_are_counted(tmp_path: Path) -> None:
    result = scaling_of({64: 2000, 512: 300}, tmp_path, seeds=(0, 1), spread=0.02)
    assert result.targets()["seeds"].tolist() == [1, 2]  # 2560 steps at batch size 64 do not suffice for seed 0
    report = report_of_scaling(result)
    steps, fits, horizons = report.tables
    assert [row[3] for row in steps.rows] == ["2,000 or more; 1 of 2 seeds never reached it", "300 to 476"]
    assert steps.head[3] == fits.head[3] == "range of 2 seeds"
    assert "range of 2 seeds: bootstrap over seeds" in steps.caption
    assert horizons.caption.endswith("the whole run: mean over 2 seeds, no interval.")
    assert [chart.title for chart in report.charts[::2]] == ["Steps to 0.8 (bars: range of 2 seeds)", "Time to 0.8"]


def test_fits_beyond_all_batch_sizes_have_intervals_without_an_end(tmp_path: Path) -> None:
    """Steps fall nearly in proportion: with some seeds they do, and no largest critical batch size is known."""
    result = scaling_of({size: 5 * (1 + 20_000 / size) for size in (64, 128, 256)}, tmp_path)
    lars = result.runs["batch_size"] == 256
    result.runs.loc[lars, "accuracy"] += 0.02 * (result.runs.loc[lars, "seed"] - 1)
    (fit,) = ScalingResult(tmp_path, result.config, result.ran).fits().to_dict("records")
    assert fit["beyond"] == ""
    assert fit["low"] < fit["critical"] < fit["high"] == math.inf
    (said,) = result.answers()
    assert re.search(r"\(95 %: [\d,]+ or more\), extrapolated from batch sizes of 64 to 256, fewest steps", said)
    assert fit["extrapolated"] == "64 to 256"
    assert report_of_scaling(result).tables[1].rows[0][2].endswith(" (extrapolated)")
    save_scaling(result)
    assert " or more |" in (tmp_path / "scaling.md").read_text()


def test_seeds_that_differ_give_intervals(tmp_path: Path) -> None:
    steps = {size: 50 * (1 + 400 / size) for size in (64, 128, 256, 512)}
    rows = scaling_of(steps, tmp_path, spread=0.02).targets()
    assert (rows["low"] < rows["steps"]).all()
    assert (rows["steps"] < rows["high"]).all()


def test_edges_and_targets_that_are_not_reached_are_said(tmp_path: Path) -> None:
    result = scaling_of({64: 20_000.0, 128: 5.0, 256: 100.0}, tmp_path)
    targets = result.targets().set_index("batch_size")
    assert targets.loc[64, "steps"] == math.inf
    assert targets.loc[128, "at_most"]
    (fit,) = result.fits().to_dict("records")
    assert fit["why"].startswith("the critical batch size needs 3 batch sizes that reach the target")
    notes = "\n".join(result.notes())
    assert "lars: 0.8 is not reached at batch size 64 within 2,560 steps." in notes
    assert "the shortest horizon reaches the target at batch size 128, so fewer steps may suffice" in notes
    result.runs.loc[result.runs["lr"] == 1.0, "accuracy"] = 0.995
    again = ScalingResult(result.folder, result.config, result.ran)
    assert any("the best rate is the lowest one tried at 64 x 10 steps" in note for note in again.notes())
    save_scaling(result)
    assert "not within 2,560" in (tmp_path / "scaling.md").read_text()
    assert "not reached" in (tmp_path / "scaling.svg").read_text()


def test_each_horizon_is_a_run_with_a_schedule_of_its_own(tmp_path: Path, few: ImageData) -> None:
    base = TrainConfig(accelerator="cpu", validation=0.2, schedule="cosine")
    config = ScalingConfig(
        base=base, optimizers=("lars",), batch_sizes=(64, 128), horizons=("6", "64=3,12"), target=0.2, seeds=(0,),
        out=tmp_path / "s",
    )  # fmt: skip
    result = scaling(config, data=few, board=Board())
    assert result.runs[["batch_size", "horizon", "steps"]].values.tolist() == [[64, 3, 3], [64, 12, 12], [128, 6, 6]]
    for row in result.runs.to_dict("records"):
        run = load_run(result.folder / "runs" / row["folder"])
        phi = run.steps["phi"].to_numpy()
        assert len(phi) == row["horizon"]
        assert phi[-1] == pytest.approx(0.001, abs=1e-3)  # the cosine ends with the run
        assert np.isclose(phi.max(), 1.0)
    assert "rates were not tuned" in " ".join(result.notes())
    names = Names()
    more = replace(config, horizons=("6", "12"))
    scaling(more, data=few, board=names)
    assert len(names.names) == 2  # 64 x 6 and 128 x 12 alone are new


def test_an_arm_with_a_rate_of_its_own_takes_no_scales(tmp_path: Path, few: ImageData) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef mine(model, plan):\n    return torch.optim.SGD(model.parameters(), lr=0.01)\n")
    base = replace(BASE, epochs=30)
    options: dict[str, Any] = dict(base=base, optimizers=(f"{file}:mine",), batch_sizes=(64, 128), horizons=("3", "6"))
    config = ScalingConfig(target=0.5, seeds=(0,), out=tmp_path / "s", **options)
    with pytest.raises(UsageError, match=r"lr_scales must be 1 for .*mine, which chooses its own rate, got 2"):
        scaling(replace(config, lr_scales=(1.0, 2.0)), data=few, board=Board())
    assert not (tmp_path / "s").exists()
    result = scaling(config, data=few, board=Board())
    assert result.runs["status"].tolist() == ["finished"] * 4
    assert result.horizons()["accuracy"].notna().all()


@pytest.mark.slow
def test_both_commands_as_written(tmp_path: Path) -> None:
    said = {}
    for words in (
        "robustness --data digits --epochs 2 --batch-size 256 --optimizers tvlars lars --lrs 4 8 16 --seeds 0 "
        "--validation 0.1 --out r",
        "scaling --data digits --batch-sizes 128 256 --optimizers tvlars lars --target 0.8 --horizons 20 40 --seeds 0 "
        "--validation 0.1 --out s",
    ):
        done = tvlars(*words.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said[words.split()[0]] = done.stdout
    assert "tvlars: within 1 point of its best validation accuracy" in said["robustness"]
    assert "page: r/robustness.html, figure: r/robustness.svg" in said["robustness"]
    assert "needs 3 batch sizes that reach the target" in said["scaling"]
    assert len(pd.read_csv(tmp_path / "s" / "scaling.csv")) == 4


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scaling", "--batch-sizes", "128", "256", "--optimizers", "lars", "--seeds", "0"]
    assert main(words) == 2
    assert "horizons must name at least one number of steps" in capsys.readouterr().err
    assert main(["robustness", "--lrs", "lars=4", "--optimizers", "lars", "tvlars"]) == 2
    assert "lrs must have rates for tvlars too" in capsys.readouterr().err
