"""Small networks of Flax Linen, Flax NNX and Equinox learn the handwritten digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from tvlars.jax import lamb, layer_mask, tvlars

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")

STEPS, BATCH = 40, 256
BUILDERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "tvlars": lambda: tvlars(
        8.0, trust_coefficient=0.02, delay_factor=0.3, delay=20, mask=layer_mask, bias_norm_lr_scale=0.03
    ),
    "lamb": lambda: lamb(0.02, mask=layer_mask),
}


@pytest.fixture(scope="module")
def batches() -> list[tuple[jax.Array, jax.Array]]:
    digits = sklearn_datasets.load_digits()
    x, y = jnp.asarray(digits.images[:1536, ..., None] / 16.0, jnp.float32), jnp.asarray(digits.target[:1536])
    parts = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    return [parts[i % len(parts)] for i in range(STEPS)]


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def assert_learned(losses: list[Any]) -> None:
    values = [float(loss) for loss in losses]
    assert len(values) == STEPS
    assert sum(values[-6:]) / 6 < 0.3 * values[0]  # ln 10 = 2.3 at the start


@pytest.mark.parametrize("name", ["tvlars", "lamb"])
def test_linen(name: str, batches: list[Any]) -> None:
    optimizer = BUILDERS[name]()
    nn = pytest.importorskip("flax.linen", reason="needs Flax")

    class Net(nn.Module):  # type: ignore[name-defined]
        @nn.compact
        def __call__(self, x: jax.Array, train: bool = True) -> Any:
            x = nn.Conv(8, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x)).reshape(len(x), -1)
            return nn.Dense(10)(nn.relu(nn.LayerNorm()(nn.Dense(32)(x))))

    variables = Net().init(jax.random.key(0), batches[0][0])
    params, stats = variables["params"], variables["batch_stats"]
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, stats: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, new = Net().apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
            return cross_entropy(logits, y), new["batch_stats"]

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state, loss

    losses = []
    for x, y in batches:
        params, stats, state, loss = step(params, stats, state, x, y)
        losses.append(loss)
    assert_learned(losses)


@pytest.mark.parametrize("name", ["tvlars"])
def test_nnx(name: str, batches: list[Any]) -> None:
    optimizer = BUILDERS[name]()
    nnx = pytest.importorskip("flax.nnx", reason="needs Flax")

    class Net(nnx.Module):  # type: ignore[name-defined]
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
            self.bn = nnx.BatchNorm(8, rngs=rngs)
            self.hidden = nnx.Linear(128, 32, rngs=rngs)
            self.ln = nnx.LayerNorm(32, rngs=rngs)
            self.head = nnx.Linear(32, 10, rngs=rngs)

        def __call__(self, x: jax.Array) -> Any:
            x = nnx.relu(self.bn(self.conv(x))).reshape(len(x), -1)
            return self.head(nnx.relu(self.ln(self.hidden(x))))

    model = Net(nnx.Rngs(0))
    trainer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, trainer: Any, x: jax.Array, y: jax.Array) -> Any:
        loss, grads = nnx.value_and_grad(lambda model: cross_entropy(model(x), y))(model)
        trainer.update(model, grads)
        return loss

    assert_learned([step(model, trainer, x, y) for x, y in batches])


@pytest.mark.parametrize("name", ["tvlars", "lamb"])
def test_equinox(name: str, batches: list[Any]) -> None:
    optimizer = BUILDERS[name]()
    eqx = pytest.importorskip("equinox", reason="needs Equinox")

    class Net(eqx.Module):  # type: ignore[name-defined]
        conv: Any
        hidden: Any
        norm: Any
        head: Any
        steps: jax.Array  # an integer, which has no gradient

        def __init__(self, key: jax.Array) -> None:
            keys = jax.random.split(key, 3)
            self.conv = eqx.nn.Conv2d(1, 8, 3, stride=2, padding=1, key=keys[0])
            self.hidden = eqx.nn.Linear(128, 32, key=keys[1])
            self.norm = eqx.nn.LayerNorm(32)
            self.head = eqx.nn.Linear(32, 10, key=keys[2])
            self.steps = jnp.arange(3)

        def __call__(self, x: jax.Array) -> Any:
            x = jax.nn.relu(self.conv(x.transpose(2, 0, 1))).reshape(-1)
            return self.head(jax.nn.relu(self.norm(self.hidden(x))))

    model = Net(jax.random.key(0))
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        loss, grads = eqx.filter_value_and_grad(lambda model: cross_entropy(jax.vmap(model)(x), y))(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for x, y in batches:
        model, state, loss = step(model, state, x, y)
        losses.append(loss)
    assert_learned(losses)
