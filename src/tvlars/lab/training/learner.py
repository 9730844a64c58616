"""Learner of a run, which computes gradients of batches, tests the model and returns its weights.

There is one for each kind of task: classification, self-supervised learning, and a task of the user.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from tvlars.lab.data.augment.recipe import RANDOM_RESIZED
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import said_path
from tvlars.lab.processes.processes import load_whole_weights, whole_weights
from tvlars.lab.processes.sync_batch_norm import synchronize_batch_norm
from tvlars.lab.run_folder.record import Record
from tvlars.lab.run_folder.rows import TEST_SHARE
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.lab.tasks import chosen_by, metrics_of, sums_of, values_of
from tvlars.lab.training.batches import batches_of
from tvlars.lab.training.optimizers import averages, build_optimizer
from tvlars.lab.training.prepare import Prepared
from tvlars.lab.training.profile import Phases
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.speed import compiled

NORM_BATCHES = 50
"""Micro-batches for computing batch norm's statistics with averaged weights, as schedulefree advises."""


class Learner(ABC):
    """Objective of a run and its test, with batches, model, optimizer and schedule on their device.

    Args:
        prepared: the run.
        network: the module to train, with its initial weights.
        record: written by the run.
        reporter: shows the run.
    """

    evaluates_at_the_end: ClassVar[bool] = False
    """True if :meth:`after_training` takes long, so that a checkpoint is due before it."""

    def __init__(self, prepared: Prepared, network: nn.Module, record: Record, reporter: Reporter) -> None:
        config, fabric = prepared.config, prepared.fabric
        self.config, self.fabric = config, fabric
        self.record, self.reporter = record, reporter
        self.processes = prepared.processes
        self.phase = Phases(record if config.profile and self.processes.first else None, fabric.device)
        self.batches = batches_of(prepared, self.phase)
        self.data, self.normalize = self.batches.data, self.batches.normalize
        self.fingerprint = prepared.data.fingerprint
        self.watched = "validation" if self.data.validated else "test"
        """Split that is tested after each epoch; the test set is otherwise read once, at the end."""
        self.batch_norms: dict[str, type[nn.Module]] = {}
        """Classes of batch norms before they were synchronized."""
        if self.processes.several and config.sync_batch_norm:
            self.batch_norms = synchronize_batch_norm(network, on_cpu=fabric.device.type == "cpu")
        # FSDP2 needs parameters in the contiguous layout.
        self.bare_model = network if config.shard else network.to(memory_format=torch.channels_last)
        self.model = fabric.setup_module(compiled(self.bare_model) if prepared.chosen_compile[0] else self.bare_model)
        # Built after setup_module, which replaces parameters by shards, and from the bare model, whose names it needs.
        built = build_optimizer(config, prepared.plan, self.bare_model)
        self.bare_optimizer, self.scheduler, self.plan = built.optimizer, built.scheduler, built.plan
        self.optimizer: Any = fabric.setup_optimizers(self.bare_optimizer)
        if self.processes.rank:  # different dropout in each process; initial weights are drawn already
            torch.manual_seed((config.seed + self.processes.rank) % 2**32)
        self.averaging = averages(self.bare_optimizer)
        """True if the optimizer averages weights by itself, as schedule-free ones do."""
        for name in ("ema", "shard"):  # exchanges of weights exclude each other, and shards
            if self.averaging and getattr(config, name):
                raise UsageError(f"{name} must not be given for {config.arm_name}, which averages weights by itself")
        self.extra: dict[str, Any] = {}
        """Further modules and optimizers in a checkpoint, by name."""
        self.average: AveragedModel | None = None
        """Moving average of weights and buffers, which is tested and saved in place of the last weights."""
        if config.ema is not None:
            update = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.bare_model, multi_avg_fn=update, use_buffers=True)
            self.extra["average"] = self.average
        self.evaluations: dict[str, Evaluated] = {}
        self.metrics = prepared.metrics
        self.measured: dict[str, float] = {}
        """Values of the metrics in the last test, by split and name, as in "test_f1"."""
        self.right: Tensor | None = None
        """True for each test image classified correctly after the last epoch; None if the learner does not keep it."""

    def facts(self) -> dict[str, str]:
        """Return lines for the user and environment.json, by name."""
        return {}

    def before_training(self) -> None:
        """Write pictures of the data before the first step; the first process calls it."""

    @abstractmethod
    def gradient(self, batch: Tensor, upcoming: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of the mean loss over the samples ``batch`` (indices) to the parameters' gradients.

        ``upcoming`` are the samples of the next batch, whose images may be fetched meanwhile.

        Returns:
            This process's summands of the mean loss and of the number of correct predictions.
        """

    def after_step(self, step: int) -> None:
        """Update other parts of the learner after optimizer step ``step``."""

    @abstractmethod
    def test(self, epoch: int, step: int, split: str = "test") -> tuple[float, float]:
        """Return loss and accuracy on "validation" or "test" images after ``epoch`` and optimizer step ``step``."""

    def rank(self, measured: Mapping[str, float]) -> float | None:
        """Return a number that is larger for better measures of an epoch; None if accuracy and loss alone decide."""
        return None

    def after_training(self, step: int) -> None:
        """Finish learning after the last epoch and optimizer step ``step``."""

    @contextlib.contextmanager
    def with_tested_weights(self) -> Iterator[None]:
        """Exchange the model's weights, within the context, for the tested ones: their average, if there is one."""
        if self.averaging:
            with self._averaged_by_optimizer():
                yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @contextlib.contextmanager
    def _averaged_by_optimizer(self) -> Iterator[None]:
        """Have the optimizer put its averages into the model, within the context; training is not affected."""
        tensors = [*self.bare_model.parameters(), *self.bare_model.buffers()]
        kept = [x.detach().clone() for x in tensors]
        optimizer: Any = self.bare_optimizer
        optimizer.eval()
        try:
            self._refresh_batch_norm()
            yield
        finally:
            optimizer.train()
            with torch.no_grad():
                for x, value in zip(tensors, kept, strict=True):  # train() computes them up to rounding alone
                    x.copy_(value)

    def _refresh_batch_norm(self) -> None:
        """Compute batch norm's statistics anew, on the same batches each time: training's belong to other weights.

        Random numbers of training are not used.
        """
        order = torch.randperm(len(self.data.train_labels), generator=torch.Generator().manual_seed(0), device="cpu")
        size = self.config.batch_size
        count = min(max(NORM_BATCHES // self.batches.count, 1), len(order) // size)
        drawn, devices = self.batches.draws.get_state(), [self.fabric.device] * (self.fabric.device.type == "cuda")
        batches = torch.split(self.batches.feed.indices(order[: count * size]), size)
        key, number = self.batches.feed.key, self.batches.number
        self.batches.begin_aside()
        inputs = (x for batch in batches for x in self.inputs(batch))
        with torch.random.fork_rng(devices):
            update_bn(inputs, self.model)
        self.batches.draws.set_state(drawn)
        self.batches.feed.key, self.batches.number = key, number
        self.processes.average_buffers(self.bare_model)

    def inputs(self, batch: Tensor) -> Iterator[Tensor]:
        """Yield the model's inputs in training for the samples ``batch`` (indices), as micro-batches."""
        return (images for images, _ in self.batches.parts(batch, batch[:0]))

    @torch.no_grad()
    def _exchange(self) -> None:
        """Exchange weights and buffers of model and average in place, since other objects hold the same tensors."""
        if self.average is not None:
            averaged = self.average.module
            for name in ("parameters", "buffers"):
                for one, other in zip(getattr(self.bare_model, name)(), getattr(averaged, name)(), strict=True):
                    kept = one.clone()
                    one.copy_(other)
                    other.copy_(kept)

    def weights(self) -> dict[str, Any]:
        """Return the content of weights.pt; every process calls it."""
        model = self.bare_model
        return whole_weights(model) if self.config.shard else dict(model.state_dict())

    @contextlib.contextmanager
    def with_weights(self, weights: dict[str, Any]) -> Iterator[None]:
        """Exchange the model's weights, within the context, for others that :meth:`weights` returned; every process has
        them, for a sharded model only the first process."""
        # By state dicts, which hold FSDP2's shards: parameters are whole after a forward pass.
        here = self.bare_model.state_dict()
        kept = {name: x.detach().clone() if isinstance(x, Tensor) else x for name, x in here.items()}
        try:
            if self.config.shard:
                load_whole_weights(self.bare_model, weights)
            else:
                self.bare_model.load_state_dict(weights)
            yield
        finally:
            self.bare_model.load_state_dict(kept)

    def no_sync(self, enabled: bool = True) -> contextlib.AbstractContextManager[None]:
        """Return a context in which processes do not exchange gradients, since further gradients will be added."""
        if not (enabled and self.processes.several):
            return contextlib.nullcontext()
        return self.fabric.no_backward_sync(self.model)


class Classification(Learner):
    """Classification of labelled images by cross-entropy; test images are not augmented."""

    def facts(self) -> dict[str, str]:
        config = self.config
        parts = {
            "mixup": config.mixup or None,
            "cutmix": config.cutmix or None,
            "label smoothing": config.smoothing or None,
            "gradients clipped to norm": config.clip_grad_norm,
            "moving average of weights with decay": config.ema,
        }
        crop = f"crops of {config.crop_scale or 0.08:g} to 1 of the area" if config.crop == RANDOM_RESIZED else None
        said = [text for text in (crop, config.auto_augment) if text]
        said += [f"{name} {value:g}" for name, value in parts.items() if value is not None]
        recipe = {"recipe": ", ".join(said)} if said else {}
        if config.test_share is not None:
            recipe["measured"] = f"accuracy on a random {100 * config.test_share:g} % of the test set, as published"
        return recipe | config.preset_facts()

    def gradient(self, batch: Tensor, upcoming: Tensor) -> tuple[Tensor, Tensor]:
        count, device = self.processes.count, self.fabric.device
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        last, smoothing = self.batches.count - 1, self.config.smoothing
        for i, (images, labels) in enumerate(self.batches.parts(batch, upcoming)):
            with self.no_sync(i < last):
                with self.phase("forward"):
                    logits = self.model(images).float()
                    # A sum over the whole batch size: micro-batches of any length add up to its mean gradient.
                    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing) / len(batch)
                with self.phase("backward"):
                    # Gradients are averaged over processes, but the batch's gradient is the sum over them.
                    self.fabric.backward(loss * count if count > 1 else loss)
            loss_sum += loss.detach()
            classes = labels.argmax(1) if labels.ndim == 2 else labels  # mixed images: the larger part
            correct += (logits.detach().argmax(1) == classes).sum()
        return loss_sum, correct

    @torch.no_grad()
    def test(self, epoch: int, step: int, split: str = "test") -> tuple[float, float]:
        processes, device = self.processes, self.fabric.device
        self.model.eval()
        loss = torch.zeros((), device=device)
        count, right = len(self.data.part(split)[1]), []
        for images, labels in self.batches.test(split):
            logits = self.model(images).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            right.append(logits.argmax(1) == labels)
            self.metrics.update(logits, labels)
        self.measured = {f"{split}_{name}": value for name, value in self.metrics.compute().items()}
        if split == self.watched and self.config.test_share is not None:
            self.measured[TEST_SHARE] = self._test_share(epoch)
        mine = torch.cat(right)
        if split == "test" and epoch == self.plan.epochs:  # comparisons pair runs image by image
            of_all = torch.zeros(count, dtype=torch.int32, device=device)
            of_all.index_copy_(0, processes.share(torch.arange(count, device=device)), mine.int())
            self.right = processes.total(of_all).bool().cpu()
        return float(processes.total(loss)) / count, float(processes.total(mine.sum())) / count

    def _test_share(self, epoch: int) -> float:
        """Return the accuracy on a random share of the test images.

        The draw depends only on the number of the epoch, as in torch's ``DistributedSampler`` by default: all runs
        have the same images in the same epoch. No random numbers of the training are used.
        """
        which = random_share(len(self.data.part("test")[1]), cast(float, self.config.test_share), epoch)
        right = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        for images, labels in self.batches.some(which):
            right += (self.model(images).argmax(1) == labels).sum()
        return float(self.processes.total(right)) / len(which)


def random_share(count: int, share: float, epoch: int) -> Tensor:
    """Return the sorted indices of a random ``share`` of ``count`` samples, at least one, anew in each ``epoch``."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch), device="cpu")
    return order[: max(round(share * count), 1)].sort().values


class OwnTask(Learner):
    """Learner of a user's task, a :class:`tvlars.lab.Task`; accuracies are NaN."""

    def __init__(self, prepared: Prepared, network: nn.Module, record: Record, reporter: Reporter) -> None:
        super().__init__(prepared, network, record, reporter)
        assert prepared.task is not None
        self.own = prepared.task
        for split in ("validation", "test") if self.data.validated else ("test",):
            if (rows := len(self.data.part(split)[1])) < self.processes.count:
                raise UsageError(
                    f"data must have a {split} sample for each of {self.processes.count} processes, got {rows}"
                )
        self.chosen_by = chosen_by(self.own)
        self.own_metrics = metrics_of(self.own)
        for metric in self.own_metrics.values():
            metric.to(self.fabric.device)
        if self.averaging and any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in network.modules()):
            raise UsageError(
                f"optimizer must not average weights, as {self.config.arm_name} does, for a task of your own and a "
                "model with batch norm, whose statistics would be of other weights"
            )

    def facts(self) -> dict[str, str]:
        return {
            "task": f"{said_path(self.config.task)}, with {self.config.micro_batch_size:,} samples at most at a time"
        }

    def rank(self, measured: Mapping[str, float]) -> float | None:
        name, better = self.chosen_by
        if name == "loss":
            return None
        value = measured.get(f"validation_{name}", math.nan)
        return -value if better == "min" else value

    def _refresh_batch_norm(self) -> None:
        """Do nothing: there is no batch norm with an optimizer that averages weights."""

    def gradient(self, batch: Tensor, upcoming: Tensor) -> tuple[Tensor, Tensor]:
        count, device = self.processes.count, self.fabric.device
        loss_sum, last = torch.zeros((), device=device), self.batches.count - 1
        indices = self.batches.split(batch)
        parts: Iterator[Any] = self.batches.images(indices, self.batches.split(upcoming)[0])
        for i, (index, rows) in enumerate(zip(indices, parts, strict=True)):
            with self.no_sync(i < last):
                with self.phase("forward"):
                    # Weighted by the samples of a micro-batch, so that mean losses add up to the batch's.
                    loss = self.own.loss(self.model, rows.to(device).values) * (len(index) / len(batch))
                with self.phase("backward"):
                    self.fabric.backward(loss * count if count > 1 else loss)
            loss_sum += loss.detach()
        return loss_sum, torch.full((), math.nan, device=device)

    @torch.no_grad()
    def test(self, epoch: int, step: int, split: str = "test") -> tuple[float, float]:
        """Return the mean loss over the split, and NaN for the accuracy."""
        processes, device = self.processes, self.fabric.device
        self.model.eval()
        rows: Any = self.data.part(split)[0]
        mine = processes.share(torch.arange(len(rows), device="cpu"))
        parts = torch.split(mine, self.config.micro_batch_size)
        batches = ((len(index), rows[index.to(rows.device)].to(device).values) for index in parts)
        sums = sums_of(self.own, self.model, batches, self.own_metrics, device)
        means = {name: float(processes.total(value)) / len(rows) for name, value in sums.items()}
        loss = means.pop("loss")
        self.measured = {f"{split}_{name}": value for name, value in (means | values_of(self.own_metrics)).items()}
        return loss, math.nan
