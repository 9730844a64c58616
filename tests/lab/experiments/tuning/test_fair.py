"""Tuning that a reviewer would accept: arms, several tuning seeds, edges, and equal budgets throughout."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.lab.experiments.tuning.pretended import quietly
from tvlars.cli import main
from tvlars.lab import Arm, ImageData, Reporter, TrainConfig, TuneConfig, UsageError, load_run, report, tune
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.run_name import run_name
from tvlars.lab.experiments.tuning import stages
from tvlars.lab.experiments.tuning.objective import Objective
from tvlars.lab.experiments.tuning.sources import chosen_again
from tvlars.lab.experiments.tuning.space import Choice, Range, parse_spaces, sobol_points
from tvlars.lab.experiments.tuning.stages import Edge, Explored, Stage, further_stage, trials_of_round
from tvlars.lab.experiments.tuning.trial import Rerun, Trial, Tuned
from tvlars.lab.run_folder.rows import EpochRow
from tvlars.lab.run_folder.status import Status
from tvlars.lab.training.batches import Batches

search_module = pytest.importorskip("tvlars.lab.experiments.tuning.search")
COLD = Arm("cold", "lars", {"warmup_epochs": 0.0})
WARM = Arm("warm", "lars", {"warmup_epochs": 1.0})


def config(out: Path, *arms: Arm, **options: Any) -> TuneConfig:
    usual: dict[str, Any] = dict(base=TrainConfig(epochs=2), trials=3, sampler="grid", space=("lr=4,8,16",), out=out)
    return TuneConfig(arms=arms, **{**usual, **options})


def stored(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "tune.json").read_text()))


# -- arms -------------------------------------------------------------------------------------------------------------


def test_two_arms_of_one_optimizer_are_tuned_under_their_names(pretend: list[TrainConfig], tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = config(out, COLD, WARM, optimizers=("sgd",), space=("lr=4,8,16", "cold.lr=2,4,8", "sgd.lr=1,2,4"))
    result = quietly(one)
    assert [tuned.arm for tuned in result.tuned] == ["sgd", "cold", "warm"]
    assert [tuned.best and tuned.best.params for tuned in result.tuned] == [{"lr": 4.0}, {"lr": 8.0}, {"lr": 8.0}]
    said = Counter((run.arm, run.optimizer, run.warmup_epochs) for run in pretend)
    assert said == {("cold", "lars", 0.0): 3, ("warm", "lars", 1.0): 3, (None, "sgd", None): 3}
    assert sorted(path.name for path in (out / "trials").iterdir()) == [
        f"{name}-00{number}" for name in ("cold", "sgd", "warm") for number in range(3)
    ]
    frame = pd.read_csv(out / "trials.csv", na_filter=False)
    pd.testing.assert_frame_equal(result.frame(), frame, check_dtype=False)
    assert frame[frame["chosen"]].set_index("arm")["lr"].to_dict() == {"sgd": 4.0, "cold": 8.0, "warm": 8.0}
    assert stored(out)["arms"]["cold"] == {"optimizer": "lars", "options": {"warmup_epochs": 0.0}}
    table = pd.read_csv(out / "arms.csv").set_index("arm")
    assert table["trials"].tolist() == [3, 3, 3]
    assert table["best"].tolist() == [0.5, 1.0, 1.0]
    final = one.run("cold", {"lr": 8.0}, 0)
    assert (final.arm, final.arm_name, final.seed, final.warmup_epochs, final.test) == ("cold", "cold", 0, 0.0, True)


def test_arms_of_an_earlier_call_stay_what_they_were(pretend: list[TrainConfig], tmp_path: Path) -> None:
    quietly(config(tmp_path / "out", COLD))
    with pytest.raises(UsageError, match=r"has arms \{'cold': .*0.0\}\}\}, got \{'cold': .*0.5\}\}\}"):
        quietly(config(tmp_path / "out", Arm("cold", "lars", {"warmup_epochs": 0.5})))
    quietly(config(tmp_path / "out", WARM))
    after = stored(tmp_path / "out")
    assert list(after["arms"]) == list(after["space"]) == ["cold", "warm"]
    assert [one["arm"] for one in after["spent"]] == ["warm", "cold"]
    assert quietly(config(tmp_path / "out", COLD, WARM)).tuned[1].trials == 3
    assert len(pretend) == 6


def test_options_of_an_arm_are_not_searched() -> None:
    arms = [COLD, Arm.of("lars")]
    rates = {"cold": 8.0, "lars": 8.0}
    spaces, notes = parse_spaces(["warmup-epochs=0,1", "momentum=0.8,0.9"], arms, "auto", rates)
    assert {key: list(space) for key, space in spaces.items()} == {
        "cold": ["lr", "momentum"],
        "lars": ["lr", "warmup_epochs", "momentum"],
    }
    assert notes == ["warmup_epochs is set by cold, and is not searched there"]
    fixed = [Arm("fixed", "lars", {"lr": 3.0})]
    assert parse_spaces(["momentum=0.8,0.9"], fixed, "auto", {"fixed": 3.0})[0] == {
        "fixed": {"momentum": Choice((0.8, 0.9))}
    }
    for texts, some, said in (
        (["cold.warmup-epochs=0,1"], arms, "--space must not have warmup_epochs of cold, which sets it"),
        ([], fixed, "--space must have an option of fixed, which sets its lr, as warmup-epochs=0:2$"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_spaces(texts, some, "auto", {**rates, "fixed": 3.0})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=5.66:90.5:xsqrt2", (5.66, 8.00445, 11.32, 16.0089, 22.64, 32.0178, 45.28, 64.0356, 90.56)),
        ("lr=4:16:x2", (4.0, 8.0, 16.0)),
        ("lr=4:20:x2", (4.0, 8.0, 16.0)),
        ("lars.foreach=1:8:x2", (1, 2, 4, 8)),
    ],
)
def test_values_a_factor_apart(text: str, values: tuple[Any, ...]) -> None:
    name = text.partition("=")[0].rpartition(".")[2]
    if name == "foreach":  # an argument of a class, whose values are literals
        text, arm = text.replace("lars.foreach", "torch.optim.NAdam.lr"), Arm.of("torch.optim.NAdam")
        name = "lr"
    else:
        arm = Arm.of("lars")
    spaces, _ = parse_spaces([text], [arm], "auto", {arm.key: 8.0})
    assert spaces[arm.key][name] == Choice(values)


@pytest.mark.parametrize("text", ["lr=4:16:x1", "lr=4:16:x0.5", "lr=4:16:xtwo", "lr=4:16:x1.0001", "lr=4:5:x2"])
def test_factors_that_lead_nowhere(text: str) -> None:
    with pytest.raises(UsageError, match="must have a factor > 1 that leads from LOW to HIGH in at most 1000 values"):
        parse_spaces([text], [Arm.of("lars")], "auto", {"lars": 8.0})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--arm cold=lars,epochs=3", "epochs must be the same for all arms, but is set only for cold"),
        ("--arm cold=lars,seed=3", "seed must be the same for all arms, but is set only for cold"),
        ("--arm cold=lars --arm cold=sgd", "optimizers and arms must have different names, but cold appears twice"),
        ("--optimizers lars --arm lars", "optimizers and arms must have different names, but lars appears twice"),
        ("--arm cold=lars --spent warm=3", "unknown arm of spent among those tuned 'warm'"),
        ("--arm cold=lars --spent cold=-3", "spent must be ARM=N, a number of earlier trials, as in lars=12, got"),
        ("--arm cold=lars --spent cold=3 cold=4", "spent must name cold only once, got it again in 'cold=4'"),
        ("--tune-seeds 1000 2", "seeds must be fresh ones, got 2, which is a seed of the trials"),
        ("--tune-seeds 1000 1000", "tune_seeds must not repeat"),
        ("--rerun 0", "rerun must be an integer >= 1, got 0"),
        ("--widen -1", "widen must be an integer >= 0, got -1"),
        (
            "--sampler qmc --trials 9 --space lr=1,2 --arm cold=lars",
            "trials must be <= 2, the number of points left in",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command(pretend: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = "tune --arm cold=lars,warmup-epochs=0 --arm warm=lars --sampler grid --space lr=2:32:x2 warm.lr=2:8:xsqrt2"
    words += f" --trials 5 --tune-seeds 1000 1001 --rerun 2 --spent warm=7 --epochs 1 --no-prune --out {out}"
    assert main(words.split()) == 0
    told = capsys.readouterr().out
    assert "5 trials of a grid for each of cold, warm; 1 epoch, seed 1000, not pruned; best 2 rerun" in told
    assert "note: earlier trials count too: warm 7" in told
    assert "cold-002 with seed 1001: 50.00%  (1 of 4)" in told
    assert "cold     5 trials, 2 reruns (0 pruned, 0 diverged), 7 epochs; best on validation 75.00% (mean of 2" in told
    assert (
        "alarm: the best trial of warm is at an edge: lr 8 lies at the upper end of 2 to 8; --widen 1 continues" in told
    )
    assert "note: the budgets of the arms differ, in runs: cold 7 and warm 14" in told
    assert stored(out)["before"] == {"warm": 7}
    assert [one["budget"] for one in stored(out)["spent"]] == [7, 14]
    assert main([word for word in words.split() if word not in ("--spent", "warm=7")]) == 0  # it is not forgotten
    assert "in runs: cold 7 and warm 14" in capsys.readouterr().out


# -- Sobol points -----------------------------------------------------------------------------------------------------


def test_sobol_points_are_even_equal_for_all_arms_and_go_on() -> None:
    one: Any = {"lr": Range(1.0, 256.0, log=True), "momentum": Range(0.5, 0.9)}
    other: Any = {"lr": Range(0.1, 25.6, log=True), "momentum": Range(0.5, 0.9)}
    few, many = sobol_points(one, 16, 7, "a"), sobol_points(one, 32, 7, "a")
    assert many[:16] == few
    assert sobol_points(one, 16, 7, "a", tried=few) == many[16:]
    assert sobol_points(one, 16, 8, "a") != few
    scaled = [point["lr"] * 10 for point in sobol_points(other, 16, 7, "b")]
    assert scaled == pytest.approx([point["lr"] for point in few])
    for name in one:  # one in each sixteenth of every option
        assert sorted(int(16 * one[name].share(point[name])) for point in few) == list(range(16))
    whole: Any = {"warmup_steps": Range(0, 3, whole=True), "nesterov": Choice((True, False))}
    assert len({tuple(point.values()) for point in sobol_points(whole, 8, 0, "a")}) == 8
    with pytest.raises(UsageError, match="trials must be <= 8, the number of points left in the space of a, got 9"):
        sobol_points(whole, 9, 0, "a")


@pytest.mark.parametrize("after", [1, 6])
def test_a_search_of_sobol_points_goes_on_as_itself(after: int, pretend: list[TrainConfig], tmp_path: Path) -> None:
    class Stopping(Reporter):
        left = after

        def epoch(self, row: EpochRow) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    def one(name: str, trials: int = 5) -> TuneConfig:
        return config(tmp_path / name, COLD, WARM, sampler="qmc", trials=trials, space=("lr=1:64:log",))

    quietly(one("whole"))
    rates = [run.lr for run in pretend]
    assert rates[::2] == rates[1::2]  # both arms draw alike
    with pytest.raises(KeyboardInterrupt):
        quietly(one("parts"), reporter=Stopping())
    quietly(one("parts"))
    whole, parts = (pd.read_csv(tmp_path / name / "trials.csv") for name in ("whole", "parts"))
    columns = ["arm", "status", "validation_accuracy", "lr"]
    pd.testing.assert_frame_equal(*(x.sort_values(columns, ignore_index=True)[columns] for x in (whole, parts)))
    quietly(one("whole", 7))
    assert pd.read_csv(tmp_path / "whole" / "trials.csv").groupby("arm").size().to_dict() == {"cold": 7, "warm": 7}


# -- several tuning seeds ---------------------------------------------------------------------------------------------


def test_the_best_are_run_again_and_chosen_by_their_means(pretend: list[TrainConfig], tmp_path: Path) -> None:
    """Seed 1000 is best at 8, seeds 1001 and 1002 at 16 and 32: the mean is best at 16."""
    out, space = tmp_path / "out", ("lr=1,2,4,8,16,32",)
    one = config(out, COLD, WARM, trials=6, space=space, tune_seeds=(1000, 1001, 1002), rerun=4, prune=False)
    result = quietly(one)
    seeds = Counter((run.arm, run.seed) for run in pretend)
    assert seeds == {(arm, seed): 6 if seed == 1000 else 4 for arm in ("cold", "warm") for seed in one.tune_seeds}
    assert {run.lr for run in pretend if run.seed == 1001} == {2.0, 4.0, 8.0, 16.0}
    assert not any(run.test for run in pretend)
    for tuned in result.tuned:
        assert tuned.best is not None
        assert tuned.best.params == {"lr": 16.0}  # although 8 is best with the first seed
        assert tuned.best.mean == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
        assert (tuned.trials, tuned.reruns, tuned.budget, tuned.epochs) == (6, 8, 14, 28)
    frame = pd.read_csv(out / "trials.csv")
    assert len(frame) == 28
    chosen = frame[(frame["arm"] == "cold") & frame["chosen"]]
    assert chosen["seed"].tolist() == [1000, 1001, 1002]
    assert chosen["folder"].tolist() == ["cold-004", "cold-004-s1001", "cold-004-s1002"]
    best = stored(out)["best"]["cold"]
    assert (best["accuracy"], best["reruns"]) == (0.5, {"1001": 1.0, "1002": 0.5})
    count = len(pretend)
    quietly(one)
    assert len(pretend) == count  # nothing is left to do
    with pytest.raises(UsageError, match=r"tune_seeds must have 1001, which runs in the folder used, got \[1000\]"):
        quietly(replace(one, tune_seeds=(1000,)))
    quietly(replace(one, tune_seeds=(1000, 1001, 1002, 1006)))
    assert len(pretend) == count + 8


def test_pruned_trials_are_not_run_again(pretend: list[TrainConfig], tmp_path: Path) -> None:
    one = config(
        tmp_path / "out",
        COLD,
        base=TrainConfig(epochs=6),
        trials=8,
        space=("lr=8,4,16,2,1,0.5,0.25,0.125",),
        tune_seeds=(1000, 1001),
        rerun=8,
    )
    (tuned,) = quietly(one).tuned
    assert (tuned.trials, tuned.pruned, tuned.reruns) == (8, 4, 4)
    frame = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert set(frame[frame["seed"] == 1001]["lr"]) == {8, 4, 16, 2}
    assert (frame[frame["seed"] == 1001]["status"] == "finished").all()


def test_reruns_that_are_interrupted_go_on(pretend: list[TrainConfig], tmp_path: Path) -> None:
    class Stopping(Reporter):
        def epoch(self, row: EpochRow) -> None:
            if len(pretend) == 8:
                raise KeyboardInterrupt

    one = config(tmp_path / "out", COLD, WARM, tune_seeds=(1000, 1001), rerun=2)
    with pytest.raises(KeyboardInterrupt, match=r"^1 of 4 reruns are done; what was measured is kept in"):
        tune(one, announce=lambda text: None, reporter=Stopping, board=Board())
    frame = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert len(frame) == 7
    (tmp_path / "out" / "trials" / "warm-001-s1001" / "summary.json").unlink(missing_ok=True)
    result = quietly(one)
    assert [run.out and run.out.name for run in pretend[8:]] == ["cold-000-s1001", "warm-001-s1001", "warm-000-s1001"]
    assert [tuned.reruns for tuned in result.tuned] == [2, 2]


def test_a_rerun_that_diverges_counts_as_the_worst() -> None:
    objective = Objective()

    def trial(number: int, value: float, *again: float | None) -> Trial:
        reruns = tuple(
            Rerun(seed, Status.DIVERGED if one is None else Status.FINISHED, one or 0.0, 2, "x")
            for seed, one in enumerate(again, 1)
        )
        return Trial(number, Status.FINISHED, {"lr": 1.0}, value, 2, f"x-{number}", objective, reruns)

    trials = [trial(0, 0.9, None), trial(1, 0.7, 0.6), trial(2, 0.8)]
    tuned = Tuned.of("x", trials, again=(1,))
    assert tuned.best == trials[1]
    assert (tuned.diverged, tuned.reruns, tuned.budget) == (1, 2, 5)
    assert Tuned.of("x", trials).best == trials[2]  # without seeds that all need, by what there is
    losses = [replace(one, objective=Objective("validation loss", "loss", "minimize")) for one in trials]
    assert Tuned.of("x", losses, again=(1,)).best == losses[0]
    # Arms that have been run again more often have it once more for all others.
    other = [trial(number, 0.5 + number / 10) for number in range(4)]
    assert [[one.number for one in some] for some in chosen_again([trials, other], 1)] == [[0, 1], [3, 2]]


# -- edges ------------------------------------------------------------------------------------------------------------


def explored(space: Any, tried: list[dict[str, Any]], listed: bool = True, stages: Any = None) -> Explored:
    return Explored(space, stages or [Stage(len(tried))], tried, listed)


def always(_: dict[str, Any]) -> bool:
    return True


def points_of(explored: Explored, count: int, best: dict[str, Any], valid: Any = always) -> list[dict[str, Any]]:
    edges = explored.edges(best, valid)
    return list(further_stage(explored, count, best, edges, valid, "grid", 0, "x").points or ())


def test_a_grid_grows_beyond_its_edge_with_the_spacing_that_is_there() -> None:
    rates = [{"lr": value} for value in (4.0, 8.0, 16.0)]
    space: Any = {"lr": Choice((4.0, 8.0, 16.0))}
    one = explored(space, rates)
    assert [(edge.side, edge.low, edge.high) for edge in one.edges({"lr": 16.0}, always)] == [("high", 4, 16)]
    assert points_of(one, 3, {"lr": 16.0}) == [{"lr": 32.0}, {"lr": 64.0}, {"lr": 128.0}]
    assert points_of(one, 2, {"lr": 4.0}) == [{"lr": 2.0}, {"lr": 1.0}]
    assert points_of(one, 2, {"lr": 8.0}) == [{"lr": 5.65685}, {"lr": 11.3137}]
    assert points_of(one, 4, {"lr": 8.0})[2:] == [{"lr": 6.72717}, {"lr": 9.51365}]
    linear: Any = {"momentum": Choice((0.8, 0.85, 0.9))}
    one = explored(linear, [{"momentum": value} for value in (0.8, 0.85, 0.9)])
    assert points_of(one, 2, {"momentum": 0.9}, lambda p: p["momentum"] < 1) == [
        {"momentum": 0.95},
        {"momentum": 0.875},
    ]


def test_several_options_take_turns_and_whole_numbers_stay_whole() -> None:
    space: Any = {"lr": Range(1.0, 4.0, log=True), "warmup_steps": Choice((1, 2, 3)), "nesterov": Choice((True, False))}
    tried = [
        {"lr": lr, "warmup_steps": steps, "nesterov": flag}
        for lr in (1.0, 2.0, 4.0)
        for steps in (1, 2, 3)
        for flag in (True, False)
    ]
    best = {"lr": 4.0, "warmup_steps": 3, "nesterov": True}
    one = explored(space, tried)
    assert [edge.option for edge in one.edges(best, always)] == ["lr", "warmup_steps"]
    assert points_of(one, 4, best) == [
        {**best, "lr": 8.0}, {**best, "warmup_steps": 5}, {**best, "lr": 16.0}, {**best, "warmup_steps": 9}
    ]  # fmt: skip
    inner = {"lr": 2.0, "warmup_steps": 2, "nesterov": True}  # nothing whole lies between 1, 2 and 3
    found = points_of(one, 3, inner)
    assert [point["lr"] for point in found] == pytest.approx([2**0.5, 2**1.5, 2**0.75], rel=1e-5)
    assert all(point["warmup_steps"] == 2 for point in found)


def test_a_limit_of_an_option_is_no_edge() -> None:
    space: Any = {"warmup_epochs": Choice((0.0, 1.0, 2.0))}
    one = explored(space, [{"warmup_epochs": value} for value in (0.0, 1.0, 2.0)])
    assert one.edges({"warmup_epochs": 0.0}, lambda point: point["warmup_epochs"] >= 0) == []
    assert len(one.edges({"warmup_epochs": 2.0}, always)) == 1
    assert (
        explored(space, [{"warmup_epochs": 1.0}]).edges({"warmup_epochs": 1.0}, always) == []
    )  # one value has no ends


def test_the_outer_tenth_of_a_range_is_its_edge() -> None:
    space: Any = {"lr": Range(1.0, 1024.0, log=True), "momentum": Range(0.5, 0.9)}
    one = explored(space, [{"lr": 1.0, "momentum": 0.7}] * 16, listed=False)
    for lr, sides in ((1.9, ["low"]), (2.1, []), (400.0, []), (520.0, ["high"])):
        assert [edge.side for edge in one.edges({"lr": lr, "momentum": 0.7}, always)] == sides
    best = {"lr": 1000.0, "momentum": 0.7}
    stage = further_stage(one, 4, best, one.edges(best, always), always, "tpe", 0, "x")
    assert stage.points is None
    assert stage.ranges == {"lr": (1024.0, pytest.approx(1024 * 2**2.5))}  # a quarter of ten octaves
    assert stage.space(space)["lr"] == Range(1024.0, stage.ranges["lr"][1], log=True)
    points = further_stage(one, 4, best, one.edges(best, always), always, "qmc", 0, "x").points
    assert points is not None
    assert all(1024 <= point["lr"] <= 1024 * 2**2.5 and 0.5 <= point["momentum"] <= 0.9 for point in points)
    later = explored(space, [best] * 16, listed=False, stages=[Stage(16), stage])
    assert later.edges({"lr": 1030.0, "momentum": 0.7}, always) == []
    assert [edge.high for edge in later.edges({"lr": 5000.0, "momentum": 0.7}, always)] == [stage.ranges["lr"][1]]
    limited = further_stage(one, 4, best, one.edges(best, always), lambda p: p["lr"] < 2000, "tpe", 0, "x")
    assert limited.ranges == {"lr": (1024.0, pytest.approx(1024 * 2**0.625))}
    at_ease = further_stage(one, 4, {"lr": 30.0, "momentum": 0.7}, [], always, "tpe", 0, "x")
    assert at_ease == Stage(4)


@pytest.mark.parametrize(("trials", "share"), [(1, 0.5), (2, 0.5), (4, 0.25), (8, 0.125), (10, 0.1), (50, 0.1)])
def test_of_few_trials_the_outermost_is_at_the_edge(trials: int, share: float) -> None:
    """One of four Sobol points lies in each quarter of a range, and often none in its outer tenth."""
    one = explored({"lr": Range(0.0, 1.0)}, [{"lr": 0.5}] * trials, listed=False)
    for lr, sides in ((share - 0.01, ["low"]), (1.01 - share, ["high"]), (0.5, [])):
        assert [edge.side for edge in one.edges({"lr": lr}, always)] == sides


def test_numbers_of_both_kinds_have_ends() -> None:
    texts, arm = ["torch.optim.NAdam.momentum_decay=0,0.004,0.1"], Arm.of("torch.optim.NAdam")
    space = parse_spaces(texts, [arm], "auto", {arm.key: 1.0})[0][arm.key]
    assert space["momentum_decay"] == Choice((0.0, 0.004, 0.1))
    one = explored(space, [{"lr": 1.0, "momentum_decay": value} for value in (0.0, 0.004, 0.1)])
    assert [str(edge) for edge in one.edges({"lr": 1.0, "momentum_decay": 0.1}, always)] == [
        "momentum_decay 0.1 lies at the upper end of 0 to 0.1"
    ]


def test_without_a_trial_that_finished_rates_fall() -> None:
    space: Any = {"lr": Choice((4.0, 8.0))}
    stage = further_stage(explored(space, [{"lr": 4.0}, {"lr": 8.0}]), 2, None, [], always, "grid", 0, "x")
    assert stage.points == ({"lr": 2.0}, {"lr": 1.0})


@pytest.mark.parametrize("trials", [1, 8, 16, 17])
def test_a_round_has_a_quarter_of_the_trials_and_two_at_least(trials: int) -> None:
    assert trials_of_round(trials) == {1: 2, 8: 2, 16: 4, 17: 5}[trials]


def test_spaces_are_widened_until_no_best_is_at_an_edge(pretend: list[TrainConfig], tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = config(out, COLD, WARM, space=("lr=4,8,16", "cold.lr=0.5,1,2"), widen=3, prune=False)
    said: list[str] = []
    result = tune(one, announce=said.append, reporter=Reporter, board=Board())
    mine = {arm: [run.lr for run in pretend if run.arm == arm] for arm in ("cold", "warm")}
    assert mine["cold"] == [0.5, 1, 2, 4, 8, 16, 32]
    assert mine["warm"][:5] == [4, 8, 16, 5.65685, 11.3137]
    assert len(mine["warm"]) == 7
    assert len(set(mine["warm"])) == 7
    assert [(tuned.trials, tuned.edges) for tuned in result.tuned] == [(7, ()), (7, ())]
    assert result.alarms() == []
    assert not any(line.startswith("alarm") for line in said)
    assert "the best trial of cold is at an edge: 2 further trials of each arm, round 1 of 3 at most" in said
    assert [(one["trials"], one["after"]) for one in stored(out)["rounds"]] == [(2, 3), (2, 5)]
    count = len(pretend)
    quietly(one)
    quietly(replace(one, widen=0))  # what is there stays
    assert len(pretend) == count
    with pytest.raises(UsageError, match="out must be a folder of the same tuning, but has sampler grid of 3"):
        quietly(replace(one, trials=2, space=("lr=4,8",)))


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_samplers_go_on_in_the_space_that_was_added(sampler: str, pretend: list[TrainConfig], tmp_path: Path) -> None:
    one = config(
        tmp_path / "out",
        COLD,
        WARM,
        sampler=sampler,
        trials=8,
        space=("lr=2:64:log", "cold.lr=0.25:1:log"),
        tune_seeds=(2000,),
    )
    result = quietly(replace(one, widen=4))
    mine = {arm: [run.lr or 0 for run in pretend if run.arm == arm] for arm in ("cold", "warm")}
    assert len(mine["cold"]) == len(mine["warm"]) == 16
    assert all(0.25 <= rate <= 1 for rate in mine["cold"][:8])
    assert all(1 <= rate <= 2**0.5 for rate in mine["cold"][8:10])  # a quarter of two octaves
    assert all(2 <= rate <= 64 for rate in mine["warm"])
    assert [edge.side for edge in result.tuned[0].edges] == ["high"]  # four rounds were too few
    assert pd.read_csv(tmp_path / "out" / "arms.csv")["alarm"].notna().tolist() == [True, False]
    count = len(pretend)
    quietly(one)
    assert len(pretend) == count


@pytest.mark.parametrize("sampler", ["grid", "tpe", "qmc"])
@pytest.mark.parametrize("after", [9, 12, 16])
def test_a_widened_search_goes_on_as_itself(
    sampler: str, after: int, pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "OUTER", 0.5)  # all of a range is its edge

    class Stopping(Reporter):
        def epoch(self, row: EpochRow) -> None:
            if len(pretend) == after:
                raise KeyboardInterrupt

    def one(name: str) -> TuneConfig:
        space = ("lr=0.25,0.5,1",) if sampler == "grid" else ("lr=1:4:log",)
        return config(
            tmp_path / name, COLD, WARM, sampler=sampler, space=space, widen=2, tune_seeds=(2000, 2001), rerun=1
        )

    with pytest.raises(KeyboardInterrupt):
        quietly(one("parts"), reporter=Stopping)
    quietly(one("parts"))
    pretend.clear()
    quietly(one("whole"))
    whole, parts = (pd.read_csv(tmp_path / name / "trials.csv") for name in ("whole", "parts"))
    columns = ["arm", "seed", "lr", "status", "validation_accuracy", "chosen"]
    pd.testing.assert_frame_equal(*(x.sort_values(columns, ignore_index=True)[columns] for x in (whole, parts)))
    assert stored(tmp_path / "whole")["rounds"] == stored(tmp_path / "parts")["rounds"]


def test_an_arm_without_all_tuning_seeds_is_left_out(pretend: list[TrainConfig], tmp_path: Path) -> None:
    quietly(config(tmp_path / "out", COLD))
    said: list[str] = []
    tune(
        config(tmp_path / "out", WARM, tune_seeds=(1000, 1001)), announce=said.append, reporter=Reporter, board=Board()
    )
    (note,) = [line for line in said if "are left out" in line]
    assert "results of cold are left out, since they do not have 3 trials" in note
    assert "trials, tuning seeds 1000, 1001 and seeds 0, 1, 2: to include them, name it too" in note
    assert [one["arm"] for one in stored(tmp_path / "out")["spent"]] == ["warm"]


def test_reruns_of_another_number_in_an_earlier_call_are_said(pretend: list[TrainConfig], tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    for arm, rerun in ((COLD, 1), (WARM, 3)):
        base = TrainConfig(epochs=2, validation=0.1)
        one = config(out, arm, base=base, tune_seeds=(1000, 1001), rerun=rerun)
        tune(one, announce=said.append, reporter=Reporter, board=Board())
        # The pretended sweep of the first call has no runs: with them its results stay.
        for seed in one.seeds:
            folder = out / "final" / run_name(one.run(arm, {"lr": 8.0}, seed))
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text('{"status": "finished"}')
    assert said[-2] == "note: the budgets of the arms differ, in runs: warm 6 and cold 4"


def test_an_arm_that_comes_later_has_the_rounds_too(
    pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    quietly(config(out, COLD, space=("lr=1,2,4",), widen=1))
    said: list[str] = []
    result = tune(config(out, WARM, widen=1), announce=said.append, reporter=Reporter, board=Board())
    assert "2 further trials of warm, as other arms had in round 1 of widening" in said
    assert result.tuned[0].trials == 5
    both = quietly(config(out, COLD, WARM, space=("lr=4,8,16", "cold.lr=1,2,4"), widen=1))
    assert [one.trials for one in both.tuned] == [5, 5]
    assert len(pretend) == 10
    monkeypatch.setattr(stages, "OUTER", 0.5)
    one = config(tmp_path / "tpe", COLD, sampler="tpe", space=("lr=1:2",), widen=1)
    assert quietly(one).tuned[0].trials == 5
    with pytest.raises(UsageError, match="trials must be 3, after which spaces in the folder were widened, got 4"):
        quietly(replace(one, trials=4))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", [{"trials": 2, "after": 3, "arms": {"cold": {"ranges": {"lr": [1, "x"]}, "points": None}}}]),
        ("rounds", [{"trials": 2, "after": 3, "arms": {"cold": {"ranges": {}, "points": [{"lr": [1]}, {"lr": 1}]}}}]),
        ("rounds", [{"trials": 1e9, "after": 3, "arms": {}}]),
        ("rounds", [{"trials": 1, "after": 3, "arms": {"cold": {"ranges": {}, "points": [{"lr": 1, "out": "x"}]}}}]),
        ("rounds", [{"trials": 1, "after": 3, "arms": {"cold": {"ranges": {"lr": [1, 2]}, "points": None}}}]),
        ("rounds", {"a": 1}),
        ("arms", {"cold": {"optimizer": "lars", "options": 3}}),
        ("arms", {"../x": {"optimizer": "lars", "options": {}}}),
        ("before", {"cold": "many"}),
        ("edges", {"cold": [{"option": "lr"}]}),
        ("tune_seeds", "x"),
    ],
)
def test_tune_json_as_a_stranger_may_have_written_it(
    name: str, value: Any, pretend: list[TrainConfig], tmp_path: Path
) -> None:
    quietly(config(tmp_path / "out", COLD))
    (tmp_path / "out" / "tune.json").write_text(json.dumps(stored(tmp_path / "out") | {name: value}))
    with pytest.raises(
        UsageError,
        match=r"cannot be read|arm must be a name|tune_seeds must have|must have rounds with the searched options",
    ):
        quietly(config(tmp_path / "out", COLD))
    assert len(pretend) == 3


def test_a_journal_says_no_more_than_its_rounds(pretend: list[TrainConfig], tmp_path: Path) -> None:
    out = tmp_path / "out"
    quietly(config(out, COLD, space=("lr=1,2,4",), widen=1))
    (out / "tune.json").write_text(json.dumps(stored(out) | {"rounds": []}))
    with pytest.raises(UsageError, match=r"trial 3 of cold: lr is 8.0, and 1.0, 2.0, 4.0 is searched"):
        quietly(config(out, COLD, space=("lr=1,2,4",), widen=1))


def test_a_folder_of_an_earlier_version_goes_on(
    pretend: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has values as categories, one tuning seed, and neither arms nor rounds."""

    class Stopping(Reporter):
        def epoch(self, row: EpochRow) -> None:
            if len(pretend) == 2:
                raise KeyboardInterrupt

    one = config(tmp_path / "out", optimizers=("lars",), space=("lr=2,4,8",))
    with monkeypatch.context() as patch:
        patch.setattr(search_module.Search, "_with", lambda _, name, space, queued: space)
        with pytest.raises(KeyboardInterrupt):
            quietly(one, reporter=Stopping)
    new = ("arms", "rounds", "before", "edges", "tune_seeds")
    before = {name: value for name, value in stored(tmp_path / "out").items() if name not in new}
    (tmp_path / "out" / "tune.json").write_text(json.dumps(before))
    (tuned,) = quietly(replace(one, tune_seeds=(1000, 1001))).tuned
    assert (tuned.trials, tuned.reruns, tuned.best and tuned.best.params) == (3, 3, {"lr": 8.0})
    with pytest.raises(
        UsageError, match="widen must be 0 in a folder of an earlier version, where the values of lr cannot"
    ):
        quietly(replace(one, tune_seeds=(1000, 1001), widen=1))


