"""Trajectories of conversions: theirs if `convert` says exact, another one if it does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.convert.beside import (
    DTYPES,
    ROOT,
    apart,
    both,
    norms,
    same,
)
from tvlars import Conversion, convert

pytestmark = pytest.mark.filterwarnings("ignore:.*not adapted:UserWarning")


EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "timm defaults": ("timm", dict()),
    "timm plain sgd, nesterov": ("timm", dict(lr=0.1, momentum=0.9, nesterov=True, trust_clip=True)),
    "timm always_adapt": ("timm", dict(lr=2.0, momentum=0.9, always_adapt=True, eps=0.0)),
    "timm dampening without momentum": ("timm", dict(always_adapt=True, eps=0.0, dampening=0.3, foreach=False)),
    "timm opt": ("timm", dict(opt="nlars", lr=0.3)),
    "timm Lamb": ("timm", dict(optimizer="lamb", lr=0.02, max_grad_norm=None)),
    "timm Lamb without bias correction": (
        "timm",
        dict(optimizer="lamb", bias_correction=False, betas=(0.8, 0.9), max_grad_norm=None, weight_decay=0.1),
    ),
    "timm Lamb without decay": ("timm", dict(optimizer="lamb", weight_decay=0.0, max_grad_norm=None)),
    "timm Lamb, always_adapt": (
        "timm",
        dict(optimizer="lamb", weight_decay=0.0, always_adapt=True, max_grad_norm=None),
    ),
    "timm Lamb, sums without adaptation": (
        "timm",
        dict(optimizer="lamb", weight_decay=0.0, grad_averaging=False, max_grad_norm=None),
    ),
    "timm opt lamb": ("timm", dict(opt="lamb", lr=0.02, weight_decay=0.1, max_grad_norm=None)),
    "lightly without decay": ("lightly", dict(lr=0.2, momentum=0.9)),
    "lightly nesterov": ("lightly", dict(lr=0.2, momentum=0.9, nesterov=True, eps=0.1)),
    "pytorch-optimizer": ("pytorch-optimizer", dict(lr=0.5)),
    "pytorch-optimizer nesterov": ("pytorch-optimizer", dict(lr=0.5, nesterov=True, maximize=True)),
    "pytorch-optimizer dampening": ("pytorch-optimizer", dict(lr=0.5, dampening=0.4)),
    "apex-larc": ("apex-larc", dict(lr=0.5, momentum=0.9, clip=False, eps=0.0)),
    "apex-larc maximize": ("apex-larc", dict(lr=0.5, momentum=0.9, nesterov=True, clip=False, eps=0.0, maximize=True)),
    "solo-learn": ("solo-learn", dict(lr=0.5, momentum=0.9, eps=0.0, exclude_bias_n_norm=True)),
    "solo-learn, all adapted": ("solo-learn", dict(lr=0.5, momentum=0.9, nesterov=True, eps=0.0)),
    "optax lars": ("optax", dict(learning_rate=0.5, weight_decay=0.1)),
    "optax lars nesterov": ("optax", dict(learning_rate=0.5, weight_decay=0.1, nesterov=True, trust_coefficient=0.02)),
    "optax lars without momentum": ("optax", dict(learning_rate=0.5, momentum=0.0, nesterov=True)),
    "optax lars unadapted": ("optax", dict(learning_rate=0.05, weight_decay=0.1, trust_ratio_mask=False, eps=1.0)),
    "optax lamb": ("optax", dict(optimizer="lamb", learning_rate=0.02, weight_decay=0.1)),
    "optax lamb without decay": ("optax", dict(optimizer="lamb", learning_rate=0.02, eps=1e-3, b1=0.8, mask=False)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", EXACT)
def test_exact_is_their_trajectory(case: str, dtype: torch.dtype) -> None:
    source, arguments = EXACT[case]
    conversion, ours, theirs = both(source, arguments, dtype=dtype, zero=True)
    assert conversion.exact
    assert conversion.tolerance == 0
    assert conversion.differences == ()
    # optax takes 1 − β^t in float32, where 1 − 0.999 has three digits less
    rounding = 1e-4 if source == "optax" and "optimizer" in arguments and dtype == torch.float32 else None
    same(ours, theirs, rounding)
    convert(source, strict=True, **arguments)  # nothing to refuse


@pytest.mark.parametrize("case", json.loads((ROOT / "tests/data/published.json").read_text()))
def test_exact_is_the_published_trajectory(case: str) -> None:
    meta = json.loads((ROOT / "tests/data/published.json").read_text())[case]
    shapes = [tuple(shape) for shape in meta["shapes"]]
    with np.load(ROOT / "tests/data/published.npz") as stored:
        init, slopes, expected = (torch.from_numpy(stored[f"{case}.{kind}"]) for kind in ("init", "grad", "param"))
    sizes = [int(np.prod(shape)) for shape in shapes]
    cut = lambda flat: [x.reshape(shape) for x, shape in zip(flat.split(sizes), shapes, strict=True)]  # noqa: E731

    params = [nn.Parameter(x.clone()) for x in cut(init)]
    conversion = convert("published", optimizer=meta["optimizer"].lower(), **meta["hyperparameters"])
    assert conversion.exact
    optimizer = conversion.build(params)
    for slope, values in zip(slopes, expected, strict=True):
        for p, g in zip(params, cut(slope), strict=True):
            p.grad = g.clone()
        optimizer.step()
        for p, value in zip(params, cut(values), strict=True):
            torch.testing.assert_close(p.detach(), value, rtol=1e-6, atol=1e-6 * float(value.abs().max()))


def test_published_adam_is_lamb_without_ratio() -> None:
    conversion = convert("published", optimizer="lamb", adam=True)
    assert conversion.exact
    assert conversion.weights["layer_adaptation"] is False


FAMILY = dict(
    lr=st.sampled_from([0.05, 0.5, 3.0]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.3]),
    eps=st.sampled_from([0.0, 1e-8, 0.1]),
    nesterov=st.booleans(),
    dampening=st.sampled_from([0.0, 0.25]),
)


def clips(arguments: dict[str, Any], coefficient: str) -> bool:
    """Return whether a bound at lr acts on any layer in the first step."""
    eta, beta, eps = arguments[coefficient], arguments["weight_decay"], arguments["eps"]
    q = [eta * w.norm() / (g.norm() + beta * w.norm() + eps) for _, w, g in norms()]
    return max(map(float, q)) > arguments["lr"]


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({**FAMILY, "trust_coeff": st.sampled_from([1e-3, 0.3])}), st.booleans(), st.booleans())
def test_timm_lars_with_any_arguments(arguments: dict[str, Any], trust_clip: bool, always_adapt: bool) -> None:
    assume(not arguments["nesterov"] or (arguments["momentum"] and not arguments["dampening"]))
    assume(not trust_clip or clips(arguments, "trust_coeff"))
    conversion, ours, theirs = both("timm", {**arguments, "trust_clip": trust_clip, "always_adapt": always_adapt})
    agree(conversion, ours, theirs)
    adapted = always_adapt or arguments["weight_decay"] > 0
    assert conversion.exact == (
        (not adapted or not (arguments["weight_decay"] or arguments["eps"] or trust_clip))
        and not (arguments["momentum"] and arguments["dampening"])
    )


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({**FAMILY, "trust_coefficient": st.sampled_from([1e-3, 0.3])}))
def test_lightly_lars_with_any_arguments(arguments: dict[str, Any]) -> None:
    assume(not arguments["nesterov"] or (arguments["momentum"] and not arguments["dampening"]))
    conversion, ours, theirs = both("lightly", arguments)
    agree(conversion, ours, theirs)
    assert conversion.exact == (
        not arguments["weight_decay"] and not (arguments["momentum"] and arguments["dampening"])
    )


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        dict(
            lr=st.sampled_from([1e-3, 0.1]),
            betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5)]),
            eps=st.sampled_from([0.0, 1e-6, 0.1]),
            weight_decay=st.sampled_from([0.0, 0.01, 0.5]),
            bias_correction=st.booleans(),
            grad_averaging=st.booleans(),
            max_grad_norm=st.sampled_from([None, 1.0]),
            always_adapt=st.booleans(),
            caution=st.booleans(),
            decoupled_decay=st.booleans(),
            corrected_weight_decay=st.booleans(),
        )
    )
)
def test_timm_lamb_with_any_arguments(arguments: dict[str, Any]) -> None:
    assume(not arguments["caution"] or arguments["betas"][0])  # else m̂ and g agree in sign
    conversion, ours, theirs = both("timm", {**arguments, "optimizer": "lamb"})
    agree(conversion, ours, theirs)


def agree(conversion: Conversion, ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    assert conversion.exact == (conversion.tolerance == 0) == (conversion.differences == ())
    if conversion.exact:
        same(ours, theirs)
    else:
        assert apart(ours, theirs) > 1e-10
