"""plan: a run in numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from tvlars import LAMB, LARS, TVLARS, ConstantSchedule, Plan, layer_groups, plan

CLASSES = {"tvlars": TVLARS, "lars": LARS, "lamb": LAMB, "sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("optimizer", CLASSES)
@pytest.mark.parametrize("batch_size", [256, 4096, 60_000])
def test_the_optimizer_takes_its_arguments_and_ends_where_the_plan_does(optimizer: str, batch_size: int) -> None:
    p = plan(batch_size, 60_000, 60, optimizer)
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = layer_groups(model, p)
        built: Any = CLASSES[optimizer](groups, **p.optimizer_arguments())
    scheduler = p.scheduler(built)
    assert (scheduler is None) == (optimizer == "tvlars")
    assert p.total_steps == 60 * (60_000 // batch_size)
    for step in (1, 2, 3):
        lr = built.param_groups[0]["lr"] * (1.0 if scheduler else p.factor(step))
        assert lr == pytest.approx(p.lr * p.factor(step))
        model(torch.ones(3, 2)).sum().backward()
        built.step()
        if scheduler:
            scheduler.step()
        else:
            assert built.phi()[0] == p.factor(step)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("epochs", [10, 100, 1000])
def test_phi_holds_then_hands_over(epochs: int, alpha: float) -> None:
    p = plan(1024, 50_000, epochs, alpha=alpha)
    start = p.factor(1)
    assert start == pytest.approx(1 / alpha, rel=0.1)
    assert p.factor(p.total_steps / 3) > 0.75 * start
    assert p.factor(p.total_steps) < 0.021 / alpha


def test_what_is_given_is_taken() -> None:
    p = plan(512, 5120, 20, lr=3.0, delay=7, delay_factor=0.5, gamma_min=0.1, nesterov=False, momentum=0.5)
    assert p.optimizer_arguments() == dict(
        lr=3.0, weight_decay=p.weight_decay, momentum=0.5, nesterov=False, delay_factor=0.5, delay=7, alpha=1.0,
        gamma_min=0.1,
    )  # fmt: skip
    assert plan(512, 5120, 20, "lars", warmup_epochs=0).warmup_steps == 0
    assert plan(512, 5120, 20, "lars", warmup_epochs=1.5).warmup_steps == 15
    assert plan(512, 5120, 20, "sgd", schedule="constant").factor(99) == 1.0
    assert plan(512, 5120, 20, "adamw", schedule="sigmoid").delay is not None


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
@pytest.mark.filterwarnings("ignore:.*too few for a schedule:UserWarning")
def test_the_shortest_runs_have_a_plan_too(epochs: int) -> None:
    p = plan(10, 10, epochs)
    assert p.total_steps == epochs
    assert 0 < p.factor(epochs) <= p.factor(1) <= 1


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_half_way_is_where_it_says(alpha: float) -> None:
    p = plan(512, 51_200, 5, alpha=alpha)
    said = re.search(r"half way down at step ([\d.]+):", str(p))
    assert said is not None
    assert p.factor(float(said[1])) == pytest.approx(0.5 / alpha, rel=1e-2)
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra lab)")
    assert p.plot().lines[-1].get_xdata()[0] == pytest.approx(float(said[1]), rel=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(optimizer="lars", alpha=2.0),
        dict(optimizer="lars", gamma_min=0.0),
        dict(final_factor=0.1),
        dict(momentum=0.0, nesterov=True),
    ],
)
def test_what_would_play_no_part_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must not be given for the|momentum must be > 0 if nesterov=True"):
        plan(512, 51_200, 5, **arguments)


def test_more_batch_wants_more_lr_up_to_what_a_layer_bears() -> None:
    rates = [plan(batch_size, 60_000, 50).lr for batch_size in (128, 512, 8192)]
    assert rates[1] == pytest.approx(2 * rates[0])
    assert rates[2] == rates[1]
    rates = [plan(batch_size, 60_000, 50, "lars").lr for batch_size in (256, 1024, 8192)]
    assert rates[1] == pytest.approx(2 * rates[0])
    assert rates[2] == rates[1]
    assert plan(8192, 60_000, 50, "sgd").lr == pytest.approx(4 * plan(2048, 60_000, 50, "sgd").lr)


@pytest.mark.parametrize(
    ("batch_size", "share"),
    [(1, 0.5), (128, 0.5), (512, 0.5), (1024, 0.625), (2048, 0.75), (4096, 0.825), (8192, 0.9), (65_536, 0.9)],
)
def test_phi_is_held_longer_for_larger_batches(batch_size: int, share: float) -> None:
    made = plan(batch_size, total_steps=1000)
    assert made.delay == 1000 * share
    assert made.factor(1) > 0.979
    assert made.factor(1000 * share) == pytest.approx(0.5)
    assert made.factor(1000) == pytest.approx(0.02)
    assert plan(batch_size, total_steps=1000, optimizer="sgd", schedule="sigmoid").delay == made.delay


def test_lars_falls_linearly_without_warm_up_unless_one_is_given() -> None:
    made = plan(8192, total_steps=1000, optimizer="lars")
    assert (made.schedule, made.warmup_steps, made.lr) == ("linear", 0, 32.0)
    assert made.factor(1) > 0.998
    assert made.factor(500) == pytest.approx(0.5, abs=0.002)
    assert made.factor(1000) == pytest.approx(1e-3, abs=2e-3)
    assert plan(8192, total_steps=1000, optimizer="lars", schedule="linear") == made
    assert plan(8192, total_steps=1000, optimizer="lars", warmup_steps=50).warmup_steps == 50
    assert plan(8192, total_steps=1000, optimizer="lars", schedule="cosine").warmup_steps == 200
    assert plan(8192, total_steps=1000, optimizer="sgd", schedule="linear").warmup_steps == 200


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("tvlars", {"noise_scale": 12_345.0, "delay": 12_345.678}),
        ("lars", {"schedule": "trapezoid", "lr": 1.2345678}),
        ("torch.optim.SGD", {"schedule": torch.optim.lr_scheduler.OneCycleLR, "lr": 0.1}),
    ],
)
def test_the_text_fits_a_narrow_terminal(optimizer: str, more: dict[str, Any]) -> None:
    lines = str(plan(16_384, 1_281_167, 90, optimizer, **more)).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.startswith("  ") for line in lines[1:])
    if optimizer == "tvlars":
        assert "             3,215 samples per epoch, drawn anew each time, do not fill a batch" in lines
        assert re.fullmatch(r" {13}delay_factor = \S+ per step, gamma_min = 0, alpha = 1", lines[-4])


def test_warns_of_a_run_too_short_for_a_schedule() -> None:
    with pytest.warns(
        UserWarning, match="few steps: 15 optimizer steps are too few for a schedule to act; more epochs"
    ):
        plan(4096, 5000, 15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 100, 1), r"batch_size must be an integer >= 1 \(samples\), got 0"),
        ((512.0, 1000, 1), r"batch_size must be an integer >= 1 \(samples\), got 512.0"),
        ((2000, 1000, 1), r"batch_size must be <= dataset_size \(1,000 samples\), got 2,000"),
        ((10, 1000, 0), "epochs must be an integer >= 1, got 0"),
        ((10, 1000, 1, "adam"), "optimizer must be one of 'tvlars', .*got 'adam'"),
    ],
)
def test_bad_sizes(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*arguments)


@pytest.mark.parametrize(
    ("optimizer", "arguments", "message"),
    [
        ("tvlars", dict(schedule="constant"), "schedule must be 'auto' for tvlars"),
        ("lars", dict(schedule="step"), "schedule must be one of"),
        ("lars", dict(delay=3), "delay must not be given for the linear schedule, got 3"),
        ("lamb", dict(delay=3), "delay must not be given for the cosine schedule, got 3"),
        ("tvlars", dict(warmup_epochs=3), "warmup_epochs must not be given for tvlars, which has no warm-up, got 3"),
        ("lars", dict(warmup_epochs=20), "warmup_epochs must be >= 0 and < 20"),
        ("lamb", dict(momentum=0.9), "momentum and nesterov must not be given for lamb"),
        ("lars", dict(momentum=1.0), "momentum must be >= 0 and < 1, got 1.0"),
        ("tvlars", dict(lr=math.inf), "lr must be > 0, got inf"),
        ("tvlars", dict(alpha=0), "alpha must be > 0, got 0"),
        ("tvlars", dict(gamma_min=-1), "gamma_min must be >= 0, got -1"),
    ],
)
def test_bad_options(optimizer: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(256, 25600, 20, optimizer, **arguments)


class Digits(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 1797

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((512, Digits(), 20), "dataset_size must be an integer >= 1 (samples), got a Digits of 1797 samples"),
        ((Digits(), 512, 20), "batch_size must be an integer >= 1 (samples), got a Digits of 1797 samples"),
        (
            (512, torch.utils.data.DataLoader(Digits(), batch_size=32), 20),
            "dataset_size must be an integer >= 1 (samples), got a DataLoader of 1797 samples",
        ),
        ((512, torch.nn.Sequential(torch.nn.Linear(2, 2)), 20), "(samples), got a Sequential"),
        ((512, list(range(1797)), 20), "dataset_size must be an integer >= 1 (samples), got a list of 1797 samples"),
        ((512, "60000", 20), "dataset_size must be an integer >= 1 (samples), got '60000'"),
        ((512, 60_000, 1.5), "epochs must be an integer >= 1, got 1.5"),
        ((512, 60_000, True), "epochs must be an integer >= 1, got True"),
        ((512, 60_000, None), "epochs must be given: dataset_size and epochs, or total_steps"),
        ((-512, 60_000, 20), "batch_size must be an integer >= 1 (samples), got -512"),
        ((512, math.nan, 20), "dataset_size must be an integer >= 1 (samples), got nan"),
        (
            (512, 60_000, 20, TVLARS),
            "optimizer must be one of 'tvlars', 'lars', 'lamb', 'sgd', 'adamw', got the class TV",
        ),
        ((512, 60_000, 20, ["lars"]), "'adamw', got ['lars']"),
    ],
)
def test_arguments_of_another_kind(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(*arguments)


@pytest.mark.parametrize("optimizer", ["tvlars", "lars"])
def test_numbers_of_numpy_become_numbers_of_python(optimizer: str) -> None:
    numpy = pytest.importorskip("numpy")
    shape = dict(delay=numpy.int64(300), delay_factor=numpy.float32(0.5)) if optimizer == "tvlars" else {}
    given = dict(lr=numpy.float32(8.0), momentum=torch.tensor(0.5), weight_decay=numpy.float64(0.25), **shape)
    p = plan(numpy.int32(512), numpy.int64(60_000), numpy.uint8(20), optimizer, **given)
    assert {type(value) for value in dataclasses.asdict(p).values()} <= {int, float, str, bool, type(None)}
    assert p == plan(512, 60_000, 20, optimizer, **{name: float(value) for name, value in given.items()})


def test_str_explains() -> None:
    text = str(plan(4096, 60_000, 15))
    assert "14 per epoch, 210 in total" in text
    assert "at step 1" in text
    assert "biases and norms" in text
    assert "warm-up over 42 steps, then cosine" in str(plan(4096, 60_000, 15, "lamb"))
    assert "  schedule   linear to 0.1 % of lr, without warm-up" in str(plan(4096, 60_000, 15, "lars"))


def test_plot_draws_the_learning_rate() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra lab)")
    matplotlib.use("Agg")
    p = plan(4096, 60_000, 15)
    x, y = p.plot().lines[0].get_data()
    assert (x[0], x[-1]) == (1, p.total_steps)
    assert y[0] == pytest.approx(p.lr * p.factor(1))
    assert y[-1] == pytest.approx(p.lr * p.factor(p.total_steps))


SHAPES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("linear", dict(warmup_epochs=1), ["linear warm-up over 10 steps, then linear to 0.1 % of lr"]),
    (
        "polynomial",
        dict(warmup_steps=7),
        ["linear warm-up over 7 steps, then polynomial of power 2 to 0.1 % of\n             lr"],
    ),
    (
        "trapezoid",
        dict(decay_tail="sqrt"),
        ["over 40 steps, then the full rate,", "\n             from step 160 on 1 - sqrt decay to 0.1 % of lr\n"],
    ),
    ("constant", dict(), ["schedule   constant"]),
    ("constant", dict(warmup_steps=3), ["linear warm-up over 3 steps, then constant"]),
    ("cosine", dict(), ["linear warm-up over 40 steps, then cosine to 0.1 % of lr"]),
    ("sigmoid", dict(warmup_steps=5), ["linear warm-up over 5 steps, then phi", "at step 5, "]),
    ("published-phi", dict(), ["falling from the first step on", "alpha = 0.1"]),
]


@pytest.mark.parametrize(("schedule", "options", "said"), SHAPES, ids=[name for name, _, _ in SHAPES])
@pytest.mark.parametrize("optimizer", ["lars", "adamw"])
def test_every_schedule_is_explained_and_followed(
    schedule: str, options: dict[str, Any], said: list[str], optimizer: str
) -> None:
    p = plan(512, 5120, 20, optimizer, schedule=schedule, **options)
    for text in said:
        assert text in str(p)
    module = nn.Linear(2, 2)
    built: Any = CLASSES[optimizer](layer_groups(module, p), **p.optimizer_arguments())
    scheduler = p.scheduler(built)
    assert (scheduler is None) == (p.curve == ConstantSchedule())
    for step in range(1, p.total_steps + 1):
        assert built.param_groups[0]["lr"] == p.lr * p.factor(step)
        if scheduler is not None:
            built.step()
            scheduler.step()
    json.dumps(p.as_dict())


def test_published_phi_is_that_of_the_published_code() -> None:
    p = plan(512, 5120, 20, "lars", schedule="published-phi", delay_factor=0.01)
    for step in (1, 50, 200):
        assert p.factor(step) == pytest.approx(1 / (0.1 + math.exp(0.01 * step)))
    assert plan(512, 5120, 20, "lars", schedule="published-phi").delay_factor == 1e-3


@pytest.mark.parametrize("optimizer", CLASSES)
def test_a_stream_has_steps_alone(optimizer: str) -> None:
    p = plan(256, total_steps=1000, optimizer=optimizer)
    assert (p.total_steps, p.dataset_size, p.epochs) == (1000, None, 1)
    assert "a stream of samples" in str(p)
    assert "1000 in total, 256,000 samples" in str(p)
    same = plan(256, 256_000, 1, optimizer)
    assert [p.factor(t) for t in (1, 500, 1000)] == [same.factor(t) for t in (1, 500, 1000)]


@pytest.mark.parametrize("optimizer", CLASSES)
def test_steps_over_a_data_set_end_in_a_part_of_an_epoch(optimizer: str) -> None:
    p = plan(256, 60_000, optimizer=optimizer, total_steps=585)
    assert (p.total_steps, p.steps_per_epoch, p.epochs) == (585, 234, 3)
    assert "2.5 epochs of 60,000 samples" in str(p)
    stream = plan(256, total_steps=585, optimizer=optimizer)
    assert [p.factor(t) for t in (1, 300, 585)] == [stream.factor(t) for t in (1, 300, 585)]
    assert plan(256, 60_000, optimizer=optimizer, total_steps=468) == plan(256, 60_000, 2, optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(total_steps=10, dataset_size=3), "batch_size must be <= dataset_size (3 samples), got 64"),
        (dict(total_steps=10, epochs=3), "epochs must not be given with total_steps, got 3"),
        (dict(), "dataset_size must be given: dataset_size and epochs, or total_steps"),
        (dict(total_steps=0), "total_steps must be an integer >= 1 (optimizer steps), got 0"),
        (
            dict(total_steps=99, optimizer="lars", warmup_epochs=1),
            "warmup_steps must be given in place of warmup_epochs with total_steps, got 1",
        ),
        (
            dict(total_steps=99, optimizer="lars", warmup_epochs=1, warmup_steps=2),
            "warmup_steps must not be given with warmup_epochs, got 2 and 1",
        ),
        (
            dict(total_steps=99, optimizer="lars", warmup_steps=99),
            "warmup_steps must be < 99, the steps of the run, got 99",
        ),
        (
            dict(total_steps=99, optimizer="lars", schedule="linear", power=2),
            "power must not be given for the linear schedule, got 2",
        ),
        (
            dict(total_steps=99, optimizer="lars", schedule="constant", final_factor=0.1),
            "final_factor must not be given for the constant schedule, got 0.1",
        ),
        (
            dict(total_steps=99, optimizer="lars", schedule="published-phi", alpha=2),
            "alpha must not be given for the published-phi schedule, got 2",
        ),
        (
            dict(total_steps=99, optimizer="lars", schedule_options={"power": 2}),
            "schedule_options must not be given for the linear schedule",
        ),
    ],
)
def test_lengths_and_options_that_do_not_go_together(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(64, **arguments)


def staircase(step: int, run: Plan, base: float = 0.5) -> float:
    return base ** (4 * step // run.total_steps)


def with_polynomial(optimizer: torch.optim.Optimizer, num_training_steps: int, power: float) -> LRScheduler:
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, num_training_steps, power)


OWN: list[tuple[Any, dict[str, Any], str]] = [
    (staircase, dict(base=0.1), "staircase(base=0.1)"),
    (lambda step, plan: 1.0 / step, {}, "factors of <lambda>(step, plan)"),
    (torch.optim.lr_scheduler.OneCycleLR, {}, "OneCycleLR(total_steps=80, max_lr=["),
    (torch.optim.lr_scheduler.OneCycleLR, dict(max_lr=0.1), "OneCycleLR(total_steps=80, max_lr="),
    (torch.optim.lr_scheduler.CosineAnnealingLR, {}, "CosineAnnealingLR(T_max=80)"),
    (torch.optim.lr_scheduler.ExponentialLR, dict(gamma=0.9), "ExponentialLR(gamma=0.9)"),
    (torch.optim.lr_scheduler.StepLR, dict(step_size=7), "StepLR(step_size=7)"),
    (with_polynomial, dict(power=3.0), "with_polynomial(num_training_steps=80, power=3.0)"),
]


@pytest.mark.parametrize(("schedule", "options", "said"), OWN, ids=[said.partition("(")[0] for _, _, said in OWN])
@pytest.mark.parametrize("optimizer", ["lars", "adamw"])
def test_schedules_of_ones_own(schedule: Any, options: dict[str, Any], said: str, optimizer: str) -> None:
    p = plan(64, 640, 8, optimizer, schedule=schedule, schedule_options=options)
    assert said in str(p)
    json.dumps(p.as_dict())
    built: Any = CLASSES[optimizer](layer_groups(nn.Linear(2, 2), p), **p.optimizer_arguments())
    scheduler = p.scheduler(built)
    assert scheduler is not None
    for step in range(1, p.total_steps + 1):
        assert built.param_groups[0]["lr"] == pytest.approx(p.lr * p.factor(step), rel=1e-12)
        built.step()
        scheduler.step()


def test_a_scheduler_for_an_optimizer_whose_rate_is_not_known_here() -> None:
    p = plan(64, 640, 8, "torch.optim.NAdam", schedule=torch.optim.lr_scheduler.OneCycleLR)
    assert max(p.factor(step) for step in range(1, 81)) == pytest.approx(1.0, abs=0.01)


def test_a_schedule_of_ones_own_is_drawn() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra lab)")
    p = plan(64, 640, 8, "sgd", schedule=staircase)
    drawn = p.plot().lines[0].get_ydata()
    assert drawn.tolist() == [p.lr * staircase(step, p) for step in range(1, 81)]


def test_a_very_long_run_is_explained_without_going_through_it() -> None:
    p = plan(1, total_steps=10**9, optimizer="sgd", schedule=torch.optim.lr_scheduler.CosineAnnealingLR)
    assert "CosineAnnealingLR(T_max=1000000000)\n             1 x lr at step 1\n" in str(p)


def no_plan(step: int) -> float:
    return 1.0


def returns(value: Any) -> Any:
    def factor(step: int, plan: Plan) -> Any:
        return value

    return factor


def no_scheduler(optimizer: torch.optim.Optimizer) -> None:
    pass


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (no_plan, {}, "schedule must be a function of step and plan, got no_plan(step)"),
        (returns(-1.0), {}, "schedule must return a factor >= 0, but factor returned -1.0 at step 1"),
        (returns("x"), {}, "schedule must return a factor >= 0, but factor returned 'x' at step 1"),
        (no_scheduler, {}, "schedule must return a torch LR scheduler, but no_scheduler returned None"),
        (nn.Linear, {}, "schedule must be a torch LR scheduler or a function, got the class Linear"),
        (staircase, dict(bse=1), "unknown option of staircase 'bse': did you mean 'base'? Known: base."),
        (torch.optim.lr_scheduler.StepLR, {}, "schedule_options must have step_size for StepLR"),
        (
            torch.optim.lr_scheduler.OneCycleLR,
            dict(max_rate=1),
            "unknown option of OneCycleLR 'max_rate': did you mean 'max_lr'? Known: max_lr, ",
        ),
        (
            torch.optim.lr_scheduler.OneCycleLR,
            dict(pct_start=7.0),
            "schedule_options of OneCycleLR: Expected float between 0 and 1 pct_start, but got 7.0",
        ),
        (
            torch.optim.lr_scheduler.ReduceLROnPlateau,
            {},
            "stepped without arguments, but ReduceLROnPlateau.step needs metrics",
        ),
    ],
)
def test_schedules_of_ones_own_that_are_refused(schedule: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(64, 6400, 3, "lars", schedule=schedule, schedule_options=options)


def test_tvlars_keeps_its_own_schedule() -> None:
    with pytest.raises(ValueError, match="schedule must be 'auto' for tvlars, which has its own, got a function"):
        plan(64, 6400, 3, schedule=staircase)


def test_import_pulls_in_nothing_but_torch() -> None:
    program = """
