"""Lightning: accumulation, clipping, manual optimization, schedulers by the step, and its monitor of learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.integrations.problem import assert_close, clock, plain_run


@pytest.fixture
def tasks() -> Any:
    """The module with Lightning's tasks, imported by tests alone: importing Lightning takes seconds."""
    pytest.importorskip("lightning", reason="lightning is not installed")
    from tests.integrations import lightning_tasks

    return lightning_tasks


@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_the_clock_counts_steps_not_batches(tasks: Any, accumulated: int) -> None:
    task = tasks.Task()
    trainer = tasks.fit(task, accumulate_grad_batches=accumulated)
    assert clock(trainer.optimizers[0]) == [trainer.global_step] * 2 == [16 / accumulated] * 2
    assert_close(task.model, plain_run(2, accumulated))


def test_manual_optimization(tasks: Any) -> None:
    task = tasks.Manual()
    assert clock(tasks.fit(task).optimizers[0]) == [8.0, 8.0]
    assert_close(task.model, plain_run(2, 2))


def test_clipping(tasks: Any) -> None:
    task = tasks.Task()
    tasks.fit(task, gradient_clip_val=0.1)
    assert_close(task.model, plain_run(2, 1, lambda module: nn.utils.clip_grad_norm_(module.parameters(), 0.1)))


def test_bfloat16_stays_near_float32(tasks: Any) -> None:
    task = tasks.Task()
    assert clock(tasks.fit(task, precision="bf16-mixed").optimizers[0]) == [16.0, 16.0]
    assert_close(task.model, plain_run(2), tolerance=0.05)


def test_a_scheduler_by_the_step_is_the_optimizer_of_its_own_schedule(tasks: Any) -> None:
    task = tasks.Task(scheduled=True)
    trainer = tasks.fit(task, accumulate_grad_batches=2)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 8
    assert_close(task.model, plain_run(2, 2))


def test_the_monitor_shows_both_groups(tasks: Any, tmp_path: Path) -> None:
    logger = tasks.lightning.pytorch.loggers.CSVLogger(tmp_path, "logs", version=0)
    monitor = tasks.lightning.pytorch.callbacks.LearningRateMonitor("step")
    tasks.fit(tasks.Task(), logger=logger, callbacks=[monitor], log_every_n_steps=1)
    assert monitor.lrs == {"lr-TVLARS/pg1": [2.0] * 16, "lr-TVLARS/pg2": [pytest.approx(0.1)] * 16}


def test_a_checkpoint_goes_on_where_it_was(tasks: Any, tmp_path: Path) -> None:
    whole, first, second = tasks.Task(), tasks.Task(), tasks.Task()
    tasks.fit(whole)
    save = tasks.lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "one")
    tasks.fit(first, max_epochs=1, callbacks=[save], enable_checkpointing=True)
    assert clock(tasks.fit(second, tmp_path / "one.ckpt").optimizers[0]) == [16.0, 16.0]
    assert_close(second.model, whole.model, tolerance=0.0)
