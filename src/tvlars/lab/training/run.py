"""Training loop for every task, optimizer, batch size and device, and its checkpoints.

Lightning Fabric provides device, precision and the exchange of gradients. Losses stay on the device and are fetched
every few steps, since each fetch waits for an accelerator; processes agree on signals and checkpoints in the same
collective.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvlars._reading import reason
from tvlars.lab import memory
from tvlars.lab.errors import DivergedError, MovedFolderError, PreemptedError, UsageError
from tvlars.lab.files.disk import cannot_write
from tvlars.lab.measure.each_epoch import SharpnessClock, add_sharpness, noise_now, sharpness_now
from tvlars.lab.measure.layer_stats import RunStats
from tvlars.lab.optimizers import is_known
from tvlars.lab.processes.signals import StopSignals, stop
from tvlars.lab.run_folder.best import best_epoch, best_file, prune_best, read_weights
from tvlars.lab.run_folder.checkpoints import checkpoint
from tvlars.lab.run_folder.checkpoints.state_check import CLOCK, Checked, is_finite
from tvlars.lab.run_folder.identity import FINGERPRINT, identity
from tvlars.lab.run_folder.loaded_run import RunResult, Tested
from tvlars.lab.run_folder.loggers import Loggers
from tvlars.lab.run_folder.resuming import GoOn, fitting
from tvlars.lab.run_folder.rows import METRICS, EpochRow, SharpnessRow, StepRow, metrics_row, read_metrics
from tvlars.lab.run_folder.status import Status
from tvlars.lab.training.learner import Learner
from tvlars.lab.training.optimizer_state import UnkeptStateError
from tvlars.lab.training.progress import describe_test
from tvlars.lab.training.speed import cannot_compile, is_compilers
from tvlars.lab.training.state import as_table, load_state, room_for, state_of
from tvlars.plan import OWN

FETCH_EVERY = 16
"""Steps between two fetches of losses from an accelerator; on a CPU they are fetched at every step."""


class Run:
    """Training run: the loop and its position. ``loggers`` are the user's own."""

    def __init__(self, learner: Learner, loggers: Sequence[Any] = ()) -> None:
        self.learner, self.config, self.plan, self.processes = learner, learner.config, learner.plan, learner.processes
        self.record, self.reporter, self.phase, self.batches = (
            learner.record,
            learner.reporter,
            learner.phase,
            learner.batches,
        )
        self.given_loggers = loggers
        self.layer_stats: RunStats | None = None
        self.signals = StopSignals(patient=self.processes.several)
        self.step = 0
        self.epoch, self.position = 1, 0
        """The current epoch, and the number of its finished steps."""
        self.in_step = False
        self.order_state = self.batches.order.get_state()
        """State of the shuffle at the beginning of the epoch."""
        self.epoch_seconds = 0.0
        self.saved_at, self.saved_time = (1, 0), time.monotonic()
        self.sharpness = SharpnessClock(self.config, self.plan.epochs)
        self.interval, self.every = self.config.checkpoint_interval() or ("", 0.0)
        self.epochs: list[EpochRow] = []
        self.tested: Tested | None = None
        self.metrics: dict[int, dict[str, float]] = {}
        """Values of the metrics after each epoch."""
        self.metrics_at_the_end: dict[str, float] = {}
        self.epoch_steps: list[StepRow] = []
        self.pending: list[tuple[int, Tensor, Tensor]] = []
        self.rates: dict[int, float] = {}
        """Learning rate of the first group at pending steps, if the schedule is the optimizer's own."""
        self.unwritten: list[StepRow] = []

    def open_logs(self) -> None:
        """Prepare loggers and layer statistics for the next step; they drop records of later steps, so a checkpoint
        must be loaded before.

        Raises:
            UsageError: existing files of the run cannot be read; nothing is changed.
        """
        record, config = self.record, self.config
        if self.processes.first and (config.log or self.given_loggers):
            options = {**json.loads(config.to_json()), "plan": asdict(self.plan)}
            more = options, self.step, record.tell, record.check_place
            record.loggers = Loggers(record.folder, config.log, self.given_loggers, *more)
        if every := self.config.layer_stats:
            layers = self.record, self.learner.bare_optimizer, self.learner.bare_model
            self.layer_stats = RunStats(*layers, every=every, writer=record.loggers, start=self.step)

    # -- the run --------------------------------------------------------------------------------------

    def train(self) -> RunResult:
        """Run the remaining epochs; however the run ends, the record has its status and all measurements."""
        try:
            with self.signals:  # to the very end: a second signal must not interrupt the last writes
                self._train()
        except (DivergedError, PreemptedError):
            raise
        except (RuntimeError, MemoryError) as error:
            if memory.has_ended(error):
                size = min(self.config.micro_batch_size, self.config.batch_size)
                raise UsageError(
                    f"micro_batch_size must be smaller for this device's memory, got {size}{memory.amount(error)}"
                ) from error
            if self.config.compile is not False and is_compilers(error):
                raise cannot_compile(error) from error
            raise
        return self._result()

    def _result(self) -> RunResult:
        ends = self.learner.evaluations, self.tested, self.best_epoch
        return RunResult(self.record.folder, self.config, self.plan, self.epochs, *ends)

    def _train(self) -> None:
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
                with contextlib.suppress(OSError):  # the reason why the run ended is raised, not this
                    self.reporter.note(f"{said}; the record is incomplete")

    def _run(self) -> None:
        try:
            while self.epoch <= self.plan.epochs:
                self.run_epoch()
            # Evaluations take long: several processes, and runs that resume, may be stopped in them.
            evaluates = self.learner.evaluates_at_the_end and (self.processes.several or self.config.resume)
            if self.config.checkpoint_every is not None or evaluates:
                self.save_checkpoint()
            if self.sharpness.left:
                levels = ", ".join(f"{level:g}" for level in self.sharpness.left)
                self.reporter.note(f"the training loss never fell to {levels}, so sharpness was not measured there")
            if self.learner.watched == "validation" and self.config.test:
                self._test_at_the_end()
            with self.learner.with_tested_weights(), self.signals.at_once(always=True), self.phase("evaluation"):
                self.learner.after_training(self.step)
        except (KeyboardInterrupt, PreemptedError):
            if not self.in_step:  # the state is that between two steps
                self.save_checkpoint()
            raise

    def _close(self, status: Status) -> None:
        try:
            if status == Status.INTERRUPTED and self.pending:
                self._fetch()
        finally:
            self.batches.feed.close()
            try:
                self._finish(status)
            finally:
                with contextlib.suppress(OSError):  # the reader of the output may have gone
                    self.reporter.end(status)

    def _finish(self, status: Status) -> None:
        """Write all remaining data, each part even if another one fails; the summary is last, since the status
        "finished" means that the rest is complete.

        Raises:
            OSError, RuntimeError: the first error, of the disk or of another process that has ended.
        """
        errors: list[Exception] = []
        finished = status == Status.FINISHED
        works: list[Callable[[], object]] = [self._write, self.record.flush]
        if status in (Status.FINISHED, Status.INTERRUPTED, Status.PREEMPTED):
            works.insert(0, self._save_weights)
        if finished and (right := self.learner.right) is not None:
            works.insert(1, lambda: self.record.save_correct(right))
        works += [self.layer_stats.close] if self.layer_stats is not None else []
        works += [self._report_profile, lambda: self._summarize(Status.FAILED if errors and finished else status)]
        for work in works:
            try:
                work()
            except (OSError, RuntimeError) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _save_weights(self) -> None:
        with self.learner.with_tested_weights():
            self.record.save_weights(self.learner.weights())

    def _report_profile(self) -> None:
        if profile := self.phase.finish():
            with contextlib.suppress(OSError):
                self.reporter.note("\n".join(["where the time went", *profile]))

    def _summarize(self, status: Status) -> None:
        found = self._result()
        best = {} if self.best_epoch is None else {"best_epoch": self.best_epoch}
        measured = {"test_accuracy": found.test_accuracy, "test_loss": found.test_loss}
        if self.learner.watched == "validation":
            measured |= {"validation_accuracy": found.validation_accuracy, "validation_loss": found.validation_loss}
        measured |= self.metrics.get(self.best_epoch or len(self.epochs), {}) | self.metrics_at_the_end
        self.record.finish(
            status,
            steps=self.step,
            epochs=len(self.epochs),
            **{name: value if math.isfinite(value) else None for name, value in measured.items()},
            **best,
            seconds=round(sum(row.seconds for row in self.epochs), 3),
        )

    def _write(self, epoch: EpochRow | None = None) -> None:
        rows, self.unwritten = self.unwritten, []
        self.record.add(rows, epoch)

    # -- its state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state between two steps; all processes call it.

        Returns:
            "tensors" by "model" and "optimizer", then by name, as this process holds them; and "progress", the rest.
        """
        state = state_of(self.learner)
        state["progress"] |= {
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "seconds": self.epoch_seconds,
            "order": self.order_state,
            "epochs": [row for row in self.epochs if row.epoch < self.epoch],
            "epoch_steps": list(self.epoch_steps),
        }
        if self.sharpness.used:
            state["progress"][CLOCK] = self.sharpness.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], at: Checked | None = None) -> None:
        """Load a state of :meth:`state_dict` into a run that has not started.

        Args:
            state: returned by :meth:`state_dict`.
            at: provides the file that errors name; None (default): no file.

        Raises:
            UsageError: the state is impossible for this run.
        """
        load_state(self.learner, state, at or Checked(Path("state")))
        progress = state["progress"]
        self.step, self.epoch, self.position = (progress[name] for name in ("step", "epoch", "position"))
        self.saved_at = self.epoch, self.position
        self.epoch_seconds = float(progress["seconds"])
        self.epochs, self.epoch_steps = list(progress["epochs"]), list(progress["epoch_steps"])
        self.order_state = progress["order"]
        self.batches.order.set_state(self.order_state)
        if self.sharpness.used:
            clock = progress.get(CLOCK)
            if wrong := self.sharpness.check(self.step, clock):
                raise (at or Checked(Path("state"))).refuse(CLOCK, wrong, clock)
            self.sharpness.load_state_dict(clock)

    def resume(self, found: GoOn) -> None:
        """Load the checkpoint ``found``; all processes call it.

        Raises:
            UsageError: the checkpoint is of another model, or its state is impossible for this run.
            SaidElsewhereError: the same, in all processes but the first.
        """
        at = Checked(checkpoint.progress_file(found.path, found.manifest))
        self.metrics = read_metrics(self.record.folder)
        progress = {**found.progress, "epochs": found.epochs, "epoch_steps": found.steps}

        def load() -> None:
            with fitting(found.path):
                table = checkpoint.read_tensor_table(found.path, found.manifest)
                tensors = room_for(self.learner, progress, table, at)
                checkpoint.load_tensors(found.path, table, tensors)
                self.load_state_dict({"tensors": tensors, "progress": progress}, at)

        self.processes.each(load)
        if (best := self.best_epoch) is not None:
            self._read_best(best)  # raises here, and not after all epochs

    def save_checkpoint(self) -> None:
        """Save a checkpoint unless this position is saved already; report an error of the disk and continue."""
        if self.pending:
            self._fetch()
        if self.saved_at == (self.epoch, self.position):
            return
        self._write()
        said = f"checkpoint of step {self.step}"
        try:
            with self.phase("checkpoint"):
                saved = self._save()
            if saved:
                self.saved_at = (self.epoch, self.position)
            else:
                self.reporter.note(f"{said} is not saved, since weights are not finite; earlier ones are kept")
        except UnkeptStateError as error:
            self.reporter.note(f"{said} is not saved: {error}")
        except OSError as error:
            self.reporter.note(f"{said} could not be saved ({error.strerror or error}); earlier ones are kept")
        self.saved_time = time.monotonic()

    def _save(self) -> bool:
        """Write a checkpoint; if weights or optimizer state are not finite, return False and write none: the run has
        diverged, as its next loss will show."""
        self.processes.by_first(self._flush)
        state = self.state_dict()
        tensors, progress = state["tensors"], state["progress"]
        checked = tensors if is_known(self.config.optimizer) else {"model": tensors["model"]}
        finite = all(is_finite(value) for some in checked.values() for value in some.values())
        if not all(self.processes.gather(finite)):
            return False
        checkpoint.save(
            self.record.folder,
            self.step,
            tensors,
            {**progress, **{name: as_table(progress[name]) for name in ("epochs", "epoch_steps")}},
            {**identity(self.config, self.plan), FINGERPRINT: self.learner.fingerprint.as_json()},
            self.processes,
            self.config.checkpoint_keep,
            self.record.check_place,
        )
        return True

    def _flush(self) -> None:
        """Sync all measurements, since a checkpoint does not repeat them."""
        self.record.flush(durable=True)
        if self.layer_stats is not None:
            self.layer_stats.try_flush()

    # -- an epoch -------------------------------------------------------------------------------------

    def run_epoch(self) -> None:
        """Run the remaining steps of the current epoch, and its measurements."""
        self._train_epoch()
        for model in (self.learner.bare_model, self.learner.average):
            if model is not None:
                self.processes.average_buffers(model)  # synchronized batch norms have the same already
        # Weights are not exchanged at once: a signal in between would leave a mixture.
        evaluates, due = self.config.evaluates(self.epoch, self.plan.epochs), self.sharpness.due_after(self.epoch)
        measures = evaluates or due or self.config.noise_scale
        weights = self.learner.with_tested_weights if measures else contextlib.nullcontext
        with weights(), self.signals.at_once():
            self._end_epoch(evaluates, due)
        self.epoch, self.position = self.epoch + 1, 0
        self.epoch_steps, self.epoch_seconds = [], 0.0
        self.order_state = self.batches.order.get_state()
        if self.interval == "epochs" and (self.epoch - 1) % self.every == 0:
            self.save_checkpoint()

    @property
    def _steps_of_epoch(self) -> int:
        """Number of steps of the current epoch; the last epoch may be shorter."""
        steps = self.plan.steps_per_epoch
        return min(steps, self.plan.total_steps - (self.epoch - 1) * steps)

    def _train_epoch(self) -> None:
        steps = self._steps_of_epoch
        start = time.perf_counter() - self.epoch_seconds
        self.learner.model.train()
        if self.learner.averaging:
            self.learner.bare_optimizer.train()  # type: ignore[attr-defined]
        if self.sharpness.due and self.position < steps:  # the run was stopped before it had measured
            self._measure_sharpness()
        order = self.batches.shuffle(self.epoch, self.position)
        batches = torch.split(order[: steps * self.config.batch_size], self.config.batch_size)
        for batch, upcoming in zip(batches[self.position :], (*batches, order[:0])[self.position + 1 :], strict=True):
            self.step += 1
            self.in_step = True
            loss, correct = self.learner.gradient(batch, upcoming)
            self._update()
            self.learner.after_step(self.step)
            self.in_step, self.position = False, self.position + 1
            self.pending.append((self.step, loss, correct))
            last = self.position == steps
            on_cpu = self.learner.fabric.device.type == "cpu"
            watched = self.sharpness.watches(self.step)
            if on_cpu or len(self.pending) >= FETCH_EVERY or last or watched or self._due_by_steps():
                self.epoch_seconds = time.perf_counter() - start
                start += self._fetch_and_agree()

    def _update(self) -> None:
        """Take a step of the optimizer and of the schedule."""
        with self.phase("optimizer"):
            if (longest := self.config.clip_grad_norm) is not None:
                whole = self.learner.model, self.learner.optimizer
                self.learner.fabric.clip_gradients(*whole, max_norm=longest, error_if_nonfinite=False)
            if self.plan.schedule == OWN:
                self.rates[self.step] = float(self.learner.bare_optimizer.param_groups[0]["lr"])
            self.learner.optimizer.step()
            self.learner.optimizer.zero_grad()
            if self.learner.scheduler is not None:
                self.learner.scheduler.step()
            if self.learner.average is not None:
                self.learner.average.update_parameters(self.learner.bare_model)
        self.phase.step()

    def _end_epoch(self, evaluates: bool, due: list[str]) -> None:
        """Write the row of the epoch, and measure what is due after it: ``due`` are times of the sharpness."""
        measured, split = {"test_loss": math.nan, "test_accuracy": math.nan}, self.learner.watched
        if evaluates:
            with self.phase("evaluation"):
                loss, accuracy = self.learner.test(self.epoch, self.step, split)
            measured |= {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
        extra = self.learner.measured if evaluates else {}
        if extra:
            self.metrics[self.epoch] = extra
            self.record.add_measurement(METRICS, metrics_row(self.epoch, self.step, extra))
        steps = self.epoch_steps
        row = EpochRow(
            epoch=self.epoch,
            step=self.step,
            train_loss=sum(s.loss for s in steps) / len(steps),
            train_accuracy=sum(s.train_accuracy for s in steps) / len(steps),
            images_per_second=len(steps) * self.config.batch_size / self.epoch_seconds,
            seconds=self.epoch_seconds,
            **measured,
        )
        self.epochs.append(row)
        with self.phase("logging"):
            self._write(row)
            if extra:
                self.reporter.measures(extra)
            self.reporter.epoch(row)
        if evaluates and not math.isfinite(loss):  # the last step's loss was taken before its update
            raise DivergedError(self.config.arm_name, self.step, steps[-1].lr, self.record.folder, f"{split} loss")
        if self.best_epoch == self.epoch:
            self.record.save_weights(self.learner.weights(), best=self.epoch)
            self._prune_best()
        # The epoch is no part of the clock's state: after an interruption here it is tested and measured again.
        if due:
            add_sharpness(self.record, self.processes.alone(partial(self._sharpness, due)))
            self.sharpness.due = []
        if self.config.noise_scale:
            self.processes.alone(self._noise)

    def _test_at_the_end(self) -> None:
        """Test the final or the best weights, in a run that has tested on validation images so far."""
        best, weights = self.best_epoch, self.learner.with_tested_weights
        if best is not None and best < self.plan.epochs:
            weights = partial(self.learner.with_weights, self._read_best(best))
        # Weights are not exchanged at once: a signal in between would leave a mixture.
        with weights(), self.signals.at_once(always=True), self.phase("evaluation"):
            loss, accuracy = self.learner.test(self.plan.epochs, self.step, "test")
        if not math.isfinite(loss):
            lr = self.plan.lr * self.plan.factor(self.step)
            raise DivergedError(self.config.arm_name, self.step, lr, self.record.folder, "test loss")
        self.tested = Tested(loss, accuracy)
        self.metrics_at_the_end = self.learner.measured
        by = "" if best is None else f" by the weights of epoch {best}, the best by validation"
        once = "read once" if self.config.test_share is None else "all of it"
        self.reporter.note(f"test set, {once}{by}: {describe_test(loss, accuracy)}")

    @property
    def best_epoch(self) -> int | None:
        """Epoch whose weights are kept as the best ones; None if none are."""
        return best_epoch(self.epochs, self._ranks()) if self.config.keep_best else None

    def _ranks(self) -> dict[int, float]:
        """Return, by epoch, the rank that decides before accuracy and loss; larger is better."""
        ranks = {epoch: self.learner.rank(measured) for epoch, measured in self.metrics.items()}
        return {epoch: rank for epoch, rank in ranks.items() if rank is not None}

    def _read_best(self, epoch: int) -> dict[str, Any]:
        """Return the weights of the best epoch; for a sharded model, in the first process alone.

        Raises:
            UsageError: they cannot be read.
        """
        file, found = best_file(self.record.folder, epoch), {}

        def read() -> None:
            try:
                found.update(read_weights(file))
            except Exception as error:  # torch has many types for a damaged file
                if memory.has_ended(error):
                    raise
                raise UsageError(f"{file} must hold the best weights so far, but does not: {reason(error)}") from error

        self.processes.by_first(read)
        return found if self.config.shard else self.processes.broadcast(found)

    def _prune_best(self) -> None:
        """Remove best weights of earlier epochs, unless a run that resumes from a checkpoint needs them."""
        if self.processes.first:
            steps = [int(path.name.partition(".")[0]) for path in checkpoint.those_in(self.record.folder)]
            plan = self.plan
            epochs = [plan.epochs if step == plan.total_steps else step // plan.steps_per_epoch for step in steps]
            # A checkpoint between the last step of an epoch and its test has no row of it.
            prune_best(self.record.folder, self.epochs, [*epochs, *(epoch - 1 for epoch in epochs)], self._ranks())

    def _measure_sharpness(self) -> None:
        """Measure the sharpness within an epoch; signals may interrupt the measurement, but not its recording."""
        with self.learner.with_tested_weights(), self.signals.at_once(), self.phase("evaluation"):
            row = self.processes.alone(partial(self._sharpness, self.sharpness.due))
        self._write()  # loggers need rows in the order of steps
        add_sharpness(self.record, row)
        self.sharpness.due = []

    def _sharpness(self, due: list[str]) -> SharpnessRow | None:
        learner = self.learner
        arguments = (self.config, learner.bare_model, learner.data, learner.normalize, self.record)
        where: dict[str, Any] = dict(epoch=self.epoch, step=self.step, at=due, batch_norms=learner.batch_norms)
        return sharpness_now(*arguments, **where, announce=lambda part: self.reporter.measuring(f"sharpness {part}"))

    def _noise(self) -> None:
        learner = self.learner
        arguments = (learner.bare_model, learner.data, learner.normalize, self.record)
        self.reporter.measuring("the noise scale")
        noise_now(*arguments, epoch=self.epoch, step=self.step)

    def _due_by_steps(self) -> bool:
        return self.interval == "steps" and self.step % self.every == 0

    def _fetch_and_agree(self) -> float:
        """Fetch losses; then measure the sharpness and save a checkpoint if they are due, and stop if a signal was
        received. Returns the seconds of the measurement."""
        seconds = 0.0
        with self.phase("logging"):
            signal, due = self._fetch()
        if self.sharpness.due and self.position < self._steps_of_epoch and not signal:
            begin = time.perf_counter()
            self._measure_sharpness()  # at an epoch's end after its test
            seconds = time.perf_counter() - begin
        if due or self._due_by_steps() or signal:
            self.save_checkpoint()
        if signal:
            stop(signal)
        return seconds

    def _fetch(self) -> tuple[int, bool]:
        """Turn pending losses into rows; raise ``DivergedError`` if one is not finite.

        Returns a signal that any process has received (0: none), and True if a checkpoint is due by the clock of the
        first process.
        """
        signal = self.signals.received
        due = self.interval == "seconds" and time.monotonic() - self.saved_time >= self.every
        pending, self.pending = self.pending, []
        if self.processes.several:
            pending, signal, due = self.processes.agree(pending, signal, due)
        for step, loss, correct in pending:
            phi = self.rates.pop(step) / self.plan.lr if step in self.rates else self.plan.factor(step)
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
                raise DivergedError(self.config.arm_name, step, row.lr, self.record.folder)
            self.sharpness.see(step, row.loss)
        if pending:
            self.reporter.step(self.epoch_steps[-1])
        # A signal during the report takes effect at once; several processes have to agree on it first.
        return signal if self.processes.several else self.signals.received, due
