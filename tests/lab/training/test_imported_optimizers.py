"""Optimizers that users bring: classes by import path, functions of (model, plan), and how they resume."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from tvlars.lab import ImageData, Reporter, TrainConfig, UsageError, load_run, train
from tvlars.lab.optimizers import optimizer_name
from tvlars.lab.run_folder.checkpoints.values import decode, encode
from tvlars.lab.training import optimizer_state
from tvlars.lab.training.optimizer_state import why_inexact
from tvlars.lab.training.optimizers import CombinedOptimizer, build_optimizer
from tvlars.plan import Plan

SOURCE = '''
import torch

def muon_and_adamw(model, plan):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=3e-3)]

def lookahead(model, plan):
    from pytorch_optimizer import Lookahead

    return Lookahead(torch.optim.AdamW(model.parameters(), lr=3e-3), k=2)

def one_cycle(model, plan):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=plan.total_steps)

def one_cycle_of_some(model, plan):
    one, other = muon_and_adamw(model, plan)
    return [one, other], torch.optim.lr_scheduler.OneCycleLR(other, 0.1, total_steps=plan.total_steps)

def perturbing(model, plan):
    from pytorch_optimizer import SAM

    return SAM(model.parameters(), torch.optim.SGD, lr=0.1)

def from_plan(model, plan):
    return torch.optim.SGD(model.parameters(), lr=plan.lr)

def plateau(model, plan):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)

def alone(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)

def of_another(model, plan):
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)

def of_a_head(model, plan):
    return torch.optim.SGD(model.head.parameters(), lr=0.1)

def first_alone(model, plan):
    return torch.optim.SGD([next(model.parameters())], lr=0.1)

def none_at_all(model, plan):
    return []

def free(model, plan):
    import schedulefree

    return schedulefree.SGDScheduleFree(model.parameters(), lr=0.1)

def nothing(model, plan):
    print("building")

def broken(model, plan):
    raise RuntimeError("no such thing")

class Counting(torch.optim.SGD):
    """Counts its steps outside of its state."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        self.param_groups[0]["lr"] = 0.1 / self.count
        return super().step(closure)

class Signs(torch.optim.SGD):
    """Moves by signs of an average, whose momentum grows with a count that is not in the state."""

    taken = 0

    def step(self, closure=None):
        self.taken += 1
        for p in self.param_groups[0]["params"]:
            average = self.state[p].setdefault("average", torch.zeros_like(p))
            average.lerp_(p.grad, 1 - 0.9 * self.taken / (self.taken + 1))
            p.data.sub_(average.sign(), alpha=0.01)

class Forgetful(torch.optim.SGD):
    """Has infinite numbers in its state, which it cannot load."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["least"] = torch.full((), torch.inf)
        return super().step(closure)

    def load_state_dict(self, state_dict):
        raise KeyError("no such state")

class Refusing(torch.optim.SGD):
    def __init__(self, params, lr=1.0, size=3):
        if size > 3:
            raise ValueError("a size of more than three")
        super().__init__(params, lr)
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The import path of an object in a file of the user."""
    file = tmp_path_factory.mktemp("users") / "mine.py"
    file.write_text(SOURCE)
    return lambda name: f"{file}:{name}"


class Lines(Reporter):
    """Keeps the lines of a run; Ctrl-C after the epoch ``stop``."""

    def __init__(self, stop: int = 0) -> None:
        self.stop, self.lines, self.notes = stop, [""], [""]

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        self.lines = lines

    def note(self, text: str) -> None:
        self.notes.append(text)

    def epoch(self, row: Any) -> None:
        if row.epoch == self.stop:
            raise KeyboardInterrupt


def config_of(name: str, **options: Any) -> TrainConfig:
    return TrainConfig(**{**dict(optimizer=name, batch_size=128, epochs=2, accelerator="cpu"), **options})


