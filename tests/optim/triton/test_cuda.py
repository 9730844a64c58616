"""The fused step on a GPU; ``test_interpreted.py``, ``test_compiled.py`` and ``test_paths.py`` need none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.conftest import OPTIMIZERS, tensors
from tvlars import LAMB, LARS, TVLARS
from tvlars.optim.triton import availability
from tvlars.optim.triton.launcher import Launcher
from tvlars.stats import LayerStats

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
DEVICE = torch.device("cuda", torch.cuda.current_device())
if reason := availability.why_not(DEVICE):
    pytest.skip(reason, allow_module_level=True)

GIB = 2**30


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of parts of each call of the launcher."""
    done, run = [], Launcher.run

    def counted(self: Launcher, parts: Any, *arguments: Any) -> None:
        done.append(len(parts))
        run(self, parts, *arguments)

    monkeypatch.setattr(Launcher, "run", counted)
    return done


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def layers(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Small ones, one of several chunks, one in channels_last, an empty one; and views that are not aligned."""
    g = torch.Generator().manual_seed(7)
    large, image, buffer = (
        torch.randn(n, generator=g).to(DEVICE, dtype) for n in ((300, 1001), (64, 128, 3, 3), 20_001)
    )
    others = [large, image.contiguous(memory_format=torch.channels_last), torch.ones(0, 3), *buffer[1:].split(9_999)]
    return [nn.Parameter(p.detach().to(DEVICE, dtype)) for p in (*tensors(), *others)]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    """As in conftest; drawn on the host, and sent without a wait to where a gradient is already."""
    g = torch.Generator().manual_seed(1000 + step)
    for p in params:
        value = torch.randn(p.shape, generator=g).to(p.dtype).pin_memory()
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(value, non_blocking=True)


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> list[Tensor]:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
    return [p.detach().clone() for p in params]


def two_groups(name: str, **options: Any) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    cls, arguments = OPTIMIZERS[name]
    params = layers()
    groups = [{"params": params[:-3]}, {"params": params[-3:], "layer_adaptation": False, "lr": 0.05}]
    return params, cls(groups, **{**arguments, **options})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2), (torch.float16, 2e-2)])
@pytest.mark.parametrize("maximize", [False, True])
def test_default_is_fused_and_agrees_with_the_for_loop(
    name: str, maximize: bool, dtype: torch.dtype, tolerance: float, launches: list[int]
) -> None:
    """For half precision the for-loop is run in float32, since it rounds after each operation."""
    cls, arguments = OPTIMIZERS[name]
    arguments = {**arguments, "eps": 1e-2} if cls is LAMB and dtype != torch.float32 else arguments
    ours, exact = layers(dtype), [nn.Parameter(p.detach().float()) for p in layers(dtype)]
    a, b = cls(ours, **arguments, maximize=maximize), cls(exact, **arguments, maximize=maximize, foreach=False)
    for step in range(4):
        set_gradients(ours, step)
        for p, q in zip(ours, exact, strict=True):
            q.grad = p.grad.float()  # type: ignore[union-attr]
        a.step()
        b.step()
    assert launches == [1] * 4
    for p, q in zip(ours, exact, strict=True):
        torch.testing.assert_close(p.float(), q, rtol=tolerance, atol=tolerance)


def test_two_runs_are_the_same_bit_for_bit(name: str) -> None:
    results = []
    for _ in range(2):
        params, optimizer = two_groups(name)
        results.append(run(optimizer, params, range(5)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"lr": 0.25}])
def test_a_step_never_waits(name: str, options: dict[str, Any]) -> None:
    if "lr" in options:
        options = {"lr": torch.tensor(options["lr"], device=DEVICE)}
    params, optimizer = two_groups(name, **options)
    others, plain = two_groups(name, foreach=False, **({"lr": 0.25} if "lr" in options else {}))
    for step in range(3):
        set_gradients(params, step)
        with no_waiting():
            optimizer.step()
    torch.testing.assert_close([*params], run(plain, others, range(3)), rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_grad_scaler_does_not_wait_either(name: str, capturable: bool) -> None:
    params, optimizer = two_groups(name, fused=True, capturable=capturable)
    others, plain = two_groups(name, foreach=False)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0, growth_interval=10_000)
    scaler.scale(torch.ones((), device=DEVICE))  # it makes its tensors when it is first used
    for step, factor in enumerate((1.0, math.inf, 2.0)):
        set_gradients(params, step)
        scale = scaler.get_scale()
        for p in params:
            p.grad *= scale * factor  # type: ignore[operator]
        before = [p.detach().clone() for p in params]
        gradients = [p.grad.clone() for p in params]  # type: ignore[union-attr]
        with no_waiting():
            scaler.step(optimizer)
            scaler.update()
        if math.isfinite(factor):
            set_gradients(others, step)
            for q in others:
                q.grad *= factor  # type: ignore[operator]
            plain.step()
            assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients, strict=True))  # type: ignore[arg-type]
        else:
            assert all(torch.equal(p, x) for p, x in zip(params, before, strict=True))
    torch.testing.assert_close([*params], [*others], rtol=5e-6, atol=5e-6)
    clocks = [x[k] for x in (*optimizer.param_groups, *optimizer.state.values()) for k in ("clock", "step") if k in x]
    assert all(float(clock) == 2.0 for clock in clocks)


def test_a_cuda_graph(name: str) -> None:
    """Captured twice in a row, and replayed with other gradients and another lr."""
    lr = torch.tensor(0.1, device=DEVICE)
    params, optimizer = two_groups(name, capturable=True, lr=lr)
    others, plain = two_groups(name, foreach=False, lr=0.1)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(optimizer, params, range(2))
    torch.cuda.current_stream().wait_stream(stream)
    set_gradients(params, 2)  # at addresses that stay
    graphs = [torch.cuda.CUDAGraph() for _ in range(2)]
    for graph in graphs:
        with torch.cuda.graph(graph):
            optimizer.step()
    others_memory = [torch.full((2**k,), 255, dtype=torch.uint8).pin_memory() for k in range(8, 18) for _ in range(8)]
    run(plain, others, range(2))
    for step in range(2, 8):
        set_gradients(params, step)
        lr.fill_(0.1 * 0.8**step)
        plain.param_groups[0]["lr"] = 0.1 * 0.8**step
        graphs[step % 2].replay()
        run(plain, others, range(step, step + 1))
    torch.testing.assert_close([*params], [*others], rtol=1e-5, atol=1e-5)
    assert others_memory  # lies where the graphs would copy from if their memory had been given back


def test_capture_wants_capturable(name: str) -> None:
    params, optimizer = two_groups(name)
    run(optimizer, params, range(2))
    with pytest.raises(RuntimeError, match="capturable must be True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


def test_gradients_made_anew_in_every_step(name: str) -> None:
    """Their addresses change while earlier steps have not been taken yet."""
    params, optimizer = two_groups(name)
    others, plain = two_groups(name, foreach=False)
    kept = []
    for step in range(20):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.full_like(p, 0.1 * step - 0.7)
            q.grad = p.grad.clone()
            kept.append(p.grad if step % 3 else None)
        optimizer.step()
        plain.step()
    torch.testing.assert_close([*params], [*others], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("cls", [LARS, LAMB])
def test_ten_thousand_tensors(cls: Any) -> None:
    values, gradients = torch.randn(2, 10_000, 2, 3, device=DEVICE).unbind()
    results = []
    for path in ({}, {"foreach": False}):
        params = [nn.Parameter(x.clone()) for x in values]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer = cls(params, 0.1, **path)
        optimizer.step()
        optimizer.step()
        results.append(torch.stack([p.detach() for p in params]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(torch.cuda.mem_get_info()[0] < 24 * GIB, reason="the GPU has less than 24 GiB left")
@pytest.mark.parametrize("cls", [LARS, LAMB])
def test_a_layer_of_more_than_2_to_the_31_elements(cls: Any) -> None:
    w = nn.Parameter(torch.ones(2**31 + 4321, dtype=torch.bfloat16, device=DEVICE))
    w.grad = torch.ones_like(w)
    arguments = dict(trust_coefficient=0.5, momentum=0.5) if cls is LARS else dict(weight_decay=0.0)
    cls([w], 0.5, **arguments).step()
    assert w[0].item() == w[-1].item() == pytest.approx(0.75 if cls is LARS else 0.5, abs=0.004)
    assert all((part == w[0]).all() for part in w.detach().split(2**28))


def test_on_a_stream_and_a_device_that_are_not_the_current_ones(name: str) -> None:
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    cls, arguments = OPTIMIZERS[name]
    ours, others = ([nn.Parameter(p.detach().to(last)) for p in tensors()] for _ in range(2))
    stream = torch.cuda.Stream(last)
    stream.wait_stream(torch.cuda.current_stream(last))
    with torch.cuda.stream(stream), torch.cuda.device(0):
        run(cls(ours, **arguments), ours, range(3))
    torch.cuda.current_stream(last).wait_stream(stream)
    run(cls(others, **arguments, foreach=False), others, range(3))
    torch.testing.assert_close(ours, others, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
def test_layer_stats_without_a_wait(cls: Any) -> None:
    frames = []
    for path in ({}, {"foreach": False}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30), nn.Linear(30, 2)).to(DEVICE)
        params = list(model.parameters())
        length = dict(total_steps=9) if cls is TVLARS else {}
        optimizer = cls(params, lr=0.1, weight_decay=0.1, **length, **path)
        with LayerStats(optimizer, model, every=1) as stats:
            for step in range(3):
                set_gradients(params, step)
                with no_waiting():
                    optimizer.step()
        frames.append(stats.frame().sort_values(["step", "layer", "quantity"]).reset_index(drop=True))
    a, b = (torch.tensor(frame.value.to_numpy()) for frame in frames)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


def test_sharded_layers_take_the_multi_tensor_path(name: str, tmp_path: Path, launches: list[int]) -> None:
    """One process, whose shards are the whole layers; two are in tests/optim/distributed/fsdp2.py, on CPUs."""
    from torch.distributed.fsdp import fully_shard

    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)).to(DEVICE)

    cls, arguments = OPTIMIZERS[name]
    alone, sharded = network(), network()
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fully_shard(sharded)
        a, b = cls(alone.parameters(), **arguments), cls(sharded.parameters(), **arguments, fused=True)
        for step in range(3):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(DEVICE)
            for model, optimizer in ((alone, a), (sharded, b)):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
        assert len(launches) == 3  # of the one that is not sharded
        for p, q in zip(alone.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(q.full_tensor(), p, rtol=1e-5, atol=1e-6)  # type: ignore[attr-defined]
    finally:
        dist.destroy_process_group()
