"""Theirs beside ours, step by step, on one model.

apex's LARC and solo-learn's LARS do not install beside current releases: a reference written here from their formula
stands in for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tvlars import Conversion, convert

ROOT = Path(__file__).parent.parent.parent
DTYPES = [torch.float32, torch.float64]
STEPS = 4


def model(dtype: torch.dtype = torch.float64, zeros: bool = True) -> nn.Module:
    """Weights, biases, normalization, and with ``zeros`` a layer of zeros, where q is 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(6, 5), nn.Linear(5, 3))
    for name, p in net.named_parameters():
        nn.init.normal_(p) if p.ndim == 1 else nn.init.normal_(p, std=0.5)
        if zeros and name.startswith("3."):
            nn.init.zeros_(p)
    return net.to(dtype)


def gradients(net: nn.Module, step: int, zero: bool = False) -> None:
    """Random ones; with ``zero`` one layer has none at step 1 (from 0)."""
    g = torch.Generator().manual_seed(step)
    for name, p in net.named_parameters():
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)
        if zero and step == 1 and name == "2.weight":
            p.grad.zero_()


Before = Callable[[nn.Module, int], None]


def trajectory(
    build: Callable[[nn.Module], Any],
    *,
    dtype: torch.dtype = torch.float64,
    steps: int = STEPS,
    zeros: bool = True,
    zero: bool = False,
    before: Before | None = None,
) -> list[dict[str, Tensor]]:
    """Parameters by name, at the start and after each step."""
    net = model(dtype, zeros)
    optimizer = build(net)
    record = [{name: p.detach().clone() for name, p in net.named_parameters()}]
    for step in range(steps):
        gradients(net, step, zero)
        if before is not None:
            before(net, step)
        optimizer.step()
        record.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return record


def same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]], rtol: float | None = None) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for name in a:
            tolerance = rtol or (1e-6 if a[name].dtype == torch.float32 else 1e-12)
            torch.testing.assert_close(
                a[name],
                b[name],
                rtol=tolerance,
                atol=tolerance * float(b[name].abs().max()),
            )


def apart(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> float:
    """The largest difference of a layer's way in all steps, relative to that way."""
    return max(
        float((ours[-1][name] - theirs[-1][name]).norm() / (theirs[-1][name] - theirs[0][name]).norm())
        for name in ours[0]
    )


def first_steps(build: Callable[[nn.Module], Any], **how: Any) -> dict[str, Tensor]:
    start, end = trajectory(build, steps=1, **how)
    return {name: start[name] - end[name] for name in start}


def norms(zeros: bool = False) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, weights and gradient of every parameter at the first step."""
    net = model(zeros=zeros)
    gradients(net, 0)
    for name, p in net.named_parameters():
        assert p.grad is not None
        yield name, p.detach(), p.grad


def theirs_of(source: str, arguments: dict[str, Any]) -> Callable[[nn.Module], Any]:
    """Their optimizer on the parameters of a model."""
    arguments = dict(arguments)
    if source == "timm":
        optim = pytest.importorskip("timm.optim", reason="timm is not installed")
        if "opt" in arguments:
            return lambda net: optim.create_optimizer_v2(net, **arguments)
        cls = {"lars": optim.Lars, "lamb": optim.Lamb}[arguments.pop("optimizer", "lars")]
    elif source == "lightly":
        cls = pytest.importorskip("lightly.utils.lars", reason="lightly is not installed").LARS
    elif source == "pytorch-optimizer":
        cls = pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed").LARS
    elif source == "optax":
        return lambda net: Optax(net, arguments)
    else:
        return lambda net: Reference(net, source, **arguments)
    return lambda net: cls(list(net.parameters()), **arguments)


class Reference:
    """apex's LARC around SGD, and solo-learn's LARS, from their formula.

    d = (g + βw) min(η‖w‖ / (‖g‖ + β‖w‖ + eps), lr) / lr, the minimum where they clip; d = g where a norm is 0, and for
    vectors that solo-learn excludes. Then SGD's step without decay.
    """

    def __init__(self, net: nn.Module, source: str, **theirs: Any) -> None:
        apex = source == "apex-larc"
        self.eta = theirs.pop("trust_coefficient", 0.02) if apex else theirs.pop("eta", 1e-3)
        self.clip = theirs.pop("clip", True) if apex else theirs.pop("clip_lr", False)
        self.eps, self.beta = theirs.pop("eps", 1e-8), theirs.pop("weight_decay", 0.0)
        self.excludes = theirs.pop("exclude_bias_n_norm", False)
        self.sgd = torch.optim.SGD(net.parameters(), **theirs)

    def step(self) -> None:
        for group in self.sgd.param_groups:
            for p in group["params"]:
                w, g = p.detach(), p.grad
                if (self.excludes and p.ndim == 1) or not w.norm() or not g.norm():
                    continue
                q = self.eta * w.norm() / (g.norm() + self.beta * w.norm() + self.eps)
                p.grad = (g + self.beta * w) * (min(q / group["lr"], 1.0) if self.clip else q)
        self.sgd.step()


class Optax:
    """An optax transformation that steps a torch model; in float64 where the model is."""

    def __init__(self, net: nn.Module, arguments: dict[str, Any]) -> None:
        self.jax = pytest.importorskip("jax", reason="jax is not installed")
        optax = pytest.importorskip("optax", reason="optax is not installed")
        arguments = {name: value for name, value in arguments.items() if name != "params"}
        self.params = dict(net.named_parameters())
        self.wide = next(net.parameters()).dtype == torch.float64
        with self.jax.enable_x64(self.wide):
            self.update = getattr(optax, arguments.pop("optimizer", "lars"))(**arguments)
            self.apply = optax.apply_updates
            self.state = self.update.init(self.values())

    def values(self) -> dict[str, Any]:
        return {name: self.jax.numpy.asarray(p.detach().numpy().copy()) for name, p in self.params.items()}

    def step(self) -> None:
        with self.jax.enable_x64(self.wide):
            slopes = {name: self.jax.numpy.asarray(p.grad.numpy().copy()) for name, p in self.params.items()}
            updates, self.state = self.update.update(slopes, self.state, self.values())
            for name, value in self.apply(self.values(), updates).items():
                self.params[name].data.copy_(torch.from_numpy(np.array(value)))


def both(
    source: str, arguments: dict[str, Any], **how: Any
) -> tuple[Conversion, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    conversion = convert(source, **arguments)
    ours = trajectory(conversion.build, **how)
    return conversion, ours, trajectory(theirs_of(source, arguments), **how)
