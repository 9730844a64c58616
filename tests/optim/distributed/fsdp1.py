"""FullyShardedDataParallel makes flat shards, which have no layers' norms: they are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from tests.conftest import OPTIMIZERS
from tests.optim.distributed.harness import check
from tests.optim.distributed.problems import backward, batches, network
from tvlars import layer_groups

ADVICE = (
    r"needs whole layers, .*FullyShardedDataParallel \(FSDP1\).*with torch\.distributed\.fsdp\.fully_shard \(FSDP2\)$"
)


def flat(model: nn.Module, use_orig_params: bool) -> FullyShardedDataParallel:
    return FullyShardedDataParallel(model, use_orig_params=use_orig_params, device_id=torch.device("cpu"))


@check(2)
def is_refused(name: str) -> None:
    """Both kinds of it, in the constructor and in ``add_param_group``, which leaves the optimizer as it was."""
    cls, arguments = OPTIMIZERS[name]
    for use_orig_params in (False, True):
        model = flat(network(), use_orig_params)
        for params in (model.parameters(), model.named_parameters(), [{"params": list(model.parameters())}]):
            with pytest.raises(ValueError, match=f"^{cls.__name__} {ADVICE}"):
                cls(params, **arguments)
        optimizer = cls(nn.Linear(2, 2).parameters(), **arguments)
        with pytest.raises(ValueError, match=f"^{cls.__name__} {ADVICE}"):
            optimizer.add_param_group({"params": model.parameters()})
        assert len(optimizer.param_groups) == 1
        with pytest.raises(ValueError, match=f"^layer_groups {ADVICE}"):
            layer_groups(model, weight_decay=0.1)


@check(2)
def is_refused_in_the_first_step_after_wrapping(name: str) -> None:
    """With ``use_orig_params`` an optimizer that was made before holds the very parameters that are cut afterwards."""
    cls, arguments = OPTIMIZERS[name]
    model = network()
    optimizer = cls(model.parameters(), **arguments)
    wrapped = flat(model, use_orig_params=True)
    backward(wrapped, next(batches(1)))
    before = [p.detach().clone() for p in wrapped.parameters()]
    with pytest.raises(ValueError, match=ADVICE):
        optimizer.step()
    for p, value in zip(wrapped.parameters(), before, strict=True):
        assert torch.equal(p, value)


@check(2)
def what_it_ignores_is_taken(name: str) -> None:
    """Parameters that FSDP1 was told to leave alone are whole layers."""
    cls, arguments = OPTIMIZERS[name]
    model = network()
    FullyShardedDataParallel(model, ignored_states=list(model[3].parameters()), device_id=torch.device("cpu"))
    cls(model[3].parameters(), **arguments)
