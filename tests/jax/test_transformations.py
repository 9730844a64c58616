"""They behave as optax's own do: in jit, in chains and wrappers, with gaps in the tree, in half precision."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tvlars.jax
from tests.jax.problems import OPTIMIZERS, assert_close, assert_equal, gradients, make, parameters, plain, run
from tvlars.jax import lamb, lars, layer_mask


@pytest.fixture(params=["tvlars-nesterov", "tvlars-ratio", "lamb"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def as_arrays(tree: Any, dtype: Any = jnp.float32) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("lars-plain", jnp.float32), ("tvlars", jnp.bfloat16), ("tvlars-ratio", jnp.float32), ("lamb", jnp.bfloat16)],
)
def test_a_step_compiles_once(name: str, dtype: Any) -> None:
    optimizer = make(name, mask=layer_mask, bias_norm_lr_scale=0.1)
    traces = 0

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = as_arrays(parameters(), dtype)
    state = optimizer.init(params)
    for i in range(12):
        params, state = step(params, state, as_arrays(gradients(i), dtype))
    assert traces == 1


def test_a_step_without_jit_is_the_same(name: str) -> None:
    optimizer = make(name)
    params = as_arrays(parameters())
    state = optimizer.init(params)
    for i in range(4):
        updates, state = optimizer.update(gradients(i), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(params, plain(name)[3], start=parameters())


def test_steps_run_in_a_scan() -> None:
    name = "lamb"
    optimizer = make(name)
    grads = jax.tree.map(lambda *g: jnp.stack(g), *(gradients(i) for i in range(5)))

    def step(carry: Any, g: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = as_arrays(parameters())
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), grads)
    assert_close(params, plain(name)[4], start=parameters())


# -- optax's wrappers -------------------------------------------------------------------------------------


def test_chain() -> None:
    name = "tvlars-ratio"
    doubled = optax.chain(make(name), optax.scale(2.0), optax.scale(0.5))
    assert_close(run(doubled, parameters(), 5)[0], plain(name)[4], start=parameters())


def test_multi_steps_takes_the_mean_and_counts_whole_steps(name: str) -> None:
    optimizer = make(name)
    accumulating = optax.MultiSteps(optimizer, every_k_schedule=2)
    accumulate, update = jax.jit(accumulating.update), jax.jit(optimizer.update)
    params = expected = as_arrays(parameters())
    state, inner = accumulating.init(params), optimizer.init(params)
    for step in range(4):
        first, second = as_arrays(gradients(2 * step)), as_arrays(gradients(2 * step + 1))
        for g in (first, second):
            updates, state = accumulate(g, state, params)
            params = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda a, b: a + (b - a) / 2, first, second)
        updates, inner = update(mean, inner, expected)
        expected = optax.apply_updates(expected, updates)
    assert_close(params, expected, start=parameters())


def test_injected_hyperparameters_can_be_changed_between_steps(name: str) -> None:
    kind, arguments = OPTIMIZERS[name]
    build = optax.inject_hyperparams(getattr(tvlars.jax, kind), static_args=("mask", "weight_decay_mask"))
    optimizer = build(**arguments, mask=layer_mask, bias_norm_lr_scale=0.1)
    traces = 0

    @jax.jit
    def update(g: Any, state: Any, params: Any) -> Any:
        nonlocal traces
        traces += 1
        return optimizer.update(g, state, params)

    params = expected = as_arrays(parameters())
    state = optimizer.init(params)
    lr = arguments["learning_rate"]
    plain = make(
        name, learning_rate=lambda count: jnp.where(count < 2, lr, lr / 4), mask=layer_mask, bias_norm_lr_scale=0.1
    )
    inner = plain.init(params)
    for i in range(5):
        if i == 2:
            state.hyperparams["learning_rate"] = jnp.asarray(lr / 4, jnp.float32)
        updates, state = update(gradients(i), state, params)
        params = optax.apply_updates(params, updates)
        updates, inner = plain.update(gradients(i), inner, expected)
        expected = optax.apply_updates(expected, updates)
    assert_close(params, expected, start=parameters())
    assert traces == 1


def test_an_injected_schedule_is_the_schedule() -> None:
    rates = optax.linear_schedule(0.1, 1.0, 5)
    injected = optax.inject_hyperparams(lars)(learning_rate=rates, weight_decay=0.01)
    assert_close(run(injected, parameters(), 6)[0], run(lars(rates, weight_decay=0.01), parameters(), 6)[0])


@pytest.mark.parametrize("name", ["tvlars-ratio", "lamb"])
def test_masked_and_multi_transform_are_parameter_groups(name: str) -> None:
    alone = plain(name)[4]
    frozen, _, _ = run(
        optax.chain(
            optax.masked(make(name), layer_mask),
            optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda m: not m, layer_mask(p))),
        ),
        parameters(),
        5,
    )
    labels = jax.tree.map(lambda m: "layers" if m else "rest", layer_mask(parameters()))
    groups, _, _ = run(
        optax.multi_transform({"layers": make(name, mask=layer_mask), "rest": optax.sgd(0.1)}, labels), parameters(), 5
    )
    for got in (frozen, groups):
        assert_equal(got["dense"]["kernel"], alone["dense"]["kernel"])
    assert_equal(frozen["norm"], as_arrays(parameters())["norm"])
    descended = jax.tree.map(lambda p, *g: p - 0.1 * sum(g), parameters(), *(gradients(i) for i in range(5)))
    assert_close(groups["norm"], descended["norm"], 2e-6, start=parameters()["norm"])


def test_without_momentum_there_is_no_buffer() -> None:
    assert jax.tree.leaves(make("lars-plain").init(parameters())) == []


def test_state_leaves_that_follow_parameters_can_be_found(name: str) -> None:
    # What sharding rules are made with
    optimizer = make(name, mask=layer_mask)
    _, state, _ = run(optimizer, parameters(), 2)
    marked = optax.tree_utils.tree_map_params(optimizer, lambda _: "parameter", state)
    found = [leaf for leaf in jax.tree.leaves(marked) if leaf == "parameter"]
    assert len(found) == (2 if name == "lamb" else 1) * len(jax.tree.leaves(parameters()))


def test_extra_arguments_pass_through() -> None:
    optimizer = optax.chain(lars(0.1), optax.contrib.reduce_on_plateau(patience=1))
    params = as_arrays(parameters())
    optimizer.update(gradients(0), optimizer.init(params), params, value=1.0)


# -- the tree ---------------------------------------------------------------------------------------------


def test_gaps_in_the_tree_stay_as_they_are(name: str) -> None:
    params = {**as_arrays(parameters()), "steps": jnp.arange(3), "nothing": None, "frozen": jnp.ones(3)}
    optimizer = make(name)
    update = jax.jit(optimizer.update)
    state = first = optimizer.init(params)
    for i in range(3):
        grads = {**gradients(i), "steps": None, "nothing": None, "frozen": None}
        updates, state = update(grads, state, params)
        assert updates["steps"] is updates["nothing"] is updates["frozen"] is None
        params = {key: p if updates[key] is None else optax.apply_updates(p, updates[key]) for key, p in params.items()}
        assert jax.tree.structure(state) == jax.tree.structure(first)
    expected = plain(name)[2]
    assert_close({key: params[key] for key in expected}, expected, start=parameters())


def test_gradients_are_not_consumed_and_integers_are_not_touched() -> None:
    params = {"w": jnp.ones((2, 2)), "count": jnp.arange(2)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    optimizer = lars(0.1)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert updates["count"].dtype == grads["count"].dtype  # float0, JAX's gradient of integers
    assert updates["w"].shape == (2, 2)
    np.testing.assert_array_equal(grads["w"], 2.0)


def test_a_non_finite_gradient_reaches_no_other_layer(name: str) -> None:
    grads = as_arrays(gradients(0))
    grads["dense"]["kernel"] = grads["dense"]["kernel"].at[0, 0].set(jnp.nan)
    params = as_arrays(parameters())
    optimizer = make(name)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    bad = {key for key, layer in updates.items() for leaf in jax.tree.leaves(layer) if not jnp.isfinite(leaf).all()}
    assert bad == {"dense"}


@pytest.mark.parametrize("phi", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_the_trust_ratio_where_the_weights_are_zero(unit: bool, phi: bool) -> None:
    """‖w‖ counts as 1, so that the scale of the gradient does not matter, or q is 1; it is differentiable."""

    def loss(scale: jax.Array) -> jax.Array:
        params = {"w": jnp.zeros((2, 2))}
        options = dict(momentum=0.0, trust_coefficient=0.02, unit_ratio_at_zero=unit)
        shape = dict(delay=500, delay_factor=0.0, phi_scope="ratio")  # φ = 1/2
        optimizer = tvlars.jax.tvlars(0.1, **options, **shape) if phi else lars(0.1, **options)
        updates, _ = optimizer.update({"w": jnp.full((2, 2), scale)}, optimizer.init(params), params)
        return jnp.sum(updates["w"])

    expected = -0.4 if unit else -0.1 * 0.02 * 2 * (0.5 if phi else 1.0)
    assert float(loss(jnp.asarray(1.0))) == pytest.approx(expected)
    assert float(loss(jnp.asarray(10.0))) == pytest.approx(10 * expected if unit else expected)
    assert float(jax.grad(loss)(jnp.asarray(1.0))) == pytest.approx(expected if unit else 0.0, rel=1e-6, abs=1e-9)


def test_nothing_moves_and_derivatives_are_finite_where_the_direction_is_zero() -> None:
    def loss(w: jax.Array, g: jax.Array) -> jax.Array:
        optimizer = lars(0.1)
        updates, _ = optimizer.update(g, optimizer.init(w), w)
        return jnp.sum(updates)

    for w in (jnp.zeros(3), jnp.ones(3)):
        assert float(loss(w, jnp.zeros(3))) == 0.0
        assert all(jnp.isfinite(x).all() for x in jax.grad(loss, (0, 1))(w, jnp.zeros(3)))


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize(
    ("w", "g"), [(0, 0), (-30, 30), (30, -30), (25, 25), (-25, -25), (-30, -30), (0, -25), (0, 15), (30, 30), (-12, 12)]
)
@pytest.mark.parametrize("kind", ["lars", "lamb"])
def test_steps_have_their_length_whatever_the_size_of_weights_and_gradients(
    kind: str, w: int, g: int, decay: float, jitted: bool
) -> None:
    """Squares of them vanish or overflow in float32, and ‖w‖ / ‖u‖ may too; a layer beside it is left as it was."""
    g = min(g, 15) if kind == "lamb" else g  # beyond 1e19 g² is infinite in v, as in Adam's
    random = np.random.default_rng(0)
    values, gradient, other = (random.standard_normal(500) for _ in range(3))
    params = {"a": jnp.float32(values * 10.0**w), "b": jnp.float32(other)}
    grads = {"a": jnp.float32(gradient * 10.0**g), "b": jnp.float32(other[::-1])}
    optimizer = of_a_quarter(kind, decay)
    update = jax.jit(optimizer.update) if jitted else optimizer.update
    updates, _ = update(grads, optimizer.init(params), params)
    for key, size in (("a", 10.0**w), ("b", 1.0)):
        before, moved = (np.asarray(tree[key], np.float64) / size for tree in (params, updates))
        assert np.linalg.norm(moved) == pytest.approx(0.25 * np.linalg.norm(before), rel=1e-5)
    if kind == "lars":
        u = np.asarray(grads["a"], np.float64) + decay * np.asarray(params["a"], np.float64)
        moved = np.asarray(updates["a"], np.float64) / 10.0**w
        np.testing.assert_allclose(
            moved / np.linalg.norm(moved), -u / np.abs(u).max() / np.linalg.norm(u / np.abs(u).max()), atol=1e-6
        )


@cache
def of_a_quarter(kind: str, decay: float) -> optax.GradientTransformation:
    """An optimizer whose step is a quarter of ‖w‖; made once, so that JAX compiles its update once."""
    if kind == "lamb":
        return lamb(0.25, weight_decay=decay)
    return lars(1.0, weight_decay=decay, trust_coefficient=0.25, momentum=0.0)


def test_norms_of_many_sizes_under_vmap_and_differentiation() -> None:
    def moved(scale: jax.Array) -> jax.Array:
        optimizer = lars(1.0, trust_coefficient=0.25, momentum=0.0)
        params = jnp.array([3.0, 4.0])
        updates, _ = optimizer.update(scale * jnp.array([0.6, 0.8]), optimizer.init(params), params)
        return -updates[0]

    scales = jnp.array([1e-30, 1e-10, 1.0, 1e30])
    np.testing.assert_allclose(jax.jit(jax.vmap(moved))(scales), 0.75, rtol=1e-6)
    assert jnp.isfinite(jax.jit(jax.vmap(jax.grad(moved)))(jnp.array([1e-15, 1.0, 1e15]))).all()


# -- half precision ---------------------------------------------------------------------------------------


def test_half_precision_is_float32_arithmetic_and_state_of_the_parameters_dtype(name: str) -> None:
    params = as_arrays(parameters(), jnp.bfloat16)
    optimizer = make(name)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(6):
        grads = as_arrays(gradients(i), jnp.bfloat16)
        # From the same state as it is stored, in float32
        wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, (grads, state, params))
        expected, _ = update(*wide)
        updates, state = update(grads, state, params)
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
        assert {x.dtype for x in jax.tree.leaves(state)} <= {jnp.dtype("bfloat16"), jnp.dtype("int32")}
        assert_close(updates, expected, 2**-8)  # half a unit in the last place
        params = optax.apply_updates(params, updates)
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def test_norms_of_half_precision_are_float32() -> None:
    # ‖w‖² = 4096 · 1.5² and squares past 65504 in float16; either overflows or loses digits in half precision.
    for dtype, value in ((jnp.bfloat16, 1.5078125), (jnp.float16, 300.0)):
        w, g = jnp.full((64, 64), value, dtype), jnp.full((64, 64), 0.5, dtype)
        optimizer = lars(1.0, momentum=0.0, trust_coefficient=0.125)
        update, _ = optimizer.update(g, optimizer.init(w), w)
        np.testing.assert_allclose(np.asarray(update, np.float32), np.float32(np.asarray(-0.125 * value, w.dtype)))


def test_float32_gradients_of_bfloat16_parameters_keep_their_dtype() -> None:
    params = as_arrays(parameters(), jnp.bfloat16)
    optimizer = lars(0.1)
    state = optimizer.init(params)
    updates, after = optimizer.update(as_arrays(gradients(0)), state, params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


# -- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "changes", "message"),
    [
        (lars, dict(learning_rate=-1.0), r"learning_rate must be >= 0, got -1.0"),
        (lars, dict(learning_rate="fast"), r"learning_rate must be >= 0, got 'fast'"),
        (lars, dict(learning_rate=jnp.asarray(-1.0)), r"learning_rate must be >= 0, got"),
        (lars, dict(momentum=1.0), r"momentum must be >= 0 and < 1, got 1.0"),
        (lars, dict(weight_decay=float("nan")), r"weight_decay must be >= 0, got nan"),
        (lars, dict(trust_coefficient=0), r"trust_coefficient must be > 0, got 0"),
        (lars, dict(nesterov=1), r"nesterov must be True or False, got 1"),
        (lars, dict(nesterov=True, momentum=0), r"momentum must be > 0 if nesterov=True, got 0"),
        (lars, dict(norm_clip=0.0), r"norm_clip must be > 0, got 0.0"),
        (tvlars.jax.tvlars, dict(delay_factor=-0.1), r"delay_factor must be >= 0 \(1/step\), got -0.1"),
        (tvlars.jax.tvlars, dict(alpha=0), r"alpha must be > 0, got 0"),
        (tvlars.jax.tvlars, dict(phi_scope="none"), r"phi_scope must be one of 'all', 'ratio', got 'none'"),
        (lamb, dict(betas=0.9), r"betas must be two numbers, got 0.9"),
        (lamb, dict(betas=(0.9, 1.0)), r"betas\[1\] must be >= 0 and < 1, got 1.0"),
        (lamb, dict(eps=0.0), r"eps must be > 0, got 0.0"),
        (lamb, dict(bias_correction=None), r"bias_correction must be True or False, got None"),
        (lamb, dict(norm_clip=-1.0), r"norm_clip must be > 0, got -1.0"),
    ],
)
def test_bad_values_are_named(build: Any, changes: dict[str, Any], message: str) -> None:
    length = dict(delay=5, delay_factor=0.1) if build is tvlars.jax.tvlars else {}
    with pytest.raises(ValueError, match=message):
        build(**{"learning_rate": 0.1, **length, **changes})


def test_phi_wants_the_length_of_the_run() -> None:
    build = tvlars.jax.tvlars
    with pytest.raises(ValueError, match=r"needs the length of the run.*total_steps.*delay and delay_factor.*plan\("):
        build(0.1)
    with pytest.raises(ValueError, match=r"total_steps must not be given with delay or delay_factor"):
        build(0.1, total_steps=100, delay=5)
    with pytest.raises(ValueError, match=r"delay and delay_factor must be given together.*got delay=5, delay_factor=N"):
        build(0.1, delay=5)
    with pytest.raises(ValueError, match=r"total_steps must be an integer >= 1 \(optimizer steps\), got 0"):
        build(0.1, total_steps=0)
    with pytest.raises(ValueError, match=r"optax.inject_hyperparams needs it in its static_args"):
        optax.inject_hyperparams(build)(0.1, total_steps=100).init(parameters())


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_total_steps_gives_the_phi_of_a_plan(alpha: float) -> None:
    p = tvlars.plan(2048, 204_800, 7, lr=0.5, alpha=alpha)
    build = optax.inject_hyperparams(tvlars.jax.tvlars, static_args=("total_steps",))
    planned, counted, injected = (
        run_on_one_layer(optimizer)
        for optimizer in (
            tvlars.jax.tvlars(0.5, delay=p.delay, delay_factor=p.delay_factor, alpha=alpha),
            tvlars.jax.tvlars(0.5, total_steps=700, alpha=alpha),
            build(0.5, total_steps=700, alpha=alpha),
        )
    )
    assert_close(counted, planned)
    assert_close(injected, planned)


def run_on_one_layer(optimizer: optax.GradientTransformation) -> jax.Array:
    """The parameters after four steps; a layer alone, which JAX compiles sooner than a tree."""
    params = jnp.asarray(parameters()["dense"]["kernel"])
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(4):
        updates, state = update(jnp.asarray(gradients(step)["dense"]["kernel"]), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_parameters_are_needed_and_real(name: str) -> None:
    optimizer = make(name)
    with pytest.raises(ValueError, match=r"params must be given to update\(gradients, state, params\), got None"):
        optimizer.update(gradients(0), optimizer.init(parameters()))
    with pytest.raises(TypeError, match="params must be real floating point arrays, got one of complex64"):
        optimizer.init({"w": jnp.ones(2, jnp.complex64)})


def test_the_arguments_are_those_of_the_pytorch_classes() -> None:
    import inspect

    torch_only = {"self", "params", "lr", "maximize", "foreach", "fused", "capturable", "differentiable"}
    ours = {"learning_rate", "mask", "weight_decay_mask", "bias_norm_lr_scale"}
    for build, cls in ((lars, tvlars.LARS), (tvlars.jax.tvlars, tvlars.TVLARS), (lamb, tvlars.LAMB)):
        here, there = inspect.signature(build).parameters, inspect.signature(cls).parameters
        assert set(here) - ours == set(there) - torch_only
        for key in set(here) - ours:
            assert here[key].default == there[key].default, key
