"""Layer statistics: what is recorded is what the step saw and did, with every optimizer and path."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.command import CONTEXT
from tests.conftest import PATHS, Make
from tvlars import LAMB, LARS, TVLARS, CosineSchedule, ScheduleLR, sigmoid_decay
from tvlars.stats import QUANTITIES, LayerStats, read_layer_stats

np = pytest.importorskip("numpy", reason="numpy is not installed")
pd = pytest.importorskip("pandas", reason="pandas is not installed (extra lab)")

STEPS = 7


def network() -> nn.Sequential:
    """Layers above and below the size up to which the fused path takes layers together."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(150, 120), nn.Tanh(), nn.LayerNorm(120), nn.Linear(120, 5))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    return [{"params": named[::2]}, {"params": named[1::2], "layer_adaptation": False, "lr": 0.01}]


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    model(torch.randn(16, 150, generator=generator)).square().mean().backward()


def follow(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any = None, **options: Any
) -> tuple[pd.DataFrame, dict[tuple[int, str], tuple[float, float, float]]]:
    """A row for each step and layer, a column for each quantity; and ‖w‖, ‖g‖, ‖Δw‖ as seen from outside."""
    seen = {}
    with LayerStats(optimizer, model, **options) as stats:
        for step in range(1, STEPS + 1):
            backward(model, step)
            before = [(name, p, p.detach().clone(), p.grad.norm().item()) for name, p in model.named_parameters()]
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            for name, p, w, g_norm in before:
                seen[step, name] = (w.norm().item(), g_norm, (p.detach() - w).norm().item())
    wide = stats.frame().pivot_table("value", ["step", "layer"], "quantity", observed=True, dropna=False)
    return wide.reindex(columns=list(QUANTITIES)), seen


def test_records_the_norms_that_the_step_saw(make: Make) -> None:
    model = network()
    wide, seen = follow(model, make(groups(model)), every=3, buffer=2)
    assert list(wide.index) == [(step, name) for step in (1, 4, 7) for name, _ in model.named_parameters()]
    for key, row in wide.iterrows():
        w_norm, g_norm, _ = seen[key]
        assert row[["LWN", "LGN", "LNR"]].tolist() == pytest.approx([w_norm, g_norm, w_norm / g_norm], rel=1e-5)
    adapted = [name for name, _ in list(model.named_parameters())[::2]]
    ratios = wide["trust_ratio"].unstack("step")
    assert ratios.loc[adapted].notna().all(axis=None)
    assert ratios.drop(adapted).isna().all(axis=None)


@pytest.mark.parametrize("scope", ["all", "ratio"])
def test_the_effective_lr_is_what_moves_a_layer(path: dict[str, Any], scope: str) -> None:
    """Without momentum and decay a step is effective_lr · g."""
    shape = dict(delay_factor=0.5, delay=3.0)
    model = network()
    optimizer = TVLARS(groups(model), 2.0, momentum=0.0, phi_scope=scope, **shape, **path)
    wide, seen = follow(model, optimizer, every=1)
    for (step, name), row in wide.iterrows():
        assert row["phi"] == pytest.approx(sigmoid_decay(float(step), **shape), rel=1e-5)
        _, g_norm, moved = seen[step, name]
        assert moved == pytest.approx(row["effective_lr"] * g_norm, rel=2e-3)  # Δw has lost digits beside w


def test_lamb_moves_a_layer_by_lr_of_its_norm(path: dict[str, Any]) -> None:
    model = network()
    wide, seen = follow(model, LAMB(model.named_parameters(), 0.01, **path), every=1)
    for key, row in wide.iterrows():
        assert row["effective_lr"] == pytest.approx(0.01 * row["trust_ratio"], rel=1e-6)
        w_norm, _, moved = seen[key]
        assert moved == pytest.approx(0.01 * w_norm if w_norm else moved, rel=2e-3)


def test_a_scheduler_gives_phi() -> None:
    model = network()
    optimizer = LARS(groups(model), 2.0, momentum=0.0)
    wide, seen = follow(model, optimizer, ScheduleLR(optimizer, CosineSchedule(STEPS, 2)), every=1)
    for (step, name), row in wide.iterrows():
        assert row["phi"] == pytest.approx(CosineSchedule(STEPS, 2)(step), rel=1e-5)
        _, g_norm, moved = seen[step, name]
        assert moved == pytest.approx(row["effective_lr"] * g_norm, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW])
