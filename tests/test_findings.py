"""Findings about a set-up: each where it belongs, and none on a run that plan and layer_groups set up."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tvlars import (
    LAMB,
    LARS,
    TVLARS,
    CosineSchedule,
    Findings,
    ScheduleLR,
    SigmoidSchedule,
    check,
    layer_groups,
    plan,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def loader(samples: int = 4096, batch_size: int = 512) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(samples, 1)), batch_size=batch_size, drop_last=True)


def planned(name: str, batch_size: int = 512, epochs: int = 20, **options: Any) -> tuple[nn.Module, Any, Any]:
    """Model, optimizer and scheduler as plan and layer_groups make them."""
    model = network()
    p = plan(batch_size, 4096, epochs, name, **options)
    groups = layer_groups(model, p)
    classes = {"tvlars": TVLARS, "lars": LARS, "lamb": LAMB, "sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    optimizer = classes[name](groups, **p.optimizer_arguments())
    return model, optimizer, p.scheduler(optimizer)


def scheduled(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer with an LR scheduler on it."""
    ScheduleLR(optimizer, CosineSchedule(100, 5))
    return optimizer


def found(findings: Findings) -> list[str]:
    assert all(f.what and f.evidence and f.remedy and str(f).count("\n") == 0 for f in findings)
    return [finding.what for finding in findings]


@pytest.mark.parametrize("name", ["tvlars", "lars", "lamb", "sgd", "adamw"])
@pytest.mark.parametrize("batch_size", [256, 512])
def test_nothing_is_found_on_a_planned_run(name: str, batch_size: int) -> None:
    model, optimizer, scheduler = planned(name, batch_size)
    model(torch.randn(64, 1, 8, 8)).square().mean().backward()
    findings = check(model, optimizer, loader(batch_size=batch_size), epochs=20, scheduler=scheduler, noise_scale=400)
    assert findings == []
    assert str(findings) == "nothing found"


@pytest.mark.parametrize("batch_size", [512, 2048, 8192, 65536])
@pytest.mark.parametrize("name", ["tvlars", "lars", "lamb"])
def test_nothing_is_found_on_a_planned_run_of_any_size(name: str, batch_size: int) -> None:
    model = network()
    p = plan(batch_size, 1_281_167, 90, name)
    optimizer = {"tvlars": TVLARS, "lars": LARS, "lamb": LAMB}[name](layer_groups(model, p), **p.optimizer_arguments())
    scheduler = p.scheduler(optimizer)
    steps = dict(total_steps=p.total_steps, epochs=90, batch_size=batch_size, micro_batch_size=256)
    assert check(model, optimizer, scheduler=scheduler, **steps) == []


def test_without_a_loader_what_is_not_known_is_not_found() -> None:
    assert check(*planned("tvlars")[:2]) == []


def test_adapted_and_decayed_norms() -> None:
    model = network()
    findings = check(model, scheduled(LARS(model.parameters(), 1.0, weight_decay=1e-4)))
    assert found(findings) == ["adapted norms", "decayed norms"]
    assert "0.bias, 1.weight, 1.bias and 1 more" in findings[0].evidence
    assert "layer_groups" in findings[0].remedy
    assert found(check(model, torch.optim.AdamW(model.parameters()))) == ["decayed norms"]
    assert found(check(model, torch.optim.SGD(model.parameters(), 0.1))) == []


@pytest.mark.filterwarnings("ignore:.*not adapted")
def test_a_raw_learning_rate() -> None:
    model = network()
    optimizer = LARS(layer_groups(model, weight_decay=1e-4), 16.0)
    assert found(check(model, optimizer)) == ["raw learning rate", "no schedule"]
    ScheduleLR(optimizer, CosineSchedule(100, 5))  # the lr is low now, and will not be
    assert found(check(model, optimizer)) == ["raw learning rate"]


