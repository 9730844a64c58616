"""Training: one loop for every task, optimizer, batch size and device, and the test after each epoch.

Lightning Fabric chooses the device and the precision, and does what many processes need. Losses stay on the device and
are fetched a few steps at a time, so that an accelerator is seldom waited for; what processes have to agree on is
agreed then, in one collective.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.errors import DivergedError, MovedFolderError, PreemptedError, UsageError
from tvlars.lab.files.disk import cannot_write
from tvlars.lab.measure.each_epoch import measure_epoch
from tvlars.lab.measure.layer_stats import RunStats, layer_stats
from tvlars.lab.processes.fabric import whole_weights
from tvlars.lab.processes.processes import Processes
from tvlars.lab.processes.signals import StopSignals, stop
from tvlars.lab.processes.sync_batch_norm import synchronize_batch_norm
from tvlars.lab.run_folder.loaded_run import RunResult
from tvlars.lab.run_folder.record import Record
from tvlars.lab.run_folder.rows import EpochRow, StepRow
from tvlars.lab.run_folder.status import Status
from tvlars.lab.run_folder.tensorboard import TensorBoardLog
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.lab.training import state as run_state
from tvlars.lab.training.batches import Batches
from tvlars.lab.training.optimizers import build_optimizer
from tvlars.lab.training.profile import Phases
from tvlars.lab.training.progress import Reporter
from tvlars.plan import Plan

FETCH_EVERY = 16
"""Steps between two fetches of losses from an accelerator; on a CPU they are fetched at every step."""


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
        self.processes = Processes(fabric)
        profiled = record.folder if config.profile and self.processes.first else None
        self.phase = Phases(profiled, fabric.device, record.check_place)
        self.fingerprint = data.fingerprint
        self.batches = Batches(config, data, mean_and_std, fabric.device, self.processes, self.phase)
        self.data, self.normalize = self.batches.data, self.batches.normalize

        self.batch_norms: dict[str, type[nn.Module]] = {}
        """What batch norms were before they were synchronized."""
        if self.processes.several and config.sync_batch_norm:
            self.batch_norms = synchronize_batch_norm(model, on_cpu=fabric.device.type == "cpu")
        # FSDP2 wants parameters in the usual order.
        self.bare_model = model if config.shard else model.to(memory_format=torch.channels_last)
        compiled: Any = _compiled(self.bare_model) if config.compile else self.bare_model
        self.model = fabric.setup_module(compiled)
        # Groups by role want the bare model, and shards in place of parameters where there are any.
        self.bare_optimizer = build_optimizer(config, plan, self.bare_model)
        self.scheduler = plan.scheduler(self.bare_optimizer)
        self.optimizer: Any = fabric.setup_optimizers(self.bare_optimizer)
        self.tensorboard: TensorBoardLog | None = None
        self.layer_stats: RunStats | None = None
        if self.processes.rank:  # the same initial weights everywhere, but not the same dropout
            torch.manual_seed((config.seed + self.processes.rank) % 2**32)

        self.signals = StopSignals(patient=self.processes.several)
        self.step = 0
        self.epoch, self.position = 1, 0
        """Where the run is: in which epoch, and how many of its steps have been taken."""
        self.in_step = False
        self.upcoming = torch.empty(0, dtype=torch.int64, device="cpu")
        """The indices of the next batch."""
        self.order_state = self.batches.order.get_state()
        """The state of the shuffle before this epoch's."""
        self.epoch_seconds = 0.0
        self.saved_at, self.saved_time = (1, 0), time.monotonic()
        self.epochs: list[EpochRow] = []
        self.epoch_steps: list[StepRow] = []
        self.evaluations: dict[str, Evaluated] = {}
        self.test_correct: Tensor | None = None
        """Which test images are classified right after the last epoch."""
        self.pending: list[tuple[int, Tensor, Tensor]] = []
        self.unwritten: list[StepRow] = []

    def open_logs(self) -> None:
        """Begin what is written besides rows, from the next step on; in a run that goes on, what later steps have left
        is taken out of it: whoever calls this has restored the run.

        Raises:
            UsageError: a package is missing, or what a run that goes on has written cannot be read; nothing is changed.
        """
        folder, check = self.record.folder, self.record.check_place
        if self.config.tensorboard and self.processes.first:
            self.tensorboard = TensorBoardLog(folder, self.step, self.reporter.note, check)
        if self.config.layer_stats:
            self.layer_stats = layer_stats(
                self.bare_optimizer, self.bare_model, self.config.layer_stats, folder, self.tensorboard, self.step
            )
            self.layer_stats.tell, self.layer_stats.check_place = self.reporter.note, check

    # -- the run --------------------------------------------------------------------------------------

    def train(self) -> RunResult:
        """Run all epochs that are left; whatever ends it, the record says so and holds what was measured."""
        try:
            with self.signals:  # to the very end: a signal that comes twice must not cut off what is written last
                return self._train()
        except (DivergedError, PreemptedError):
            raise
        except (RuntimeError, MemoryError) as error:
            if memory.has_ended(error):
                size = min(self.config.micro_batch_size, self.config.batch_size)
                raise UsageError(
                    f"micro_batch_size must be smaller for this device's memory, got {size}{memory.amount(error)}"
                ) from error
            if self.config.compile and _is_compilers(error):
                raise _cannot_compile(error) from error
            raise

    def _train(self) -> RunResult:
        try:
            self._run()
            status = Status.FINISHED
        except BaseException as error:
            status = Status.of_error(error)
            raise
        finally:
            try:
                self._close(status)
            except (OSError, MovedFolderError) as error:
                if status == Status.FINISHED:
                    raise
                said = cannot_write(error) if isinstance(error, OSError) else str(error)
                with contextlib.suppress(OSError):  # why the run ended comes before what the disk says of it
                    self.reporter.note(f"{said}; the record ends before")
        return RunResult(self.record.folder, self.config, self.plan, self.epochs, self.evaluations)

    def _run(self) -> None:
        try:
            while self.epoch <= self.config.epochs:
                self._epoch()
            # Evaluations of features take long, and several processes, or whoever resumes, may be stopped in them.
            evaluates = self.config.task != "classification" and (self.processes.several or self.config.resume)
            if self.config.checkpoint_every is not None or evaluates:
                self.save_checkpoint()
            with self.signals.at_once(always=True):
                self._after_training()
        except (KeyboardInterrupt, PreemptedError):
            if not self.in_step:  # nothing is half done
                self.save_checkpoint()
            raise

    def _after_training(self) -> None:
        """What a task has to do when all epochs are over."""

    def _weights(self) -> dict[str, Any]:
        """What weights.pt is to hold."""
        return whole_weights(self.bare_model) if self.config.shard else dict(self.bare_model.state_dict())

    def extra_state(self) -> dict[str, Any]:
        """What a task has to keep in a checkpoint besides."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`extra_state` gave."""

    def save_checkpoint(self) -> None:
        """Save all that is needed to go on from here, once; where the disk does not let us, say so and go on."""
        if self.pending:
            self._fetch()
        if self.saved_at == (self.epoch, self.position):
            return
        self._write()
        try:
            with self.phase("checkpoint"):
                saved = run_state.save(self)
            if saved is not None:
                self.saved_at = (self.epoch, self.position)
            else:
                self.reporter.note(
                    f"checkpoint of step {self.step} is not saved, since weights are not finite; those before are kept"
                )
        except OSError as error:
            self.reporter.note(
                f"checkpoint of step {self.step} could not be saved ({error.strerror or error}); those before are kept"
            )
        self.saved_time = time.monotonic()

    def _close(self, status: Status) -> None:
        try:
            if status == Status.INTERRUPTED and self.pending:
                self._fetch()
        finally:
            self.batches.feed.close()
            try:
                self._finish(status)
            finally:
                with contextlib.suppress(OSError):  # nobody may be there to read it any more
                    self.reporter.end(status)

    def _finish(self, status: Status) -> None:
        """Write all that is left, whatever of it the disk takes; the summary last, since its status says that the rest
        is there.

        Raises:
            OSError: something could not be written; RuntimeError: another process has gone. The first of them.
        """
        errors: list[Exception] = []

        def attempt(work: Callable[[], object]) -> None:
            try:
                work()
            except (OSError, RuntimeError) as error:
                errors.append(error)

        if status in (Status.FINISHED, Status.INTERRUPTED, Status.PREEMPTED):
            attempt(lambda: self.record.save_weights(self._weights()))
        if status == Status.FINISHED and self.test_correct is not None:
            attempt(partial(self.record.save_correct, self.test_correct))
        attempt(self._write)
        attempt(self.record.flush)
        if self.layer_stats is not None:
            attempt(self.layer_stats.close)
        if self.tensorboard is not None:
            attempt(self.tensorboard.close)
        profile: list[str] = []
        attempt(lambda: profile.extend(self.phase.finish()))
        if profile:
            with contextlib.suppress(OSError):
                self.reporter.note("where the time went\n" + "\n".join(profile))
        last = self.epochs[-1] if self.epochs else None
        probe = self.evaluations.get("linear")
        accuracy = probe.accuracy if probe else last.test_accuracy if last else math.nan
        attempt(
            lambda: self.record.finish(
                Status.FAILED if errors and status == Status.FINISHED else status,
                steps=self.step,
                epochs=len(self.epochs),
                test_accuracy=accuracy if math.isfinite(accuracy) else None,
                test_loss=last.test_loss if last and math.isfinite(last.test_loss) else None,
                seconds=round(sum(row.seconds for row in self.epochs), 3),
            )
        )
        if errors:
            raise errors[0]

    def _write(self, epoch: EpochRow | None = None) -> None:
        rows, self.unwritten = self.unwritten, []
        self.record.add(rows, epoch)
        if self.tensorboard is not None:
            self.tensorboard.add(rows, epoch)

    # -- an epoch -------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """What is left of the epoch that the run is in."""
        self._train_epoch()
        self.processes.average_buffers(self.bare_model)  # the same already, where batch norm is synchronized
        with self.signals.at_once():
            self._test_epoch()
        self.epoch, self.position = self.epoch + 1, 0
        self.epoch_steps, self.epoch_seconds = [], 0.0
        self.order_state = self.batches.order.get_state()
        unit, number = self.config.checkpoint_interval() or ("", 0.0)
        if unit == "epochs" and (self.epoch - 1) % number == 0:
            self.save_checkpoint()

    def _train_epoch(self) -> None:
        batch_size = self.config.batch_size
        start = time.perf_counter() - self.epoch_seconds
        self.model.train()
        order = self.batches.shuffle()
        for i in range(self.position, self.plan.steps_per_epoch):
            self.step += 1
            self.in_step = True
            self.upcoming = order[(i + 1) * batch_size : (i + 2) * batch_size]
            loss, correct = self._optimizer_step(order[i * batch_size : (i + 1) * batch_size])
            self.in_step, self.position = False, i + 1
            self.pending.append((self.step, loss, correct))
            last = self.position == self.plan.steps_per_epoch
            if self.fabric.device.type == "cpu" or len(self.pending) >= FETCH_EVERY or last or self._due_by_steps():
                self.epoch_seconds = time.perf_counter() - start
                self._fetch_and_agree()

    def _due_by_steps(self) -> bool:
        unit, number = self.config.checkpoint_interval() or ("", 0.0)
        return unit == "steps" and self.step % number == 0

    def _test_epoch(self) -> None:
        with self.phase("evaluation"):
            test_loss, test_accuracy = self.evaluate()
        steps = self.epoch_steps
        row = EpochRow(
            epoch=self.epoch,
            step=self.step,
            train_loss=sum(s.loss for s in steps) / len(steps),
            train_accuracy=sum(s.train_accuracy for s in steps) / len(steps),
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            images_per_second=len(steps) * self.config.batch_size / self.epoch_seconds,
            seconds=self.epoch_seconds,
        )
        self.epochs.append(row)
        with self.phase("logging"):
            self._write(row)
            self.reporter.epoch(row)
        if not math.isfinite(test_loss):  # of a step whose loss was taken before it
            raise DivergedError(self.config.optimizer, self.step, steps[-1].lr, self.record.folder, "test loss")
        if self.config.sharpness is not None or self.config.noise_scale:
            self.processes.alone(self._measure)

    def _measure(self) -> None:
        arguments = (self.config, self.bare_model, self.data, self.normalize, self.record, self.reporter.note)
        measure_epoch(*arguments, epoch=self.epoch, step=self.step)

    # -- a step ---------------------------------------------------------------------------------------

    def _optimizer_step(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """One step on the samples with these indices.

        Returns this process's share of the mean loss, and of the number of right answers.
        """
        loss_sum = torch.zeros((), device=self.fabric.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        last = self.batches.count - 1
        for i, (images, labels) in enumerate(self.batches.parts(batch, self.upcoming)):
            with self._no_sync(i < last):
                with self.phase("forward"):
                    logits = self.model(images).float()
                    # A sum over the whole batch size: micro-batches of any length add up to its mean gradient.
                    loss = F.cross_entropy(logits, labels, reduction="sum") / len(batch)
                with self.phase("backward"):
                    # Gradients are averaged over processes, and the batch's is the sum over them.
                    self.fabric.backward(loss * self.processes.count if self.processes.several else loss)
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == labels).sum()
        self._update()
        return loss_sum, correct

    def _no_sync(self, enabled: bool) -> contextlib.AbstractContextManager[None]:
        """Where gradients need not be exchanged yet, since more are added to them."""
        if not (enabled and self.processes.several):
            return contextlib.nullcontext()
        return self.fabric.no_backward_sync(self.model)

    def _update(self) -> None:
        """The optimizer's step, and the schedule's."""
        with self.phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.scheduler is not None:
                self.scheduler.step()
        self.phase.step()

    def _fetch_and_agree(self) -> None:
        """Fetch; then save and stop, where all processes say so."""
        with self.phase("logging"):
            signal, due = self._fetch()
        if due or self._due_by_steps() or signal:
            self.save_checkpoint()
        if signal:
            stop(signal)

    def _fetch(self) -> tuple[int, bool]:
        """Turn pending losses into rows; stop where one is not finite.

        Returns the signal that some process has received (0: none), and whether a checkpoint is due by the clock of
        the first process.
        """
        unit, number = self.config.checkpoint_interval() or ("", 0.0)
        signal, due = self.signals.received, unit == "seconds" and time.monotonic() - self.saved_time >= number
        pending, self.pending = self.pending, []
        if self.processes.several:
            pending, signal, due = self.processes.agree(pending, signal, due)
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
        # One that came while it was shown is obeyed at once; of several processes all have to hear of it first.
        return signal if self.processes.several else self.signals.received, due

    # -- the test -------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test set, images as they are."""
        self.model.eval()
        loss = torch.zeros((), device=self.fabric.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        count = len(self.data.test_labels)
        right = []
        for images, labels in self.batches.test():
            logits = self.model(images).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            right.append(logits.argmax(1) == labels)
            correct += right[-1].sum()
        if self.epoch == self.config.epochs:  # what a comparison is paired by, image by image
            mine = self.processes.share(torch.arange(count, device=self.fabric.device))
            of_all = torch.zeros(count, dtype=torch.int32, device=self.fabric.device)
            self.test_correct = self.processes.total(of_all.index_copy_(0, mine, torch.cat(right).int())).bool().cpu()
        return float(self.processes.total(loss)) / count, float(self.processes.total(correct)) / count


def _compiled(model: nn.Module) -> Any:
    """The model, to be compiled when it is first called."""
    try:
        return torch.compile(model)
    except RuntimeError as error:  # of a Python that torch's compiler does not know yet
        raise _cannot_compile(error) from error


def _is_compilers(error: Exception) -> bool:
    """Whether an error is one of torch's compiler."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import, where nothing has been compiled

    return isinstance(error, TorchDynamoException)


def _cannot_compile(error: Exception) -> UsageError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if not line.startswith("backend=")), type(error).__name__)
    return UsageError(f"compile must be false on this machine, whose compiler does not work: {reason:.200}")
