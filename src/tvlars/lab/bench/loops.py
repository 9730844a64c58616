"""Two ways to train on images: the laboratory's loop, and the one that most scripts have, the published one too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tvlars import TVLARS, layer_groups
from tvlars.lab.bench.timing import timed
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.models import build_model
from tvlars.lab.run_folder.record import NoRecord
from tvlars.lab.training.prepare import prepare
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.run import Run
from tvlars.lab.training.task import Classification

CLASSES = 10
LR, WEIGHT_DECAY, BIAS_NORM = 0.1, 5e-4, 0.03


@dataclass(frozen=True)
class Workload:
    """Model, images and augmentation that both loops train. It can be pickled.

    ``images`` of ``size`` x ``size`` are drawn at random, and make one epoch, which is one turn. ``rotation`` is in
    degrees, ``padding`` in pixels, as in the published code.
    """

    model: str
    images: int
    batch_size: int
    size: int = 32
    padding: int = 4
    rotation: float = 0.0
    device: str = "cpu"

    def build_model(self) -> nn.Module:
        """Return the model, the same each time."""
        torch.manual_seed(0)
        return build_model(self.model, 3, self.size, CLASSES)[0]

    def data(self) -> ImageData:
        """Return the images, the same each time, and two for a test."""
        generator, n = torch.Generator().manual_seed(0), self.images
        shape = (n + 2, 3, self.size, self.size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu")
        labels = torch.randint(0, CLASSES, (len(images),), generator=generator, device="cpu")
        return ImageData("random", "drawn", images[:n], labels[:n], images[n:], labels[n:], classes=CLASSES, flip=True)

    def transform(self) -> Callable[[Any], Any]:
        """Return the published code's transforms; without a rotation where the workload has none."""
        made: Callable[[Any], Any] = transforms.Compose(
            [
                transforms.RandomCrop(self.size, padding=self.padding),
                transforms.RandomHorizontalFlip(),
                *([transforms.RandomRotation(self.rotation)] if self.rotation else []),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
        return made


class LabLoop(Run):
    """The laboratory's loop, an epoch a turn: all of it but what it writes.

    ``data`` are images in place of the workload's, ``options`` such of ``TrainConfig`` besides.
    """

    def __init__(self, workload: Workload, data: ImageData | None = None, **options: Any) -> None:
        taken = (
            dict(micro_batch_size=workload.batch_size, rotation=workload.rotation, crop_padding=workload.padding)
            | options
        )
        # It has to have a name, and not to end.
        taken |= dict(data="cifar10", epochs=10_000, lr=LR, batch_size=workload.batch_size, accelerator=workload.device)
        prepared = prepare(TrainConfig(**taken), data or workload.data())
        record = NoRecord(Path(tempfile.gettempdir()))
        super().__init__(Classification(prepared, workload.build_model(), record, Reporter()))

    def __call__(self) -> float:
        """Return the seconds of one epoch, and of a test on two images."""
        return timed(self.run_epoch)


class Pictures(Dataset[tuple[Any, int]]):
    """Arrays in memory, each made a PIL image and transformed when it is asked for, as in torchvision's CIFAR10."""

    def __init__(self, workload: Workload) -> None:
        data = workload.data()
        self.data = np.ascontiguousarray(data.train_images.permute(0, 2, 3, 1).numpy())
        self.targets: list[int] = data.train_labels.tolist()
        self.transform = workload.transform()

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    def __len__(self) -> int:
        return len(self.data)


class LoaderLoop:
    """A DataLoader over PIL images, and the published loop around it: an epoch a turn.

    The DataLoader reads ``dataset`` in place of the workload's images, if there is one. Its ``workers`` are kept from
    one epoch to the next, which the published loop does not do, so that their start is not counted.
    """

    def __init__(self, workload: Workload, workers: int, dataset: Dataset[Any] | None = None) -> None:
        self.device = torch.device(workload.device)
        self.model = workload.build_model().to(self.device).train()
        groups = layer_groups(self.model, weight_decay=WEIGHT_DECAY, lr=LR, bias_norm_lr_scale=BIAS_NORM)
        self.optimizer: Any = TVLARS(groups, LR, total_steps=1000)
        self.loader = DataLoader(
            dataset or Pictures(workload),
            batch_size=workload.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def __call__(self) -> float:
        """Return the seconds of one epoch."""
        return timed(self.epoch)

    def epoch(self) -> tuple[float, int]:
        """Train on all images once; return the sum of losses, and how many answers were right."""
        total, correct = 0.0, 0
        for images, labels in self.loader:
            labels = labels.to(self.device, non_blocking=True)
            logits = self.forward(images)
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item()
            correct += int(logits.max(1)[1].eq(labels).sum().item())
        return total, correct

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images that the DataLoader has read."""
        logits: Tensor = self.model(images.to(self.device, non_blocking=True))
        return logits
