"""layer_mask tells layers from biases and norms, in trees of Flax and of Equinox."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.jax.problems import assert_equal, gradients, make, parameters, run
from tvlars.jax import lars, layer_mask


def adapted(tree: Any) -> set[str]:
    """The paths of the leaves that the mask of ``tree`` has True."""
    mask = layer_mask(tree)
    assert jax.tree.structure(mask) == jax.tree.structure(tree)
    found = jax.tree_util.tree_flatten_with_path(mask)[0]
    assert all(type(leaf) is bool for _, leaf in found)
    return {jax.tree_util.keystr(path) for path, leaf in found if leaf}


def names(tree: Any) -> set[str]:
    """The same as ``kind/name``, whatever keys are made of."""
    paths = (re.findall(r"\w+", path.removesuffix(".value")) for path in adapted(tree))
    return {"/".join(parts) for parts in paths}


def test_names_and_shapes_decide_in_a_dictionary() -> None:
    tree = {
        "dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
        "attention": {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.ones((2, 2)), "bias_k": jnp.ones((1, 1, 4))},
        "norm": {"scale": jnp.ones((4, 4)), "bias": jnp.ones((4, 4))},
        "embed": {"embedding": jnp.ones((5, 3))},
        "class_token": jnp.ones((1, 1, 3)),
        "layer_scale": jnp.ones(3),
        "temperature": jnp.ones(()),
        "frozen": None,
    }
    assert names(tree) == {"dense/kernel", "attention/kernel", "embed/embedding"}
    assert layer_mask(tree)["frozen"] is None


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"GRN_0": {"gamma": (1, 1, 1, 4), "beta": (1, 1, 1, 4)}}, set()),
        (
            {"scanned": {"ln": {"scale": (6, 4), "bias": (6, 4)}, "dense": {"kernel": (6, 4, 4)}}},
            {"scanned/dense/kernel"},
        ),
        ({"layers": {"RMSNorm_0": {"weight": (6, 4)}, "ffn": {"weight": (6, 4, 4)}}}, {"layers/ffn/weight"}),
        ({"layers": {"ln_1": {"g": (6, 4)}, "final_norm": {"w": (6, 4)}}}, set()),
        ({"block": {"layer_scale": (6, 4), "gamma_1": (6, 4), "ls2": (6, 4), "alpha": (6, 4)}}, set()),
        ({"ls": {"layer_scale": (4, 1, 1)}, "logit_scale": (), "temperature": (4, 1, 1)}, set()),
        ({"cls": (1, 1, 4), "mask_tokens": (3, 4), "latents": (9, 4), "class_embedding": (2, 4)}, set()),
        ({"posembed_input": {"pos_embedding": (1, 9, 4)}, "rel_pos_h": (9, 4)}, set()),
        ({"position_embeddings": {"embedding": (9, 4)}, "relative_attention_bias": {"embedding": (32, 8)}}, set()),
        ({"embed_tokens": {"embedding": (9, 4)}}, {"embed_tokens/embedding"}),
        ({"no_mask": {"embedding": (1, 4)}, "scale": {"embedding": (4, 8)}}, set()),
        ({"position_embed": {"rows": {"embedding": (9, 4)}}, "mamba": {"A_log": (2, 3, 4), "D": (2, 3)}}, set()),
        ({"relative_position_bias_table": (9, 3)}, set()),
        ({"dense": {"kernel": (4, 1)}, "head": {"kernel": (1, 4)}}, {"dense/kernel", "head/kernel"}),
        ({"lora": {"a": (1, 4), "b": (4, 2)}, "lora_a": (4, 1), "lora_b": (1, 4)}, {"lora/b", "lora_a", "lora_b"}),
        ({"experts": {"w1": (3, 4, 8), "b1": (3, 8)}}, {"experts/w1"}),
        ({"mamba": {"A_log": (4, 3), "D": (4,), "dt_bias": (4,)}}, set()),
        ({"mlp/~/linear_0": {"w": (4, 1), "b": (1,)}, "mlp/~/layer_norm": {"scale": (6, 4), "offset": (6, 4)}}, {"w"}),
    ],
)
def test_roles_by_name_and_shape(tree: dict[str, Any], expected: set[str]) -> None:
    arrays = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=_is_shape)
    mask = jax.tree_util.tree_flatten_with_path(layer_mask(arrays))[0]
    assert {"/".join(key.key for key in path if "/" not in key.key) for path, leaf in mask if leaf} == expected


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple)


def test_a_bare_array_and_an_empty_tree() -> None:
    assert layer_mask(jnp.ones((2, 2))) is True
    assert layer_mask(jnp.ones(2)) is False
    assert layer_mask({}) == {}


def test_linen() -> None:
    nn = pytest.importorskip("flax.linen", reason="needs Flax")

    class Net(nn.Module):  # type: ignore[name-defined]
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Conv(4, (3, 3), name="conv")(x)
            x = nn.BatchNorm(use_running_average=False, name="bn")(x)
            x = nn.LayerNorm(reduction_axes=(-2, -1), feature_axes=(-2, -1), name="ln")(x)
            x = x.reshape(x.shape[0], -1, 4) + nn.Embed(2, 4, name="embed")(jnp.array([0]))
            x = nn.MultiHeadDotProductAttention(2, name="mha")(x)
            return nn.Dense(3, name="dense")(x)

    variables = jax.eval_shape(Net().init, jax.random.key(0), jnp.ones((2, 4, 4, 1)))
    expected = {"conv/kernel", "embed/embedding", "dense/kernel"} | {
        f"mha/{part}/kernel" for part in ("query", "key", "value", "out")
    }
    assert names(variables["params"]) == expected
    assert names(variables) == {f"params/{name}" for name in expected}  # nothing of batch_stats


def test_nnx() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="needs Flax")

    class Net(nnx.Module):  # type: ignore[name-defined]
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
            self.bn = nnx.BatchNorm(4, rngs=rngs)
            self.value = nnx.Linear(4, 3, rngs=rngs)
            self.token = nnx.Param(jnp.ones((1, 3)))
            self.mha = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)

    model = Net(nnx.Rngs(0))
    expected = {"conv/kernel", "value/kernel"} | {f"mha/{part}/kernel" for part in ("query", "key", "value", "out")}
    assert names(nnx.state(model, nnx.Param)) == expected
    assert names(nnx.to_pure_dict(nnx.state(model, nnx.Param))) == expected
    assert names(nnx.state(model)) == expected  # batch statistics and random state are not


def test_equinox_goes_by_module_type() -> None:
    eqx = pytest.importorskip("equinox", reason="needs Equinox")

    class Net(eqx.Module):  # type: ignore[name-defined]
        conv: Any
        linear: Any
        norms: list[Any]
        embed: Any
        gru: Any
        mha: Any
        token: jax.Array
        stacked: Any
        one: Any
        pos_embed: Any
        normed: Any
        steps: int = 3

    def build(key: jax.Array) -> Net:
        return Net(
            conv=eqx.nn.Conv2d(1, 4, 3, key=key),  # its bias has three dimensions
            linear=eqx.nn.MLP(4, 3, 8, 1, key=key),  # functions are among its leaves
            norms=[eqx.nn.LayerNorm((4, 4)), eqx.nn.RMSNorm((4, 4)), eqx.nn.GroupNorm(2, 4)],  # two dimensions
            embed=eqx.nn.Embedding(5, 4, key=key),
            gru=eqx.nn.GRUCell(4, 3, key=key),
            mha=eqx.nn.MultiheadAttention(2, 4, use_query_bias=True, key=key),
            token=jnp.ones((1, 4)),
            stacked=eqx.filter_vmap(lambda k: eqx.nn.Linear(4, 4, key=k))(jax.random.split(key, 3)),
            one=eqx.nn.Linear(4, 1, key=key),
            pos_embed=eqx.nn.Embedding(5, 4, key=key),
            normed=eqx.filter_vmap(lambda k: eqx.nn.WeightNorm(eqx.nn.Linear(4, 4, key=k)))(jax.random.split(key, 3)),
        )

    parts = ("query_proj", "key_proj", "value_proj", "output_proj")
    expected = {"conv/weight", "embed/weight", "gru/weight_ih", "gru/weight_hh", "stacked/weight", "one/weight"}
    expected.add("normed/layer/weight")
    expected |= {"linear/layers/0/weight", "linear/layers/1/weight"} | {f"mha/{part}/weight" for part in parts}
    assert names(eqx.filter_eval_shape(build, jax.random.key(0))) == expected


def test_a_mask_that_is_a_callable_module_is_a_tree() -> None:
    eqx = pytest.importorskip("equinox", reason="needs Equinox")
    params = eqx.filter(eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0)), eqx.is_inexact_array)
    assert callable(layer_mask(params))
    grads = jax.tree.map(jnp.ones_like, params)
    for mask in (layer_mask, layer_mask(params)):
        optimizer = lars(0.1, mask=mask, bias_norm_lr_scale=0.5)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        np.testing.assert_allclose(updates.layers[0].bias, -0.05)
        assert float(jnp.abs(updates.layers[0].weight).max()) < 1e-3


def test_a_function_a_tree_and_a_prefix_are_the_same_mask() -> None:
    whole = layer_mask(parameters())
    prefix = {layer: whole[layer] if len(whole[layer]) > 1 else next(iter(whole[layer].values())) for layer in whole}
    runs = [
        run(make("tvlars", mask=mask, bias_norm_lr_scale=0.1), parameters(), 3)[0]
        for mask in (layer_mask, whole, prefix, lambda params: layer_mask(params))
    ]
    for other in runs[1:]:
        assert_equal(other, runs[0])


def test_what_the_mask_leaves_out_is_neither_adapted_nor_decayed() -> None:
    optimizer = lars(0.5, momentum=0.0, weight_decay=0.3, mask=layer_mask, bias_norm_lr_scale=0.1)
    params = jax.tree.map(jnp.asarray, parameters())
    updates, _ = optimizer.update(gradients(0), optimizer.init(params), params)
    np.testing.assert_allclose(updates["norm"]["scale"], -0.05 * gradients(0)["norm"]["scale"], rtol=1e-6)


def test_weight_decay_can_have_a_mask_of_its_own() -> None:
    everything = jax.tree.map(lambda _: True, parameters())
    optimizer = lars(
        1.0, momentum=0.0, weight_decay=0.5, mask=layer_mask, weight_decay_mask=everything, bias_norm_lr_scale=0.1
    )
    params, g = parameters(), gradients(0)
    updates, _ = optimizer.update(g, optimizer.init(params), params)
    expected = -0.1 * (g["norm"]["scale"] + 0.5 * params["norm"]["scale"])
    np.testing.assert_allclose(updates["norm"]["scale"], expected, rtol=1e-5)


def test_an_injected_mask_is_not_taken_for_a_schedule() -> None:
    with pytest.raises(ValueError, match=r"static_args=\(\"mask\", \"weight_decay_mask\"\)"):
        optax.inject_hyperparams(lars)(0.1, mask=layer_mask).init(parameters())


def test_a_scale_wants_a_mask_and_a_large_rate_a_scale() -> None:
    with pytest.raises(ValueError, match=r"mask must be given if bias_norm_lr_scale is 0.03, got None"):
        lars(1.0, bias_norm_lr_scale=0.03)
    with pytest.raises(ValueError, match=r"bias_norm_lr_scale must be >= 0, got -1"):
        lars(1.0, mask=layer_mask, bias_norm_lr_scale=-1)
    with pytest.warns(UserWarning, match=r"use learning_rate = 16 without a trust ratio"):
        lars(16.0, mask=layer_mask)
    with pytest.warns(UserWarning, match=r"use learning_rate = 16 without a trust ratio"):
        lars(jnp.float32(16.0), mask=layer_mask)
    lars(16.0, mask=layer_mask, bias_norm_lr_scale=0.03)


@pytest.mark.parametrize("mask", ["layer_mask", 1, {"kernel": 1.0}])
def test_what_is_no_mask_is_refused(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"^mask must be a tree of booleans or a function .* got .* in it"):
        lars(0.5, mask=mask)
    with pytest.raises(ValueError, match=r"^weight_decay_mask must be a tree of booleans"):
        lars(0.5, mask={"kernel": np.True_, "bias": jnp.array(False)}, weight_decay_mask=mask)
