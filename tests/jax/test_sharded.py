"""Arrays sharded over two devices give the update of whole ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from tests.jax.problems import assert_close, gradients, make, parameters
from tvlars.jax import layer_mask

devices = jax.devices()
assert len(devices) == 2, devices
mesh = Mesh(np.array(devices), ("model",))
last = lambda x: NamedSharding(mesh, P(*[None] * (x.ndim - 1), "model") if x.ndim else P())
first = lambda x: NamedSharding(mesh, P("model") if x.ndim > 1 and x.shape[0] % 2 == 0 else P())

for name in ("tvlars-ratio", "lamb"):
    for layout in (last, first):
        optimizer = make(name, mask=layer_mask, bias_norm_lr_scale=0.1)
        traces = []

        @jax.jit
        def step(params, state, grads):
            traces.append(name)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        whole = jax.tree.map(jnp.asarray, parameters())
        places = jax.tree.map(layout, whole)
        sharded = jax.device_put(whole, places)
        state, sharded_state = optimizer.init(whole), jax.jit(optimizer.init)(sharded)
        for i in range(5):
            whole, state = step(whole, state, gradients(i))
            sharded, sharded_state = step(sharded, sharded_state, jax.device_put(gradients(i), places))
        assert_close(sharded, whole, start=parameters())
        kernel = sharded["dense"]["kernel"]
        assert kernel.sharding.is_equivalent_to(places["dense"]["kernel"], 2), kernel.sharding
        assert kernel.addressable_shards[0].data.size == kernel.size // 2
        assert len(traces) <= 3, traces  # whole; sharded; sharded once more, as init cannot know the state's layout
print("ok")
"""


@pytest.mark.slow
def test_sharded_over_two_devices() -> None:
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("ok")
