"""A rule that is added gets the contract suite by its line in ``OPTIMIZERS``, and the suite finds its faults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.conftest import OPTIMIZERS, PATHS
from tests.optim import test_contract as contract
from tvlars._checks import check_number
from tvlars.optim._loading import Kind
from tvlars.optim.foreach import MultiTensor
from tvlars.optim.layerwise import Form, LayerwiseOptimizer


class Options(NamedTuple):
    """Options of ``SignedMomentum``."""

    lr: Any
    momentum: Any
    weight_decay: Any
    layer_adaptation: bool
    maximize: bool


class SignedMomentum(LayerwiseOptimizer):
    """A small rule: m ← μ m + g, w ← w − lr (sign(m) + βw)."""

    _kind = Kind("a SignedMomentum", frozenset(("momentum",)), ("momentum_buffer",))
    _options = Options

    def __init__(
        self, params: Any, lr: Any, *, momentum: float = 0.5, weight_decay: float = 0.0, **options: Any
    ) -> None:
        usual = dict(maximize=False, foreach=None, fused=None, capturable=False, differentiable=False)
        super().__init__(params, {**usual, "lr": lr, "momentum": momentum, "weight_decay": weight_decay, **options})

    def _forms(self) -> Mapping[str, Form]:
        return {"for-loop": single_tensor, "foreach": multi_tensor}

    def _check_group(self, group: dict[str, Any]) -> None:
        check_number("momentum", group["momentum"], high=1.0, open_high=True)
        check_number("weight_decay", group["weight_decay"])


def single_tensor(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], options: Options, observe: Any = None
) -> None:
    for w, g, m in zip(params, grads, buffers, strict=True):
        m.mul_(options.momentum).add_(g, alpha=-1 if options.maximize else 1)
        w.sub_((m.sign() + options.weight_decay * w) * options.lr)


def multi_tensor(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], options: Options, observe: Any = None
) -> MultiTensor:
    torch._foreach_mul_(buffers, options.momentum)
    torch._foreach_add_(buffers, grads, alpha=-1 if options.maximize else 1)
    directions = torch._foreach_add(torch._foreach_sign(buffers), params, alpha=options.weight_decay)
    torch._foreach_sub_(params, torch._foreach_mul(directions, options.lr))
    yield from ()


class BrokenForeach(SignedMomentum):
    """Takes twice the step on the multi-tensor path."""

    def _forms(self) -> Mapping[str, Form]:
        def twice(params: Any, grads: Any, buffers: Any, options: Options, observe: Any = None) -> MultiTensor:
            return multi_tensor(params, grads, buffers, options._replace(lr=2 * options.lr), observe)

        return {"for-loop": single_tensor, "foreach": twice}


class UnsavedState(SignedMomentum):
    """Leaves its state out of ``state_dict``."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


class UncheckedOption(SignedMomentum):
    """Takes any momentum."""

    def _check_group(self, group: dict[str, Any]) -> None:
        check_number("weight_decay", group["weight_decay"])


def contract_cases(cls: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Tests of the contract suite for ``cls`` by what they ask about, as its line in ``OPTIMIZERS`` makes them."""
    name = cls.__name__
    monkeypatch.setitem(OPTIMIZERS, name, (cls, dict(lr=0.01, weight_decay=0.01)))

    def make(params: Any, **arguments: Any) -> torch.optim.Optimizer:
        made, defaults = OPTIMIZERS[name]
        return made(params, **{**defaults, **PATHS["foreach"], **arguments})

    return {
        "paths": partial(
            contract.test_every_path_agrees_with_the_for_loop, make, name, torch.float64, 1e-12, False, 0.05
        ),
        "state": partial(contract.test_a_loaded_state_goes_on_bit_for_bit, make),
        "options": partial(contract.test_every_number_is_checked, name),
    }


@pytest.mark.parametrize(
    ("cls", "fault"),
    [(SignedMomentum, None), (BrokenForeach, "paths"), (UnsavedState, "state"), (UncheckedOption, "options")],
)
def test_the_contract_suite_finds_the_fault_of_a_rule(
    cls: Any, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for about, case in contract_cases(cls, monkeypatch).items():
        if about == fault:
            with pytest.raises((AssertionError, pytest.fail.Exception)):
                case()
        else:
            case()


class TwoTensors(SignedMomentum):
    """Keeps ``momentum_buffer`` and ``total``, or ``total`` alone if momentum is 0.

    ``seen`` has the lengths of the lists that the form got.
    """

    _kind = Kind("a TwoTensors", frozenset(("momentum",)), ("momentum_buffer", "total"))
    seen: tuple[int, int]

    def _kept(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._kind.tensors if group["momentum"] else ("total",)

    def _forms(self) -> Mapping[str, Form]:
        def form(params: Any, grads: Any, buffers: Any, totals: Any, options: Options, observe: Any = None) -> None:
            self.seen = (len(buffers), len(totals))
            for g, total in zip(grads, totals, strict=True):
                total.add_(g)

        return {"for-loop": form}


@pytest.mark.parametrize(("momentum", "seen"), [(0.5, (2, 2)), (0.0, (0, 2))])
def test_state_that_a_group_does_not_keep_leaves_the_rest_in_its_place(momentum: float, seen: tuple[int, int]) -> None:
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    optimizer = TwoTensors(params, lr=0.1, momentum=momentum, foreach=False)
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    assert optimizer.seen == seen
    for p in params:
        assert set(optimizer.state[p]) == {"total", *(["momentum_buffer"] if momentum else [])}
        assert torch.equal(optimizer.state[p]["total"], torch.full_like(p, 2.0))


def test_state_that_a_rule_does_not_have_is_an_error() -> None:
    class Misspelled(SignedMomentum):
        def _kept(self, group: dict[str, Any]) -> tuple[str, ...]:
            return ("momentum_bufer",)

    w = torch.nn.Parameter(torch.ones(3))
    optimizer = Misspelled([w], lr=0.1)
    w.grad = torch.ones_like(w)
    with pytest.raises(ValueError, match=r"Misspelled\._kept must return names from _kind, got momentum_bufer"):
        optimizer.step()