@pytest.mark.parametrize(
    ("cls", "lr", "what"),
    [
        (LARS, 200.0, "large steps"),
        (LAMB, 0.2, "large steps"),
        (TVLARS, 200.0, "large steps"),
        (LARS, 1e-4, "small steps"),
        (LARS, 0.1, "small steps"),  # a rate of SGD
        (TVLARS, 0.1, "small steps"),
        (LAMB, 1e-7, "small steps"),
    ],
)
def test_steps_of_a_size_that_cannot_be_right(cls: Any, lr: float, what: str) -> None:
    model, length = network(), dict(total_steps=1000) if cls is TVLARS else {}
    optimizer = cls(layer_groups(model, weight_decay=0.0, lr=lr, bias_norm_lr_scale=1e-4), lr, **length)
    findings = check(model, scheduled(optimizer))
    assert found(findings) == [what]
    assert f"lr {lr:g}" in findings[0].evidence
    if what == "large steps":
        better = float(findings[0].remedy.split()[-1])
        groups = layer_groups(model, weight_decay=0.0, lr=0.99 * better, bias_norm_lr_scale=1e-4)
        assert check(model, scheduled(cls(groups, 0.99 * better, **length))) == []


@pytest.mark.filterwarnings("ignore:.*not adapted")
def test_a_raw_learning_rate_is_not_phi_s_where_phi_scales_the_ratio_alone() -> None:
    model = network()
    shape = dict(alpha=0.25, delay=100.0, delay_factor=0.1)  # φ starts at 4
    for scope, lr, findings in (
        ("ratio", 0.5, []),
        ("all", 0.5, ["raw learning rate"]),
        ("ratio", 1.5, ["raw learning rate"]),
    ):
        optimizer = TVLARS(layer_groups(model, weight_decay=0.0, lr=lr), lr, phi_scope=scope, **shape)
        assert found(check(model, optimizer)) == findings, (scope, lr)


def test_phi_counts_as_it_is_at_the_first_step() -> None:
    """The published setting has φ(1) = 0.9 though its bound is 10."""
    model = network()
    groups = layer_groups(model, weight_decay=0.0, lr=32.0, bias_norm_lr_scale=0.03)
    assert check(model, TVLARS(groups, 32.0, alpha=0.1, delay=0.0, delay_factor=1e-4)) == []
    large = TVLARS(
        layer_groups(model, weight_decay=0.0, lr=32.0, bias_norm_lr_scale=0.01),
        32.0,
        alpha=0.1,
        delay=500.0,
        delay_factor=0.1,
    )
    assert found(check(model, large)) == ["raw learning rate", "large steps"]


def test_the_peak_of_a_one_cycle_schedule() -> None:
    model = network()
    optimizer = LARS(layer_groups(model, weight_decay=0.0, lr=1.0, bias_norm_lr_scale=0.01), 1.0)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[400.0, 0.5], total_steps=100)
    assert found(check(model, optimizer)) == ["large steps"]


def test_a_data_set_without_a_length() -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    model, optimizer, _ = planned("lars")
    assert check(model, optimizer, DataLoader(Endless(), batch_size=512), epochs=2) == []


@pytest.mark.filterwarnings("ignore:few steps")
def test_a_run_of_one_step_has_nothing_to_decay_over() -> None:
    model = network()
    run = plan(batch_size=512, dataset_size=512, epochs=1)
    optimizer = TVLARS(layer_groups(model, run), **run.optimizer_arguments())
    assert "idle schedule" not in found(check(model, optimizer, total_steps=1))


def test_a_schedule_that_never_acts_or_at_once() -> None:
    model, optimizer, _ = planned("tvlars", delay=10_000, delay_factor=0.01)
    assert found(check(model, optimizer, loader(), epochs=20)) == ["idle schedule"]
    model, optimizer, _ = planned("tvlars", delay=3, delay_factor=2.0)
    findings = check(model, optimizer, loader(), epochs=20)
    assert found(findings) == ["dead schedule"]
    assert "from step 7 of 160 on" in findings[0].evidence
    model, optimizer, _ = planned("tvlars", delay=3, delay_factor=2.0, gamma_min=0.01)
    findings = check(model, optimizer, loader(), epochs=20)
    assert found(findings) == ["early schedule"]
    assert "at step 8" in findings[0].evidence


