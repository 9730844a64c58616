"""Arrays sharded over two devices give the update of whole ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.jax.problems import assert_close, gradients, make, parameters
from tvlars.jax import layer_mask


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    devices = jax.devices("cpu")  # as many as tests/jax/__init__.py asks for
    assert len(devices) == 2, devices
    with jax.default_device(devices[0]):
        yield Mesh(np.array(devices), ("model",))


@pytest.fixture(scope="module", params=["tvlars-ratio", "lamb"])
def step(request: pytest.FixtureRequest) -> tuple[Any, Any, list[str]]:
    """An optimizer, its compiled step, and a list that grows whenever the step is traced."""
    optimizer, traces = make(request.param, mask=layer_mask, bias_norm_lr_scale=0.1), []

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        traces.append(request.param)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step, traces


def last(x: jax.Array) -> P:
    return P(*[None] * (x.ndim - 1), "model") if x.ndim else P()


def first(x: jax.Array) -> P:
    return P("model") if x.ndim > 1 and x.shape[0] % 2 == 0 else P()


@pytest.mark.parametrize("layout", [last, first])
def test_sharded_over_two_devices(
    step: tuple[Any, Any, list[str]], layout: Callable[[jax.Array], P], mesh: Mesh
) -> None:
    optimizer, run, traces = step
    before = len(traces)
    whole = jax.tree.map(jnp.asarray, parameters())
    places = jax.tree.map(lambda x: NamedSharding(mesh, layout(x)), whole)
    sharded = jax.device_put(whole, places)
    state, sharded_state = optimizer.init(whole), jax.jit(optimizer.init)(sharded)
    for i in range(5):
        whole, state = run(whole, state, gradients(i))
        sharded, sharded_state = run(sharded, sharded_state, jax.device_put(gradients(i), places))
    assert_close(sharded, whole, start=parameters())
    kernel = sharded["dense"]["kernel"]
    assert kernel.sharding.is_equivalent_to(places["dense"]["kernel"], 2), kernel.sharding
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
    # whole; sharded; sharded once more, as init cannot know the state's layout
    assert len(traces) - before <= 3, traces
