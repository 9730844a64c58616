"""Hugging Face Accelerate: its wrapped optimizer, accumulation, mixed precision, and what it does to schedulers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.integrations.problem import assert_close, clock, data, lars, model, plain_run, tvlars
from tests.lab.processes.processes import in_processes
from tvlars import LARS, CosineSchedule, ScheduleLR

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def train(
    accelerator: Any, module: nn.Module, optimizer: Any, epochs: int, scheduler: Any = None, clip: float = 0.0
) -> Any:
    """The usual loop; returns what ``prepare`` made of the optimizer."""
    loader = DataLoader(data(), 8)
    module, optimizer, loader = accelerator.prepare(module, optimizer, loader)
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(module):
                accelerator.backward(nn.functional.cross_entropy(module(x), y))
                if clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_the_clock_counts_steps_not_batches(accumulated: int) -> None:
    module = model()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    optimizer = train(accelerator, module, tvlars(module), epochs=2)
    assert clock(optimizer.optimizer) == [16 / accumulated] * 2
    assert_close(module, plain_run(2, accumulated))


def test_clipping_acts_on_whole_batches() -> None:
    module = model()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    train(accelerator, module, tvlars(module), epochs=2, clip=0.1)
    assert_close(module, plain_run(2, 2, lambda other: nn.utils.clip_grad_norm_(other.parameters(), 0.1)))


def test_bfloat16_stays_near_float32() -> None:
    module = model()
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    optimizer = train(accelerator, module, tvlars(module), epochs=2)
    assert clock(optimizer.optimizer) == [8.0, 8.0]
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert_close(module, plain_run(2, 2), tolerance=0.05)


def test_a_step_that_a_scaler_skips_moves_neither_clock_nor_scheduler() -> None:
    accelerate.Accelerator(cpu=True)  # the wrappers want its state
    raw, (other, schedule) = tvlars(model()), lars(model())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = accelerate.optimizer.AcceleratedOptimizer(raw, scaler=scaler)
    scheduler = accelerate.scheduler.AcceleratedScheduler(schedule, optimizer)
    parameters = [p for group in raw.param_groups for p in group["params"]]
    for overflow in (False, True, False):
        scaler.scale(sum(p.sum() for p in parameters)).backward()
        if overflow:
            parameters[0].grad.fill_(torch.inf)
        optimizer.step()
        assert optimizer.step_was_skipped is overflow
        other.step()
        scheduler.step()
        optimizer.zero_grad()
    assert clock(raw) == [2.0, 2.0]
    assert schedule.last_epoch == 2


def test_a_prepared_scheduler_is_right_under_accumulation() -> None:
    module = model()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer, schedule = lars(module)
    train(accelerator, module, optimizer, 2, accelerator.prepare(schedule))
    assert schedule.last_epoch == 8
    assert_close(module, plain_run(2, 2))


def test_warmup_cosine_stays_at_its_end() -> None:
    """Accelerate takes a scheduler with ``total_steps`` for a OneCycleLR, and stops stepping it there."""
    module = model()
    optimizer = LARS(module.parameters(), 1.0)
    schedule = ScheduleLR(optimizer, CosineSchedule(total_steps=8, warmup_steps=2, final_factor=0.01))
    accelerator = accelerate.Accelerator(cpu=True)
    train(accelerator, module, optimizer, 2, accelerator.prepare(schedule))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_of_two_processes_a_prepared_scheduler_runs_twice_as_fast_and_the_optimizer_does_not(tmp_path: Path) -> None:
    in_processes(2, two_processes, log=tmp_path / "log")


def two_processes() -> None:
    for prepared, split, expected in ((True, False, 8), (True, True, 4), (False, False, 4)):
        module = model()
        accelerator = accelerate.Accelerator(
            cpu=True,
            gradient_accumulation_steps=2,
            dataloader_config=accelerate.DataLoaderConfiguration(split_batches=split),
        )
        optimizer, schedule = lars(module)
        timed = accelerator.prepare(tvlars(model()))
        scheduler = accelerator.prepare(schedule) if prepared else schedule
        wrapped, optimizer, loader = accelerator.prepare(module, optimizer, DataLoader(data(), 16 if split else 8))
        batches = 0
        for _ in range(2):
            for x, y in loader:
                batches += 1
                with accelerator.accumulate(wrapped):
                    accelerator.backward(nn.functional.cross_entropy(wrapped(x), y))
                    optimizer.step()
                    for group in timed.param_groups:
                        for p in group["params"]:
                            p.grad = torch.ones_like(p)
                    timed.step()
                    if prepared or accelerator.sync_gradients:  # what is not prepared is stepped by whoever steps
                        scheduler.step()
                    optimizer.zero_grad()
        assert batches == 8, batches
        assert clock(timed) == [4.0, 4.0], clock(timed)
        assert schedule.last_epoch == expected, (prepared, split, schedule.last_epoch)
        accelerate.state.AcceleratorState._reset_state()
        accelerate.state.GradientState._reset_state()
