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
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tvlars import TVLARS, layer_groups
from tvlars.lab.bench.timing import timed
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.models import SMALL_IMAGE, build_model
from tvlars.lab.processes.fabric import make_fabric
from tvlars.lab.run_folder.record import NoRecord
from tvlars.lab.training.prepare import choose_precision
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.run import Run

CLASSES = 10
LR, WEIGHT_DECAY, BIAS_NORM = 0.1, 5e-4, 0.03
MODELS = ("small_resnet", "resnet18", "resnet18-standard-stem")
"""Those of the laboratory; the last one with the stem that torchvision made for 224 pixels."""


@dataclass(frozen=True)
class Task:
    """What both loops train: model, images and augmentation. It can be pickled.

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
        """The model, the same each time."""
        torch.manual_seed(0)
        name = self.model.removesuffix("-standard-stem")
        size = self.size if name == self.model else max(self.size, SMALL_IMAGE)
        return build_model(name, 3, size, CLASSES)[0]

    def data(self) -> ImageData:
        """The images, the same each time, and two for a test."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.images + 2, 3, self.size, self.size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu")
        labels = torch.randint(0, CLASSES, (len(images),), generator=generator, device="cpu")
        n = self.images
        return ImageData("random", "drawn", images[:n], labels[:n], images[n:], labels[n:], classes=CLASSES, flip=True)


class LabLoop(Run):
    """The laboratory's loop, an epoch a turn: all of it but what it writes.

    Args:
        task: what is trained.
        precision: as ``tvlars train --precision``.
        compiled: as ``--compile``.
        data: images in place of the task's.
        micro_batch_size: as ``--micro-batch-size``; None (default): the batch is not split.
    """

    def __init__(
        self,
        task: Task,
        precision: str = "auto",
        compiled: bool = False,
        data: ImageData | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        data = task.data() if data is None else data
        config = TrainConfig(
            data="cifar10",  # it has to have a name
            batch_size=task.batch_size,
            micro_batch_size=task.batch_size if micro_batch_size is None else micro_batch_size,
            epochs=10_000,
            lr=LR,
            crop_padding=task.padding,
            rotation=task.rotation,
            precision=precision,
            accelerator=task.device,
            compile=compiled,
        )
        fabric = make_fabric(config, choose_precision(config))
        super().__init__(
            config,
            config.plan(len(data.train_labels)),
            data,
            data.mean_and_std(),
            fabric,
            task.build_model(),
            NoRecord(Path(tempfile.gettempdir())),
            Reporter(),
        )

    def __call__(self) -> float:
        """Seconds of one epoch, and of a test on two images."""
        return timed(self._epoch, self.fabric.device)


class Pictures(Dataset[tuple[Any, int]]):
    """As torchvision's CIFAR10: arrays in memory, each made a PIL image and transformed when it is asked for."""

    def __init__(self, data: ImageData, transform: Callable[[Any], Any]) -> None:
        self.data = np.ascontiguousarray(data.train_images.permute(0, 2, 3, 1).numpy())
        self.targets: list[int] = data.train_labels.tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    def __len__(self) -> int:
        return len(self.data)


class LoaderLoop:
    """A DataLoader over PIL images, and the published loop around it: an epoch a turn.

    Workers are kept from one epoch to the next, which the published loop does not do, so that their start is not
    counted.

    Args:
        task: what is trained.
        workers: processes of the DataLoader; 0: none.
        bf16: autocast to bfloat16; the published loop is in float32.
        channels_last: weights and images in that memory format.
        make_optimizer: from a model to what takes a step; None (default): TVLARS as the laboratory has it.
        dataset: what the DataLoader reads in place of the task's images.
    """

    def __init__(
        self,
        task: Task,
        workers: int,
        bf16: bool = False,
        channels_last: bool = False,
        make_optimizer: Callable[[nn.Module], Any] | None = None,
        dataset: Dataset[Any] | None = None,
    ) -> None:
        self.device, self.bf16 = torch.device(task.device), bf16
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = task.build_model().to(self.device, memory_format=self.format).train()  # type: ignore[call-overload]
        self.optimizer = (make_optimizer or _tvlars)(self.model)
        self.loader = DataLoader(
            Pictures(task.data(), published_transform(task)) if dataset is None else dataset,
            batch_size=task.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def __call__(self) -> float:
        """Seconds of one epoch."""
        return timed(self.epoch, self.device)

    def epoch(self) -> tuple[float, int]:
        """Train on all images once; the sum of losses, and how many answers were right."""
        total, correct = 0.0, 0
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True, memory_format=self.format)
            labels = labels.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                logits = self.model(images)
                loss: Tensor = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item()
            correct += int(logits.max(1)[1].eq(labels).sum().item())
        return total, correct


def published_transform(task: Task) -> Callable[[Any], Any]:
    """The published code's transforms; without a rotation where the task has none."""
    from torchvision import transforms

    turn = [transforms.RandomRotation(task.rotation)] if task.rotation else []
    made: Callable[[Any], Any] = transforms.Compose(
        [
            transforms.RandomCrop(task.size, padding=task.padding),
            transforms.RandomHorizontalFlip(),
            *turn,
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return made


def _tvlars(model: nn.Module) -> TVLARS:
    return TVLARS(
        layer_groups(model, weight_decay=WEIGHT_DECAY, lr=LR, bias_norm_lr_scale=BIAS_NORM), LR, total_steps=1000
    )
