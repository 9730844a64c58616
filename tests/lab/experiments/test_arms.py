"""Arms: settings of an optimizer by name, in comparisons, grids and search spaces, with arguments of its class."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tvlars.cli import main
from tvlars.cli._commands import make_parser
from tvlars.cli._train import compare_config
from tvlars.lab import (
    Arm,
    CompareConfig,
    Comparison,
    Grid,
    ImageData,
    Reporter,
    TrainConfig,
    TuneConfig,
    UsageError,
    tune,
)
from tvlars.lab.arguments import parse_arguments, split_outside
from tvlars.lab.experiments.arms import owner_of
from tvlars.lab.experiments.run_name import arguments
from tvlars.lab.experiments.tuning.space import Choice, Range, parse_spaces
from tvlars.lab.report.arms import make_arms

NADAM = "torch.optim.NAdam"
MINE = """
import torch

def build(model, plan):
    return torch.optim.SGD(model.parameters(), lr=0.1)

def from_plan(model, plan):
    return torch.optim.SGD(model.parameters(), lr=plan.lr)
"""


def settings(config: CompareConfig) -> list[dict[str, Any]]:
    """The options of each run that differ from the defaults, data and seed aside."""
    default, seen = TrainConfig(), []
    for run in config.runs():
        values = {name: value for name, value in vars(run).items() if value != getattr(default, name)}
        seen.append(values)
    return seen


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=1 b=(1, 2),c=x", {"a": 1, "b": (1, 2), "c": "x"}),
        ("betas=(0.9,0.95), eps=1e-6", {"betas": (0.9, 0.95), "eps": 1e-6}),
        ("how='a b, c' on=True off=no none=None", {"how": "a b, c", "on": True, "off": "no", "none": None}),
        ("weight-decouple=false", {"weight_decouple": False}),
        ("", {}),
    ],
)
def test_arguments_are_literals(text: str, found: dict[str, Any]) -> None:
    assert parse_arguments(text, "options") == found


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=1 a=2", "1=2", "a = 1"])
def test_arguments_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^options must (be NAME=VALUE each|have a once)"):
        parse_arguments(text, "options")


def test_an_option_is_of_the_longest_name_before_it() -> None:
    assert owner_of("a.b.weight-decay", ["a", "a.b"], "arm", "NAME.OPTION") == ("a.b", "weight_decay")


def test_separators_in_brackets_and_quotes_belong_to_the_value() -> None:
    assert split_outside("a=[1,(2,3)],b=',',c=)x,d", ",") == ["a=[1,(2,3)]", "b=','", "c=)x", "d"]


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("tvlars", Arm("tvlars", "tvlars")),
        ("cold=lars,warmup-epochs=0", Arm("cold", "lars", {"warmup_epochs": 0.0})),
        (
            "published=tvlars,phi-scope=ratio,alpha=0.1",
            Arm("published", "tvlars", {"phi_scope": "ratio", "alpha": 0.1}),
        ),
        (f"n={NADAM},betas=(0.9,0.95),lr=1e-3", Arm("n", NADAM, {"betas": (0.9, 0.95), "lr": 1e-3})),
        ("torch.optim.RMSprop,alpha=0.9", Arm("torch.optim.RMSprop", "torch.optim.RMSprop", {"alpha": 0.9})),
        (
            'c=lars,optimizer-options="eps=1e-6, foreach=false"',
            Arm("c", "lars", {"optimizer_options": "eps=1e-6, foreach=false"}),
        ),
        ("lamb,betas=(0.8,0.9)", Arm("lamb", "lamb", {"betas": (0.8, 0.9)})),
    ],
)
def test_an_arm_on_the_command_line(text: str, arm: Arm) -> None:
    assert Arm.parse(text) == arm


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unknown optimizer of an arm ''"),
        ("x=lara", "unknown optimizer of an arm 'lara': did you mean 'lars'"),
        ("x=lars,warmup", "arm must be NAME=OPTIMIZER,OPTION=VALUE,... as in cold=lars,lr=8, got 'x=lars,warmup'"),
        ("x=lars,lr=1,lr=2", "arm must have lr once"),
        ("x=lars,momentun=1", "unknown option of lars 'momentun': did you mean 'momentum'"),
        ("x=lars,lr=fast", "lr must be a number, got 'fast'"),
        (f"x={NADAM},momentum_dekay=1", f"unknown option of {NADAM} 'momentum_dekay': did you mean 'momentum_decay'"),
        ("a/b=lars", "arm must be a name of at most 40 letters, digits, dots, hyphens and underscores, got 'a/b'"),
        (f"{'x' * 41}=lars", "arm must be a name of at most 40"),
    ],
)
def test_arms_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        Arm.parse(text)
    assert said in str(error.value)


# -- comparisons ------------------------------------------------------------------------------------------------------


def test_settings_of_one_optimizer_stand_side_by_side() -> None:
    config = CompareConfig(
        base=TrainConfig(epochs=3),
        arms=(Arm("tvlars", "tvlars"), Arm("cold", "lars", {"warmup-epochs": 0.0}), Arm("hot", "lars", {"lr": 2.0})),
        overrides=(("hot", "momentum", 0.5),),
        seeds=(0,),
    )
    assert settings(config) == [
        {"epochs": 3, "arm": "tvlars"},
        {"epochs": 3, "arm": "cold", "optimizer": "lars", "warmup_epochs": 0.0},
        {"epochs": 3, "arm": "hot", "optimizer": "lars", "lr": 2.0, "momentum": 0.5},
    ]
    assert CompareConfig.from_mapping(json.loads(config.to_json())) == config
    assert len({run.label() for run in config.runs()}) == 3


def test_arguments_of_a_class_are_overrides_of_their_own() -> None:
    config = CompareConfig(
        base=TrainConfig(epochs=3),
        optimizers=("lars", NADAM, "torch.optim.RMSprop", "adamw"),
        overrides=(
            *((NADAM, "momentum_decay", 0.005), (NADAM, "betas", (0.9, 0.95)), (NADAM, "lr", 2e-3)),
            *(("torch.optim.RMSprop", "alpha", 0.9), ("adamw", "betas", (0.9, 0.95))),
        ),
        seeds=(0,),
    )
    lars, nadam, rmsprop, adamw = settings(config)
    assert lars == {"epochs": 3, "optimizer": "lars"}
    assert nadam["optimizer_options"] == "betas=(0.9, 0.95) momentum_decay=0.005"
    assert nadam["lr"] == 2e-3
    assert rmsprop == {"epochs": 3, "optimizer": "torch.optim.RMSprop", "optimizer_options": "alpha=0.9"}
    assert adamw["optimizer_options"] == "betas=(0.9, 0.95)"


def test_the_usual_optimizers_are_compared_unless_there_are_arms() -> None:
    assert CompareConfig().optimizers == ("tvlars", "lars", "lamb")
    assert CompareConfig(arms=(Arm("x", "lars"),)).optimizers == ()
    assert len(CompareConfig(optimizers=("lamb",), arms=(Arm("x", "lars"),), seeds=(0,)).runs()) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            dict(arms=(Arm("x", "lars"), Arm("x", "lamb"))),
            "optimizers and arms must have different names, but x appears",
        ),
        (dict(optimizers=("lars",), arms=(Arm("lars", "lamb"),)), "must have different names, but lars appears"),
        (dict(optimizers=("/a/m.py:f", "/b/m.py:f")), "must have different names, but m.py-f appears twice"),
        (
            dict(arms=(Arm("x", "lars", {"epochs": 3}),)),
            "epochs must be the same for all optimizers, but is set only for x",
        ),
        (dict(arms=(Arm("x", "lars", {"out": "y"}),)), "unknown option 'out'"),
        (dict(arms=("lars",)), "arms must be a list of Arm(name, optimizer, options), got ('lars',)"),
        (dict(optimizers=("lars",), overrides=((NADAM, "lr", 1.0),)), "unknown optimizer among those compared"),
        (dict(arms=(Arm("x", "lars"),), overrides=(("lars", "lr", 1.0),)), "unknown optimizer among those compared"),
        (dict(optimizers=("lars", "larz")), "unknown optimizer 'larz': did you mean 'lars'"),
    ],
)
def test_comparisons_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        CompareConfig(**options)
    assert said in str(error.value)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file of the user."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_compares_what_users_bring(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--data", "digits", "--optimizers", "lars", NADAM, "./mine.py:build", "--arm"]
    words += ["cold=lars,warmup-epochs=0", "--set", f"{NADAM}.lr=2e-3", "./mine.py:build.schedule=constant"]
    words += ["cold.nesterov=false", f"{NADAM}.momentum_decay=0.005"]
    words += ["--epochs", "1", "--seeds", "0", "--batch-size", "512", "--accelerator", "cpu", "--out", "compared"]
    assert main(words) == 0
    said = capsys.readouterr().out
    names = ["lars", NADAM, "mine.py:build", "cold"]
    assert f"4 runs: {', '.join(names)}; batch size 512; " in said
    assert "cold: lars, batch size 512" in said
    comparison = Comparison.load(Path("compared"))
    assert [run.optimizer for run in comparison.runs] == names
    assert [run.lr for run in comparison.runs][1:3] == [2e-3, 0.1]
    assert comparison.table()["optimizer"].tolist() == names
    folders = sorted(path.name for path in Path("compared").iterdir() if path.is_dir())
    assert folders == ["cold-b512-s0", "lars-b512-s0", "mine.py-build-b512-s0", f"{NADAM}-b512-s0"]
    page = (work / "compared" / "report.html").read_text()
    assert all(name in page for name in names)
    assert main(["compare", "--config", "compared", "--out", "compared"]) == 0  # all runs have finished
    assert "4 of 4 runs are already done" in capsys.readouterr().out


def test_the_last_name_of_an_optimizer_suffices(work: Path) -> None:
    (work / "other").mkdir()
    (work / "other" / "mine.py").write_text(MINE)
    words = ["compare", "--optimizers", "lars", NADAM, "other/mine.py:build", "--set", "NAdam.momentum-decay=0.005"]
    words += ["NAdam.lr=2e-3", "build.schedule=constant", "--seeds", "0"]
    runs = compare_config(make_parser(words).parse_args(words)).runs()
    assert [run.lr for run in runs] == [None, 2e-3, None]
    assert [run.schedule for run in runs] == ["auto", "auto", "constant"]
    assert "momentum_decay=0.005" in str(runs[1].optimizer_options)
    with pytest.raises(UsageError, match=r"unknown optimizer 'NAdam': .*Known: mine.NAdam, torch.optim.NAdam."):
        owner_of("NAdam.lr", ["lars", NADAM, "mine.NAdam"], "optimizer", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "lars.lr=16"], "unknown optimizer among those compared 'lars'"),
        (["--set", f"{NADAM}.lr"], "--set must be OPTIMIZER.OPTION=VALUE, as in lars.lr=16"),
        (["--set", "lr=1"], "--set must be OPTIMIZER.OPTION=VALUE, as in lars.lr=16, got 'lr=1'"),
        (["--set", f"{NADAM}.lr=fast"], f"--set {NADAM}.lr must be a number, got 'fast'"),
        (["--set", f"{NADAM}.beta=1"], f"--set: unknown option of {NADAM} 'beta': did you mean 'betas'"),
        (
            ["--set", f"{NADAM}.rho=1"],
            "'rho': Known: betas, eps, momentum_decay, decoupled_weight_decay, foreach, maximize, capturable, "
            "differentiable, options of a run.\n",
        ),
        (
            ["--set", f"{NADAM}.weight-dekay=1"],
            "did you mean 'weight_decay' or 'decoupled_weight_decay'? Known: betas,",
        ),
        (["--set", f"{NADAM}.betas=1"], "cannot be made with lr=0.002, betas=1: TypeError"),
        (["--arm", "cold=lars,warmup"], "arm must be NAME=OPTIMIZER,OPTION=VALUE"),
    ],
)
def test_commands_that_are_refused(words: list[str], said: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--optimizers", NADAM, "--epochs", "1", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (work / "runs").exists()


def test_a_report_tells_arms_apart_by_their_names(work: Path, few: ImageData) -> None:
    from tvlars.lab import load_run, train

    runs = []
    for number, options in enumerate((dict(), dict(arm="cold", warmup_epochs=0.0), dict(arm="cold", lr=2.0))):
        config = TrainConfig(optimizer="lars", epochs=1, batch_size=256, out=work / f"{number}", accelerator="cpu")
        runs.append(load_run(train(replace(config, **options), data=few, reporter=Reporter()).folder))
    assert [arm.name for arm in make_arms(runs[:2])] == ["lars", "cold"]
    assert [arm.name for arm in make_arms(runs)] == ["lars", "cold (warmup-epochs 0)", "cold"]


# -- grids ------------------------------------------------------------------------------------------------------------


def test_a_grid_has_arms_in_place_of_optimizers(work: Path) -> None:
    grid = Grid.from_mapping(
        {
            "base": {"epochs": 2, "momentum": 0.8},
            "arms": {
                "cold": {"optimizer": "lars", "warmup-epochs": 0},
                "published": "tvlars,phi-scope=ratio,alpha=0.1",
                "nadam": {"optimizer": NADAM, "betas": [0.9, 0.95]},
                "mine": "./mine.py:build",
            },
            "grid": {"seed": [0, 1], "lr": {"nadam": [1e-3, 1e-2], "cold": 8}},
        }
    )
    first = [run for run in grid.runs if run.seed == 0]
    found = [(run.arm, run.optimizer.rpartition("/")[2], run.lr, run.warmup_epochs, run.momentum) for run in first]
    assert found == [
        ("cold", "lars", 8.0, 0.0, 0.8),
        ("published", "tvlars", None, None, 0.8),
        *(("nadam", NADAM, lr, None, None) for lr in (1e-3, 1e-2)),
        ("mine", "mine.py:build", None, None, 0.8),
    ]
    assert first[1].phi_scope == "ratio"
    assert first[2].optimizer_options == "betas=[0.9, 0.95]"
    assert grid.notes == ("momentum has no effect in runs of nadam",)
    assert "--arm=cold" in arguments(first[0], Path("out"))


def test_a_grid_of_import_paths_gives_options_to_those_that_have_them(work: Path) -> None:
    optimizers = ["sgd", "torch.optim.RMSprop", "schedulefree.AdamWScheduleFree", "mine.py:build"]
    grid = Grid.from_mapping(
        {
            "base": {"final_factor": 0.1, "momentum": 0.8},
            "grid": {
                "optimizer": optimizers,
                "optimizer_options": {"torch.optim.RMSprop": ["alpha=0.9", "alpha=0.99"]},
            },
        }
    )
    assert [(run.optimizer_options, run.final_factor, run.momentum) for run in grid.runs] == [
        *((None, 0.1, 0.8), ("alpha=0.9", 0.1, 0.8), ("alpha=0.99", 0.1, 0.8), (None, None, None), (None, 0.1, 0.8)),
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"arms": ["lars"]}, "arms must be a mapping, as in cold: {optimizer: lars, warmup_epochs: 0}"),
        ({"arms": {"x": {"lr": 3}}}, "arm x must be a mapping with optimizer, or text as lars,lr=8"),
        ({"arms": {"x": {"optimizer": "lara"}}}, "unknown optimizer of arm x 'lara'"),
        ({"arms": {"x": {"optimizer": "lars", "lt": 3}}}, "unknown option of lars 'lt'"),
        ({"arms": {"x": "lars"}, "base": {"optimizer": "lars"}}, "optimizer must not be given in base or grid if"),
        ({"arms": {"x": "lars"}, "grid": {"lr": {"lars": [3]}}}, "unknown arm of lr 'lars'"),
        ({"grid": {"optimizer": ["lars"], "lr": {"lamb": [3]}}}, "unknown optimizer of lr 'lamb'"),
    ],
)
def test_grids_that_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        Grid.from_mapping(values)
    assert said in str(error.value)


# -- tuning -----------------------------------------------------------------------------------------------------------


def test_arguments_of_a_class_are_searched(work: Path) -> None:
    texts = [f"{NADAM}.momentum_decay=0.001:0.01", f"{NADAM}.decoupled-weight-decay=true,false"]
    texts += ["mine.py:from_plan.lr=0.01:0.1:log"]
    config = TuneConfig(optimizers=(NADAM, "./mine.py:from_plan"), space=tuple(texts))
    mine = f"{work / 'mine.py'}:from_plan"
    assert config.optimizers == (NADAM, mine)
    spaces, _ = parse_spaces(texts, config.all_arms(), "auto", {NADAM: 2e-3, mine: float("nan")})
    assert spaces[NADAM]["momentum_decay"] == Range(0.001, 0.01)
    assert spaces[NADAM]["decoupled_weight_decay"] == Choice((True, False))
    assert spaces[mine] == {"lr": Range(0.01, 0.1, log=True)}
    run = config.run(NADAM, {"lr": 0.1, "momentum_decay": 0.005, "decoupled_weight_decay": True}, 3)
    assert (run.lr, run.optimizer_options) == (0.1, "decoupled_weight_decay=True momentum_decay=0.005")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{NADAM}.betas=(1,2),(3,4)", "must have numbers, words, true or false as values, got (1, 2)"),
        (f"{NADAM}.beta=1,2", f"unknown option of {NADAM} 'beta': did you mean 'betas'"),
        (f"{NADAM}.eps=1:0", "must have LOW < HIGH"),
        (f"{NADAM}.eps=1:2:lag", "must be LOW:HIGH, LOW:HIGH:log, LOW:HIGH:xFACTOR, or values separated by commas"),
        (f"{NADAM}.eps=1,1", "must not repeat values"),
        (f"{NADAM}.eps=0-0.5", f"got '0-0.5'; a range is LOW:HIGH, as in {NADAM}.eps=0:0.5"),
        (f"{NADAM}.eps=1:", "must be LOW:HIGH, LOW:HIGH:log, LOW:HIGH:xFACTOR, or values separated by commas"),
        (f"{NADAM}x.eps=1,2", f"unknown arm among those tuned '{NADAM}x': did you mean '{NADAM}'"),
        (f"{NADAM}.epochs=1,2", "--space must have options that may differ between trials"),
    ],
)
def test_spaces_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_spaces([text], [Arm.of(NADAM)], "auto", {NADAM: 1.0})
    assert said in str(error.value)


def test_a_function_is_tuned_without_a_rate_that_its_plan_leaves_open(work: Path) -> None:
    name = f"{work / 'm.py'}:f"
    (work / "m.py").write_text("def f(model, plan): ...\n")
    arms = [Arm.of(name), Arm.of("lars")]
    spaces, _ = parse_spaces(["warmup-epochs=0:2"], arms, "auto", {name: float("nan"), "lars": 16.0})
    assert (list(spaces[name]), list(spaces["lars"])) == (["warmup_epochs"], ["lr", "warmup_epochs"])


def test_a_space_has_something_where_a_plan_leaves_the_rate_open() -> None:
    with pytest.raises(
        UsageError, match=r"--space must have an option of m.py:f, whose plan leaves lr open, as warmup-"
    ):
        parse_spaces([], [Arm.of("/a/m.py:f")], "auto", {"/a/m.py:f": float("nan")})


class SweptError(Exception):
    """Raised in place of the runs with fresh seeds."""


def test_a_tuning_of_what_users_bring(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[TrainConfig] = []

    def swept(runs: list[TrainConfig], *_: Any, **__: Any) -> None:
        found.extend(runs)
        raise SweptError

    monkeypatch.setattr(importlib.import_module("tvlars.lab.experiments.tuning.tune"), "sweep", swept)
    texts = (f"{NADAM}.momentum_decay=0.001:0.01", "mine.py:from_plan.lr=0.01:0.1:log")
    base = TrainConfig(epochs=1, batch_size=512, accelerator="cpu")
    config = TuneConfig(base, (NADAM, "./mine.py:from_plan"), 1, seeds=(0,), space=texts, out=work / "tuned")
    lines: list[str] = []
    with pytest.raises(SweptError):
        tune(config, announce=lines.append, reporter=Reporter)
    assert any(line.startswith("mine.py:from_plan trial 1 of 1: lr ") for line in lines)
    trials = pd.read_csv("tuned/trials.csv")
    assert trials["arm"].tolist() == [NADAM, "mine.py:from_plan"]
    assert trials["folder"].tolist() == [f"{NADAM}-000", "mine.py-from_plan-000"]
    assert found[0].optimizer_options == f"momentum_decay={float(trials['momentum_decay'][0])!r}"
    assert 0.01 <= (found[1].lr or 0.0) <= 0.1