def test_phi_that_is_over_long_before_the_run() -> None:
    model = network()
    groups = layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03)
    short = TVLARS(groups, 16.0, total_steps=1000)
    assert check(model, short, total_steps=1000) == []
    findings = check(model, short, total_steps=7020)
    assert found(findings) == ["dead schedule"]
    assert "below 0.1 % of its maximum from step 1194 of 7020 on" in findings[0].evidence
    assert found(check(model, short, total_steps=1326)) == ["dead schedule"]  # from there on a tenth of the run
    assert check(model, short, total_steps=1325) == []
    groups[1].update(delay=5.0, delay_factor=1.0)  # a phi of its own
    assert found(check(model, TVLARS(groups, 16.0, total_steps=1000), total_steps=1000)) == ["dead schedule"]

    model, optimizer, _ = planned("tvlars", delay=40, delay_factor=0.5, gamma_min=0.01)
    findings = check(model, optimizer, loader(), epochs=20)
    assert found(findings) == ["early floor"]
    assert "gamma_min = 0.01, from step 50 of 160 on" in findings[0].evidence


S = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("build", "first"),
    [
        (lambda o: S.LambdaLR(o, lambda t: 0.9**t), 67),
        (lambda o: S.ExponentialLR(o, 0.9), 67),
        (lambda o: S.PolynomialLR(o, total_iters=200), 201),
        (lambda o: S.SequentialLR(o, [S.LinearLR(o, total_iters=10), S.PolynomialLR(o, 100)], [10]), 111),
        (lambda o: S.MultiStepLR(o, [200, 400], gamma=0.03), 401),
        (lambda o: ScheduleLR(o, SigmoidSchedule(0.1, 50.0)), 120),
    ],
)
def test_an_lr_scheduler_that_is_dead_before_the_run_ends(build: Any, first: int) -> None:
    model = network()
    optimizer = LARS(layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03), 16.0)
    scheduler = build(optimizer)
    before = ([group["lr"] for group in optimizer.param_groups], scheduler.last_epoch, scheduler.get_last_lr())
    findings = check(model, optimizer, loader(), total_steps=1000, scheduler=scheduler)
    assert found(findings) == ["dead schedule"]
    assert f"from step {first} on" in findings[0].evidence
    assert f"for {1001 - first} of 1000 steps" in findings[0].evidence
    assert ([group["lr"] for group in optimizer.param_groups], scheduler.last_epoch, scheduler.get_last_lr()) == before


@pytest.mark.parametrize(
    "build",
    [
        lambda o: S.CosineAnnealingLR(o, 1000),
        lambda o: S.OneCycleLR(o, max_lr=[16.0, 0.4], total_steps=1000),
        lambda o: S.StepLR(o, 300, gamma=0.1),
        lambda o: S.CosineAnnealingWarmRestarts(o, 100),
        lambda o: S.ReduceLROnPlateau(o),
        lambda o: S.StepLR(o, 5, gamma=0.1),  # once per epoch, as its steps say
        lambda o: S.MultiStepLR(o, [8, 14, 18], gamma=0.1),
        lambda o: S.SequentialLR(o, [S.LinearLR(o, total_iters=2), S.MultiStepLR(o, [6, 12, 18], gamma=0.05)], [2]),
        lambda o: S.PolynomialLR(o, 20),
        lambda o: S.LambdaLR(o, lambda t: max(0.9**t, 1e-3)),  # to a floor that is not below it
        lambda o: ScheduleLR(o, CosineSchedule(1000, 100)),
        lambda o: types.SimpleNamespace(step=print),  # of another library
    ],
)
def test_a_schedule_that_fits_is_no_finding(build: Any) -> None:
    model = network()
    optimizer = LARS(layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03), 16.0)
    assert check(model, optimizer, total_steps=1000, epochs=20, scheduler=build(optimizer)) == []


def test_a_schedule_that_may_be_stepped_once_per_epoch() -> None:
    model = network()
    optimizer = LARS(layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03), 16.0)
    findings = check(model, optimizer, total_steps=1000, epochs=20, scheduler=S.ExponentialLR(optimizer, 0.8))
    assert found(findings) == ["dead schedule"]
    assert "stepped after every optimizer step" in findings[0].evidence
    assert findings[0].remedy.endswith("; stepped once per epoch it would fit")


