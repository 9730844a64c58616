"""The transformers Trainer: an optimizer of ours, its own scheduler or one of ours, and the ways to give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.integrations.problem import assert_close, clock, data, lars, model, plain_run, tvlars

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = model()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer(task: nn.Module, out: Path, cls: Any = InOrder, *, accumulated: int = 1, **options: Any) -> Any:
    names = ("optimizers", "optimizer_cls_and_kwargs")
    given = {name: options.pop(name) for name in names if name in options}
    arguments = transformers.TrainingArguments(
        str(out),
        use_cpu=True,
        num_train_epochs=2,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulated,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
        **{"lr_scheduler_type": "constant", "max_grad_norm": 0.0, **options},
    )
    samples = [{"x": x, "labels": y} for x, y in data()]
    made = cls(task, arguments, train_dataset=samples, **given)
    made.train()
    return made


@pytest.mark.parametrize("accumulated", [1, 2])
def test_an_optimizer_and_a_constant_scheduler(accumulated: int, tmp_path: Path) -> None:
    task = Task()
    optimizer = tvlars(task)
    trainer(task, tmp_path, accumulated=accumulated, optimizers=(optimizer, None))
    assert clock(optimizer) == [16 / accumulated] * 2
    assert_close(task.model, plain_run(2, accumulated))


def test_a_scheduler_of_ours_is_the_optimizer_of_its_own_schedule(tmp_path: Path) -> None:
    task = Task()
    optimizer, scheduler = lars(task)
    trainer(task, tmp_path, accumulated=2, optimizers=(optimizer, scheduler))
    assert scheduler.last_epoch == 8
    assert_close(task.model, plain_run(2, 2))


def test_the_default_scheduler_multiplies_each_group_s_own_rate(tmp_path: Path) -> None:
    task = Task()
    optimizer = tvlars(task)
    made = trainer(task, tmp_path, lr_scheduler_type="linear", optimizers=(optimizer, None))
    assert [group["initial_lr"] for group in optimizer.param_groups] == [2.0, pytest.approx(0.1)]
    assert made.lr_scheduler.get_last_lr() == [0.0, 0.0]
    assert clock(optimizer) == [16.0, 16.0]


def test_the_default_clipping_acts(tmp_path: Path) -> None:
    task = Task()
    trainer(task, tmp_path, max_grad_norm=0.1, optimizers=(tvlars(task), None))
    assert_close(task.model, plain_run(2, 1, lambda module: nn.utils.clip_grad_norm_(module.parameters(), 0.1)))


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    task = Task()
    trainer(task, tmp_path, bf16=True, optimizers=(tvlars(task), None))
    assert_close(task.model, plain_run(2), tolerance=0.05)


def test_a_factory_makes_it_when_the_model_is_where_it_belongs(tmp_path: Path) -> None:
    """With FSDP the Trainer takes no finished optimizer; it calls this with the model."""
    task = Task()
    made = trainer(task, tmp_path, optimizer_cls_and_kwargs=(lambda: tvlars, {}))
    assert clock(made.optimizer.optimizer) == [16.0, 16.0]
    assert_close(task.model, plain_run(2))


def test_a_trainer_that_makes_its_own(tmp_path: Path) -> None:
    class Ours(InOrder):
        def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
            self.optimizer = tvlars(self.model if model is None else model)
            return self.optimizer

    task = Task()
    trainer(task, tmp_path, Ours)
    assert_close(task.model, plain_run(2))
