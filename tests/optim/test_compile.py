"""torch.compile(optimizer.step): right, and compiled twice at most (without state, and with it)."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import OPTIMIZERS, run, set_gradients, tensors
from tvlars import LARS


@pytest.mark.filterwarnings("ignore")
def test_no_recompilation_a_step(name: str, path: dict[str, Any]) -> None:
    """The learning rate moves, as under a scheduler: as a tensor it is an input, not a reason to compile again."""
    from torch._dynamo.testing import CompileCounter  # takes a second

    cls, arguments = OPTIMIZERS[name]
    start, tensor_lr = arguments["lr"], not path.get("foreach")  # foreach=True wants a number where not capturable
    # what is traced grows with the number of tensors: one of four dimensions, one of none, and one of zeros
    params, expected = ([tensors()[i] for i in (0, 3, 5)] for _ in range(2))
    compiled = cls(params, **{**arguments, "lr": torch.tensor(start) if tensor_lr else start}, **path)
    plain = cls(expected, **arguments, foreach=False)
    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(compiled.step, backend=counter)
    for t in range(8):
        if tensor_lr:
            compiled.param_groups[0]["lr"].fill_(start * 0.9**t)
            plain.param_groups[0]["lr"] = start * 0.9**t
        set_gradients(params, t)
        step()
        run(plain, expected, range(t, t + 1))
        if t == 1:
            frames = counter.frame_count
            assert frames <= 2
    assert counter.frame_count == frames
    # with the count in float32, 1 - β₂^t has fewer digits
    torch.testing.assert_close([p.detach() for p in params], [p.detach() for p in expected], rtol=2e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_with_the_default_compiler() -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and g++ is not installed")
    from torch._inductor import config

    cls, arguments = OPTIMIZERS["tvlars"]
    params, expected = ([nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))] for _ in range(2))
    compiled, plain = cls(params, **arguments), cls(expected, **arguments)
    torch._dynamo.reset()
    step = torch.compile(compiled.step)
    # a header compiled in advance and a pool of processes take longer than the few kernels of one parameter
    with config.patch({"cpp_cache_precompile_headers": False, "compile_threads": 1}):
        for t in range(4):
            set_gradients(params, t)
            step()
            run(plain, expected, range(t, t + 1))
    torch.testing.assert_close(params, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("foreach", [False, True])
def test_steps_have_their_length_whatever_the_size_of_weights_and_gradients(foreach: bool) -> None:
    for w, g in ((-30, 30), (30, -30), (25, 25)):
        p = nn.Parameter(torch.tensor([3.0, 4.0]) * 10.0**w)
        p.grad = torch.tensor([0.6, 0.8]) * 10.0**g
        optimizer = LARS([p], 1.0, momentum=0.0, trust_coefficient=0.25, foreach=foreach)
        torch._dynamo.reset()
        torch.compile(optimizer.step, backend="eager")()
        torch.testing.assert_close(p.detach() / 10.0**w, torch.tensor([2.25, 3.0]), rtol=1e-5, atol=0)
