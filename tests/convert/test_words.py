"""Words of `convert`: refusals, what it prints, and names."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.convert.beside import (
    ROOT,
    gradients,
    model,
)
from tvlars import LAMB, LARS, TVLARS, convert


@pytest.mark.parametrize(
    ("source", "arguments", "sentence"),
    [
        ("tim", {}, "unknown source 'tim': did you mean 'timm'? Known: apex-larc, lightly, optax"),
        ("timm", dict(trust_coef=1), "unknown argument of timm Lars 'trust_coef': did you mean 'trust_coeff'"),
        ("timm", dict(betas=(0.9, 0.99)), "unknown argument of timm Lars 'betas'"),
        ("timm", dict(optimizer="lam"), "unknown optimizer of timm 'lam': did you mean 'lamb'"),
        ("timm", dict(opt="lasr"), "did you mean 'lars'"),
        ("timm", dict(opt="lars", optimizer="lars"), "optimizer must not be given with opt"),
        ("timm", dict(opt="lars", layer_decay=0.9), "layer_decay must be None"),
        ("timm", dict(opt="lars", param_group_fn=list), "params must be the model if param_group_fn"),
        ("timm", dict(lr=-1.0), "lr must be >= 0, got -1.0"),
        ("timm", dict(momentum=1.0), "momentum must be >= 0 and < 1, got 1.0"),
        ("timm", dict(momentum=0.9, dampening=1.0), "dampening must be >= 0 and < 1, got 1.0"),
        ("timm", dict(nesterov=True), "momentum must be > 0 and dampening 0 if nesterov=True, as timm itself"),
        ("timm", dict(trust_coeff=0.0), "trust_coeff must be > 0, got 0.0"),
        ("timm", dict(trust_clip=1), "trust_clip must be True or False, got 1"),
        ("timm", dict(optimizer="lamb", max_grad_norm=0), "max_grad_norm must be > 0, got 0"),
        ("timm", dict(optimizer="lamb", betas=(0.9, 1.0)), "betas[1] must be >= 0 and < 1, got 1.0"),
        ("timm", dict(optimizer="lamb", betas=None), "betas must be two numbers, got None"),
        ("timm", dict(optimizer="lamb", betas=0.9), "betas must be two numbers, got 0.9"),
        ("timm", dict(optimizer="lamb", betas=(0.9,)), "betas must be two numbers, got (0.9,)"),
        ("published", dict(optimizer="lamb", betas=None), "betas must be two numbers, got None"),
        ("published", dict(optimizer="lamb", betas="ab"), "betas[0] must be >= 0 and < 1, got 'a'"),
        ("optax", dict(optimizer="lamb", learning_rate=0.1, b1=1.0), "b1 must be >= 0 and < 1, got 1.0"),
        ("optax", dict(optimizer="lamb", learning_rate=0.1, b2=None), "b2 must be >= 0 and < 1, got None"),
        ("timm", dict(foreach="yes"), "foreach must be None, True or False, got 'yes'"),
        ("timm", dict(optimizer="lamb", foreach=1), "foreach must be None, True or False, got 1"),
        ("apex-larc", dict(fused="no"), "fused must be None, True or False, got 'no'"),
        ("apex-larc", dict(differentiable=None), "differentiable must be True or False, got None"),
        ("pytorch-optimizer", dict(maximize=1), "maximize must be True or False, got 1"),
        ("timm", dict(strict=1), "strict must be True or False, got 1"),
        (
            "timm",
            dict(strict=True, weight_decay=0.1),
            "no setting of LARS gives timm Lars: with weight_decay = 0.1, the denominator",
        ),
        ("lightly", {}, "lr must be given: lightly LARS has no default for it"),
        ("lightly", dict(lr=1.0, params=3), "params must be a model, parameters or parameter groups, got int"),
        ("lightly", dict(lr=1.0, params=[]), "params must have a parameter to train, got none"),
        ("lightly", dict(lr=1.0, params=[3]), "params must have tensors or (name, tensor) pairs, got int"),
        ("apex-larc", dict(optimizer="adam"), "optimizer must be a torch.optim.SGD"),
        ("optax", dict(lr=1.0), "unknown argument of optax lars 'lr'"),
        ("optax", dict(learning_rate=-1), "learning_rate must be >= 0, got -1"),
        ("optax", dict(learning_rate=1, trust_ratio_mask={}), "params must be given, the model or its named"),
        ("published", dict(lr=1.0, lambda_=1), "unknown argument of published TVLARS 'lambda_'"),
    ],
)
def test_what_cannot_be_is_one_sentence(source: str, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        convert(source, **arguments)


def test_options_of_sgd_are_given_once() -> None:
    inner = torch.optim.SGD(model().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="lr must not be given with optimizer"):
        convert("apex-larc", optimizer=inner, lr=0.1)
    with pytest.raises(ValueError, match=r"must be a torch\.optim\.SGD.*got Adam"):
        convert("apex-larc", optimizer=torch.optim.Adam(model().parameters()))


def test_masks_cover_every_parameter() -> None:
    with pytest.raises(ValueError, match=r"must have True or False for each parameter.*'0\.weight'"):
        convert("optax", learning_rate=0.1, trust_ratio_mask={}, params=model())
    with pytest.raises(ValueError, match="weight_decay_mask must be True, False, a dictionary"):
        convert("optax", learning_rate=0.1, weight_decay_mask=lambda _: 3, params=model())


@pytest.mark.parametrize(
    "masks",
    [
        dict(optimizer="lamb", weight_decay=0.5, mask=lambda p: {name: w.ndim > 1 for name, w in p.items()}),
        dict(weight_decay=0.5, weight_decay_mask=lambda p: {name: w.ndim > 1 for name, w in p.items()}),
        dict(trust_ratio_mask={"": True}),
    ],
    ids=lambda masks: list(masks)[-1],
)
def test_masks_want_names(masks: dict[str, Any]) -> None:
    net = model()
    name = list(masks)[-1]
    words = f"params must be a model or named parameters if {name} is a dictionary or a function, got "
    with pytest.raises(ValueError, match=f"{words}one without"):
        convert("optax", learning_rate=0.1, params=list(net.parameters()), **masks)
    with pytest.raises(ValueError, match=f"{words}two called 'w'"):
        convert("optax", learning_rate=0.1, params=[("w", p) for p in net.parameters()], **masks)
    if name != "trust_ratio_mask":
        conversion = convert("optax", learning_rate=0.1, params=net, **masks)
        assert len(conversion.groups()) == 2
        with pytest.raises(ValueError, match=f"{words}one without"):
            conversion.groups(net.parameters())
    plain = {**masks, name: True}
    assert convert("optax", learning_rate=0.1, params=list(net.parameters()), **plain).exact


def numpy_scalar(value: Any) -> Any:
    return np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)


def jax_scalar(value: Any) -> Any:
    return pytest.importorskip("jax.numpy", reason="jax is not installed").asarray(value)


@pytest.mark.parametrize("scalar", [numpy_scalar, jax_scalar])
def test_scalars_of_other_libraries_are_numbers(scalar: Any) -> None:
    net = model()
    conversions = [
        convert("optax", learning_rate=scalar(0.5), weight_decay=scalar(0.125), nesterov=scalar(True)),
        convert("optax", optimizer="lamb", learning_rate=scalar(0.5), b1=scalar(0.5)),
        convert("timm", optimizer="lamb", betas=(scalar(0.5), scalar(0.75)), weight_decay=scalar(0.125)),
        convert("lightly", lr=0.1, params=[dict(params=list(net.parameters()), lr=scalar(0.5))]),
    ]
    for conversion in conversions:
        optimizer = conversion.build(None if conversion.theirs.startswith("lightly") else net)
        gradients(net, 0)
        optimizer.step()
        for group in optimizer.param_groups:
            assert group["lr"] in (0.5, 1e-3)
            assert {type(value) for key, value in group.items() if key in ("lr", "weight_decay")} <= {float, int}
    assert conversions[2].arguments["betas"] == (0.5, 0.75)


def test_groups_want_parameters() -> None:
    conversion = convert("lightly", lr=0.1)
    with pytest.raises(ValueError, match="params must be given"):
        conversion.build()
    with pytest.raises(ValueError, match="pass groups to convert"):
        conversion.groups([dict(params=[nn.Parameter(torch.ones(2))], weight_decay=0.1)])


def test_in_words() -> None:
    assert str(convert("lightly", lr=0.1)).splitlines() == [
        "lightly LARS is LARS(groups, lr=0.1, momentum=0, weight_decay=0, trust_coefficient=0.001, nesterov=False, "
        "unit_ratio_at_zero=True)",
        "  weights           layer_adaptation=False, weight_decay=0",
        "  biases and norms  layer_adaptation=False, weight_decay=0",
        "The trajectory is the same up to rounding.",
    ]
    assert "The trajectory is the same up to about 1e-08 of a step:\n  - eps = 1e-08" in str(
        convert("timm", always_adapt=True)
    )
    assert "The trajectory is not the same:\n  - with weight_decay" in str(convert("timm", weight_decay=0.1))
    assert "note: before each step, over all parameters of this optimizer, torch.nn.utils.clip_grad_norm_(" in str(
        convert("timm", optimizer="lamb")
    )


def test_which_optimizer() -> None:
    assert convert("timm", opt="LARC").optimizer is LARS
    assert convert("optax", optimizer="lamb", learning_rate=0.1).optimizer is LAMB
    assert convert("published", lr=1.0).optimizer is TVLARS


def test_the_name_is_the_function() -> None:
    import tvlars.convert  # the module of this name must not take its place

    assert tvlars.convert is convert
    assert callable(pickle.loads(pickle.dumps(tvlars.convert)))


def test_the_page_tells_the_truth() -> None:
    page = (ROOT / "docs/parity.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    exec(block[1], {})
