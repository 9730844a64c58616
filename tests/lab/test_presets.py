"""Presets: the numbers of the papers and of the published code, and what yields to what."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tvlars import LAMB
from tvlars.lab import TrainConfig, UsageError
from tvlars.lab.models import build_model
from tvlars.lab.presets import CLASSIFICATION_PRESETS, MLPERF, PUBLISHED_GRIDS, SELF_SUPERVISED_PRESETS, published_grid
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
    for preset in SELF_SUPERVISED_PRESETS:
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


@pytest.mark.parametrize("warmup", [None, 0.0])
def test_a_plan_says_that_its_schedule_repeats(warmup: float | None) -> None:
    options: dict[str, Any] = dict(task="barlow-twins", optimizer="lars", preset="as-published", batch_size=512)
    text = str(TrainConfig(**options, epochs=100, warmup_epochs=warmup).plan(51_200))
    assert "cosine, made for 1000 steps and repeating, to" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


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


@pytest.mark.parametrize("point", MLPERF, ids=lambda point: str(point.batch_size))
def test_mlperf_at_its_own_batch_sizes(point: Any) -> None:
    config = TrainConfig(optimizer="lars", preset="mlperf", batch_size=point.batch_size, epochs=90)
    plan = config.plan(1_281_167)
    assert (plan.lr, plan.momentum, plan.weight_decay) == (point.lr, point.momentum, point.weight_decay)
    assert plan.warmup_steps == round(point.warmup_epochs * plan.steps_per_epoch)
    assert (plan.schedule, plan.power, plan.nesterov, plan.bias_norm_lr_scale) == ("polynomial", 2.0, False, 1.0)
    assert plan.lr * plan.factor(plan.total_steps) == pytest.approx(1e-4)
    assert config.smoothing == 0.1
    assert config.preset_facts() == {"preset": f"mlperf: settings of batch size {point.batch_size:,}"}


@pytest.mark.parametrize(
    ("batch_size", "lr", "warmup_epochs", "momentum", "weight_decay", "said"),
    [
        (1024, 5.0, 5.0, 0.9, 2e-4, "settings of batch size 4,096, lr x sqrt(1,024 / 4,096)"),
        (16384, (17 * 21.2) ** 0.5, 10.5, 0.92, 5e-9**0.5, "settings between batch sizes 8,192 and 32,768"),
        (131072, 24.699, 31.0, 0.951807, 1e-4, "settings of batch size 65,536"),
    ],
)
def test_mlperf_between_and_outside_of_its_batch_sizes(
    batch_size: int, lr: float, warmup_epochs: float, momentum: float, weight_decay: float, said: str
) -> None:
    config = TrainConfig(optimizer="lars", preset="mlperf", batch_size=batch_size, epochs=90)
    plan = config.plan(1_281_167)
    assert (plan.lr, plan.momentum, plan.weight_decay) == pytest.approx((lr, momentum, weight_decay))
    assert plan.warmup_steps == round(warmup_epochs * plan.steps_per_epoch)
    assert config.preset_facts()["preset"] == f"mlperf: {said}"


def test_mlperf_yields_to_what_is_given() -> None:
    options: dict[str, Any] = dict(optimizer="lars", preset="mlperf", batch_size=256, epochs=3)
    with pytest.raises(UsageError, match="epochs must be > 5, the warm-up of this preset, or warmup_epochs be given"):
        TrainConfig(**options).plan(5000)
    plan = TrainConfig(**options, warmup_epochs=1.0, lr=3.0, momentum=0.5, power=3.0).plan(5000)
    assert (plan.lr, plan.momentum, plan.warmup_steps, plan.power) == (3.0, 0.5, 19, 3.0)
    assert plan.final_factor == pytest.approx(1e-4 / 3)
    assert TrainConfig(**options, warmup_steps=7).plan(5000).warmup_steps == 7
    linear = TrainConfig(**options, warmup_steps=7, schedule="linear").plan(5000)
    assert (linear.schedule, linear.power, linear.lr) == ("linear", None, 2.5)
    assert TrainConfig(**options, schedule="constant").plan(5000).warmup_steps == 0
    assert TrainConfig(**options, label_smoothing=0.0).smoothing == 0.0
    assert TrainConfig(optimizer="lars").smoothing == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(preset="mlperf", optimizer="sgd"), "preset 'mlperf' is for lars, got 'sgd'"),
        (dict(preset="corrected", optimizer="sgd"), "preset 'corrected' is for tvlars, lars, lamb, got 'sgd'"),
        (
            dict(adapt_bias_norm=True, optimizer="sgd"),
            "adapt_bias_norm must not be given for sgd, which has no trust ratio",
        ),
        (
            dict(preset="mlperf", optimizer="lars", task="byol"),
            "preset must be corrected or as-published for self-supervised learning, got 'mlperf'",
        ),
    ],
)
def test_presets_of_another_task_or_optimizer(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_the_optimizer_of_a_run_warns_by_the_findings_alone() -> None:
    config = TrainConfig(optimizer="lars", preset="mlperf", epochs=30)
    model, _ = build_model("small_resnet", 1, 8, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_optimizer(config, config.plan(1437), model)


# -- the published classification -------------------------------------------------------------------------------------

ETA, DECAY, MOMENTUM = 1e-3, 5e-4, 0.9


def published_tvlars_or_lars(
    params: list[Tensor], grads: list[list[Tensor]], rates: list[float], lmbda: float | None
) -> None:
    """Update ``params`` as opt/tvlars.py (``lmbda`` given) or opt/lars.py of the published code does, filters on."""
    moments = [torch.zeros_like(p) for p in params]
    for t, (given, lr) in enumerate(zip(grads, rates, strict=True), 1):
        for p, g, mu in zip(params, given, moments, strict=True):
            if p.ndim > 1:
                g = g + DECAY * p
                w, u, phi = p.norm(), g.norm(), 1.0
                if lmbda is not None:
                    w, u, phi = w.clamp(0, 10), u.clamp(0, 10), 1 / (0.1 + math.exp(lmbda * t))
                g = g * (ETA * phi * w / u if w > 0 and u > 0 else 1.0)
            mu.mul_(MOMENTUM).add_(g)
            p -= lr * mu


def published_lamb(params: list[Tensor], grads: list[list[Tensor]], rates: list[float], adam: bool) -> None:
    """Update ``params`` as opt/lamb.py of the published code does: no filters, no bias correction."""
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for given, lr in zip(grads, rates, strict=True):
        for p, g, m, v in zip(params, given, first, second, strict=True):
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            r = m / (v.sqrt() + 1e-6) + DECAY * p
            ratio = 1.0 if adam or p.norm() == 0 or r.norm() == 0 else float(p.norm().clamp(0, 10) / r.norm())
            p -= lr * ratio * r


@pytest.mark.parametrize(
    "options",
    [
        dict(optimizer="tvlars", lr=3.0, delay_factor=0.3),
        dict(optimizer="lars"),
        dict(optimizer="lars", schedule="constant", lr=2.0),
        dict(optimizer="lamb"),
        dict(optimizer="lamb", layer_adaptation=False),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_steps_of_the_published_classification(options: dict[str, Any]) -> None:
    config = TrainConfig(preset="as-published", batch_size=512, epochs=10, **options)
    plan = config.plan(1024)  # 20 steps, 4 of them warm-up
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40), torch.nn.Linear(40, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(10.0)  # beyond the clamp
        model[2].bias.zero_()
    optimizer = build_optimizer(config, plan, model).optimizer
    scheduler = plan.scheduler(optimizer)
    params = [p.detach().clone() for p in model.parameters()]
    grads = [[torch.randn_like(p) for p in params] for _ in range(6)]
    for given in grads:
        for p, g in zip(model.parameters(), given, strict=True):
            p.grad = g.clone()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    warms_up = config.optimizer != "tvlars" and config.schedule == "auto"
    rates = [plan.lr * (plan.factor(t) if warms_up else 1.0) for t in range(1, 7)]
    if config.optimizer == "lamb":
        published_lamb(params, grads, rates, adam=config.layer_adaptation is False)
    else:
        published_tvlars_or_lars(params, grads, rates, config.delay_factor)
    for p, expected in zip(model.parameters(), params, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=1e-9)


def test_rates_of_the_published_classification() -> None:
    def plan(optimizer: str, batch_size: int, **more: Any) -> Any:
        return TrainConfig(optimizer=optimizer, preset="as-published", batch_size=batch_size, epochs=100, **more).plan(
            50_000
        )

    assert [len(one.lrs) * len(one.delay_factors) for one in PUBLISHED_GRIDS] == [12, 15, 18, 28, 42, 49, 49]
    assert [published_grid(size).batch_size for size in (64, 512, 1000, 2048, 100_000)] == [512, 512, 512, 2048, 32768]
    tvlars, lars = plan("tvlars", 2048), plan("lars", 2048)
    assert (tvlars.lr, tvlars.delay_factor, tvlars.delay, tvlars.alpha) == (12.0, 1e-3, 0.0, 0.1)
    assert (lars.lr, lars.warmup_steps, lars.total_steps, lars.final_factor) == (0.3 * 8, 480, 2400, 1e-3)
    for made in (tvlars, lars, plan("lamb", 2048)):
        assert (made.weight_decay, made.bias_norm_lr_scale, made.nesterov) == (5e-4, 1.0, False)
    cold = plan("lars", 512, schedule="constant", lr=2.0)
    assert (cold.schedule, cold.warmup_steps, cold.factor(7)) == ("constant", 0, 1.0)


def test_each_fault_of_the_published_classification_is_an_option() -> None:
    model, _ = build_model("small_resnet", 1, 8, 10)

    def groups(optimizer: str, **more: Any) -> list[dict[str, Any]]:
        config = TrainConfig(optimizer=optimizer, preset="as-published", epochs=10, **more)
        return build_optimizer(config, config.plan(1437), model).optimizer.param_groups

    assert [group["phi_scope"] for group in groups("tvlars", phi_scope="all")] == ["all", "all"]
    assert groups("tvlars", optimizer_options="norm_clip=none unit_ratio_at_zero=false")[0]["norm_clip"] is None
    weights, others = groups("tvlars", bias_norm_lr_scale=0.03)
    assert others["lr"] == pytest.approx(0.03 * weights["lr"])
    assert [group["weight_decay"] for group in groups("lamb")] == [5e-4, 5e-4]
    assert [group["weight_decay"] for group in groups("lamb", adapt_bias_norm=False)] == [5e-4, 0.0]
    assert [group["layer_adaptation"] for group in groups("lamb", adapt_bias_norm=False)] == [True, False]
    assert [group["layer_adaptation"] for group in groups("lamb", layer_adaptation=False)] == [False, False]
    assert groups("lamb", optimizer_options="bias_correction=true")[0]["bias_correction"]


def test_corrected_classification_lacks_the_faults() -> None:
    model, _ = build_model("small_resnet", 1, 8, 10)
    for name in CLASSIFICATION_PRESETS["corrected"]:
        config = TrainConfig(optimizer=name, preset="corrected", epochs=30)
        plan = config.plan(5000)
        weights, others = build_optimizer(config, plan, model).optimizer.param_groups
        assert (plan.weight_decay, others["weight_decay"], others["layer_adaptation"]) == (5e-4, 0.0, False)
        assert (weights["norm_clip"], weights["layer_adaptation"]) == (None, True)
        assert others["lr"] < weights["lr"]
        assert plan.factor(plan.total_steps) <= 0.021