import json, sys, torch
before = {name.split(".")[0] for name in sys.modules}
from tvlars import *
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules} - before - {"tvlars"})))
"""
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    new = set(json.loads(out)) - set(sys.stdlib_module_names)
    assert not new, f"tvlars imported {new}"


def test_an_optimizer_by_import_path_keeps_its_own_rate_and_weight_decay() -> None:
    made = plan(256, 10_000, 5, "torch.optim.NAdam")
    assert all(math.isnan(value) for value in (made.lr, made.weight_decay))
    assert (made.momentum, made.schedule, made.bias_norm_lr_scale) == (None, "cosine", 1.0)
    assert made.optimizer_arguments() == {}
    assert "lr         that of torch.optim.NAdam" in str(made)
    assert "weight decay that of torch.optim.NAdam" in str(made)


def test_what_is_given_for_an_optimizer_by_import_path_is_kept() -> None:
    made = plan(256, 10_000, 5, "mine.py:build", lr=2e-3, weight_decay=0.1, momentum=0.5)
    assert made.optimizer_arguments() == dict(lr=2e-3, weight_decay=0.1, momentum=0.5, nesterov=False)
    assert "weight decay 0.1, momentum 0.5" in str(made)
    with pytest.raises(ValueError, match=r"lr must be > 0, got -1"):
        plan(256, 10_000, 5, "torch.optim.NAdam", lr=-1.0)
