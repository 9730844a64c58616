"""Task of a run: the gradient of a batch, the test and the weights that are kept; and classification, which is one."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.lab.processes.fabric import whole_weights
from tvlars.lab.run_folder.record import Record
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.lab.training.prepare import Prepared
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.setup import Setup


class Task(ABC):
    """Objective of a run and its test; the loop and the checkpoints know nothing else of it."""

    evaluates_at_the_end: ClassVar[bool] = False
    """True if :meth:`after_training` takes long, so that a checkpoint is due before it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.extra: dict[str, Any] = {}
        """Modules and optimizers besides the model and its own, by their names in a checkpoint."""
        self.evaluations: dict[str, Evaluated] = {}
        self.right: Tensor | None = None
        """True for each test image classified right after the last epoch; None if the task does not keep that."""

    def facts(self) -> dict[str, str]:
        """Return lines for the user and environment.json, by name."""
        return {}

    def before_training(self) -> None:
        """Write what is to be seen before the first step; the first process calls it."""

    @abstractmethod
    def gradient(self, batch: Tensor, upcoming: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of the mean loss over the samples ``batch`` (indices) to the parameters' gradients.

        ``upcoming`` are the samples of the next batch, whose images may be fetched meanwhile.

        Returns:
            This process's share of the mean loss, and of the number of right answers.
        """

    def after_step(self, step: int) -> None:
        """Do what follows the optimizer's step number ``step``."""

    @abstractmethod
    def test(self, epoch: int, step: int) -> tuple[float, float]:
        """Return loss and accuracy on the test set after ``epoch``, that is ``step`` optimizer steps."""

    def after_training(self, step: int) -> None:
        """Do what is left when all epochs are over, that is ``step`` optimizer steps."""

    def weights(self) -> dict[str, Any]:
        """Return the content of weights.pt; every process calls it."""
        model = self.setup.bare_model
        return whole_weights(model) if self.setup.config.shard else dict(model.state_dict())

    def no_sync(self, enabled: bool = True) -> contextlib.AbstractContextManager[None]:
        """Leave gradients in each process for now, since more are added to them before they are exchanged."""
        if not (enabled and self.setup.processes.several):
            return contextlib.nullcontext()
        return self.setup.fabric.no_backward_sync(self.setup.model)


class Classification(Task):
    """Cross-entropy of labelled images, the test set as it is."""

    def __init__(self, prepared: Prepared, model: nn.Module, record: Record, reporter: Reporter) -> None:
        super().__init__(Setup(prepared, model, record, reporter))

    def gradient(self, batch: Tensor, upcoming: Tensor) -> tuple[Tensor, Tensor]:
        setup, phase = self.setup, self.setup.phase
        count, device = setup.processes.count, setup.fabric.device
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        last = setup.batches.count - 1
        for i, (images, labels) in enumerate(setup.batches.parts(batch, upcoming)):
            with self.no_sync(i < last):
                with phase("forward"):
                    logits = setup.model(images).float()
                    # A sum over the whole batch size: micro-batches of any length add up to its mean gradient.
                    loss = F.cross_entropy(logits, labels, reduction="sum") / len(batch)
                with phase("backward"):
                    # Gradients are averaged over processes, and the batch's is the sum over them.
                    setup.fabric.backward(loss * count if count > 1 else loss)
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == labels).sum()
        return loss_sum, correct

    @torch.no_grad()
    def test(self, epoch: int, step: int) -> tuple[float, float]:
        setup, processes, device = self.setup, self.setup.processes, self.setup.fabric.device
        setup.model.eval()
        loss = torch.zeros((), device=device)
        count, right = len(setup.data.test_labels), []
        for images, labels in setup.batches.test():
            logits = setup.model(images).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            right.append(logits.argmax(1) == labels)
        mine = torch.cat(right)
        if epoch == setup.config.epochs:  # what a comparison is paired by, image by image
            of_all = torch.zeros(count, dtype=torch.int32, device=device)
            of_all.index_copy_(0, processes.share(torch.arange(count, device=device)), mine.int())
            self.right = processes.total(of_all).bool().cpu()
        return float(processes.total(loss)) / count, float(processes.total(mine.sum())) / count
