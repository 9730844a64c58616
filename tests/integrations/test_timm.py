"""timm: its registry and factory, its schedulers, and its training script's way to find us."""

from __future__ import annotations

import copy
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.command import python
from tvlars import LAMB, LARS, TVLARS, layer_groups

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def create_optimizer_v2(*given: Any, **options: Any) -> torch.optim.Optimizer:
    """timm's factory, imported by tests alone: importing timm takes seconds."""
    from timm.optim import create_optimizer_v2 as create

    return create(*given, **options)


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    from tvlars.integrations.timm import register

    register()
    register()  # as a script and what it imports may


class Small(nn.Module):
    """A convolution, a norm, a position embedding that timm is told not to decay, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.position = nn.Parameter(torch.ones(1, 4, 6, 6))
        self.classifier = nn.Linear(4, 3)

    def no_weight_decay(self) -> set[str]:
        return {"position"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier((self.norm(self.convolution(x)) + self.position).mean((2, 3)))


def options(optimizer: torch.optim.Optimizer, model: nn.Module, key: str) -> dict[str, Any]:
    """One option of every parameter's group, by the parameter's name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group[key] for group in optimizer.param_groups for p in group["params"]}


def test_the_factory_knows_the_names_and_keeps_its_own() -> None:
    from timm.optim import list_optimizers

    lengths: dict[str, dict[str, Any]] = {"tvlars": dict(total_steps=1000), "tvlars-lars": {}, "tvlars-lamb": {}}
    made = {name: create_optimizer_v2(Small(), name, lr=0.1, **length) for name, length in lengths.items()}
    for optimizer, cls in zip(made.values(), (TVLARS, LARS, LAMB), strict=True):
        assert isinstance(optimizer, cls)
        assert type(optimizer).__name__ == cls.__name__
    with pytest.raises(ValueError, match="needs the length of the run"):
        create_optimizer_v2(Small(), "tvlars", lr=0.1)
    assert type(create_optimizer_v2(Small(), "lars", lr=0.1)).__module__ == "timm.optim.lars"
    assert list_optimizers("tvlars*") == ["tvlars", "tvlars-lamb", "tvlars-lars"]


def test_the_names_stand_for_classes() -> None:
    from timm.optim import get_optimizer_class

    for name, cls in (("tvlars", TVLARS), ("tvlars-lars", LARS), ("tvlars-lamb", LAMB)):
        found = get_optimizer_class(name, bind_defaults=False)
        assert isinstance(found, type)
        assert issubclass(found, cls)
        assert callable(get_optimizer_class(name))
        length = dict(total_steps=9) if cls is TVLARS else {}
        optimizer = found(
            [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))], 0.5, bias_norm_lr_scale=0.1, **length
        )
        assert [(group["layer_adaptation"], group["lr"]) for group in optimizer.param_groups] == [
            (True, 0.5),
            (False, 0.05),
        ]
        again = pickle.loads(pickle.dumps(optimizer))
        assert type(again) is found
        with pytest.raises(TypeError, match=r"params must be parameters or groups of them, got a Small"):
            found(Small(), 0.5, **length)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_biases_and_norms_are_not_adapted_and_have_their_own_rate(weight_decay: float) -> None:
    model = Small()
    optimizer = create_optimizer_v2(
        model, "tvlars", lr=16.0, total_steps=1000, weight_decay=weight_decay, bias_norm_lr_scale=0.03
    )
    weights = {"convolution.weight", "classifier.weight"}
    if not weight_decay:  # then timm does not say what is to be spared, and a convolution may have this shape
        weights.add("position")
    adapted = options(optimizer, model, "layer_adaptation")
    assert {name for name, value in adapted.items() if value} == weights
    assert adapted.keys() == dict(model.named_parameters()).keys()
    for name, lr in options(optimizer, model, "lr").items():
        assert lr == (16.0 if name in weights else pytest.approx(0.48))
    decayed = {name for name, value in options(optimizer, model, "weight_decay").items() if value}
    assert decayed == ({"convolution.weight", "classifier.weight"} if weight_decay else set())


def test_options_of_the_command_line_arrive() -> None:
    given = dict(delay_factor=0.02, delay=70, gamma_min=0.01, nesterov=True, foreach=False)
    optimizer = create_optimizer_v2(Small(), "tvlars", lr=1.0, momentum=0.8, eps=1e-8, betas=(0.9, 0.99), **given)
    for group in optimizer.param_groups:
        assert {key: group[key] for key in given} == given
        assert group["momentum"] == 0.8
    lamb = create_optimizer_v2(Small(), "tvlars-lamb", lr=1.0, momentum=0.8, eps=1e-7, betas=(0.8, 0.99))
    assert (lamb.param_groups[0]["eps"], lamb.param_groups[0]["betas"]) == (1e-7, (0.8, 0.99))
    with pytest.raises(ValueError, match="bias_norm_lr_scale must be >= 0, got -1"):
        create_optimizer_v2(Small(), "tvlars", lr=1.0, total_steps=1000, bias_norm_lr_scale=-1)
    with pytest.raises(ValueError, match="lr must be given"):
        create_optimizer_v2(Small(), "tvlars-lamb", bias_norm_lr_scale=0.1)


