"""Sharpness and noise scale after an epoch, on training images without augmentation.

Measurements do not affect the training: they change no random state, weights or running statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.data.image_data import ImageData, sample
from tvlars.lab.errors import DivergedError, MovedFolderError, PreemptedError
from tvlars.lab.measure.noise import NOISE_SAMPLES, measure_noise
from tvlars.lab.measure.sharpness import measure_sharpness
from tvlars.lab.run_folder.record import Record


def measure_epoch(
    config: TrainConfig,
    model: nn.Module,
    data: ImageData,
    normalize: Callable[[Tensor], Tensor],
    record: Record,
    *,
    epoch: int,
    of: int,
    step: int,
) -> None:
    """Measure sharpness and noise scale after ``epoch`` of ``of`` epochs if ``config`` asks for them, and record them.

    ``record`` tells the user each result, or that a measurement failed, which does not end the run.
    """

    def sharpness() -> str:
        images, labels = sample(data.train_images, data.train_labels, config.sharpness_samples)
        size = min(config.micro_batch_size, 512)  # curvature takes several times the memory of a step
        pieces = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        row = measure_sharpness(model, ((normalize(x), y) for x, y in pieces), epoch=epoch, step=step)
        record.add_measurement("sharpness.csv", row)
        return (
            f"sharpness after epoch {epoch}: top eigenvalue {row.hessian_max:.4g}, trace {row.hessian_trace:.4g} ± "
            f"{row.hessian_trace_error:.2g}, adaptive worst case {row.worst_case:.4g} ({row.seconds:.0f} s)"
        )

    def noise() -> str:
        images, labels = sample(data.train_images, data.train_labels, NOISE_SAMPLES)
        row = measure_noise(model, normalize(images), labels, epoch=epoch, step=step)
        record.add_measurement("noise.csv", row)
        return (
            f"noise scale after epoch {epoch}: {row.noise_scale:,.0f} samples (95 %: {row.low:,.0f} to {row.high:,.0f})"
        )

    for measure, asked in ((sharpness, epoch in config.sharpness_epochs(of)), (noise, config.noise_scale)):
        try:
            if asked:
                record.tell(measure())
        except (PreemptedError, DivergedError, MovedFolderError):  # these RuntimeErrors end the run
            raise
        except (RuntimeError, ValueError, MemoryError) as error:
            reason = "memory has ended" if memory.has_ended(error) else (str(error) or type(error).__name__)
            record.tell(f"{measure.__name__} after epoch {epoch} could not be measured: {reason.splitlines()[0]}")
