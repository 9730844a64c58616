"""Training: one loop for every task, optimizer, batch size and device, and the test after each epoch.

Lightning Fabric chooses the device and the precision. Losses stay on the device and are fetched a few steps
at a time, so that an accelerator is seldom waited for.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from tvlars.lab.augment import crop_and_flip, rotate
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.diagnostics import NOISE_SAMPLES, layer_stats, measure_noise, measure_sharpness, sample
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.optimizers import build_optimizer
from tvlars.lab.progress import Reporter
from tvlars.lab.record import EpochRow, Record, StepRow
from tvlars.lab.setup import micro_batches
from tvlars.lab.ssl.probes import Evaluated
from tvlars.lab.tensorboard import TensorBoardLog
from tvlars.plan import Plan

FETCH_EVERY = 16
"""Steps between two fetches of losses from an accelerator; on a CPU they are fetched at every step."""


@dataclass(frozen=True)
class RunResult:
    """What came out of a run that finished."""

    folder: Path
    config: TrainConfig
    plan: Plan
    epochs: list[EpochRow]
    evaluations: dict[str, Evaluated] = field(default_factory=dict)
    """What was found out about the features of self-supervised learning, by name: "linear", "knn" and others."""

    @property
    def test_accuracy(self) -> float:
        """Fraction of test images classified right after the last epoch; with self-supervised learning that of the
        linear evaluation, or of the online probe where there was none."""
        return self.evaluations["linear"].accuracy if "linear" in self.evaluations else self.epochs[-1].test_accuracy


class Run:
    """The state of one training run, and the loop."""

    def __init__(
        self,
        config: TrainConfig,
        plan: Plan,
        data: ImageData,
        mean_and_std: tuple[Tensor, Tensor],
        fabric: Fabric,
        model: nn.Module,
        record: Record,
        reporter: Reporter,
    ) -> None:
        self.config, self.plan, self.fabric = config, plan, fabric
        self.record, self.reporter = record, reporter
        self.data = data.to(fabric.device)
        self.mean, self.std = (value.view(1, -1, 1, 1).to(fabric.device) for value in mean_and_std)
        padding = config.crop_padding
        self.padding = max(round(data.image_size / 12), 1) if padding is None else padding

        # Groups by module type want the bare model; Fabric wraps both afterwards.
        optimizer = build_optimizer(config, plan, model)
        self.bare_optimizer = optimizer
        self.scheduler = plan.scheduler(optimizer)
        self.bare_model = model.to(memory_format=torch.channels_last)
        compiled: Any = torch.compile(self.bare_model) if config.compile else self.bare_model
        self.model, self.optimizer = fabric.setup(compiled, optimizer)
        self.tensorboard = TensorBoardLog(record.folder) if config.tensorboard else None
        self.layer_stats = None
        if config.layer_stats:
            writer = self.tensorboard.writer if self.tensorboard else None
            self.layer_stats = layer_stats(optimizer, self.bare_model, config.layer_stats, record.folder, writer)
        # A source of its own for what happens to the data: it is the same for every optimizer.
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator(fabric.device).manual_seed(config.seed)

        self.step = 0
        self.interrupted = False
        self.epochs: list[EpochRow] = []
        self.epoch_steps: list[StepRow] = []
        self.evaluations: dict[str, Evaluated] = {}
        self.pending: list[tuple[int, Tensor, Tensor]] = []
        self.unwritten: list[StepRow] = []

    def train(self) -> RunResult:
        """Run all epochs; whatever ends it, the record says so and holds what was measured."""
        status = "failed"
        outer = self._take_interrupts()
        try:
            for epoch in range(1, self.config.epochs + 1):
                self._epoch(epoch)
            self._after_training()
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except DivergedError:
            status = "diverged"
            raise
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if "can't allocate memory" in str(error) or isinstance(error, torch.OutOfMemoryError):
                size = min(self.config.micro_batch_size, self.config.batch_size)
                raise UsageError(f"micro_batch_size must be smaller for this device's memory, got {size}") from error
            raise
        finally:
            if outer is not None:
                signal.signal(signal.SIGINT, outer)
            self._close(status)
        return RunResult(self.record.folder, self.config, self.plan, self.epochs, self.evaluations)

    def _after_training(self) -> None:
        """What a task has to do when all epochs are over."""

    def _weights(self) -> dict[str, Tensor]:
        """What weights.pt is to hold."""
        return self.bare_model.state_dict()

    def _take_interrupts(self) -> Any:
        """Note that Ctrl-C was pressed, besides what it does: torch may be in a callback that lets no exception out.

        Returns the handler that was there before, None where ours was not put in its place.
        """
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or handler is not signal.default_int_handler:
            return None

        def interrupt(number: int, frame: Any) -> None:
            self.interrupted = True
            signal.default_int_handler(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        return handler

    def _close(self, status: str) -> None:
        try:
            if status == "interrupted":
                self._fetch()
        finally:
            try:
                self._finish(status)
            finally:
                with contextlib.suppress(OSError):  # nobody may be there to read it any more
                    self.reporter.end(status)

    def _finish(self, status: str) -> None:
        """Write all that is left; the summary last, since its status says that the rest is there."""
        try:
            self._write()
            if self.layer_stats is not None:
                self.layer_stats.close()
            if self.tensorboard is not None:
                self.tensorboard.close()
            if status in ("finished", "interrupted"):
                self.record.save_weights(self._weights())
        except OSError:
            status = "failed"
            raise
        finally:
            last = self.epochs[-1] if self.epochs else None
            probe = self.evaluations.get("linear")
            accuracy = probe.accuracy if probe else last.test_accuracy if last else math.nan
            self.record.finish(
                status,
                steps=self.step,
                epochs=len(self.epochs),
                test_accuracy=accuracy if math.isfinite(accuracy) else None,
                test_loss=last.test_loss if last and math.isfinite(last.test_loss) else None,
                seconds=round(sum(row.seconds for row in self.epochs), 3),
            )

    def _write(self, epoch: EpochRow | None = None) -> None:
        rows, self.unwritten = self.unwritten, []
        self.record.add(rows, epoch)
        if self.tensorboard is not None:
            self.tensorboard.add(rows, epoch)

    def _epoch(self, epoch: int) -> None:
        batch_size, start = self.config.batch_size, time.perf_counter()
        self.model.train()
        self.epoch_steps = []
        order = torch.randperm(len(self.data.train_labels), generator=self.order).to(self.fabric.device)
        for i in range(self.plan.steps_per_epoch):
            if self.interrupted:
                raise KeyboardInterrupt
            self.step += 1
            loss, correct = self._optimizer_step(order[i * batch_size : (i + 1) * batch_size])
            self.pending.append((self.step, loss, correct))
            if self.fabric.device.type == "cpu" or len(self.pending) >= FETCH_EVERY:
                self._fetch()
        self._fetch()
        seconds = time.perf_counter() - start
        test_loss, test_accuracy = self.evaluate()
        steps = self.epoch_steps
        row = EpochRow(
            epoch=epoch,
            step=self.step,
            train_loss=sum(s.loss for s in steps) / len(steps),
            train_accuracy=sum(s.train_accuracy for s in steps) / len(steps),
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            images_per_second=len(steps) * batch_size / seconds,
            seconds=seconds,
        )
        self.epochs.append(row)
        self._write(row)
        self.reporter.epoch(row)
        if not math.isfinite(test_loss):  # of a step whose loss was taken before it
            raise DivergedError(self.config.optimizer, self.step, steps[-1].lr, self.record.folder, "test loss")
        for measure in (self._measure_sharpness, self._measure_noise):
            try:
                measure(epoch)
            except (RuntimeError, ValueError) as error:  # a measurement that fails is no reason to lose the run
                what = measure.__name__.removeprefix("_measure_")
                self.reporter.note(f"{what} after epoch {epoch} could not be measured: {str(error).splitlines()[0]}")

    def _measure_sharpness(self, epoch: int) -> None:
        """Sharpness on training images as they are, where it was asked for after this epoch."""
        config, data = self.config, self.data
        if epoch in config.sharpness_epochs():
            images, labels = sample(data.train_images, data.train_labels, config.sharpness_samples)
            size = min(config.micro_batch_size, 512)  # curvature takes several times the memory of a step
            pieces = zip(torch.split(images, size), torch.split(labels, size), strict=True)
            batches = ((self._normalize(x), y) for x, y in pieces)
            row = measure_sharpness(self.bare_model, batches, epoch=epoch, step=self.step)
            self.record.add_measurement("sharpness.csv", row)
            self.reporter.note(
                f"sharpness after epoch {epoch}: top eigenvalue {row.hessian_max:.4g}, trace {row.hessian_trace:.4g} ± "
                f"{row.hessian_trace_error:.2g}, adaptive worst case {row.worst_case:.4g} ({row.seconds:.0f} s)"
            )

    def _measure_noise(self, epoch: int) -> None:
        """The noise scale on training images as they are, where it was asked for."""
        data = self.data
        if self.config.noise_scale:
            images, labels = sample(data.train_images, data.train_labels, NOISE_SAMPLES)
            noise = measure_noise(self.bare_model, self._normalize(images), labels, epoch=epoch, step=self.step)
            self.record.add_measurement("noise.csv", noise)
            self.reporter.note(
                f"noise scale after epoch {epoch}: {noise.noise_scale:,.0f} samples "
                f"(95 %: {noise.low:,.0f} to {noise.high:,.0f})"
            )

    def _optimizer_step(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """One step on the samples with these indices; returns mean loss and number of right answers."""
        loss_sum = torch.zeros((), device=self.fabric.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        for index in torch.tensor_split(batch, micro_batches(self.config)):
            images, labels = self.data.train_images[index], self.data.train_labels[index]
            if self.config.augment:
                images = crop_and_flip(images, self.padding, self.data.flip, self.draws)
            if self.config.augment and self.config.rotation:
                images = rotate(images, self.config.rotation, self.draws)
            logits = self.model(self._normalize(images)).float()
            # A sum over the whole batch size: micro-batches of any length add up to the batch's mean gradient.
            loss = F.cross_entropy(logits, labels, reduction="sum") / len(batch)
            self.fabric.backward(loss)
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == labels).sum()
        self._update()
        return loss_sum, correct

    def _update(self) -> None:
        """The optimizer's step, and the schedule's."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()

    def _fetch(self) -> None:
        """Turn pending losses into rows; stop where one is not finite."""
        pending, self.pending = self.pending, []
        for step, loss, correct in pending:
            phi = self.plan.factor(step)
            row = StepRow(
                step=step,
                epoch=step / self.plan.steps_per_epoch,
                loss=float(loss),
                train_accuracy=float(correct) / self.config.batch_size,
                lr=self.plan.lr * phi,
                phi=phi,
            )
            self.unwritten.append(row)
            self.epoch_steps.append(row)
            if not torch.isfinite(loss):
                raise DivergedError(self.config.optimizer, step, row.lr, self.record.folder)
        if pending:
            self.reporter.step(self.epoch_steps[-1])

    def _normalize(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.config.micro_batch_size
        return zip(torch.split(self.data.test_images, size), torch.split(self.data.test_labels, size), strict=True)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test set, images as they are."""
        self.model.eval()
        loss = torch.zeros((), device=self.fabric.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        for images, labels in self._test_batches():
            logits = self.model(self._normalize(images)).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
        count = len(self.data.test_labels)
        return float(loss) / count, float(correct) / count