def test_groups_of_ones_own_pass_as_they_are() -> None:
    model = Small()
    optimizer = create_optimizer_v2(
        model,
        "tvlars",
        lr=16.0,
        total_steps=1000,
        param_group_fn=lambda model: layer_groups(model, weight_decay=1e-4, lr=16.0, bias_norm_lr_scale=0.03),
    )
    for ours, expected in zip(
        optimizer.param_groups, layer_groups(model, weight_decay=1e-4, lr=16.0, bias_norm_lr_scale=0.03), strict=True
    ):
        assert {key: ours[key] for key in expected if key != "params"} == {
            key: value for key, value in expected.items() if key != "params"
        }
        assert list(map(id, ours["params"])) == list(map(id, expected["params"]))
    for params in (model.parameters(), model.named_parameters(), [{"params": model.classifier.bias, "lr": 0.5}]):
        optimizer = create_optimizer_v2(params, "tvlars", lr=1.0, total_steps=1000, bias_norm_lr_scale=0.1)
        lr = options(optimizer, model, "lr")["classifier.bias"]
        assert lr == pytest.approx(0.05 if len(optimizer.param_groups) == 1 else 0.1)


def test_layer_decay_and_a_scheduler_act_on_top() -> None:
    import timm
    from timm.scheduler import create_scheduler_v2

    model = timm.create_model("test_vit", img_size=8, patch_size=2)
    optimizer = create_optimizer_v2(
        model, "tvlars", lr=16.0, total_steps=1000, weight_decay=1e-4, layer_decay=0.5, bias_norm_lr_scale=0.03
    )
    scheduler, _ = create_scheduler_v2(optimizer, "constant", num_epochs=4)
    scheduler.step(1)
    lrs, scales = options(optimizer, model, "lr"), options(optimizer, model, "lr_scale")
    assert len(set(scales.values())) > 2
    adapted = layer_groups(model, weight_decay=1e-4)[0]["param_names"]
    for name in scales:
        assert lrs[name] == pytest.approx(16.0 * scales[name] * (1.0 if name in adapted else 0.03))


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
@pytest.mark.parametrize("name", ["test_vit", "test_convnext2", "test_vit4"])
def test_scales_tokens_and_positions_are_not_adapted(name: str, weight_decay: float) -> None:
    import timm

    model = timm.create_model(name, img_size=16, patch_size=8) if "vit" in name else timm.create_model(name)
    optimizer = create_optimizer_v2(model, "tvlars-lars", lr=1.0, weight_decay=weight_decay)
    adapted = {name for name, value in options(optimizer, model, "layer_adaptation").items() if value}
    assert adapted == set(layer_groups(model, weight_decay=0.0)[0]["param_names"])


def test_lookahead_around_it_steps_and_resumes() -> None:
    def take(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int) -> None:
        for _ in range(steps):
            model(torch.ones(2, 1, 8, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    models = [Small(), Small()]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (
        create_optimizer_v2(
            model, "lookahead_tvlars", lr=1.0, total_steps=1000, weight_decay=1e-4, bias_norm_lr_scale=0.1
        )
        for model in models
    )
    take(first, models[0], 8)
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [group["clock"] for group in second.param_groups] == [8] * len(second.param_groups)
    for model, optimizer in zip(models, (first, second), strict=True):
        take(optimizer, model, 8)
    for x, y in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_script_runs_as_it_is_with_the_names_known(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'tvlars'\n")
    (tmp_path / "train.py").write_text(
        "import sys, beside\n"
        "from torch import nn\n"
        "from timm.optim import create_optimizer_v2\n"
        "assert __name__ == '__main__'\n"
        "print(sys.argv[1:], type(create_optimizer_v2(nn.Linear(2, 2), beside.NAME, lr=0.1, total_steps=9)).__name__)\n"
    )
    command = ("-m", "tvlars.integrations.timm")
    done = python(*command, tmp_path / "train.py", "--opt", "x", cwd=Path.cwd())
    assert done.stdout.strip() == "['--opt', 'x'] TVLARS", done.stderr
    done = python(*command, cwd=Path.cwd())
    assert done.returncode == 1
    assert "usage: python -m tvlars.integrations.timm SCRIPT" in done.stderr
