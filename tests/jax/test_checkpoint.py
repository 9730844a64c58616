"""A run resumed from an orbax checkpoint is bit for bit the uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.jax.problems import assert_equal, make, parameters, run
from tvlars.jax import layer_mask


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("tvlars", jnp.bfloat16), ("tvlars-ratio", jnp.float32), ("lamb", jnp.bfloat16)],
)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, dtype: jnp.dtype, tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint")
    optimizer = make(name, mask=layer_mask, bias_norm_lr_scale=0.1)
    start = jax.tree.map(lambda x: jnp.asarray(x, dtype), parameters())
    params, state, _ = run(optimizer, start, 4)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "four", {"params": params, "state": state})
    with ocp.StandardCheckpointer() as checkpointer:
        fresh = {"params": start, "state": optimizer.init(start)}
        restored = checkpointer.restore(tmp_path / "four", jax.tree.map(ocp.utils.to_shape_dtype_struct, fresh))
    assert_equal(restored, {"params": params, "state": state})

    resumed = run(make(name, mask=layer_mask, bias_norm_lr_scale=0.1), restored["params"], 4, restored["state"], 4)
    whole = run(optimizer, start, 8)
    assert_equal(resumed[:2], whole[:2])