def test_a_schedule_of_a_run_that_goes_on() -> None:
    """The rest of a schedule is judged by the rates before it."""
    model, optimizer, scheduler = planned("lars", epochs=20)
    for _ in range(150):
        optimizer.step()
        scheduler.step()
    assert check(model, optimizer, loader(), epochs=20, scheduler=scheduler) == []
    groups = layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03)
    fits, dead = (LARS([dict(group) for group in groups], 16.0) for _ in range(2))
    to_0, early = S.PolynomialLR(fits, 100), S.LambdaLR(dead, lambda t: 0.9**t)
    for step, schedule in ((fits.step, to_0), (dead.step, early)):
        for _ in range(50):
            step()
            schedule.step()
    assert check(model, fits, total_steps=100, scheduler=to_0) == []
    (finding,) = check(model, dead, total_steps=100, scheduler=early)
    assert finding.what == "dead schedule"
    assert "for 34 of 100 steps, from step 67 on" in finding.evidence


def test_no_schedule() -> None:
    model = network()
    groups = layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03)
    constant = TVLARS(groups, 16.0, delay=0.0, delay_factor=0.0)
    for optimizer in (LARS(groups, 16.0), LAMB(groups[:1], 0.03), constant):
        assert "no schedule" in found(check(model, optimizer, epochs=20))
    assert check(model, torch.optim.SGD(groups, 0.1)) == []
    for build in (lambda o: S.ConstantLR(o, 1.0), lambda o: S.LinearLR(o, 0.1), lambda o: S.LambdaLR(o, lambda _: 1.0)):
        optimizer = LARS(groups, 16.0)
        findings = check(model, optimizer, total_steps=1000, scheduler=build(optimizer))
        assert found(findings) == ["no schedule"]
        assert "keeps 100 % of it to the last step, 1000" in findings[0].evidence
        optimizer = torch.optim.SGD(groups)
        assert check(model, optimizer, total_steps=1000, scheduler=build(optimizer)) == []
    assert found(check(model, constant, total_steps=1000)) == ["idle schedule"]
    assert check(model, constant, total_steps=1000, scheduler=S.CosineAnnealingLR(constant, 1000)) == []
    optimizer = LARS(groups, 16.0)
    assert check(model, optimizer, scheduler=types.SimpleNamespace(step=print)) == []
    assert check(model, optimizer, scheduler={"scheduler": S.CosineAnnealingLR(optimizer, 100)}, total_steps=100) == []


def test_layers_that_are_zero() -> None:
    model = network()
    nn.init.zeros_(model[4].weight)
    groups = layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03)
    assert check(model, TVLARS(groups, 16.0, total_steps=100)) == []
    raw = LARS(groups, 16.0)
    raw.param_groups[0]["unit_ratio_at_zero"] = True
    findings = check(model, scheduled(raw))  # the first step of its warm-up is at a fifth
    assert found(findings) == ["zero layers"]
    assert "the weights of 4.weight are 0" in findings[0].evidence
    assert "lr = 3.2" in findings[0].evidence
    for group in raw.param_groups:
        group["lr"] = 0.9  # as far into a warm-up: at once it is not raw
    assert check(model, raw) == []
    findings = check(model, scheduled(LAMB(layer_groups(model, weight_decay=0.0), 0.03)))
    assert found(findings) == ["zero layers"]
    assert "at lr = 0.006" in findings[0].evidence


def test_a_schedule_of_another_length() -> None:
    model, optimizer, _ = planned("lars")
    for scheduler in (
        ScheduleLR(optimizer, CosineSchedule(100, 5)),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30),
    ):
        assert found(check(model, optimizer, loader(), epochs=20, scheduler=scheduler)) == ["schedule length"]
    by_epoch = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    assert check(model, optimizer, loader(), epochs=20, scheduler=by_epoch) == []


