"""Values as people type them: other names of options, lists with commas or spaces, YAML where JSON is read."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from tvlars.cli import main
from tvlars.cli._commands import make_parser
from tvlars.cli._parser import nearest
from tvlars.cli._train import compare_config
from tvlars.lab.errors import UsageError


def parsed(line: str) -> argparse.Namespace:
    words = shlex.split(line)
    found, unknown = make_parser(words).parse_known_args(words)
    assert unknown == []
    return found


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("train -b 64", "batch_size", 64),
        ("train --opt lars", "optimizer", "lars"),
        ("train --wd 0.1", "weight_decay", 0.1),
        ("train -j 2", "data_workers", 2),
        ("train -o there", "out", Path("there")),
        ("compare -b 64 128", "batch_size", [64, 128]),
        ("scaling -b 64,128", "batch_sizes", [64, 128]),
        ("tune --opt lars", "optimizers", ["lars"]),
        ("sweep grid.yaml -o there", "out", Path("there")),
        ("compare --seeds 0,1,2", "seeds", [0, 1, 2]),
        ("compare --seeds 0, 1 2", "seeds", [0, 1, 2]),
        ("compare --optimizers tvlars,lars", "optimizers", ["tvlars", "lars"]),
        ("compare --opt tvlars lars", "optimizers", ["tvlars", "lars"]),
        ("train --log tensorboard,wandb", "log", ["tensorboard", "wandb"]),
        ("train --metrics a.A b.B", "metrics", "a.A,b.B"),
        ("train --metrics a.A, b.B", "metrics", "a.A,b.B"),
        ("train --metrics a.A,b.B", "metrics", "a.A,b.B"),
        ("train --sharpness end steps:7,14", "sharpness", "end;steps:7,14"),
        ("ssl --evaluations linear knn", "evaluations", "linear,knn"),
        ("ssl --evaluations linear,knn", "evaluations", "linear,knn"),
        ("probe run --evaluations linear knn", "evaluations", "linear,knn"),
        ("probe run --evaluations linear, knn", "evaluations", "linear,knn"),
        ("probe --evaluations knn linear run", "evaluations", "knn,linear"),
        ("probe --evaluations knn linear run", "run_folder", Path("run")),
        ("sweep --log tensorboard grid.yaml", "grid", Path("grid.yaml")),
        ("train --optimizer-options eps=1e-6 foreach=false", "optimizer_options", "eps=1e-6 foreach=false"),
        ("compare --arm cold=lars,warmup-epochs=0", "arms", ["cold=lars,warmup-epochs=0"]),
        ("compare --arm a=lars,lr=1 b=lamb --arm c=sgd", "arms", ["a=lars,lr=1", "b=lamb", "c=sgd"]),
        ("compare --set lars.lr=1,lamb.eps=1e-8 lars.power=2", "set", ["lars.lr=1", "lamb.eps=1e-8", "lars.power=2"]),
        ("compare --set adamw.betas=(0.9,0.95)", "set", ["adamw.betas=(0.9,0.95)"]),
        ("compare --set lars.lr=1 --set lamb.lr=2 lamb.eps=3", "set", ["lars.lr=1", "lamb.lr=2", "lamb.eps=3"]),
        ("tune --space lr=1,2 --space momentum=0.8", "space", ["lr=1,2", "momentum=0.8"]),
        ("compare --set adamw.optimizer-options=eps=1,lr=2", "set", ["adamw.optimizer-options=eps=1,lr=2"]),
        ("tune --space lr=0.1,0.2 momentum=0.8,0.9", "space", ["lr=0.1,0.2", "momentum=0.8,0.9"]),
        ("tune --spent lars=3,lamb=4", "spent", ["lars=3", "lamb=4"]),
        ("robustness --lrs lars=4,8 lamb=1,2", "lrs", ["lars=4,8", "lamb=1,2"]),
        ("robustness --lr-scales 0.5,1", "lr_scales", [0.5, 1.0]),
        ("runs --where seed=0,lr>1 data=a,b", "where", ["seed=0", "lr>1", "data=a,b"]),
        ("runs --sort data,-seed --columns lr seed,out", "columns", ["lr", "seed", "out"]),
    ],
)
def test_a_value_is_what_was_meant(line: str, name: str, value: object) -> None:
    line = line.replace("(", "'(").replace(")", ")'")
    assert getattr(parsed(line), name) == value


@pytest.mark.parametrize("line", ["probe --evaluations knn", "probe --data digits", "sweep --log a b --retries"])
def test_a_list_gives_nothing_back_in_vain(line: str) -> None:
    with pytest.raises(UsageError, match=r"required|expected|unknown"):
        parsed(line)


def test_a_file_whose_name_has_a_comma_is_one_value(tmp_path: Path) -> None:
    file = tmp_path / "a,b.py"
    file.touch()
    assert parsed(f"compare --optimizers '{file}:Mine'").optimizers == [f"{file}:Mine"]


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("{eps: 1e-6, betas: [0.9, 0.95]}", {"eps": 1e-6, "betas": [0.9, 0.95]}),
        ('{"eps": 1e-6, "foreach": false, "none": null}', {"eps": 1e-6, "foreach": False, "none": None}),
        ("{name: '1', other: text}", {"name": "1", "other": "text"}),
        ("{name: annulled, none: ~}", {"name": "annulled", "none": None}),
    ],
)
def test_options_of_an_optimizer_are_a_mapping_too(text: str, spelled: dict[str, Any]) -> None:
    from tvlars.lab.arguments import parse_arguments

    words = ["train", "--optimizer-options", text]
    found = make_parser(words).parse_args(words).optimizer_options
    assert parse_arguments(found, "optimizer_options") == spelled


def test_a_config_in_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("optimizer: lars\nbatch-size: 128\nlr: 1e-1\nlog: [tensorboard]\n")
    found = parsed("train --config run.yaml --seed 3")
    assert (found.optimizer, found.batch_size, found.lr, found.log, found.seed) == (
        "lars",
        128,
        0.1,
        ("tensorboard",),
        3,
    )
    Path("several.yml").write_text("optimizers: tvlars lars\nseeds: [4, 5]\nbatch-size: [64, 128]\nepochs: 2\n")
    config = compare_config(parsed("compare --config several.yml"))
    assert (config.optimizers, config.seeds, config.batch_sizes, config.base.epochs) == (
        ("tvlars", "lars"),
        (4, 5),
        (64, 128),
        2,
    )
    Path("tune.yaml").write_text("trials: 3\nseeds: [4]\ndata: fashion-mnist\n")
    tuned = parsed("tune --config tune.yaml")
    assert (tuned.trials, list(tuned.seeds), tuned.data) == (3, [4], "fashion-mnist")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "epochs: 010\n",
            "config must be a YAML file, but 'bad.yaml' cannot be read: line 1: 010 has a leading zero",
        ),
        ("- 1\n", "config must hold options as in 'epochs: 30', but 'bad.yaml' holds [1]"),
        ("epoch: 3\n", "unknown option of 'bad.yaml' 'epoch': did you mean 'epochs'"),
        ("out: here\n", "out must not be given in a config, which is for any run: give it as --out"),
        ("batch-size: 1\nbatch_size: 2\n", "config must have batch_size once, but 'bad.yaml' has it twice"),
        ("lr: [1]\n", "lr must be"),
    ],
)
def test_a_bad_config_in_yaml_is_one_sentence(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    assert main(["train", "--config", "bad.yaml"]) == 2
    found = capsys.readouterr()
    assert found.err.startswith(f"tvlars: {said}")
    assert (found.out, found.err.count("\n")) == ("", 1)


def test_options_of_a_method_are_a_mapping_too() -> None:
    words = ["ssl", "--method-options", "{lambda_param: 5e-3, other: 2}"]
    assert make_parser(words).parse_args(words).method_options == "lambda_param=0.005,other=2"


@pytest.mark.parametrize(
    ("text", "why"),
    [("{eps: 0100}", "has a leading zero"), ("{eps: 1:30}", "base 60"), ("{eps: 1, eps: 2}", "appears twice")],
)
def test_a_mapping_is_read_as_strictly_as_a_file(text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--optimizer-options", text]) == 2
    assert why in capsys.readouterr().err


def test_a_mapping_that_is_none_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--optimizer-options", "{eps: [1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tvlars: argument --optimizer-options: must be NAME=VALUE, or a mapping as {eps: 1e-6}, got")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "known", "expected"),
    [
        ("--opt", ["--out", "--help"], []),
        ("--opt", ["--out", "--optimizer", "--optimizer-options"], ["--optimizer", "--optimizer-options"]),
        ("--learning-rate", ["--lr", "--label-smoothing"], ["--lr"]),
        ("--num_workers", ["--data-workers", "--workers"], ["--data-workers"]),
        ("--warmup", ["--warmup-steps", "--warmup-epochs"], ["--warmup-epochs"]),
        ("--optimzer", ["--optimizer", "--out"], ["--optimizer"]),
        ("--batch", ["--batch-size"], ["--batch-size"]),
        ("--versio", ["-h", "--version"], ["--version"]),
    ],
)
def test_a_wrong_option_is_told_the_nearest_by_meaning(flag: str, known: list[str], expected: list[str]) -> None:
    assert nearest(flag, known) == expected
