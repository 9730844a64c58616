"""Each difference that `convert` names is the right one, and as large as it says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.convert.beside import (
    ROOT,
    STEPS,
    apart,
    both,
    first_steps,
    gradients,
    model,
    norms,
    same,
    theirs_of,
    trajectory,
)
from tvlars import Conversion, convert

pytestmark = pytest.mark.filterwarnings("ignore:.*not adapted:UserWarning")


def only(conversion: Conversion, *words: str) -> None:
    """That the differences are these and no other."""
    assert len(conversion.differences) == len(words), conversion.differences
    for word, difference in zip(words, conversion.differences, strict=True):
        assert word in difference


@pytest.mark.parametrize("source", ["timm", "lightly", "pytorch-optimizer", "apex-larc", "solo-learn"])
def test_weight_decay_below_the_line(source: str) -> None:
    arguments = dict(lr=1.0, momentum=0.0, weight_decay=0.3)
    arguments |= {"apex-larc": dict(clip=False)}.get(source, {})
    arguments |= {} if source == "pytorch-optimizer" else dict(eps=0.0)
    conversion = convert(source, **arguments)
    only(conversion, "|g| + beta |w|", *([] if source == "pytorch-optimizer" else ["gradient is 0"]))
    assert conversion.tolerance == np.inf
    ours = first_steps(conversion.build, zeros=False)
    theirs = first_steps(theirs_of(source, arguments), zeros=False)
    for name, w, g in norms():
        if source == "pytorch-optimizer" and w.ndim == 1:
            torch.testing.assert_close(theirs[name], ours[name], rtol=1e-12, atol=0)
            continue
        factor = (g + 0.3 * w).norm() / (g.norm() + 0.3 * w.norm())
        torch.testing.assert_close(theirs[name], ours[name] * factor, rtol=1e-10, atol=1e-14)
        rho = 0.3 * w.norm() / g.norm()
        assert 1 - 2 * rho / (1 + rho) <= factor <= 1


@pytest.mark.parametrize("beta", [1e-3, 0.3, 10.0])
def test_timm_never_steps_further(beta: float) -> None:
    assert "its trust ratio is never larger" in (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")
    arguments = dict(lr=1.0, weight_decay=beta)
    ours = first_steps(convert("timm", **arguments).build, zeros=False)
    theirs = first_steps(theirs_of("timm", arguments), zeros=False)
    assert all(theirs[name].norm() <= ours[name].norm() for name in ours)


@pytest.mark.parametrize("source", ["timm", "optax", "apex-larc", "solo-learn"])
def test_eps_below_the_line(source: str) -> None:
    arguments: dict[str, Any] = dict(momentum=0.0, eps=0.5)
    arguments["learning_rate" if source == "optax" else "lr"] = 1.0
    arguments |= {"apex-larc": dict(clip=False), "timm": dict(always_adapt=True)}.get(source, {})
    conversion = convert(source, **arguments)
    only(conversion, "eps = 0.5")
    assert conversion.tolerance == 0.5
    ours = first_steps(conversion.build, zeros=False)
    theirs = first_steps(theirs_of(source, arguments), zeros=False)
    for name, _, g in norms():
        torch.testing.assert_close(theirs[name], ours[name] * g.norm() / (g.norm() + 0.5), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("source", "step"), [("timm", 0.3), ("lightly", 0.0), ("apex-larc", 0.0), ("solo-learn", 0.0)])
def test_weights_that_decay_without_a_gradient(source: str, step: float) -> None:
    arguments = dict(lr=0.5, weight_decay=0.3, **({"clip": False} if source == "apex-larc" else {}))
    conversion = convert(source, **arguments)
    ratio = conversion.arguments["trust_coefficient"]

    def silent(net: nn.Module, _: int) -> None:
        for p in net.parameters():
            assert p.grad is not None
            p.grad.zero_()

    ours = first_steps(conversion.build, before=silent)
    theirs = first_steps(theirs_of(source, arguments), before=silent)
    for name, w in model().state_dict().items():
        if name in ours:
            torch.testing.assert_close(ours[name], 0.5 * ratio * w, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(theirs[name], 0.5 * step * w, rtol=1e-10, atol=1e-14)


def test_dampening_spares_the_first_direction() -> None:
    arguments = dict(lr=0.1, momentum=0.5, dampening=0.2)
    conversion, ours, theirs = both("lightly", arguments, steps=3)
    only(conversion, "dampening = 0.2")
    net = model()
    gradients(net, 0)
    for name, p in net.named_parameters():  # lr 0.2 of the first direction, in three steps 1 + 0.5 + 0.25 times
        assert p.grad is not None
        torch.testing.assert_close(ours[3][name] - theirs[3][name], 0.1 * 0.2 * 1.75 * p.grad, rtol=1e-8, atol=1e-12)


def test_dampening_with_nesterov_in_pytorch_optimizer() -> None:
    arguments = dict(lr=0.1, momentum=0.5, dampening=0.2, nesterov=True, trust_coefficient=1.0)
    conversion, ours, theirs = both("pytorch-optimizer", arguments, steps=1)
    only(conversion, "dampening = 0.2")
    for name in ours[0]:  # d + μ 0.8 d there, 0.8 (d + μ d) here
        way, other = ours[1][name] - ours[0][name], theirs[1][name] - theirs[0][name]
        torch.testing.assert_close(way * 1.4 / 1.2, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("lr", [0.05, 3.0])
@pytest.mark.parametrize("source", ["timm", "apex-larc", "solo-learn"])
def test_clip_bounds_the_rate_at_lr(source: str, lr: float) -> None:
    name_of = {
        "timm": ("trust_coeff", "trust_clip"),
        "apex-larc": ("trust_coefficient", "clip"),
        "solo-learn": ("eta", "clip_lr"),
    }
    coefficient, clip = name_of[source]
    arguments: dict[str, Any] = dict(lr=lr, momentum=0.9, eps=0.0, **{coefficient: 1e-3, clip: True})
    if source == "timm":
        arguments["always_adapt"] = True
    conversion, ours, theirs = both(source, arguments)
    only(conversion, f"{clip}=True")
    same(ours, theirs)  # every q is below lr, and those that are 1 since a norm is 0 take lr raw (timm: at most 1)

    arguments |= {coefficient: 20.0, "momentum": 0.0}
    ours = first_steps(convert(source, **arguments).build, zeros=False)
    theirs = first_steps(theirs_of(source, arguments), zeros=False)
    for name, w, g in norms():
        q = float(20.0 * w.norm() / g.norm())
        torch.testing.assert_close(theirs[name] * max(q / lr, 1), ours[name], rtol=1e-10, atol=1e-14)
        assert q > lr or lr > 1


def test_maximize_turns_the_decay_of_apex() -> None:
    arguments = dict(lr=1.0, weight_decay=0.3, maximize=True, clip=False, eps=0.0)
    conversion = convert("apex-larc", **arguments)
    assert "maximize=True" in conversion.differences[-1]
    ours = first_steps(conversion.build, zeros=False)
    theirs = first_steps(theirs_of("apex-larc", arguments), zeros=False)
    for name, w, g in norms():
        for way, toward in ((theirs[name], -g - 0.3 * w), (ours[name], -g + 0.3 * w)):
            assert float(torch.cosine_similarity(way.flatten(), toward.flatten(), 0)) == pytest.approx(1, abs=1e-9)


def test_clipping_of_all_gradients_in_timm_lamb() -> None:
    arguments: dict[str, Any] = dict(optimizer="lamb", max_grad_norm=0.5, weight_decay=0.1, eps=0.1)
    conversion = convert("timm", **arguments)
    only(conversion, "max_grad_norm = 0.5")
    assert conversion.tolerance == pytest.approx(2e-6)
    assert "clip_grad_norm_([p for g in optimizer.param_groups for p in g['params']], 0.5)" in conversion.notes[0]
    theirs = trajectory(theirs_of("timm", arguments))
    assert apart(trajectory(conversion.build), theirs) > 1e-2

    def clip(net: nn.Module, _: int) -> None:
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)

    assert 1e-9 < apart(trajectory(conversion.build, before=clip), theirs) < conversion.tolerance

    def clip_as_they_do(net: nn.Module, _: int) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        for p in net.parameters():
            assert p.grad is not None
            p.grad /= (norm / 0.5).clamp(min=1)

    same(trajectory(conversion.build, before=clip_as_they_do), theirs)


def test_clipping_is_over_the_parameters_of_the_optimizer() -> None:
    """A layer that it does not hold counts for nothing there, nor under the call that the note gives."""
    optim = pytest.importorskip("timm.optim", reason="timm is not installed")
    arguments: dict[str, Any] = dict(max_grad_norm=0.5, weight_decay=0.1, eps=0.1)
    conversion = convert("timm", optimizer="lamb", **arguments)
    call = re.search(r"torch\.nn\.utils\.clip_grad_norm_\(.*, 0\.5\)", conversion.notes[0])
    assert call is not None
    held: dict[str, torch.optim.Optimizer] = {}

    def build(net: nn.Module) -> torch.optim.Optimizer:
        held["optimizer"] = conversion.build(list(net.parameters())[2:])
        return held["optimizer"]

    ours = trajectory(build, before=lambda *_: eval(call[0], {"torch": torch, **held}))
    theirs = trajectory(lambda net: optim.Lamb(list(net.parameters())[2:], **arguments))
    same(ours, theirs, 1e-5)


@pytest.mark.parametrize("optimizer", ["timm", "optax", "published"])
def test_lamb_without_eps_divides_zero_by_zero(optimizer: str) -> None:
    arguments: dict[str, Any] = dict(optimizer="lamb", eps=0.0)
    arguments |= {"timm": dict(max_grad_norm=None), "optax": dict(learning_rate=0.1)}.get(optimizer, {})
    conversion = convert(optimizer, **arguments)
    assert any("eps = 0 divides 0 by 0" in note for note in conversion.notes)
    assert not any("divides" in note for note in convert(optimizer, **{**arguments, "eps": 1e-8}).notes)

    def silence(net: nn.Module, _: int) -> None:
        next(net.parameters()).grad[0, 0] = 0  # type: ignore[index]

    ours = trajectory(conversion.build, before=silence)
    assert all(w.isfinite().all() for w in ours[-1].values())
    if optimizer != "published":
        assert trajectory(theirs_of(optimizer, arguments), before=silence)[-1]["0.weight"].isnan().any()


@pytest.mark.parametrize("corrected", [False, True])
def test_decoupled_decay_of_timm_lamb(corrected: bool) -> None:
    arguments: dict[str, Any] = dict(
        optimizer="lamb",
        lr=0.1,
        weight_decay=0.3,
        decoupled_decay=True,
        max_grad_norm=None,
        corrected_weight_decay=corrected,
    )
    conversion = convert("timm", **arguments)
    only(conversion, "0.97 at lr = 0.1")

    def decay(net: nn.Module, _: int) -> None:
        for p in net.parameters():
            p.data *= 0.97

    theirs = trajectory(theirs_of("timm", arguments))
    same(trajectory(conversion.build, before=decay), theirs)
    assert apart(trajectory(conversion.build), theirs) > 1e-2


def test_sums_instead_of_averages_in_timm_lamb() -> None:
    arguments: dict[str, Any] = dict(optimizer="lamb", weight_decay=0.3, grad_averaging=False, max_grad_norm=None)
    conversion = convert("timm", **arguments)
    only(conversion, "10 times as large")
    same(trajectory(conversion.build, zeros=False), trajectory(theirs_of("timm", arguments), zeros=False))
    ours, theirs = first_steps(conversion.build), first_steps(theirs_of("timm", arguments))
    torch.testing.assert_close(theirs["3.weight"], 10 * ours["3.weight"], rtol=1e-9, atol=0)


def test_trust_clip_of_timm_lamb() -> None:
    arguments: dict[str, Any] = dict(optimizer="lamb", weight_decay=0.1, trust_clip=True, max_grad_norm=None)
    conversion = convert("timm", **arguments)
    only(conversion, "trust_clip=True")

    def shrink(net: nn.Module, step: int) -> None:
        for p in net.parameters():
            p.data *= 1 if step else 0.1

    same(trajectory(conversion.build, before=shrink), trajectory(theirs_of("timm", arguments), before=shrink))

    def grow(net: nn.Module, _: int) -> None:
        for p in net.parameters():
            p.data *= 100

    arguments["weight_decay"] = 1e-6
    ours = trajectory(convert("timm", **arguments).build, steps=1, before=grow, zeros=False)
    theirs = trajectory(theirs_of("timm", arguments), steps=1, before=grow, zeros=False)
    for name, w, g in norms():
        q = float((100 * w).norm() / (g / (g.abs() + 1e-6) + 1e-4 * w).norm())
        way, other = ours[1][name] - 100 * w, theirs[1][name] - 100 * w
        torch.testing.assert_close(way, max(q, 1) * other, rtol=1e-8, atol=1e-12)


def test_caution_of_timm_lamb() -> None:
    arguments: dict[str, Any] = dict(optimizer="lamb", weight_decay=0.0, caution=True, max_grad_norm=None, eps=0.1)
    conversion, ours, theirs = both("timm", arguments, steps=1)
    only(conversion, "caution=True")
    same(ours, theirs)  # in the first step m̂ is g
    _, ours, theirs = both("timm", arguments, steps=2)
    net = model()
    gradients(net, 0)
    g1 = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    gradients(net, 1)
    for name, p in net.named_parameters():
        assert p.grad is not None
        agrees = (0.9 * g1[name] + p.grad) * p.grad > 0
        way, other = (run[2][name] - run[1][name] for run in (ours, theirs))
        torch.testing.assert_close(other, way * agrees / agrees.double().mean(), rtol=1e-8, atol=1e-12)


def rate(step: Any) -> Any:
    return 0.5 / (step + 1)


def under(conversion: Conversion, momentum: bool = False, nesterov: bool = False) -> list[dict[str, Tensor]]:
    """Ours under the schedule, with the momentum corrected where asked."""
    net = model()
    optimizer = conversion.build(net)
    assert conversion.lr_schedule is not None
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, conversion.lr_schedule)
    record = [{name: p.detach().clone() for name, p in net.named_parameters()}]
    for step in range(STEPS):
        if momentum and step:
            optimizer.param_groups[0]["momentum"] = 0.9 * rate(step - 1) / rate(step) / 2
        gradients(net, step)
        optimizer.step()
        scheduler.step()
        record.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return record


@pytest.mark.parametrize("arguments", [dict(momentum=0.0), dict(optimizer="lamb", weight_decay=0.1)], ids=str)
def test_schedule_of_optax_without_momentum(arguments: dict[str, Any]) -> None:
    conversion = convert("optax", learning_rate=rate, **arguments)
    assert conversion.exact
    assert "LambdaLR" in conversion.notes[0]
    assert conversion.arguments["lr"] == 1.0
    same(under(conversion), trajectory(theirs_of("optax", dict(learning_rate=rate, **arguments))), rtol=1e-6)


def test_schedule_of_optax_with_momentum() -> None:
    arguments = dict(learning_rate=rate, momentum=0.45, weight_decay=0.1)
    conversion = convert("optax", **arguments)
    only(conversion, "enters the momentum")
    theirs = trajectory(theirs_of("optax", arguments))
    assert apart(under(conversion), theirs) > 1e-2
    same(under(conversion, momentum=True), theirs, rtol=1e-6)

    conversion = convert("optax", **arguments, nesterov=True)
    assert "makes both equal" not in conversion.differences[0]
    theirs = trajectory(theirs_of("optax", {**arguments, "nesterov": True}))
    assert apart(under(conversion, momentum=True), theirs) > 1e-2


def test_schedule_of_weight_decay_in_optax() -> None:
    arguments: dict[str, Any] = dict(learning_rate=0.5, weight_decay=rate, trust_coefficient=0.1)
    conversion = convert("optax", **arguments)
    only(conversion, "weight_decay is a schedule")
    theirs = trajectory(theirs_of("optax", arguments))
    assert apart(trajectory(conversion.build), theirs) > 1e-4
    built: list[torch.optim.Optimizer] = []

    def build(net: nn.Module) -> torch.optim.Optimizer:
        built.append(conversion.build(net))
        return built[0]

    def decay(_: nn.Module, step: int) -> None:
        built[0].param_groups[0]["weight_decay"] = rate(step)

    same(trajectory(build, before=decay), theirs, rtol=1e-6)


def test_eps_root_of_optax_lamb() -> None:
    arguments: dict[str, Any] = dict(optimizer="lamb", learning_rate=0.1, eps_root=0.5)
    conversion = convert("optax", **arguments)
    only(conversion, "eps_root = 0.5")
    theirs = first_steps(theirs_of("optax", arguments), zeros=False)
    ours = first_steps(conversion.build, zeros=False)
    for name, _, g in norms():
        r = ours[name] / (1 + 0.5 / g**2).sqrt()
        assert float(torch.cosine_similarity(r.flatten(), theirs[name].flatten(), 0)) == pytest.approx(1, abs=1e-8)
