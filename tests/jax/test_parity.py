"""The transformations follow the published code and the PyTorch classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

import tvlars.jax
from tests.jax.problems import OPTIMIZERS, assert_close, gradients, make, make_torch, parameters, plain, run
from tvlars.jax import lamb, lars, layer_mask

DATA = Path(__file__).parent.parent / "data"
CASES: dict[str, dict[str, Any]] = json.loads((DATA / "published.json").read_text())


def published(kind: str, theirs: dict[str, Any], shapes: list[list[int]]) -> optax.GradientTransformation:
    """The published optimizer as a setting of ours, its filters as masks."""
    theirs = dict(theirs)
    no_decay, no_adaptation = theirs.pop("weight_decay_filter", False), theirs.pop("lars_adaptation_filter", False)
    everything, no_vectors = [True] * len(shapes), [len(shape) != 1 for shape in shapes]
    masks = dict(
        mask=no_vectors if no_adaptation else everything, weight_decay_mask=no_vectors if no_decay else everything
    )
    theirs["learning_rate"] = theirs.pop("lr")
    if "eta" in theirs:
        theirs["trust_coefficient"] = theirs.pop("eta")
    if kind == "TVLARS":
        theirs["delay_factor"] = theirs.pop("lmbda")
        fixed = dict(delay=0, alpha=0.1, gamma_min=0.0, norm_clip=10.0, phi_scope="ratio")
        return tvlars.jax.tvlars(unit_ratio_at_zero=True, **fixed, **theirs, **masks)
    if kind == "LARS":
        return lars(unit_ratio_at_zero=True, **theirs, **masks)
    return lamb(bias_correction=False, norm_clip=10.0, **theirs, **masks)


@pytest.mark.filterwarnings("ignore:.*unadapted:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_follows_the_published_code(case: str) -> None:
    meta = CASES[case]
    ends = np.cumsum([int(np.prod(shape)) for shape in meta["shapes"]])[:-1]

    def cut(flat: np.ndarray) -> list[jax.Array]:
        return [jnp.asarray(p.reshape(s)) for p, s in zip(np.split(flat, ends), meta["shapes"], strict=True)]

    with np.load(DATA / "published.npz") as stored:
        init, grads, expected = (stored[f"{case}.{kind}"] for kind in ("init", "grad", "param"))
    optimizer = published(meta["optimizer"], meta["hyperparameters"], meta["shapes"])
    params = cut(init)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    assert len(expected) == meta["steps"] >= 8
    for step in range(meta["steps"]):
        updates, state = update(cut(grads[step]), state, params)
        params = optax.apply_updates(params, updates)
        assert_close(params, cut(expected[step]))


def run_torch(
    name: str, steps: int, *, scale: float | None = None, rates: Callable[[int], float] | None = None, dtype: Any
) -> list[Any]:
    """The parameters after every step of the PyTorch class, two groups where ``scale`` is given."""
    leaves, structure = jax.tree.flatten(parameters(dtype=dtype))
    params = [nn.Parameter(torch.from_numpy(np.array(x))) for x in leaves]
    adapted = jax.tree.leaves(layer_mask(parameters()))
    lr = OPTIMIZERS[name][1]["learning_rate"]
    groups: Any = params
    if scale is not None:
        apart = {which: [p for p, a in zip(params, adapted, strict=True) if a is which] for which in (True, False)}
        neither = dict(layer_adaptation=False, weight_decay=0.0, lr=lr * scale)
        groups = [{"params": apart[True]}, {"params": apart[False], **neither}]
    optimizer = make_torch(name, groups)
    seen = []
    for step in range(steps):
        for p, g in zip(params, jax.tree.leaves(gradients(step, dtype)), strict=True):
            p.grad = torch.from_numpy(np.array(g))
        if rates is not None:
            for group, factor in zip(optimizer.param_groups, (1.0, scale), strict=False):
                group["lr"] = rates(step) * (1.0 if factor is None else factor)
        optimizer.step()
        seen.append(jax.tree.unflatten(structure, [p.detach().numpy().copy() for p in params]))
    return seen


def assert_follows(name: str, found: list[Any], **arguments: Any) -> None:
    for ours, theirs in zip(found, run_torch(name, len(found), dtype="f", **arguments), strict=True):
        assert_close(ours, theirs, start=parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_pytorch_class(name: str) -> None:
    assert_follows(name, plain(name))


@pytest.mark.parametrize("name", ["lars-nesterov", "tvlars-ratio", "lamb"])
def test_equals_the_pytorch_class_with_layer_groups(name: str) -> None:
    optimizer = make(name, mask=layer_mask, bias_norm_lr_scale=0.03)
    assert_follows(name, run(optimizer, parameters(), 10)[2], scale=0.03)


SCHEDULES = {
    "cosine": optax.warmup_cosine_decay_schedule(0.05, 0.5, 3, 8, 0.001),
    "steps": optax.piecewise_constant_schedule(0.5, {2: 0.1, 5: 5.0}),
}


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("lars", "cosine"),
        ("lars-nesterov", "steps"),
        ("tvlars", "steps"),
        ("tvlars-ratio", "cosine"),
        ("lamb", "steps"),
    ],
)
def test_equals_the_pytorch_class_under_a_schedule(name: str, schedule: str) -> None:
    rates = SCHEDULES[schedule]
    optimizer = make(name, learning_rate=rates, mask=layer_mask, bias_norm_lr_scale=0.1)
    assert_follows(name, run(optimizer, parameters(), 10)[2], scale=0.1, rates=lambda step: float(rates(step)))


@pytest.mark.parametrize("name", ["tvlars-nesterov", "tvlars-ratio", "lamb"])
def test_equals_the_pytorch_class_in_float64_to_its_rounding(name: str) -> None:
    with jax.enable_x64(True):
        params, _, _ = run(make(name), parameters(dtype=np.float64), 10)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
        assert_close(params, run_torch(name, 10, dtype="d")[-1], 1e-12, start=parameters())


@pytest.mark.parametrize("name", ["tvlars", "tvlars-ratio", "lamb"])
def test_an_update_in_float32_is_that_in_float64(name: str) -> None:
    # Of the weights a small update is only a digit or two; here it stands alone. Parameters are given at each step.
    runs = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            dtype = np.float64 if wide else np.float32
            optimizer, seen = make(name), []
            state = optimizer.init(parameters(dtype=dtype))
            for step in range(10):  # the same numbers for both, those that float32 holds
                grads, params = (jax.tree.map(dtype, tree) for tree in (gradients(step), parameters(step)))
                updates, state = jax.jit(optimizer.update)(grads, state, params)
                seen.append(jax.tree.map(np.asarray, updates))
            runs.append(seen)
    for single, double in zip(*runs, strict=True):
        assert_close(single, double)


def test_tvlars_is_lars_under_the_schedule_phi() -> None:
    _, arguments = OPTIMIZERS["tvlars"]
    shape = {key: arguments[key] for key in ("delay_factor", "delay", "alpha", "gamma_min")}
    rates = tvlars.jax.sigmoid_decay(**shape, scale=0.5)
    assert_close(plain("tvlars")[7], run(make("lars", learning_rate=rates), parameters(), 8)[0])


def test_two_steps_by_hand_where_the_learning_rate_changes() -> None:
    # docs/parity.md: w=[3,4], g₁=[.6,.8], g₂=[.8,-.6], lr .1 then .05, μ=.9, β=.01, η=.001; values are -Δw
    rates = optax.piecewise_constant_schedule(0.1, {1: 0.5})
    optimizer = lars(rates, weight_decay=0.01)
    w = jnp.array([3.0, 4.0])
    state = optimizer.init(w)
    for g, expected in (([0.6, 0.8], [3e-4, 4e-4]), ([0.8, -0.6], [3.42220e-4, 4.01876e-5])):
        update, state = optimizer.update(jnp.array(g), state, w)
        np.testing.assert_allclose(-np.asarray(update), expected, rtol=2e-6)
        w = w + update
