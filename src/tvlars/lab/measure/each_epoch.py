"""Sharpness and noise scale during a run, on training images without augmentation.

Measurements do not affect the training: they change no random state, weights or running statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.data.image_data import ImageData, sample
from tvlars.lab.errors import DivergedError, MovedFolderError, PreemptedError
from tvlars.lab.measure.noise import NOISE_SAMPLES, measure_noise
from tvlars.lab.measure.sharpness import BATCH, measure_sharpness
from tvlars.lab.processes.sync_batch_norm import plain_batch_norm
from tvlars.lab.run_folder.record import Record, initial_norms
from tvlars.lab.run_folder.rows import RUNNING, SHARPNESS, SharpnessRow
from tvlars.lab.tasks import plus_minus

T = TypeVar("T")
SMOOTHED = 3
"""Steps over which the training loss is averaged before it is compared with a level."""


class SharpnessClock:
    """Decides when sharpness is measured: after given steps, and at given levels of the training loss.

    A level is reached at the first step at which the mean loss of the last ``SMOOTHED`` steps is at most the level.
    """

    def __init__(self, config: TrainConfig, epochs: int) -> None:
        self.times = config.sharpness_times(epochs)
        self.left = list(self.times.losses)
        """Levels that have not been reached, in descending order."""
        self.recent: list[float] = []
        """Losses of the last steps, while levels are left."""
        self.due: list[str] = []
        """Names of the measurements at this step, such as "step 7"."""

    @property
    def used(self) -> bool:
        """True if there are steps or levels; then a checkpoint needs the state of this object."""
        return bool(self.times.steps or self.times.losses)

    def watches(self, step: int) -> bool:
        """Return True if the loss of ``step`` is needed immediately."""
        return step in self.times.steps or bool(self.left)

    def see(self, step: int, loss: float) -> None:
        """Process the loss of a step; call this method for every step in order."""
        if step in self.times.steps:
            self.due.append(f"step {step}")
        if self.left:
            self.recent = [*self.recent, loss][-SMOOTHED:]
            mean = sum(self.recent) / len(self.recent)
            while self.left and mean <= self.left[0]:
                self.due.append(f"loss {self.left.pop(0):g}")
            if not self.left:
                self.recent = []

    def due_after(self, epoch: int) -> list[str]:
        """Return the names of the measurements due after the last step of ``epoch``."""
        return [*self.due, *([f"epoch {epoch}"] if epoch in self.times.epochs else [])]

    def state_dict(self) -> dict[str, Any]:
        """Return the state after a step."""
        return {"left": list(self.left), "recent": list(self.recent), "due": list(self.due)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state of :meth:`state_dict`."""
        self.left, self.recent, self.due = (list(state[name]) for name in ("left", "recent", "due"))

    def check(self, step: int, state: Any) -> str | None:
        """Return the invalid part of a ``state`` after ``step``; None if the state is valid."""
        if not isinstance(state, Mapping) or set(state) != {"left", "recent", "due"}:
            return "left, recent and due"
        if any(not isinstance(value, list) for value in state.values()):
            return "three lists"
        left, recent, due = state["left"], state["recent"], state["due"]
        if left != list(self.times.losses)[len(self.times.losses) - len(left) :]:
            return "levels of the loss that the options name"
        if len(recent) != (min(step, SMOOTHED) if left else 0) or any(type(x) is not float for x in recent):
            return f"the losses of the last {SMOOTHED} steps"
        known = {f"step {step}"} & {f"step {one}" for one in self.times.steps}
        known |= {f"loss {level:g}" for level in self.times.losses if level not in left}
        return None if len(set(map(str, due))) == len(due) and known.issuperset(due) else "measurements of this step"


def sharpness_now(
    config: TrainConfig,
    model: nn.Module,
    data: ImageData,
    normalize: Callable[[Tensor], Tensor],
    record: Record,
    *,
    epoch: int,
    step: int,
    at: Collection[str],
    batch_norms: Mapping[str, type[nn.Module]],
    announce: Callable[[str], None],
) -> SharpnessRow | None:
    """Return the sharpness at ``step``; None if the measurement failed, of which ``record`` informs the user.

    ``batch_norms`` are the original classes of synchronized batch norms. ``announce`` is called with each part.
    """

    def batches(count: int, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = sample(data.train_images, data.train_labels, count)
        pieces = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        return ((normalize(x), y) for x, y in pieces)

    def measure() -> SharpnessRow:
        measured = model
        if batch_norms:  # only this process measures, so statistics must not be synchronized
            measured = copy.deepcopy(model)
            plain_batch_norm(measured, dict(batch_norms))
        fresh = None
        if config.sharpness_statistics != RUNNING:
            fresh = batches(config.sharpness_statistics_samples)
        norms, said = initial_norms(record.folder), "; ".join(at)
        # Curvature needs several times the memory of a step.
        batch = batches(config.sharpness_samples, min(config.micro_batch_size, BATCH))
        how: dict[str, Any] = dict(fresh=fresh, norms=norms, announce=announce)
        return measure_sharpness(measured, batch, epoch=epoch, step=step, at=said, **how)

    return _tried(measure, record, f"sharpness after {_where(epoch, step, at)}")


def add_sharpness(record: Record, row: SharpnessRow | None) -> None:
    """Record a row, and inform the user; do nothing if there is none."""
    if row is not None:
        record.add_measurement(SHARPNESS, row)
        record.tell(
            f"sharpness after {_where(row.epoch, row.step, row.at.split('; '))}: top eigenvalue {row.hessian_max:.4g}, "
            f"trace {plus_minus(row.hessian_trace, row.hessian_trace_error)}, "
            f"adaptive worst case {row.worst_case:.4g}, {row.statistics} statistics ({row.seconds:.0f} s)"
        )


def _where(epoch: int, step: int, at: Collection[str]) -> str:
    if all(one.startswith("epoch") for one in at):
        return f"epoch {epoch}"
    levels = [one for one in at if one.startswith("loss")]
    reached = f", at {' '.join(levels)}" if levels else ""
    return f"step {step}{reached}"


def noise_now(
    model: nn.Module, data: ImageData, normalize: Callable[[Tensor], Tensor], record: Record, *, epoch: int, step: int
) -> None:
    """Measure the noise scale after ``epoch`` and record it."""

    def measure() -> str:
        images, labels = sample(data.train_images, data.train_labels, NOISE_SAMPLES)
        row = measure_noise(model, normalize(images), labels, epoch=epoch, step=step)
        record.add_measurement("noise.csv", row)
        return (
            f"noise scale after epoch {epoch}: {row.noise_scale:,.0f} samples (95 %: {row.low:,.0f} to {row.high:,.0f})"
        )

    if said := _tried(measure, record, f"noise after epoch {epoch}"):
        record.tell(said)


def _tried(measure: Callable[[], T], record: Record, said: str) -> T | None:
    try:
        return measure()
    except (PreemptedError, DivergedError, MovedFolderError):  # these RuntimeErrors end the run
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = "memory ran out" if memory.has_ended(error) else (str(error) or type(error).__name__)
        record.tell(f"{said} could not be measured: {reason.splitlines()[0]}")
        return None