@pytest.mark.filterwarnings("ignore:few steps")
def test_few_steps() -> None:
    model, optimizer, scheduler = planned("lars", epochs=3)
    assert found(check(model, optimizer, loader(), epochs=3, scheduler=scheduler)) == ["few steps"]
    accumulated = check(model, optimizer, loader(batch_size=128), batch_size=512, epochs=3, scheduler=scheduler)
    assert found(accumulated) == ["few steps"]


def test_scaled_gradients() -> None:
    model, optimizer, _ = planned("lars")
    (model(torch.randn(64, 1, 8, 8)).square().mean() * 2**16).backward()
    findings = check(model, optimizer)
    assert found(findings) == ["scaled gradients"]
    assert "unscale" in findings[0].remedy


def test_a_scaler_is_trusted_to_unscale() -> None:
    model, optimizer, _ = planned("lars")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(model(torch.randn(64, 1, 8, 8)).square().mean()).backward()
    assert found(check(model, optimizer)) == ["scaled gradients"]
    assert check(model, optimizer, scaler=scaler) == []
    scaler.unscale_(optimizer)
    assert check(model, optimizer, scaler=scaler) == []
    scaler.step(optimizer)
    scaler.update()
    assert check(model, optimizer, scaler=scaler) == []


@pytest.mark.parametrize("name", ["tvlars", "lars", "lamb"])
def test_nothing_is_found_while_a_planned_run_trains(name: str) -> None:
    model, optimizer, scheduler = planned(name)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        x, y = torch.randn(512, 1, 8, 8, generator=generator), torch.randint(0, 10, (512,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        assert check(model, optimizer, loader(), epochs=20, scheduler=scheduler) == []
        optimizer.step()
        assert check(model, optimizer, loader(), epochs=20, scheduler=scheduler) == []
        if scheduler is not None:
            scheduler.step()


def test_batches_that_do_not_go_with_the_noise_or_the_optimizer() -> None:
    model, optimizer, _ = planned("lars")
    findings = check(model, optimizer, batch_size=8192, noise_scale=300.0)
    assert found(findings) == ["batch too large"]
    assert "3,000 samples" in findings[0].remedy
    assert found(check(model, optimizer, batch_size=32)) == ["batch too small"]
    assert check(*planned("sgd")[:2], batch_size=32) == []
    assert check(model, optimizer, batch_size=8192, noise_scale=float("inf")) == []


def test_batch_norm_on_small_micro_batches() -> None:
    model, optimizer, _ = planned("lars")
    findings = check(model, optimizer, loader(batch_size=32), batch_size=1024)
    assert found(findings) == ["batch norm"]
    assert "32 of 1,024 samples" in findings[0].evidence
    assert check(model, optimizer, loader(batch_size=128), batch_size=8192) == []
    without = nn.Linear(3, 2)
    lars = scheduled(LARS(layer_groups(without, weight_decay=0.0), 1.0))
    assert check(without, lars, batch_size=8192, micro_batch_size=8) == []


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_batch_size_of_a_batch_sampler(drop_last: bool) -> None:
    data = TensorDataset(torch.zeros(4096, 1))
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(data), 32, drop_last)
    model, optimizer, _ = planned("lars")
    for batches in (sampler, [list(range(32))] * 128):
        loader = DataLoader(data, batch_sampler=batches)
        assert found(check(model, optimizer, loader)) == ["batch too small"]
        assert found(check(model, optimizer, loader, batch_size=1024)) == ["batch norm"]


def test_what_is_no_model_optimizer_or_loader() -> None:
    model, optimizer, _ = planned("lars")
    data = TensorDataset(torch.zeros(4, 1))
    for arguments, message in (
        (
            (optimizer, model),
            r"the model first and the optimizer second, got LARS and Sequential; write check\(model, opt",
        ),
        ((optimizer,), "model must be a torch.nn.Module, got a LARS"),
        ((model, model), "optimizer must be a torch.optim.Optimizer, got a Sequential"),
        ((model, "lars"), "optimizer must be a torch.optim.Optimizer, got 'lars'"),
        ((model, LARS), "optimizer must be a torch.optim.Optimizer, got the class LARS"),
        ((model, optimizer, data), "loader must be a torch.utils.data.DataLoader, got a TensorDataset of 4 samples"),
        ((model, optimizer, 512), "loader must be a torch.utils.data.DataLoader, got 512"),
    ):
        with pytest.raises(TypeError, match=message):
            check(*arguments, *([optimizer] if len(arguments) == 1 else []))


def test_what_is_no_scheduler_or_scaler() -> None:
    model, optimizer, _ = planned("lars")
    for scheduler, name in (
        (S.StepLR, "the class StepLR"),
        (optimizer, "a LARS"),
        (100, "100"),
        (model, "a Sequential"),
    ):
        with pytest.raises(TypeError, match=f"scheduler must be an LR scheduler, got {name}"):
            check(model, optimizer, scheduler=scheduler)
    with pytest.raises(TypeError, match=r"scaler must be a torch\.amp\.GradScaler, got 65536"):
        check(model, optimizer, scaler=65536.0)


def test_an_optimizer_of_another_model() -> None:
    _, optimizer, _ = planned("lars")
    findings = check(network(), optimizer)
    assert found(findings) == ["other parameters"]
    assert "LARS holds none of the parameters of Sequential" in findings[0].evidence


def test_a_schedule_of_ours_is_looked_at_in_runs_of_any_length() -> None:
    model = network()
    optimizer = LARS(layer_groups(model, weight_decay=0.0, lr=16.0, bias_norm_lr_scale=0.03), 16.0)
    scheduler = ScheduleLR(optimizer, SigmoidSchedule(1e-4, 100_000))
    assert found(check(model, optimizer, total_steps=400_000, scheduler=scheduler)) == ["dead schedule"]
    assert check(model, optimizer, total_steps=180_000, scheduler=scheduler) == []


def test_an_optimizer_that_is_wrapped_is_looked_into() -> None:
    class Wrapped(torch.optim.Optimizer):  # as accelerate's
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        @property
        def param_groups(self) -> Any:  # type: ignore[override]
            return self.optimizer.param_groups

    model, optimizer, _ = planned("lars")
    assert found(check(model, Wrapped(optimizer), batch_size=32)) == ["batch too small"]


def test_a_count_may_be_one_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    model, optimizer, scheduler = planned("lars")
    assert check(model, optimizer, epochs=numpy.int64(20), total_steps=numpy.int32(160), scheduler=scheduler) == []


def test_refuses_bad_arguments() -> None:
    model, optimizer, _ = planned("lars")
    with pytest.raises(ValueError, match="epochs must be an integer >= 1"):
        check(model, optimizer, epochs=0)
    with pytest.raises(ValueError, match="noise_scale must be >= 0"):
        check(model, optimizer, noise_scale=-3.0)


def plain(layers: int, norm: nn.Module | None = None) -> nn.Sequential:
    convolutions = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(layers - 1)]
    ends = [norm] if norm is not None else []
    return nn.Sequential(*convolutions, *ends, nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("kind", [LARS, TVLARS])
def test_a_deep_network_without_norms_needs_a_lower_rate_than_the_plan_has(kind: Any) -> None:
    options: dict[str, Any] = dict(total_steps=500) if kind is TVLARS else {}

    def findings(model: nn.Module, lr: float) -> Findings:
        optimizer = kind(layer_groups(model, weight_decay=0.0, bias_norm_lr_scale=0.01, lr=lr), lr, **options)
        return check(model, optimizer)

    (one,) = [finding for finding in findings(plain(20), 22.6) if finding.what == "no norms"]
    assert one.evidence.startswith("a step moves a layer by 0.022")
    assert "20 adapted layers" in one.evidence
    normalize = type("Normalize", (nn.Identity,), {})()  # of the images, as torchvision's transform
    assert "no norms" in found(findings(plain(20, normalize), 22.6))
    global_response = type("GRN", (nn.Identity,), {})()
    norms = (plain(20, nn.GroupNorm(2, 4)), plain(20, global_response))
    for model, lr in ((plain(20), 1.0), (plain(5), 22.6), *((one, 22.6) for one in norms)):
        assert "no norms" not in found(findings(model, lr))
    assert "no norms" not in found(check(plain(20), torch.optim.SGD(plain(20).parameters(), 22.6)))
