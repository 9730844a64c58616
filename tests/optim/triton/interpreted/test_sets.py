"""Sizes, layouts, groups, and what changes from step to step."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import OPTIMIZERS, run, set_gradients, tensors
from tests.optim.triton.interpreted.conftest import Launches
from tvlars import LAMB, LARS, TVLARS
from tvlars.optim.triton import launcher
from tvlars.stats import LayerStats

RULES: list[tuple[Any, dict[str, Any]]] = [OPTIMIZERS["lars"], OPTIMIZERS["lamb"]]
EITHER = pytest.mark.parametrize(("cls", "arguments"), RULES, ids=["lars", "lamb"])


def close(a: list[Tensor], b: list[Tensor]) -> None:
    torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


@EITHER
def test_odd_sizes(cls: Any, arguments: dict[str, Any]) -> None:
    results = []
    for path in ({}, {"foreach": False}):
        g = torch.Generator().manual_seed(0)
        sizes = (0, 1, 127, 255, 256, 257, 511, 512, 513, 1025, 2049)
        params = [nn.Parameter(torch.randn(size, generator=g)) for size in sizes]
        results.append(run(cls(params, **arguments, **path), params, range(2)))
    close(*results)


def test_chunks_are_as_many_as_can_be_added_up() -> None:
    (chunks, entries), (programs, adapted) = launcher._cut([[0, 512, 513], [4 * 512, 4 * 512 + 1]], [True, False])
    assert entries.tolist() == [
        *(0, 512, 0, 1, 0),
        *(512, 512, 1, 1, 0),
        *(513, 512, 2, 2, 0),
        *(2048, 512, 4, 4, 1),
        *(2049, 1024, 8, 3, 1),
    ]
    assert chunks.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4]
    assert (programs, adapted) == (11, 4)
    w = nn.Parameter(torch.ones(1))
    w.grad = torch.ones(1)
    LARS([w], 0.1).step()


@EITHER
def test_addresses_that_are_not_aligned(cls: Any, arguments: dict[str, Any]) -> None:
    """Views of one buffer, as DistributedDataParallel makes gradients; and of those some are and some are not."""
    results = []
    for path in ({}, {"foreach": False}):
        values, gradients = (torch.randn(3, 3001, generator=torch.Generator().manual_seed(i)) for i in range(2))
        params = [nn.Parameter(values[i, i : i + 700]) for i in range(3)]
        for i, p in enumerate(params):
            p.grad = gradients[i, 4 * (i == 1) + i : 4 * (i == 1) + i + 700]
        optimizer = cls(params, **arguments, **path)
        optimizer.step()
        for p in params:
            for key, x in optimizer.state[p].items():
                if key != "step":
                    optimizer.state[p][key] = torch.zeros(701)[1:].copy_(x)
        optimizer.step()
        results.append([*values, *gradients])
    close(*results)


@EITHER
def test_layouts(cls: Any, arguments: dict[str, Any]) -> None:
    """Alike, with a gradient or state laid out otherwise, and a parameter with gaps, for which there is no kernel."""

    def laid_out(x: Tensor, how: str) -> Tensor:
        if how == "channels_last":
            return x.clone(memory_format=torch.channels_last)
        if how == "transposed":
            return x.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1)
        if how == "gaps":
            return torch.stack([x, x])[0::2][0].new_zeros(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x)
        return x.clone()

    results = []
    for path in ({}, {"foreach": False}):
        g = torch.Generator().manual_seed(0)
        params, hows = [], ("contiguous", "channels_last", "transposed", "gaps")
        for how in hows:
            params.append(nn.Parameter(laid_out(torch.randn(3, 5, 2, 4, generator=g), how if not path else "")))
        optimizer = cls(params, **arguments, **path)
        for step in range(4):
            for i, p in enumerate(params):
                p.grad = laid_out(torch.randn(3, 5, 2, 4, generator=g), hows[(i + step) % 4] if not path else "")
                if step == 2 and not path:
                    for key, x in optimizer.state[p].items():
                        if key != "step":
                            optimizer.state[p][key] = laid_out(x, hows[(i + 1) % 4])
            before = [p.grad.clone() for p in params]
            optimizer.step()
            assert all(torch.equal(p.grad, x) for p, x in zip(params, before, strict=True))
        results.append([p.detach().contiguous() for p in params])
    close(*results)


def test_groups_of_many_kinds_share_two_launches(launches: Launches) -> None:
    values = [torch.randn(700, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    common = dict(weight_decay=0.1, trust_coefficient=0.02, delay=5, delay_factor=0.5)

    def make(path: dict[str, Any]) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
        p = [nn.Parameter(x.clone()) for x in values]
        groups = [
            {"params": p[:2], "layer_adaptation": False, "lr": 0.01},
            {"params": p[2:3], "nesterov": True, "phi_scope": "ratio"},
            {"params": p[3:4], "momentum": 0.0, "maximize": True},
            {"params": p[4:], "weight_decay": 0.0, "norm_clip": 1.0, "lr": torch.tensor(0.3), "delay": 2},
        ]
        return TVLARS(groups, 0.5, **common, **path), p

    results = []
    for path in ({}, {"foreach": False}):
        optimizer, params = make(path)
        results.append(run(optimizer, params, range(3)))
    close(*results)
    assert launches.kernels == [("lars_norms", 8), ("lars_update", 12)] * 3


def test_dtypes_have_launches_of_their_own(launches: Launches) -> None:
    params = [p for dtype in (torch.float32, torch.bfloat16, torch.float64) for p in tensors(dtype=dtype)[:3]]
    alone = [p for dtype in (torch.float32, torch.bfloat16, torch.float64) for p in tensors(dtype=dtype)[:3]]
    a = run(LAMB(params, 0.1), params, range(2))
    assert launches.names() == ["lamb_norms", "lamb_update"] * 4  # float64 has no kernel
    b = run(LAMB(alone, 0.1, foreach=False), alone, range(2))
    torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close([a[0], a[6]], [b[0], b[6]], rtol=2e-6, atol=2e-6)


@EITHER
def test_no_program_depends_on_another(cls: Any, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run forwards and backwards give the same bits, so that those of two runs on a GPU are the same too."""
    from triton.runtime import interpreter

    builder, results = interpreter.interpreter_builder, []
    usual = builder.set_grid_idx
    for backwards in (False, True):
        if backwards:
            monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: usual(builder.grid_dim[0] - 1 - x, y, z))
        params = [nn.Parameter(torch.randn(n, generator=torch.Generator().manual_seed(n))) for n in (3, 1700, 600)]
        results.append(run(cls(params, **arguments), params, range(2)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@EITHER
def test_ten_thousand_tensors(cls: Any, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them in the tables; of the programs some are run, since all would take the interpreter minutes."""
    from triton.runtime import interpreter

    chosen, count = [0, 1, 4_999, 5_000, 7_321, 9_999], 10_000
    values, gradients = (torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(i)) for i in range(2))
    params, alone = [nn.Parameter(x.clone()) for x in values], [nn.Parameter(values[i].clone()) for i in chosen]
    for p, g in zip([*params, *alone], [*gradients, *gradients[chosen]], strict=True):
        p.grad = g
    builder, kernels = interpreter.interpreter_builder, launcher._kernels
    usual = builder.set_grid_idx

    def some(kernel: Any, programs: list[int]) -> Any:
        class Some:
            def __getitem__(self, grid: tuple[int]) -> Any:
                assert grid == (count,)
                monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: usual(programs[x], y, z))
                monkeypatch.setattr(builder, "set_grid_dim", lambda x, y, z: None)
                builder.grid_dim = (count, 1, 1)
                return kernel[(len(programs),)]

        return Some()

    def sampled(*arguments: Any) -> Any:
        norms, update, dtype = kernels(*arguments)
        return some(norms, chosen), some(update, [count - 1 - i for i in chosen]), dtype

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "_kernels", sampled)
        cls(params, **arguments).step()
    cls(alone, **arguments, foreach=False).step()
    close([params[i].detach() for i in chosen], [p.detach() for p in alone])


@EITHER
def test_the_set_changes(cls: Any, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Other parameters have gradients, at other addresses; a group is added; what is kept stays bounded."""
    monkeypatch.setattr(launcher, "CUTS", 2)
    results = []
    for path in ({}, {"foreach": False}):
        params = [nn.Parameter(x.detach().clone()) for x in tensors()]
        optimizer = cls(params[:4], **arguments, **path)
        for step in range(5):
            set_gradients(params, step)
            if step == 3:
                optimizer.add_param_group({"params": params[4:], "layer_adaptation": False, "lr": 0.01})
            params[step % 3].grad = None
            optimizer.step()
        assert len(optimizer._launcher._cuts) <= 2
        results.append([p.detach() for p in params])
    close(*results)


def test_gradients_are_never_modified(name: str) -> None:
    cls, arguments = OPTIMIZERS[name]
    params = tensors()
    optimizer = cls(params, **arguments, maximize=True)
    set_gradients(params, 0)
    before = [p.grad.clone() for p in params]  # type: ignore[union-attr]
    optimizer.step()
    assert all(torch.equal(p.grad, x) for p, x in zip(params, before, strict=True))  # type: ignore[arg-type]


@EITHER
def test_autograd_finds_out(cls: Any, arguments: dict[str, Any]) -> None:
    w = nn.Parameter(torch.ones(3))
    loss = (w**3).sum()
    w.grad = torch.ones(3)
    optimizer = cls([w], **arguments)
    optimizer.step()
    kept = [x for key, x in optimizer.state[w].items() if key != "step"]
    versions = [x._version for x in kept]
    optimizer.step()
    assert all(x._version > version for x, version in zip(kept, versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@EITHER
def test_state_goes_to_other_paths_and_back(cls: Any, arguments: dict[str, Any]) -> None:
    params, expected = tensors(), tensors()
    plain = cls(expected, **arguments, foreach=False)
    optimizer = cls(params, **arguments)
    for path in ({"foreach": False}, {"fused": True}, {}):
        run(optimizer, params, range(2))
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = cls(params, **arguments, **path)
        saved["param_groups"][0].update(foreach=path.get("foreach"), fused=path.get("fused"))
        optimizer.load_state_dict(saved)
    run(optimizer, params, range(2))
    for _ in range(4):
        run(plain, expected, range(2))
    close([p.detach() for p in params], [p.detach() for p in expected])
    copied = copy.deepcopy(optimizer)
    theirs = [p for group in copied.param_groups for p in group["params"]]
    a, b = run(copied, theirs, range(1)), run(optimizer, params, range(1))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.skipif(find_spec("pandas") is None, reason="layer statistics in a frame need pandas")
@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
def test_layer_stats_reads_what_the_kernels_have_worked_out(cls: Any) -> None:
    frames = []
    for path in ({}, {"foreach": False}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30), nn.Linear(30, 2))
        p = list(model.parameters())
        groups = [{"params": [p[1], p[2], p[3]], "layer_adaptation": False}, {"params": [p[0]]}, {"params": p[4:]}]
        length = dict(total_steps=9) if cls is TVLARS else {}
        optimizer = cls(groups, lr=0.1, weight_decay=0.1, **length, **path)
        with LayerStats(optimizer, model, every=1) as stats:
            for step in range(2):
                set_gradients(p, step)
                optimizer.step()
        frames.append(stats.frame())
    keys = ["step", "layer", "quantity"]
    a, b = (frame.sort_values(keys).reset_index(drop=True) for frame in frames)
    assert a[keys].equals(b[keys])
    assert (a.quantity == "trust_ratio").sum() == 6
    torch.testing.assert_close(torch.tensor(a.value.to_numpy()), torch.tensor(b.value.to_numpy()), rtol=1e-5, atol=0)