def straight_and_resumed(config: TrainConfig, data: ImageData, tmp_path: Path) -> tuple[Any, Any, Lines]:
    """Weights of a run, of one that was interrupted after an epoch and resumed, and lines of the latter."""
    train(replace(config, out=tmp_path / "straight"), data=data, reporter=Lines())
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, out=out), data=data, reporter=Lines(stop=1))
    said = Lines()
    train(replace(config, out=out, resume=True), data=data, reporter=said)
    return torch.load(tmp_path / "straight" / "weights.pt"), torch.load(out / "weights.pt"), said


# -- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("torch.optim.NAdam", "schedulefree.AdamWScheduleFree"),
        *("muon_and_adamw", "lookahead", "one_cycle", "one_cycle_of_some"),
    ],
)
def test_an_interrupted_run_equals_the_uninterrupted_one(
    name: str, mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    config = config_of(name if "." in name else mine(name))
    straight, resumed, said = straight_and_resumed(config, few, tmp_path)
    assert said.lines[-1].startswith("resumed  after step 5 of 10")
    assert not any("bit for bit" in line for line in said.lines)
    assert all(torch.equal(straight[entry], resumed[entry]) for entry in straight)
    rows = [pd.read_csv(tmp_path / run / "steps.csv") for run in ("straight", "cut")]
    pd.testing.assert_frame_equal(*rows)
    environment = load_run(tmp_path / "cut").environment
    assert environment["resume"] == "bit for bit"
    assert "lr=" in environment["optimizer"]


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        *((f"torch.optim.{name}", True) for name in ("RAdam", "Adafactor", "RMSprop", "Rprop", "Adagrad")),
        *((f"pytorch_optimizer.{name}", True) for name in ("Lion", "AdaBelief", "ScheduleFreeSGD")),
        *(("muon_and_adamw", True), ("lookahead", True), ("Counting", False), ("Signs", False)),
    ],
)
def test_a_trial_tells_which_optimizers_resume_bit_for_bit(name: str, exact: bool, mine: Callable[[str], str]) -> None:
    config, model = config_of(name if "." in name else mine(name)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    random = torch.get_rng_state()
    assert (why_inexact(config, config.plan(1000), model) == "") == exact
    assert torch.equal(torch.get_rng_state(), random)


def test_a_trial_that_fails_is_not_said_to_be_exact(
    mine: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_state, "LARGEST", 1)  # as if the model were too large to be copied
    config, model = config_of(mine("of_a_head")), nn.Sequential()
    model.head = nn.Linear(2, 2)
    assert "failed, so that it is not known" in why_inexact(config, config.plan(1000), model)


def test_a_run_says_that_an_optimizer_does_not_resume_bit_for_bit(
    mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    config = config_of(mine("Counting"), schedule="constant")
    straight, resumed, said = straight_and_resumed(config, few, tmp_path)
    assert not all(torch.equal(straight[entry], resumed[entry]) for entry in straight)
    (warning,) = [line for line in said.lines if "bit for bit" in line]
    assert warning == (
        "warning  a resumed run may not equal an uninterrupted one bit for bit: the state of mine.py:Counting lacks "
        "something: a new one that loads it takes other steps"
    )
    assert "lacks something" in load_run(tmp_path / "cut").environment["resume"]


def test_an_error_of_a_class_that_loads_its_state_is_its_own(
    mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    config, said = config_of(mine("Forgetful"), lr=0.1, out=tmp_path / "run"), Lines(stop=1)
    with pytest.raises(KeyboardInterrupt):
        train(config, data=few, reporter=said)
    assert any("mine.py:Forgetful cannot be kept and loaded: KeyError: 'no such state'" in line for line in said.lines)
    with pytest.raises(KeyError, match="no such state"):
        train(replace(config, resume=True), data=few, reporter=Lines())


def test_a_file_that_changed_since_the_run_began_is_said(
    mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    file = tmp_path / "changing.py"
    file.write_text(SOURCE)
    config = config_of(f"{file}:muon_and_adamw", out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(config, data=few, reporter=Lines(stop=1))
    file.write_text(f"{SOURCE}\n# another line\n")
    said = Lines()
    train(replace(config, resume=True), data=few, reporter=said)
    assert f"warning  {file} has changed since the run began" in said.lines


def test_defaults_are_those_of_the_class_and_arguments_reach_it(few: ImageData, tmp_path: Path) -> None:
    config = config_of("torch.optim.NAdam", optimizer_options="momentum_decay=0.005, betas=(0.8, 0.9)", epochs=1)
    assert config.optimizer_options == "betas=(0.8, 0.9) momentum_decay=0.005"
    plan = config.plan(1000)
    assert (plan.lr, plan.weight_decay, plan.lr_from) == (2e-3, 0.0, "default of torch.optim.NAdam")
    assert "lr         0.002 (default of torch.optim.NAdam)" in str(plan)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    decayed = replace(config, weight_decay=0.1, lr=0.5)
    optimizer = build_optimizer(decayed, decayed.plan(1000), model).optimizer
    assert isinstance(optimizer, torch.optim.NAdam)
    assert [(group["betas"], group["momentum_decay"], group["initial_lr"]) for group in optimizer.param_groups] == [
        ((0.8, 0.9), 0.005, 0.5)
    ] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.param_groups[0]["params"] == [model[0].weight]
    options: Any = {"betas": (0.9, 0.95)}
    of_a_dictionary = TrainConfig(optimizer="adamw", optimizer_options=options)
    adamw = build_optimizer(of_a_dictionary, of_a_dictionary.plan(1000), model).optimizer
    assert adamw.param_groups[0]["betas"] == (0.9, 0.95)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lara", {}, "unknown optimizer 'lara': did you mean 'lars' or 'tvlars'"),
        ("torch.optim.NAdamm", {}, "unknown optimizer in torch.optim 'NAdamm': did you mean 'NAdam'"),
        ("torch.nn.Linear", {}, "optimizer must be an optimizer's class, but torch.nn.Linear has no step()"),
        ("torch.optim.LBFGS", {}, "torch.optim.LBFGS.step(closure) evaluates the loss itself"),
        ("math:pi", {}, "optimizer must be a class or a function, but math:pi is float"),
        ("pytorch_optimizer.Lookahead", {}, "is built around another optimizer"),
        ("torch.optim.Rprop", {"weight_decay": 0.1}, "unknown argument of torch.optim.Rprop 'weight_decay'"),
        ("torch.optim.NAdam", {"momentum": 0.9}, "did you mean 'momentum_decay'?"),
        ("torch.optim.NAdam", {"optimizer_options": "decay=1"}, "unknown argument of torch.optim.NAdam 'decay'"),
        ("torch.optim.NAdam", {"optimizer_options": "betas=(2.0, 0.9)"}, "cannot be made with lr=0.002, betas=(2.0, "),
        ("torch.optim.NAdam", {"optimizer_options": "lr=1"}, "must not have lr of torch.optim.NAdam, which is an"),
        ("torch.optim.NAdam", {"optimizer_options": "eps"}, "optimizer_options must be NAME=VALUE each"),
        ("torch.optim.NAdam", {"trust_coefficient": 0.1}, "trust_coefficient must not be given for torch.optim.NAdam"),
        ("torch.optim.SparseAdam", {}, "cannot take a step: RuntimeError: SparseAdam does not support dense gradients"),
        ("pytorch_optimizer.SAM", {"lr": 0.1}, "must have an argument lr, but pytorch_optimizer.SAM has none: write a"),
        ("torch.optim.Muon", {}, "Muon only supports 2D parameters"),
        ("schedulefree.AdamWScheduleFree", {"ema": 0.9}, "ema must not be given for schedulefree.AdamWScheduleFree"),
        (
            "lars",
            {"optimizer_options": "momentum=0.5"},
            "must not have momentum of lars, which is an option of its own",
        ),
    ],
)
def test_classes_and_arguments_that_are_refused(
    name: str, options: dict[str, Any], said: str, few: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        train(config_of(name, out=tmp_path / "run", **options), data=few, reporter=Reporter())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_of_the_user_raise_their_own_errors(mine: Callable[[str], str], few: ImageData, tmp_path: Path) -> None:
    config = config_of(mine("Refusing"), optimizer_options="size=4", out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"^a size of more than three$"):
        train(config, data=few, reporter=Reporter())
    assert not (tmp_path / "run").exists()


def test_names_are_normal_and_nothing_is_imported_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert optimizer_name("./mine.py:build") == f"{tmp_path / 'mine.py'}:build"
    config = TrainConfig.from_mapping(json.loads(config_of("./mine.py:build").to_json()))
    assert config.label() == "digits-build-b128-s0"
    assert config.arm_name == "mine.py:build"


# -- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("from_plan", {}, "lr must be given for mine.py:from_plan, which takes it from the plan"),
        ("nothing", {}, "must return an optimizer, a list of them, or (optimizer, scheduler), got NoneType"),
        ("alone", {}, "must be a class or a function of (model, plan), but mine.py:alone takes other arguments"),
        ("of_another", {}, "must hold parameters of the model that it is given, and holds none of them"),
        ("none_at_all", {}, "must return an optimizer, a list of them, or (optimizer, scheduler), got NoneType"),
        ("one_cycle", {"schedule": "linear"}, "schedule must not be given for mine.py:one_cycle, which comes with a"),
        ("one_cycle", {"warmup_epochs": 1.0}, "warmup_epochs must not be given for mine.py:one_cycle"),
        ("perturbing", {}, "optimizer mine.py:perturbing cannot take a step: "),
        ("one_cycle", {"lr": 0.3}, "lr must not be given for mine.py:one_cycle, which does not read plan.lr, got 0.3"),
        ("from_plan", {"lr": 0.1, "weight_decay": 0.2}, "weight_decay must not be given for mine.py:from_plan, which"),
        ("plateau", {}, "must return a scheduler of steps, and ReduceLROnPlateau needs a measure"),
        ("from_plan", {"optimizer_options": "a=1"}, "optimizer_options must not be given for mine.py:from_plan"),
        ("absent", {}, "unknown optimizer in"),
    ],
)
def test_functions_that_are_refused(
    name: str, options: dict[str, Any], said: str, mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        train(config_of(mine(name), out=tmp_path / "run", **options), data=few, reporter=Reporter())
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_parameters_that_no_optimizer_holds_are_said(
    mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    said = Lines()
    train(config_of(mine("first_alone"), out=tmp_path / "run", epochs=1), data=few, reporter=said)
    (line,) = [line for line in said.lines if "parameters of the model" in line]
    assert re.fullmatch(r"warning  mine.py:first_alone holds 1 of \d+ parameters of the model; the others .*", line)


def test_a_run_that_was_refused_leaves_room_for_another(
    mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        train(config_of(mine("nothing"), out=tmp_path / "run"), data=few, reporter=Reporter())
    train(config_of(mine("from_plan"), out=tmp_path / "run", lr=0.1, epochs=1), data=few, reporter=Reporter())
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["lr"] == 0.1


def test_an_error_of_a_function_is_its_own(mine: Callable[[str], str], few: ImageData, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^no such thing$"):
        train(config_of(mine("broken"), out=tmp_path / "run"), data=few, reporter=Reporter())


def test_the_plan_has_what_a_function_chose_and_its_schedule_multiplies_that(
    mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    result = train(config_of(mine("muon_and_adamw"), out=tmp_path / "run"), data=few, reporter=Reporter())
    assert (result.plan.lr, result.plan.weight_decay) == (0.02, 0.1)
    run = load_run(result.folder)
    assert run.plan["lr"] == 0.02
    assert run.steps["lr"].tolist() == pytest.approx([0.02 * result.plan.factor(step) for step in range(1, 11)])


def test_rows_have_the_rates_of_a_scheduler_of_ones_own(
    mine: Callable[[str], str], few: ImageData, tmp_path: Path
) -> None:
    result = train(config_of(mine("one_cycle"), out=tmp_path / "run"), data=few, reporter=Reporter())
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step() if len(rates) < 10 else None
    rows = load_run(result.folder).steps
    assert rows["lr"].tolist() == pytest.approx(rates, rel=1e-6)
    assert (rows["lr"] / rows["phi"]).tolist() == pytest.approx([0.004] * 10)
    assert result.plan.schedule == "own"
    assert math.isnan(result.plan.factor(3))


# -- averages ---------------------------------------------------------------------------------------------------------


def test_averages_are_tested_and_kept_and_training_does_not_feel_it(few: ImageData, tmp_path: Path) -> None:
    """A run that is tested twice has the weights of one that is tested once, those of the average."""
    config = config_of("schedulefree.AdamWScheduleFree", augment=False)
    plan = config.plan(len(few.train_labels))
    assert plan.schedule == "constant"
    twice = train(replace(config, out=tmp_path / "twice"), data=few, reporter=Reporter())
    once = train(replace(config, out=tmp_path / "once", layer_stats=1), data=few, reporter=Reporter())
    assert twice.test_accuracy == once.test_accuracy > 0.3
    run = load_run(twice.folder)
    weights = torch.load(twice.folder / "weights.pt")
    assert all(torch.equal(weights[name], value) for name, value in run.model().state_dict().items())


def test_a_function_may_return_an_optimizer_that_averages(mine: Callable[[str], str]) -> None:
    model = nn.Linear(2, 2)
    for options, warmup in ((dict(), 0), (dict(warmup_steps=3), 3)):
        config = config_of(mine("free"), **options)
        built = build_optimizer(config, config.plan(1000), model)
        assert (built.plan.schedule, built.plan.warmup_steps, built.plan.lr) == ("constant", warmup, 0.1)
        assert (built.scheduler is None) == (warmup == 0)


def test_statistics_of_batch_norm_are_those_of_the_averages(few: ImageData, tmp_path: Path) -> None:
    """Trained with a rate of almost 0 but tested with other statistics, only fresh ones give a finite small loss."""
    config = config_of("schedulefree.AdamWScheduleFree", lr=1e-12, augment=False, out=tmp_path / "run")
    said = Lines()
    result = train(config, data=few, reporter=said)
    assert any("is tested with batch norm's statistics computed anew" in line for line in said.lines)
    model = load_run(result.folder).model().eval()
    (first,) = [m for name, m in model.named_modules() if name == "bn"]
    assert isinstance(first, nn.BatchNorm2d)
    assert first.num_batches_tracked == 5  # all batches of the training set, counted anew


# -- several optimizers as one ----------------------------------------------------------------------------------------


def test_several_optimizers_are_one_with_the_state_of_all() -> None:
    def made() -> tuple[nn.Module, CombinedOptimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        parts = [torch.optim.Adam([model.weight], lr=0.1), torch.optim.SGD([model.bias], lr=0.2, momentum=0.9)]
        return model, CombinedOptimizer(parts)

    def step(model: nn.Module, optimizer: CombinedOptimizer) -> None:
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = made()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    step(model, optimizer)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    assert all(p.grad is None for p in model.parameters())
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0], [1]]
    assert set(state["state"]) == {0, 1}
    assert "momentum_buffer" in optimizer.state[model.bias]
    other, resumed = made()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(state))
    for one in ((model, optimizer), (other, resumed)):
        step(*one)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_tuples_may_be_keys_in_a_checkpoint() -> None:
    value = {(0, "a"): [1, (2, torch.ones(2))], 3: {"x": None}}
    found = decode(*encode(value))
    assert list(found) == [(0, "a"), 3]
    assert torch.equal(found[0, "a"][1][1], torch.ones(2))
    with pytest.raises(ValueError, match="an object must be a tuple, a dict or a tensor"):
        decode(b'{"dict": [[{"tuple": [[1]]}, 2]]}', b"")
