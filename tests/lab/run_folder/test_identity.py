"""One meaning of "the same run": for runs that go on, sweeps, tunings and reports."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tvlars.lab import Grid, LoadedRun, TrainConfig, UsageError
from tvlars.lab.config import MEANS, OPTIONS, names_of
from tvlars.lab.experiments.run_name import run_name
from tvlars.lab.experiments.sweep import FILE, make_agenda
from tvlars.lab.experiments.tuning.folder import check_same
from tvlars.lab.options import Is
from tvlars.lab.report.parts import parts_of
from tvlars.lab.run_folder.identity import check_same as check_same_run
from tvlars.lab.run_folder.identity import check_same_plan, differences, identity
from tvlars.lab.run_folder.record import write_json
from tvlars.lab.run_folder.status import Status

BASE = TrainConfig(optimizer="tvlars", epochs=10)
OTHERS: dict[str, Any] = {
    **dict(data="fashion-mnist", image_size=16, model="resnet18", init="kaiming", task="byol", optimizer="lars"),
    **dict(batch_size=128, epochs=3, seed=1, lr=3.0, bias_norm_lr_scale=0.5, weight_decay=0.1, momentum=0.5),
    **dict(nesterov=False, trust_coefficient=0.5, schedule="constant", warmup_epochs=2.0, delay_factor=0.2, delay=3.0),
    **dict(alpha=2.0, gamma_min=0.1, phi_scope="ratio", augment=False, crop_padding=2, rotation=5.0),
    **dict(micro_batch_size=64, precision="32-true", preset="corrected", projector="8-8", sync_batch_norm=False),
    **dict(method_options="lambda_param=0.1", skip_bad_images=True, validation=0.1, validation_seed=1),
    **dict(optimizer_options="norm_clip=1.0", label_smoothing=0.1, clip_grad_norm=1.0, ema=0.9, test=False),
    **dict(schedule_options="gamma=0.9", warmup_steps=3, final_factor=0.1, power=3.0, decay_share=0.3),
    **dict(decay_tail="sqrt", keep_best=True, stem="small", pretrained=True, weights=Path("weights.pt"), flip=True),
    **dict(crop="random-resized", crop_scale=0.3, auto_augment="randaugment", mixup=0.2, cutmix=1.0),
    **dict(layer_adaptation=False, adapt_bias_norm=True, steps=40),
}
MEASURING: dict[str, Any] = dict(
    **dict(evaluations="knn", layer_stats=2, sharpness="end", sharpness_samples=64, noise_scale=True),
    **dict(metrics=("x.F1",), test_share=0.25, sharpness_statistics="running", sharpness_statistics_samples=8),
    validate_every=2,
)
BY_OTHER_MEANS: dict[str, Any] = {
    **dict(
        data_dir=Path("there"), accelerator="cpu", compile=True, log=("tensorboard",), devices=2, nodes=2, shard=True
    ),
    **dict(timeout=3.0, rendezvous="a:1", checkpoint_every="3s", checkpoint_keep=5, resume=True, profile=True),
    **dict(out=Path("out"), arm="cold", data_workers=3, protocol="ab" * 32),
}


def other(name: str, value: Any) -> TrainConfig:
    """``BASE`` with another value, without the checks of what goes together."""
    config = replace(BASE)
    object.__setattr__(config, name, value)
    return config


def loaded(config: TrainConfig) -> LoadedRun:
    empty = pd.DataFrame()
    return LoadedRun(Path("run"), config, Status.FINISHED, empty, empty, empty, empty)


def test_every_option_says_what_it_decides() -> None:
    assert list(OPTIONS) == [f.name for f in fields(TrainConfig)]
    assert set(OPTIONS) - set(names_of(Is.MEASURED)) - set(MEANS) == set(OTHERS)
    assert set(names_of(Is.MEASURED)) == set(MEASURING)
    assert set(MEANS) == set(BY_OTHER_MEANS)
    assert len(OPTIONS) == len(OTHERS) + len(MEASURING) + len(BY_OTHER_MEANS)


@pytest.mark.parametrize("name", [f.name for f in fields(TrainConfig)])
def test_runs_that_go_on_sweeps_and_reports_have_one_meaning(name: str) -> None:
    config = other(name, (OTHERS | MEASURING | BY_OTHER_MEANS)[name])
    same_run = name in BY_OTHER_MEANS
    plan = BASE.plan(1437)
    assert (identity(config, plan) == identity(BASE, plan)) == same_run
    # A name tells the task, the data, the optimizer, batch size and seed in words; the digest tells all.
    assert (run_name(config).split("-")[-1] == run_name(BASE).split("-")[-1]) == same_run
    if name not in ("optimizer", "batch_size", "seed", "arm"):
        parts = parts_of([loaded(BASE), loaded(config)])
        assert (sum(len(part.arms) for part in parts) == 1) == (name not in OTHERS)


def test_what_an_earlier_version_took_for_a_part_of_a_run_is_none() -> None:
    assert differences({"compile": True, "epochs": 3}, {"epochs": 3}) == ""
    assert differences({"compile": True, "epochs": 3}, {"epochs": 4}) == "epochs 3 there, 4 here"
    check_same({"base": {"accelerator": "cpu", "epochs": 3}}, {"base": {"epochs": 3}})
    with pytest.raises(UsageError, match=r"but has base {'epochs': 3}, got {'epochs': 4}"):
        check_same({"base": {"accelerator": "cpu", "epochs": 3}}, {"base": {"epochs": 4}})


def test_a_schedule_that_an_earlier_version_named_otherwise_is_the_same() -> None:
    config = TrainConfig(optimizer="lars", schedule="cosine")
    plan = config.plan(1437)
    there = identity(config, plan)
    there["config"]["schedule"] = "warmup-cosine"
    check_same_run(there, config, plan, None, "the", lambda: None)
    assert TrainConfig.from_mapping(there["config"]).schedule == "cosine"


def test_plans_are_the_same_but_for_the_last_digit_names_and_descriptions() -> None:
    here = TrainConfig(optimizer="lars", schedule="cosine").plan(1437)
    there = {**json.loads(json.dumps(here.as_dict())), "schedule": "warmup-cosine", "lr_from": "elsewhere"}
    check_same_plan({**there, "lr": here.lr * (1 + 1e-15)}, here, "the")
    check_same_plan({}, here, "the")
    check_same_plan(there, replace(here, lr=math.nan), "the")  # not known before the optimizer is built
    with pytest.raises(UsageError, match="schedule"):
        check_same_plan({"schedule": [1]}, here, "the")
    with pytest.raises(UsageError, match="the plan differs: warmup_steps 3 there"):
        check_same_plan({**there, "warmup_steps": 3}, here, "the")


def test_a_sweep_does_not_mix_runs_of_other_defaults(tmp_path: Path) -> None:
    config = TrainConfig(data="digits", optimizer="lars", epochs=2)
    run = tmp_path / run_name(config)
    run.mkdir()
    write_json(tmp_path / FILE, {"runs": []})
    write_json(run / "plan.json", replace(config, schedule="cosine").plan(1437).as_dict())
    with pytest.raises(UsageError, match="the plan differs: schedule 'cosine' there, 'linear' here, warmup_steps 2"):
        make_agenda([config], tmp_path)


def test_a_sweep_does_a_run_once_by_whatever_means() -> None:
    with pytest.raises(UsageError, match=r"appears twice and differs only in accelerator, which does not change"):
        Grid.from_mapping({"grid": {"accelerator": ["auto", "cpu"]}})


def test_a_sweep_finds_the_runs_that_an_earlier_version_named(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, accelerator="cpu")
    old = tmp_path / "digits-tvlars-b256-s0-0123456789"
    old.mkdir()
    (old / "config.json").write_text(config.to_json())
    (old / "epochs.csv").write_text("epoch,step\n1,8\n")
    write_json(old / "summary.json", {"status": "finished"})
    write_json(tmp_path / FILE, {"runs": [{"run": old.name, **json.loads(config.to_json())}, {"run": "../x"}, 3]})
    agenda = make_agenda([replace(config, devices=1)], tmp_path)
    assert [(run.name, run.status) for run in agenda.runs] == [(old.name, Status.FINISHED)]
    assert make_agenda([replace(config, epochs=2)], tmp_path).runs[0].name != old.name