def test_watches_any_torch_optimizer(cls: type[torch.optim.Optimizer]) -> None:
    model = network()
    wide, seen = follow(model, cls(model.parameters(), lr=0.1), every=1)
    assert wide[["trust_ratio", "phi"]].isna().all(axis=None)
    assert (wide["effective_lr"] == np.float32(0.1)).all()
    for key, row in wide.iterrows():
        assert row[["LWN", "LGN"]].tolist() == pytest.approx(list(seen[key][:2]), rel=1e-5)


@pytest.mark.parametrize("path", [p for n, p in PATHS.items() if n != "default"], ids=lambda p: str(p))
@pytest.mark.parametrize("cls", [LARS, LAMB])
def test_takes_no_norm_of_a_weight_that_the_step_takes(
    cls: Any, path: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of adapted layers LayerStats itself takes norms of gradients alone."""
    model = network()
    taken: list[Tensor] = []
    from tvlars.stats import _record

    def norms(tensors: list[Tensor]) -> Tensor:
        taken.extend(tensors)
        return torch.stack([x.norm() for x in tensors])

    monkeypatch.setattr(_record, "norms", norms)
    follow(model, cls(model.parameters(), 0.1, **path), every=1)
    grads = STEPS * len(list(model.parameters()))
    assert len(taken) == grads
    assert not {id(p) for p in model.parameters()} & {id(x) for x in taken}


@pytest.mark.parametrize("path", list(PATHS.values()), ids=list(PATHS))
def test_watching_changes_nothing(path: dict[str, Any]) -> None:
    ends = []
    for watch in (False, True):
        model = network()
        optimizer = TVLARS(groups(model), 2.0, total_steps=1000, **path)
        if watch:
            follow(model, optimizer, every=1)
        else:
            for step in range(1, STEPS + 1):
                backward(model, step)
                optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


def test_fetches_nothing_between_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvlars.stats import _layer_stats

    flushes = []
    original = _layer_stats.on_host
    monkeypatch.setattr(_layer_stats, "on_host", lambda records: flushes.append(len(records)) or original(records))
    model = network()
    follow(model, LARS(groups(model), 0.1), every=1, buffer=3)
    assert flushes == [3, 3, 1]


def test_a_recorded_step_reads_no_value_on_the_host() -> None:
    """On the meta device every read of a value raises; only leaving the block, which flushes, may."""
    model = network().to("meta")
    optimizer = LARS(model.named_parameters(), 0.1, foreach=True)
    stats = LayerStats(optimizer, model, every=1)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    optimizer.step()
    with pytest.raises(NotImplementedError, match="meta"):
        stats.flush()


def test_a_layer_without_a_gradient_is_left_out() -> None:
    model = network()
    optimizer = LARS(groups(model), 0.1)
    with LayerStats(optimizer, model, every=1) as stats:
        backward(model, 1)
        model[3].bias.grad = None
        optimizer.step()
    assert "3.bias" not in set(stats.frame()["layer"])
    assert "3.weight" in set(stats.frame()["layer"])


def test_a_zero_gradient_has_no_ratio_and_a_zero_weight_has_norm_zero() -> None:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    optimizer = LARS(model.named_parameters(), 0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with LayerStats(optimizer, model, every=1) as stats:
        optimizer.step()
    rows = stats.frame().set_index(["layer", "quantity"])["value"]
    assert rows["weight", "LWN"] == 0
    assert rows["weight", "trust_ratio"] == pytest.approx(1e-3)  # that of η, and of nothing
    assert ("weight", "LNR") not in rows.index


def test_a_closure_is_followed_too() -> None:
    model = network()
    optimizer = LARS(groups(model), 0.1)

    def closure() -> float:
        backward(model, 1)
        return 0.0

    with LayerStats(optimizer, model, every=1) as stats:
        optimizer.step(closure)
    rows = stats.frame().set_index(["layer", "quantity"])["value"]
    for name, p in model.named_parameters():
        assert rows[name, "LGN"] == pytest.approx(p.grad.norm().item(), rel=1e-5)


def test_groups_may_be_added_and_a_failed_step_leaves_nothing() -> None:
    model = network()
    named = list(model.named_parameters())
    optimizer = LARS([{"params": named[:2]}], 0.1)
    with LayerStats(optimizer, model, every=2) as stats:
        backward(model, 1)
        optimizer.step()
        optimizer.add_param_group({"params": named[2:]})
        optimizer.step()
        good, model[0].weight.grad = model[0].weight.grad, torch.zeros(120, 150).to_sparse()
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()
        model[0].weight.grad = good
        optimizer.step()
    frame = stats.frame()
    assert set(frame[frame["step"] == 1]["layer"]) == {"0.weight", "0.bias"}
    assert set(frame[frame["step"] == 3]["layer"]) == {name for name, _ in named}
    assert optimizer.observers == ()


def take(change: Callable[[nn.Sequential, torch.optim.Optimizer], None], make: Any = LARS) -> tuple[Any, Any]:
    """Two steps with a change between them: what was recorded of ‖w‖ and of lr, and what there was to see."""
    model = network()
    optimizer = make(groups(model), lr=0.1)
    seen = {}
    with LayerStats(optimizer, model, every=1) as stats:
        for step in (1, 2):
            backward(model, step)
            holds = {id(p): group for group in optimizer.param_groups for p in group["params"]}
            for name, p in model.named_parameters():
                if id(p) in holds:
                    seen[step, name] = (p.norm().item(), holds[id(p)]["lr"])
            optimizer.step()
            if step == 1:
                change(model, optimizer)
    frame = stats.frame()
    of_norm = frame[frame["quantity"] == "LWN"].set_index(["step", "layer"])["value"].to_dict()
    rate = frame[(frame["quantity"] == "effective_lr")].set_index(["step", "layer"])["value"].to_dict()
    return (of_norm, rate), seen


def swap_the_head(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    old = dict(model[3].named_parameters())
    model[3] = nn.Linear(120, 5)
    for name, p in model[3].named_parameters():
        replace(optimizer, old[name], p)


def replace(optimizer: torch.optim.Optimizer, old: Tensor, new: Tensor) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]


def put_another_before(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    """The names of all that follow are others from here on."""
    model.insert(0, nn.Linear(150, 150))
    optimizer.param_groups[1]["params"].extend(model[0].parameters())


def move_to_the_other_group(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    first, second = (group["params"] for group in optimizer.param_groups)
    second.append(first.pop(0))


def take_one_out(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["params"].pop(0)


def exchange_the_groups(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups.reverse()


@pytest.mark.parametrize(
    "change",
    [swap_the_head, put_another_before, move_to_the_other_group, take_one_out, exchange_the_groups],
)
@pytest.mark.parametrize("make", [LARS, LAMB, torch.optim.SGD])
def test_parameters_may_change_between_steps(change: Any, make: Any) -> None:
    (norms, rates), seen = take(change, make)
    assert norms == pytest.approx({key: norm for key, (norm, _) in seen.items()})
    plain = {key: lr for key, (_, lr) in seen.items() if make is torch.optim.SGD or lr == 0.01}
    assert {key: rates[key] for key in plain} == pytest.approx(plain)


def test_where_all_parameters_are_others_a_step_says_so() -> None:
    model, other = network(), network()
    optimizer = LARS(groups(model), 0.1)
    with LayerStats(optimizer, model, every=1):
        for group, new in zip(optimizer.param_groups, LARS(groups(other), 0.1).param_groups, strict=True):
            group["params"] = new["params"]
        backward(other, 1)
        with pytest.raises(ValueError, match="model must hold the optimizer's parameters, got one that holds none"):
            optimizer.step()


def test_a_module_may_be_called_like_a_wrapper() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(150, 3)
            self._orig_mod = nn.Sequential()
            self._orig_mod.a = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Any:
            return self._orig_mod.a(self.a(x))

    model = Net()
    optimizer = LARS(model.parameters(), 0.1)
    with LayerStats(optimizer, model, every=1) as stats:
        backward(model, 1)
        optimizer.step()
    assert set(stats.frame()["layer"]) == set(dict(model.named_parameters()))


def test_a_copy_of_a_watched_optimizer_is_not_watched() -> None:
    model = network()
    optimizer = LARS(groups(model), 0.1)
    with LayerStats(optimizer, model, every=1) as stats:
        backward(model, 1)
        for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            other.step()
        optimizer.step()
    assert set(stats.frame()["step"]) == {1}
    assert stats.step == 1


def test_names_are_the_models_own() -> None:
    model = network()
    extra = nn.Parameter(torch.ones(3))
    wrapped = torch.compile(model, backend="eager")
    optimizer = LARS([*model.parameters(), extra], 0.1)
    assert LayerStats(optimizer, wrapped)._names == [*dict(model.named_parameters()), "group 0, parameter 6"]
    with pytest.raises(ValueError, match="model must hold the optimizer's parameters"):
        LayerStats(optimizer, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(every=0), "every must be an integer >= 1"),
        (dict(buffer=0.5), "buffer must be an integer >= 1"),
        (dict(start=-1), "start must be an integer >= 0"),
    ],
)
def test_refuses_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=message):
        LayerStats(LARS(model.parameters(), 0.1), model, **arguments)


# -- files ------------------------------------------------------------------------------------------------


def test_files_hold_what_the_frame_holds_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="layer statistics in files need pyarrow")
    model = network()
    optimizer = TVLARS(groups(model), 2.0, total_steps=1000)
    with LayerStats(optimizer, model, every=2, buffer=2, path=tmp_path / "stats") as stats:
        for step in range(1, 6):
            backward(model, step)
            optimizer.step()
    assert len(list((tmp_path / "stats").glob("*.parquet"))) == 2
    with LayerStats(optimizer, model, every=2, path=tmp_path / "stats", start=5) as more:
        for step in range(6, 8):
            backward(model, step)
            optimizer.step()
    frame = read_layer_stats(tmp_path / "stats")
    assert list(frame.columns) == ["step", "layer", "quantity", "value"]
    assert sorted(set(frame["step"])) == [1, 3, 5, 7]
    assert set(frame["quantity"]) == set(QUANTITIES)
    pd.testing.assert_frame_equal(frame, more.frame())
    with pytest.raises(ValueError, match="path must hold no records where start is 0"):
        LayerStats(optimizer, model, path=tmp_path / "stats")
    LayerStats(optimizer, model, path=tmp_path / "stats", start=4)  # a run that crashed after step 4 was saved
    assert sorted(set(read_layer_stats(tmp_path / "stats")["step"])) == [1, 3]
    stats.close()
    with pytest.raises(FileNotFoundError, match="path must be a folder of layer statistics"):
        read_layer_stats(tmp_path / "none")


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="layer statistics in files need pyarrow")
    process = CONTEXT.Process(target=killed_while_recording, args=(tmp_path,))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    assert sorted(set(read_layer_stats(tmp_path)["step"])) == [1, 2, 3, 4, 5, 6]


def killed_while_recording(folder: Path) -> None:
    model = network()
    optimizer = LARS(groups(model), 0.1)
    stats = LayerStats(optimizer, model, every=1, buffer=3, path=folder)  # noqa: F841
    for step in range(8):
        backward(model, step)
        optimizer.step()
    os.kill(os.getpid(), signal.SIGKILL)


def test_records_are_cut_where_all_can_be_read_and_through_no_link(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="layer statistics in files need pyarrow")
    model, folder = network(), tmp_path / "stats"
    optimizer = LARS(groups(model), 0.1)
    with LayerStats(optimizer, model, every=1, buffer=2, path=folder):
        for step in range(4):
            backward(model, step)
            optimizer.step()
    first, last = sorted(folder.iterdir())
    whole = last.read_bytes()
    last.write_bytes(whole[:-1])
    before = first.read_bytes()
    with pytest.raises(ValueError, match="must hold layer statistics, but does not"):
        LayerStats(optimizer, model, path=folder, start=1)
    assert first.read_bytes() == before
    last.write_bytes(whole)
    (tmp_path / "mine").write_text("mine")
    first.with_suffix(".part").symlink_to(tmp_path / "mine")
    LayerStats(optimizer, model, path=folder, start=1)
    assert (tmp_path / "mine").read_text() == "mine"
    assert list(folder.iterdir()) == [first]
    assert set(read_layer_stats(folder)["step"]) == {1}


def test_hidden_files_are_no_records(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="layer statistics in files need pyarrow")
    model = network()
    optimizer = LARS(groups(model), 0.1)
    with LayerStats(optimizer, model, every=1, path=tmp_path) as stats:
        backward(model, 0)
        optimizer.step()
    for file in list(tmp_path.iterdir()):
        (tmp_path / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    pd.testing.assert_frame_equal(read_layer_stats(tmp_path), stats.frame())
    LayerStats(optimizer, model, path=tmp_path, start=1)
    pd.testing.assert_frame_equal(read_layer_stats(tmp_path), stats.frame())


def test_a_writer_is_told_every_number() -> None:
    told = {}

    class Writer:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            told[tag, global_step] = scalar_value

    model = network()
    optimizer = LARS(groups(model), 0.1)
    with LayerStats(optimizer, model, every=1, writer=Writer()) as stats:
        for step in range(2):
            backward(model, step)
            optimizer.step()
    rows = stats.frame()
    assert told == {(f"{r.quantity}/{r.layer}", r.step): r.value for r in rows.itertuples()}


def test_two_may_watch_one_optimizer() -> None:
    model = network()
    optimizer = LARS(groups(model), 0.1)
    with LayerStats(optimizer, model, every=1) as often, LayerStats(optimizer, model, every=3) as seldom:
        for step in range(4):
            backward(model, step)
            optimizer.step()
    frame = often.frame()
    pd.testing.assert_frame_equal(frame[frame["step"].isin([1, 4])].reset_index(drop=True), seldom.frame())
    assert len(frame[frame["quantity"] == "trust_ratio"]) == 4 * 3


def test_a_gradient_that_is_not_a_number_is_recorded() -> None:
    model = network()
    optimizer = LARS(groups(model), 0.1)
    backward(model, 1)
    model[0].weight.grad[0, 0] = float("nan")
    with LayerStats(optimizer, model, every=1) as stats:
        optimizer.step()
    rows = stats.frame().set_index(["layer", "quantity"])["value"]
    assert np.isnan(rows["0.weight", "LGN"])
    assert rows["0.weight", "LWN"] > 0


def test_a_compiled_step_does_not_tell_and_nothing_wrong_is_made_of_it() -> None:
    model = network()
    optimizer = LARS(groups(model), 0.5, foreach=False)
    with LayerStats(optimizer, model, every=1) as stats:
        backward(model, 1)
        torch.compile(optimizer.step, backend="eager")()
    rows = stats.frame().set_index(["layer", "quantity"])["value"]
    assert rows["0.weight", "LGN"] == pytest.approx(model[0].weight.grad.norm().item(), rel=1e-5)
    if ("0.weight", "trust_ratio") not in rows.index:
        assert ("0.weight", "effective_lr") not in rows.index
    assert rows["0.bias", "effective_lr"] == pytest.approx(0.01)


def test_a_grad_scaler_and_a_fused_optimizer() -> None:
    """torch's fused optimizers are given scaled gradients, and told to skip where one is not finite."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with LayerStats(optimizer, model, every=1) as stats:
        norms = []
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 150)).square().mean()
            norms.append(torch.autograd.grad(loss, model[0].weight, retain_graph=True)[0].norm().item())
            scaler.scale(loss * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    rows = stats.frame().set_index(["step", "layer", "quantity"])["value"]
    assert sorted(set(rows.index.get_level_values("step"))) == [1, 3]
    assert rows[1, "0.weight", "LGN"] == pytest.approx(norms[0], rel=1e-4)
    assert rows[3, "0.weight", "LGN"] == pytest.approx(norms[2], rel=1e-4)


def test_half_precision_norms_are_taken_in_float32() -> None:
    model = nn.Linear(600, 600, dtype=torch.bfloat16)
    optimizer = LARS(model.named_parameters(), 0.1)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.1)
    expected = model.weight.detach().float().norm().item()
    with LayerStats(optimizer, model, every=1) as stats:
        optimizer.step()
    rows = stats.frame().set_index(["layer", "quantity"])["value"]
    assert rows["weight", "LWN"] == pytest.approx(expected, rel=1e-4)
    assert rows["weight", "LGN"] == pytest.approx(600 * float(torch.tensor(0.1, dtype=torch.bfloat16)), rel=1e-4)


def test_sharded_layers_have_the_norm_of_the_whole(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=records_of_shards, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]


def records_of_shards(rank: int, folder: Path) -> None:
    """In one of two processes: compare the statistics of sharded layers with those of whole ones."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    for optimizer_of in (lambda m: LARS(m.named_parameters(), 0.5), lambda m: torch.optim.SGD(m.parameters(), 0.5)):
        frames = []
        for shard in (False, True):
            model = network()
            if shard:
                for layer in (model[0], model[3], model):
                    fully_shard(layer)
            optimizer = optimizer_of(model)
            with LayerStats(optimizer, model, every=1) as stats:
                for step in range(3):
                    backward(model, step)
                    optimizer.step()
            frames.append(stats.frame())
        alone, sharded = frames
        pd.testing.assert_frame_equal(alone, sharded, rtol=1e-4)
    dist.destroy_process_group()
