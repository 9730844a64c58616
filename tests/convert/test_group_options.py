"""Options of groups: those that act per group there act here, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.convert.beside import Reference, apart, gradients, model, same, trajectory
from tvlars import convert

pytestmark = pytest.mark.filterwarnings("ignore:.*not adapted:UserWarning")

Make = Callable[[Any, dict[str, Any]], torch.optim.Optimizer]


def their_class(source: str) -> Make:
    if source == "timm lamb":
        cls = pytest.importorskip("timm.optim", reason="timm is not installed").Lamb
    elif source == "timm lars":
        cls = pytest.importorskip("timm.optim", reason="timm is not installed").Lars
    elif source == "lightly":
        cls = pytest.importorskip("lightly.utils.lars", reason="lightly is not installed").LARS
    else:
        cls = pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed").LARS
    return lambda params, arguments: cls(params, **arguments)


LAMB = dict(lr=0.01, weight_decay=0.1, max_grad_norm=None)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool]] = {
    # source, arguments, options of the group, whether they act there
    "clipping left to the group": ("timm lamb", {**LAMB, "max_grad_norm": 0.01}, dict(max_grad_norm=None), False),
    "clipping by the group": ("timm lamb", LAMB, dict(max_grad_norm=0.01), False),
    "maximize in Lamb": ("timm lamb", LAMB, dict(maximize=True), False),
    "norm_clip in Lamb": ("timm lamb", LAMB, dict(norm_clip=0.1), False),
    "betas in Lamb": ("timm lamb", LAMB, dict(betas=(0.5, 0.6)), True),
    "always_adapt in Lamb": ("timm lamb", {**LAMB, "weight_decay": 0.0}, dict(always_adapt=True), True),
    "maximize in timm's Lars": ("timm lars", dict(lr=0.1), dict(maximize=True), False),
    "our name of η": ("timm lars", dict(always_adapt=True, eps=0.0), dict(trust_coefficient=10.0), False),
    "their name of η": ("timm lars", dict(always_adapt=True, eps=0.0), dict(trust_coeff=10.0), True),
    "no adaptation": ("timm lars", dict(always_adapt=True, eps=0.0), dict(layer_adaptation=False), False),
    "maximize in lightly": ("lightly", dict(lr=0.1), dict(maximize=True), False),
    "momentum in lightly": ("lightly", dict(lr=0.1), dict(momentum=0.9), True),
    "maximize in pytorch-optimizer": ("pytorch-optimizer", dict(lr=0.1), dict(maximize=True), False),
    "η in pytorch-optimizer": ("pytorch-optimizer", dict(lr=0.1), dict(trust_coefficient=1.0), True),
}


@pytest.mark.parametrize("case", CASES)
def test_an_option_of_a_group_acts_as_it_does_there(case: str) -> None:
    source, arguments, extra, acts = CASES[case]
    make = their_class(source)
    groups = lambda net, **more: [dict(params=list(net.parameters()), **more)]  # noqa: E731
    name, _, optimizer = source.partition(" ")
    which = dict(optimizer=optimizer) if optimizer else {}
    conversion = convert(name, params=groups(net := model(), **extra), **which, **arguments)
    theirs = trajectory(lambda net: make(groups(net, **extra), arguments))
    without = trajectory(lambda net: make(groups(net), arguments))
    assert (apart(theirs, without) > 1e-3) == acts

    clip = arguments.get("max_grad_norm")
    assert conversion.exact == (clip is None)
    mentioned = any(f"{next(iter(extra))} in a group has no effect" in note for note in conversion.notes)
    assert mentioned != acts

    def before(net: nn.Module, _: int) -> None:
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)

    ours = trajectory(
        lambda net: convert(name, params=groups(net, **extra), **which, **arguments).build(), before=before
    )
    same(ours, theirs, 1e-3 if clip else None)  # torch's clipping adds 1e-6 to the norm
    assert conversion.groups()[0]["params"][0] is next(net.parameters())


def test_options_of_larc_are_not_read_from_a_group() -> None:
    sgd = lambda net: torch.optim.SGD([dict(params=list(net.parameters()), clip=True, eps=1.0)], lr=0.1)  # noqa: E731
    conversion = convert("apex-larc", optimizer=sgd(model()), clip=False, eps=0.0)
    assert conversion.exact
    assert [note.split()[0] for note in conversion.notes] == ["clip", "eps"]
    ours = trajectory(lambda net: convert("apex-larc", optimizer=sgd(net), clip=False, eps=0.0).build())
    same(ours, trajectory(lambda net: Reference(net, "apex-larc", lr=0.1, clip=False, eps=0.0)))
    assert "clip" not in conversion.build().param_groups[0]


def test_adam_of_the_published_lamb_is_the_constructors() -> None:
    conversion = convert("published", optimizer="lamb", params=[dict(params=list(model().parameters()), adam=True)])
    assert conversion.weights["layer_adaptation"]
    assert "adam in a group has no effect" in conversion.notes[0]


def test_optax_has_no_groups() -> None:
    groups = [dict(params=list(model().parameters()), weight_decay=0.5)]
    conversion = convert("optax", learning_rate=0.1, params=groups)
    assert conversion.weights["weight_decay"] == 0.0
    assert "weight_decay in a group has no effect" in conversion.notes[0]


def test_what_others_read_from_a_group_stays() -> None:
    conversion = convert("timm", params=[dict(params=list(model().parameters()), lr_scale=0.5, name="all")])
    assert conversion.notes == ()
    (group,) = conversion.groups()
    assert (group["lr_scale"], group["name"]) == (0.5, "all")


def test_groups_that_repeat_the_constructor_are_no_news() -> None:
    optim = pytest.importorskip("timm.optim", reason="timm is not installed")
    theirs = optim.Lamb(model().parameters(), **LAMB)
    conversion = convert("timm", optimizer="lamb", params=theirs.param_groups, **LAMB)
    assert conversion.exact
    assert conversion.notes == ()
    sgd = torch.optim.SGD(model().parameters(), lr=0.1, differentiable=False)
    assert convert("apex-larc", optimizer=sgd, clip=False, eps=0.0).notes == ()


def test_corrected_decay_is_by_the_lr_of_the_constructor() -> None:
    optim = pytest.importorskip("timm.optim", reason="timm is not installed")
    arguments: dict[str, Any] = dict(
        lr=0.2, weight_decay=0.5, decoupled_decay=True, corrected_weight_decay=True, max_grad_norm=None
    )
    groups = lambda net: [dict(params=list(net.parameters()), lr=0.1)]  # noqa: E731
    build = lambda net: convert("timm", optimizer="lamb", params=groups(net), **arguments).build()  # noqa: E731
    (difference,) = convert("timm", optimizer="lamb", params=groups(model()), **arguments).differences
    assert "(0.975 at lr = 0.1)" in difference
    assert "max_lr = 0.2" in difference

    def decay(net: nn.Module, _: int) -> None:
        for p in net.parameters():
            p.data *= 0.975

    same(trajectory(build, before=decay), trajectory(lambda net: optim.Lamb(groups(net), **arguments)))
    with pytest.raises(ValueError, match=r"lr must be > 0 .*corrected_weight_decay divides.*, got 0"):
        convert("timm", optimizer="lamb", corrected_weight_decay=True, decoupled_decay=True, lr=0.0)


@pytest.mark.parametrize("dampening", [0.0, 0.2])
def test_momentum_of_an_sgd_that_has_stepped(dampening: float) -> None:
    how: dict[str, Any] = dict(lr=0.5, momentum=0.9, dampening=dampening)
    larc = dict(clip=False, eps=0.0)
    taken = [
        Reference(net := model(), "apex-larc", **larc, **how),
        Reference(other := model(), "apex-larc", **larc, **how),
    ]
    for step in range(2):
        for one, optimizer in zip((net, other), taken, strict=True):
            gradients(one, step)
            optimizer.step()
    conversion = convert("apex-larc", optimizer=taken[0].sgd, **larc)
    (note,) = conversion.notes
    assert "momentum buffers start at 0" in note
    assert ("divided by 1 - dampening" in note) == (dampening > 0)

    ours = conversion.build()
    for p, state in taken[0].sgd.state.items():  # as the note says
        ours.state[p]["momentum_buffer"] = state["momentum_buffer"] / (1 - dampening)
    for step in range(2, 4):
        gradients(net, step)
        gradients(other, step)
        ours.step()
        taken[1].step()
    if not dampening:
        assert conversion.exact
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_an_sgd_without_buffers_says_nothing_of_momentum() -> None:
    sgd = torch.optim.SGD((net := model()).parameters(), lr=0.1)
    gradients(net, 0)
    sgd.step()
    assert convert("apex-larc", optimizer=sgd).notes == ()
