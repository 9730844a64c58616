"""Differences of optax.lars and optax.lamb from ours: every number of the section on optax in docs/parity.md."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.jax.problems import assert_close, parameters, run
from tvlars.jax import lamb, lars, layer_mask

W, G = jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8])


def held(optimizer: optax.GradientTransformation, steps: int, dtype: jnp.dtype = jnp.float32) -> list[float]:
    """The norm of each update while weights and gradient stay what they are."""
    w, g = W.astype(dtype), G.astype(dtype)
    state, update, sizes = optimizer.init(w), jax.jit(optimizer.update), []
    for _ in range(steps):
        change, state = update(g, state, w)
        sizes.append(float(jnp.linalg.norm(change.astype(jnp.float32))))
    return sizes


@pytest.mark.parametrize("nesterov", [False, True])
def test_optax_lars_is_ours_while_the_learning_rate_is_constant(nesterov: bool) -> None:
    arguments = dict(weight_decay=0.01, momentum=0.9, nesterov=nesterov)
    ours = run(lars(0.5, unit_ratio_at_zero=True, **arguments), parameters(), 10)[0]
    theirs = run(optax.lars(0.5, **arguments), parameters(), 10)[0]
    assert_close(ours, theirs, start=parameters())


def test_two_steps_under_a_schedule() -> None:
    rates = optax.piecewise_constant_schedule(0.1, {1: 0.5})
    found = {}
    for name, build in (("ours", lars), ("optax", optax.lars)):
        optimizer, w = build(rates, weight_decay=0.01), W
        state = optimizer.init(w)
        for g in (G, jnp.array([0.8, -0.6])):
            change, state = optimizer.update(g, state, w)
            w = w + change
        found[name] = -np.asarray(change)
    np.testing.assert_allclose(found["ours"], [3.42220e-4, 4.01876e-5], rtol=2e-6)
    np.testing.assert_allclose(found["optax"], [4.77220e-4, 2.20188e-4], rtol=2e-6)


def test_after_a_drop_of_the_learning_rate_optax_keeps_the_old_one_in_its_momentum() -> None:
    rates = optax.piecewise_constant_schedule(1.0, {100: 0.1})
    ours, theirs = held(lars(rates), 111), held(optax.lars(rates), 111)
    assert theirs[100] / ours[100] == pytest.approx(9.10, abs=0.005)
    assert theirs[110] / ours[110] == pytest.approx(3.82, abs=0.005)


def test_momentum_in_bfloat16() -> None:
    for build, expected in ((lars, 9.75), (optax.lars, 9.52)):
        sizes = held(build(1.0), 60, jnp.bfloat16)
        assert sizes[-1] / sizes[0] == pytest.approx(expected, abs=0.005)
    exact = sum(0.9**i for i in range(60))
    assert exact == pytest.approx(9.98, abs=0.005)


def test_optax_lamb_is_ours_but_for_the_digits_of_its_bias_correction() -> None:
    ours, theirs = (run(build(0.02, weight_decay=0.01), parameters(), 5)[0] for build in (lamb, optax.lamb))
    zero = ours.pop("zero"), theirs.pop("zero")
    assert_close(ours, theirs, start={key: parameters()[key] for key in ours})
    # Of the layer that started from zero q was 1 in the first step, and divided nothing out.
    assert 4e-6 < float(jnp.abs(zero[0]["kernel"] / zero[1]["kernel"] - 1).max()) < 9e-6

    # At the first step r is the sign of g, but for eps.
    g = jnp.ones(3)
    for optimizer, expected in (
        (lamb(1.0, weight_decay=0.0, eps=1e-12, mask=layer_mask), 0.0),
        (optax.chain(optax.scale_by_adam(eps=1e-12), optax.scale(-1.0)), 6.6e-6),
    ):
        change, _ = optimizer.update(g, optimizer.init(g), g)
        assert abs(1.0 + float(change[0])) == pytest.approx(expected, abs=3e-7)


def test_a_gap_in_the_gradients() -> None:
    params, grads = {"w": W, "n": jnp.arange(2)}, {"w": G, "n": None}
    ours = lars(0.1)
    ours.update(grads, ours.init(params), params)
    theirs = optax.lars(0.1)
    with pytest.raises(ValueError, match="None"):
        theirs.update(grads, theirs.init(params), params)


def test_ours_out_of_parts_of_optax() -> None:
    rates = optax.piecewise_constant_schedule(0.5, {3: 0.1})
    parts = optax.chain(
        optax.add_decayed_weights(0.01, layer_mask),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=1e-3), layer_mask),
        optax.trace(0.9),
        optax.scale_by_learning_rate(rates),
    )
    ours = lars(rates, weight_decay=0.01, unit_ratio_at_zero=True, mask=layer_mask)
    assert_close(run(ours, parameters(), 6)[0], run(parts, parameters(), 6)[0], start=parameters())
