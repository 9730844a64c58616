"""What `convert` refuses, prints, and is called."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn

from tests.convert.beside import (
    ROOT,
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
        ("timm", dict(opt="lars", optimizer="lars"), "optimizer must not be given beside opt"),
        ("timm", dict(opt="lars", layer_decay=0.9), "layer_decay must be None"),
        ("timm", dict(opt="lars", param_group_fn=list), "params must be the model where param_group_fn"),
        ("timm", dict(lr=-1.0), "lr must be >= 0, got -1.0"),
        ("timm", dict(momentum=1.0), "momentum must be >= 0 and < 1, got 1.0"),
        ("timm", dict(momentum=0.9, dampening=1.0), "dampening must be >= 0 and < 1, got 1.0"),
        ("timm", dict(nesterov=True), "momentum must be > 0 and dampening 0 where nesterov=True, as timm itself"),
        ("timm", dict(trust_coeff=0.0), "trust_coeff must be > 0, got 0.0"),
        ("timm", dict(trust_clip=1), "trust_clip must be True or False, got 1"),
        ("timm", dict(optimizer="lamb", max_grad_norm=0), "max_grad_norm must be > 0, got 0"),
        ("timm", dict(optimizer="lamb", betas=(0.9, 1.0)), "betas[1] must be >= 0 and < 1, got 1.0"),
        ("timm", dict(strict=1), "strict must be True or False, got 1"),
        ("timm", dict(strict=True, weight_decay=0.1), "no setting of LARS gives timm Lars: weight_decay = 0.1 stands"),
        ("lightly", {}, "lr must be given: lightly LARS has no default for it"),
        ("lightly", dict(lr=1.0, params=3), "params must be a model, parameters or parameter groups, got int"),
        ("lightly", dict(lr=1.0, params=[]), "params must hold a parameter to train, got none"),
        ("lightly", dict(lr=1.0, params=[3]), "params must hold tensors or (name, tensor) pairs, got int"),
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
    with pytest.raises(ValueError, match="lr must not be given beside optimizer"):
        convert("apex-larc", optimizer=inner, lr=0.1)
    with pytest.raises(ValueError, match=r"must be a torch\.optim\.SGD.*got Adam"):
        convert("apex-larc", optimizer=torch.optim.Adam(model().parameters()))


def test_masks_cover_every_parameter() -> None:
    with pytest.raises(ValueError, match=r"must have True or False for each parameter.*'0\.weight'"):
        convert("optax", learning_rate=0.1, trust_ratio_mask={}, params=model())
    with pytest.raises(ValueError, match="weight_decay_mask must be True, False, a dictionary"):
        convert("optax", learning_rate=0.1, weight_decay_mask=lambda _: 3, params=model())


def test_groups_want_parameters() -> None:
    conversion = convert("lightly", lr=0.1)
    with pytest.raises(ValueError, match="params must be given"):
        conversion.build()
    with pytest.raises(ValueError, match="give groups to convert"):
        conversion.groups([dict(params=[nn.Parameter(torch.ones(2))], weight_decay=0.1)])


def test_in_words() -> None:
    assert str(convert("lightly", lr=0.1)).splitlines() == [
        "lightly LARS is LARS(groups, lr=0.1, momentum=0, weight_decay=0, trust_coefficient=0.001, nesterov=False)",
        "  weights           layer_adaptation=False, weight_decay=0",
        "  biases and norms  layer_adaptation=False, weight_decay=0",
        "The trajectory is theirs, to rounding.",
    ]
    assert "theirs but for about 1e-08 of a step:\n  - eps = 1e-08" in str(convert("timm", always_adapt=True))
    assert "The trajectory is not theirs:\n  - weight_decay" in str(convert("timm", weight_decay=0.1))
    assert "note: before each step, torch.nn.utils.clip_grad_norm_" in str(convert("timm", optimizer="lamb"))


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
