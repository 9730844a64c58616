"""Another default device or dtype than that of the model, and no values at all: the same results, where there are any.

The meta device stands for an accelerator: whatever is made there by mistake has no value, or refuses to meet the CPU's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conftest import OPTIMIZERS, PATHS, tensors
from tvlars import check, layer_groups, noise_scale, plan, sharpness
from tvlars.stats import LayerStats, read_layer_stats

ALL_PATHS: dict[str, dict[str, Any]] = {
    **PATHS,
    "capturable": dict(capturable=True),
    "capturable foreach": dict(capturable=True, foreach=True),
    "tensor lr": dict(lr=torch.tensor(0.3)),
}


def layers() -> list[nn.Parameter]:
    """With some for each of the ways that sizes take."""
    return [*tensors(), *(nn.Parameter(x.clone()) for x in drawn(((130, 140), (600_000,)), 0))]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    for p, gradient in zip(params, drawn(tuple(p.shape for p in params), step), strict=True):
        p.grad = gradient.clone()


@cache
def drawn(shapes: tuple[tuple[int, ...], ...], seed: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float32, device="cpu") for shape in shapes]


def steps(name: str, path: dict[str, Any], params: list[nn.Parameter]) -> dict[str, Any]:
    cls, arguments = OPTIMIZERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = cls([{"params": params[1:]}, {"params": params[:1], "layer_adaptation": False}], **arguments | path)
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    set_gradients(params, 2)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("default", ["meta", "float64", "bfloat16"])
@pytest.mark.parametrize("label", ALL_PATHS)
def test_an_optimizer_steps_as_ever(name: str, label: str, default: str) -> None:
    params, expected = layers(), usual(name, label)
    try:
        if default == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, default))
        steps(name, ALL_PATHS[label], params)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(params, expected, rtol=1e-6, atol=1e-6)


@cache
def usual(name: str, label: str) -> list[nn.Parameter]:
    """The parameters where nothing has another default."""
    params = layers()
    steps(name, ALL_PATHS[label], params)
    return params


@pytest.mark.parametrize("label", [label for label in ALL_PATHS if label != "tensor lr"])
def test_an_optimizer_steps_where_tensors_have_no_values(name: str, label: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    with FakeTensorMode():
        params = [nn.Parameter(torch.ones(shape)) for shape in ((4, 4), (3,), (), (600_000,))]
        optimizer = cls(params, **arguments, **ALL_PATHS[label])
        for _ in range(2):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
        if not optimizer.param_groups[0]["capturable"]:  # torch itself cannot copy a group with a tensor of this kind
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step()
        assert len(optimizer.state) == len(params)


def test_torchs_memory_tracker_sees_the_state(name: str) -> None:
    tracker = pytest.importorskip("torch.distributed._tools.mem_tracker")
    cls, arguments = OPTIMIZERS[name]
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        optimizer = cls(model.parameters(), **arguments)
        with tracker.MemTracker() as memory:
            memory.track_external(model, optimizer)
            for step in range(2):
                if step:
                    memory.reset_mod_stats()
                model(torch.ones(16, 64)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    found = memory.get_tracker_snapshot("peak")[torch.device("cpu")]
    state = 4 * sum(p.numel() for p in model.parameters()) * (2 if name.startswith("lamb") else 1)
    assert next(size for kind, size in found.items() if str(kind).endswith("OPT")) >= state


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(3, (40,), generator=torch.Generator().manual_seed(2))
DATA = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 40, 10)]


def recorded(model: nn.Module, folder: Path) -> Any:
    groups = layer_groups(model, weight_decay=0.1)
    optimizer = OPTIMIZERS["tvlars"][0](groups, **OPTIMIZERS["tvlars"][1])
    with LayerStats(optimizer, model, every=1, path=folder) as stats:
        for x, y in DATA:
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert check(model, optimizer, total_steps=100, batch_size=256) is not None
    frame = read_layer_stats(folder)
    assert stats is not None
    return torch.tensor(frame["value"].to_numpy(), device="cpu")


LOSS = nn.CrossEntropyLoss()
MEASURES: dict[str, tuple[str | None, Callable[[nn.Module, Path], Any]]] = {
    "layer statistics": ("pandas", recorded),
    "plan": (None, lambda model, folder: plan(64, 6400, 3).factor(5)),
    "noise scale": (None, lambda model, folder: noise_scale.noise_scale(model, LOSS, DATA).value),
    "eigenvalues": ("scipy", lambda model, folder: sharpness.hessian_eigenvalues(model, LOSS, DATA, 2).values),
    "trace": ("curvlinops", lambda model, folder: sharpness.hessian_trace(model, LOSS, DATA, samples=4).value),
    "density": (
        "curvlinops",
        lambda model, folder: sharpness.spectral_density(model, LOSS, DATA, lanczos_steps=8, runs=2, points=9).density,
    ),
    "Keskar": ("scipy", lambda model, folder: sharpness.keskar_sharpness(model, LOSS, DATA, iterations=2)),
    "worst case": (None, lambda model, folder: sharpness.worst_case_sharpness(model, LOSS, DATA, steps=2)),
    "average case": (None, lambda model, folder: sharpness.average_case_sharpness(model, LOSS, DATA, samples=2).value),
    "slice": (None, lambda model, folder: sharpness.loss_slice(model, LOSS, DATA, points=3, dimensions=2).losses),
    "line": (
        None,
        lambda model, folder: (
            sharpness.loss_between(model, LOSS, DATA, model.state_dict(), model.state_dict(), points=3).losses
        ),
    ),
}


@pytest.mark.parametrize("what", MEASURES)
def test_what_is_measured_is_the_same(what: str, tmp_path: Path) -> None:
    package, measure = MEASURES[what]
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    expected = measure(network(), tmp_path / "expected")
    model = network()
    torch.set_default_device("meta")
    try:
        found = measure(model, tmp_path / "found")
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(found, expected)