def test_a_tuning_by_steps_is_pruned_by_its_epochs(
    few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 steps, the third epoch is half of one; trials are pruned after a third of three."""
    monkeypatch.setattr(search_module, "PRUNE_TRIALS", 1)
    base = TrainConfig(batch_size=128, steps=10, accelerator="cpu")
    cosine = Arm("cold", "lars", {"warmup_epochs": 0.0, "schedule": "cosine"})
    one = config(tmp_path / "out", cosine, base=base, trials=2, space=("lr=8,0.0001",), seeds=(0,))
    said: list[str] = []
    result = tune(one, data=few, announce=said.append, reporter=Reporter, board=Board())
    assert "2 trials of a grid for each of cold; 10 steps, seed 1000, pruned below the median" in said
    frame = result.frame()
    assert frame["epochs"].tolist() == [3, 1]
    assert frame["status"].tolist() == ["finished", "pruned"]
    assert result.final is not None
    assert result.final.load()[0].epochs["step"].tolist() == [4, 8, 10]


# -- real runs --------------------------------------------------------------------------------------------------------


def test_no_run_of_a_tuning_reads_the_test_set_before_the_final_ones(
    few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials, reruns and rounds see validation images alone; the page shows what was tried, and the alarm."""
    read: list[str] = []
    before = Batches.test

    def test(self: Batches, split: str = "test") -> Any:
        read.append(split)
        return before(self, split)

    monkeypatch.setattr(Batches, "test", test)
    base = TrainConfig(batch_size=128, epochs=1, accelerator="cpu")
    out, space = tmp_path / "out", ("lr=0.01,0.02",)
    one = config(out, COLD, base=base, trials=2, space=space, widen=1, tune_seeds=(1000, 1001), rerun=1, seeds=(0,))
    result = tune(one, data=few, announce=lambda _: None, reporter=Reporter, board=Board())
    (tuned,) = result.tuned
    assert (tuned.trials, tuned.reruns) == (4, 1)
    assert Counter(read) == {"validation": 6, "test": 1}  # the final run reads both
    assert tuned.best is not None
    values = [
        load_run(out / "trials" / name).validation_accuracy
        for name in (tuned.best.folder, f"{tuned.best.folder}-s1001")
    ]
    assert tuned.best.mean == pytest.approx(sum(value or 0 for value in values) / 2, rel=1e-6)
    assert result.final is not None
    assert [run.config.arm for run in result.final.runs] == ["cold"]
    page = (out / "final" / "report.html").read_text()
    assert "cold had 4 trials and 1 run of the best with other tuning seeds." in page
    assert "Options were chosen in a tuning, by validation accuracy: higher is better." in page
    assert "<h2>Tuning</h2>" in page
    assert [alarm in page for alarm in result.alarms()] == [True] * len(tuned.edges)
    report([out / "final"], tmp_path / "later.md")
    assert "cold had 4 trials and" in (tmp_path / "later.md").read_text()
    (out / "arms.csv").write_text("arm\n1\n")
    (out / "trials.csv").write_text("lr,arm\nx,y\n")
    report([out / "final"], tmp_path / "damaged.html")
    assert (tmp_path / "damaged.html").read_text().count("cannot be read") == 2
    assert not math.isnan(tuned.best.mean or math.nan)


def test_an_alarm_at_a_value_that_is_no_end_says_its_rule() -> None:
    assert str(Edge("lr", 8.0, "high", 2.0, 8.0)) == "lr 8 lies at the upper end of 2 to 8"
    near = "lr 38.1 lies at the upper end of 2 to 128 (its outer tenth, or 1/n for n < 10 trials)"
    assert str(Edge("lr", 38.1, "high", 2.0, 128.0)) == near
