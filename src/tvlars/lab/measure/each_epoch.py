"""What is measured after an epoch besides loss and accuracy, on training images as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tvlars.lab import memory
from tvlars.lab.data.image_data import sample
from tvlars.lab.errors import DivergedError, MovedFolderError, PreemptedError
from tvlars.lab.measure.layer_stats import NOISE_SAMPLES, measure_noise, measure_sharpness

if TYPE_CHECKING:
    from tvlars.lab.training.run import Run


def measure_epoch(run: Run) -> None:
    """Sharpness and noise scale, where they were asked for after the epoch that ``run`` is in."""
    for measure in (_sharpness, _noise):
        try:
            measure(run)
        except (
            PreemptedError,
            DivergedError,
            MovedFolderError,
        ):  # no failures of the measurement, though RuntimeErrors
            raise
        except (RuntimeError, ValueError, MemoryError) as error:  # that one fails is no reason to lose the run
            what = measure.__name__.removeprefix("_")
            reason = "memory has ended" if memory.has_ended(error) else (str(error) or type(error).__name__)
            run.reporter.note(f"{what} after epoch {run.epoch} could not be measured: {reason.splitlines()[0]}")


def _sharpness(run: Run) -> None:
    config, data = run.config, run.data
    if run.epoch in config.sharpness_epochs():
        images, labels = sample(data.train_images, data.train_labels, config.sharpness_samples)
        size = min(config.micro_batch_size, 512)  # curvature takes several times the memory of a step
        pieces = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        batches = ((run.normalize(x), y) for x, y in pieces)
        row = measure_sharpness(run.bare_model, batches, epoch=run.epoch, step=run.step)
        run.record.add_measurement("sharpness.csv", row)
        run.reporter.note(
            f"sharpness after epoch {run.epoch}: top eigenvalue {row.hessian_max:.4g}, trace {row.hessian_trace:.4g} ± "
            f"{row.hessian_trace_error:.2g}, adaptive worst case {row.worst_case:.4g} ({row.seconds:.0f} s)"
        )


def _noise(run: Run) -> None:
    data = run.data
    if run.config.noise_scale:
        images, labels = sample(data.train_images, data.train_labels, NOISE_SAMPLES)
        noise = measure_noise(run.bare_model, run.normalize(images), labels, epoch=run.epoch, step=run.step)
        run.record.add_measurement("noise.csv", noise)
        run.reporter.note(
            f"noise scale after epoch {run.epoch}: {noise.noise_scale:,.0f} samples "
            f"(95 %: {noise.low:,.0f} to {noise.high:,.0f})"
        )
