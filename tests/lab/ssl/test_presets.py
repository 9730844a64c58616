"""Presets: the numbers of the papers and of the published code, and what yields to what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvlars import LAMB
from tvlars.lab import TrainConfig, UsageError
from tvlars.lab.models import build_model
from tvlars.lab.ssl.presets import PRESETS
from tvlars.lab.training.optimizers import build_optimizer


def test_corrected_is_barlow_twins_own_recipe() -> None:
    config = TrainConfig(task="barlow-twins", optimizer="lars", preset="corrected", batch_size=512, epochs=100)
    plan = config.plan(51_200)
    assert plan.lr == pytest.approx(0.2 * 2)
    assert plan.lr * plan.bias_norm_lr_scale == pytest.approx(0.0048 * 2)
    assert plan.weight_decay == 1e-6
    assert plan.warmup_steps == 10 * 100
    assert not plan.nesterov
    assert plan.factor(plan.total_steps) == pytest.approx(1e-3)


def test_as_published_has_its_accidents() -> None:
    made = {}
    for preset in PRESETS:
        config = TrainConfig(task="barlow-twins", optimizer="lamb", preset=preset, batch_size=512, epochs=100)
        model, _ = build_model("small_resnet", 1, 8, 10)
        made[preset] = build_optimizer(config, config.plan(51_200), model).optimizer
        assert isinstance(made[preset], LAMB)
    assert [group["layer_adaptation"] for group in made["as-published"].param_groups] == [False, False]
    assert [group["layer_adaptation"] for group in made["corrected"].param_groups] == [True, False]
    assert not made["as-published"].param_groups[0]["bias_correction"]
    config = TrainConfig(task="barlow-twins", optimizer="lars", preset="as-published", batch_size=512, epochs=100)
    plan = config.plan(51_200)  # 10,000 steps: the schedule ends after 1,000, and rises and falls again
    assert plan.warmup_steps == 200
    assert plan.factor(1000) == pytest.approx(1e-3)
    assert plan.factor(1800) == pytest.approx(1.0)
    assert plan.factor(200) == pytest.approx(1.0)
    assert plan.factor(100) == pytest.approx(0.5)
    optimizer = build_optimizer(config, plan, model).optimizer
    scheduler = plan.scheduler(optimizer)
    assert scheduler is not None
    for _ in range(99):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(plan.lr * plan.factor(100))


def test_presets_of_phi_and_of_other_schedules() -> None:
    published = TrainConfig(task="barlow-twins", preset="as-published", epochs=100)
    model, _ = build_model("small_resnet", 1, 8, 10)
    made = build_optimizer(published, published.plan(5000), model).optimizer.param_groups[0]
    assert (made["phi_scope"], made["norm_clip"], made["lr"]) == ("ratio", 10.0, 1.0)
    given = replace(published, phi_scope="all")
    assert build_optimizer(given, given.plan(5000), model).optimizer.param_groups[0]["phi_scope"] == "all"
    constant = TrainConfig(task="byol", optimizer="lars", preset="corrected", schedule="constant", epochs=3)
    assert constant.plan(5000).schedule == "constant"


def test_as_published_wants_a_run_that_is_long_enough() -> None:
    config = TrainConfig(task="barlow-twins", optimizer="lars", preset="as-published", epochs=2)
    with pytest.raises(UsageError, match="makes its schedule for a tenth of the run, 4 of 38 steps: they must be 5"):
        config.plan(5000)


def test_presets_yield_to_what_is_given() -> None:
    config = TrainConfig(task="simclr", optimizer="lars", preset="corrected", lr=3.0, warmup_epochs=1.0, epochs=5)
    plan = config.plan(5000)
    assert plan.lr == 3.0
    assert plan.warmup_steps == 19
    assert plan.bias_norm_lr_scale == 0.024
