"""The small problem as modules of Lightning, and its Trainer with little around it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.integrations.problem import data, lars, model, tvlars


class Task(lightning.LightningModule):
    def __init__(self, scheduled: bool = False) -> None:
        super().__init__()
        self.model, self.scheduled = model(), scheduled

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        if not self.scheduled:
            return tvlars(self)
        optimizer, scheduler = lars(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Manual(Task):
    """Steps by hand, on every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


def fit(task: Task, resume: Path | None = None, **options: Any) -> Any:
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of workers and log intervals
        trainer = lightning.Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 2, **quiet, **options})
        trainer.fit(task, DataLoader(data(), 8), ckpt_path=resume)
    return trainer
