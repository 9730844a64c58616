"""Training on random images: the laboratory's loop, and a loop around a DataLoader as in the published code."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import CIFAR10

from tvlars import TVLARS, layer_groups
from tvlars._machine import faster_in_bf16, native_bf16
from tvlars.lab.bench.result import Row, interleave, row_of, timed
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.given import Given
from tvlars.lab.models import build_model
from tvlars.lab.run_folder.record import NoRecord
from tvlars.lab.training.learner import Classification
from tvlars.lab.training.prepare import prepare
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.run import Run

CLASSES, LR, WEIGHT_DECAY, BIAS_NORM = 10, 0.1, 5e-4, 0.03
FLOAT32, BF16 = "tvlars, float32", "tvlars, bf16"


def training(model: str, workers: int, device: torch.device, until: float) -> list[Row]:
    """Compare the laboratory's loop with the published one, and bfloat16 with float32, on as many images as fit."""
    plain = f"DataLoader, {workers} worker{'s' * (workers != 1)}, float32"
    makers: dict[str, Callable[..., Run | LoaderLoop]] = {
        FLOAT32: partial(lab_loop, precision="32-true"),
        plain: lambda data, *rest: LoaderLoop(Pictures(data), workers, *rest),
    }
    pairs = [(BF16 if faster_in_bf16(device) else FLOAT32, plain)]
    if native_bf16(device):
        makers[BF16] = partial(lab_loop, precision="bf16-mixed")
        pairs.append((BF16, FLOAT32))
    tried, largest = (256, 512) if device.type == "cuda" else (8, 256)
    loop = makers[FLOAT32](random_images(tried), seeded_model(model), device.type, tried)
    each = min(timed(loop.run_epoch) for _ in range(3)) / tried + 4e-4 / max(workers, 1)  # PIL takes about 0.4 ms
    images, batch_size = fit((until - time.perf_counter()) / (6 * len(makers)), each, largest)  # 6 rounds
    data = random_images(images)
    loops = {name: make(data, seeded_model(model), device.type, batch_size) for name, make in makers.items()}
    times = interleave({name: partial(timed, loop.run_epoch) for name, loop in loops.items()}, until=until)
    return [row_of(f"training {model}, batch size {batch_size}", *pair, times, images) for pair in pairs]


def fit(seconds: float, each: float, largest: int) -> tuple[int, int]:
    """Return the number of images and the batch size of a turn of ``seconds``, if each image takes ``each`` seconds."""
    images = min(int(seconds / each), 50_000)  # as many as CIFAR-10 has
    if images < 2:
        raise RuntimeError(f"an image takes {each:.2g} s here, which is too long for --seconds")
    batch_size = min(largest, max(2, 2 ** ((images // 2).bit_length() - 1)))  # two batches, if possible
    return images // batch_size * batch_size, batch_size


def random_images(n: int, size: int = 32) -> ImageData:
    """Return ``n`` random training images and two test images, the same in each call."""
    generator, shape = torch.Generator().manual_seed(0), (n + 2, 3, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu")
    labels = torch.randint(0, CLASSES, (n + 2,), generator=generator, device="cpu")
    return ImageData("random", "drawn", images[:n], labels[:n], images[n:], labels[n:], classes=CLASSES, flip=True)


def seeded_model(name: str, size: int = 32) -> nn.Module:
    """Return a model of the laboratory, with the same weights in each call."""
    torch.manual_seed(0)
    return build_model(name, 3, size, CLASSES)[0]


def lab_loop(data: ImageData, model: nn.Module, device: str, batch_size: int, **options: Any) -> Run:
    """Return a run of the laboratory that writes nothing."""
    usual: dict[str, Any] = dict(data="cifar10", epochs=10_000, lr=LR, micro_batch_size=batch_size, crop_padding=4)
    config = TrainConfig(batch_size=batch_size, accelerator=device, **{**usual, **options})
    return Run(Classification(prepare(config, Given(data)), model, NoRecord(Path(tempfile.gettempdir())), Reporter()))


class Pictures(CIFAR10):  # type: ignore[misc]
    """Arrays in place of CIFAR-10's images: converted to PIL images when read, and augmented as published."""

    def __init__(self, data: ImageData, padding: int = 4, *more: nn.Module) -> None:
        self.data = data.train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets, self.target_transform = data.train_labels.tolist(), None
        shift = [transforms.RandomCrop(data.image_size, padding=padding), transforms.RandomHorizontalFlip()]
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.transform = transforms.Compose([*shift, *more, transforms.ToTensor(), normalize])


class LoaderLoop:
    """Published loop around a DataLoader; workers persist between epochs, so that their start is not timed."""

    def __init__(self, dataset: Dataset[Any], workers: int, model: nn.Module, device: str, batch_size: int) -> None:
        self.device, self.model = torch.device(device), model.to(device).train()
        groups = layer_groups(model, weight_decay=WEIGHT_DECAY, lr=LR, bias_norm_lr_scale=BIAS_NORM)
        self.optimizer: Any = TVLARS(groups, LR, total_steps=1000)
        kept: dict[str, Any] = dict(num_workers=workers, persistent_workers=workers > 0, pin_memory=device == "cuda")
        self.loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True, **kept)

    def run_epoch(self) -> tuple[float, int]:
        """Train on all images once; return the sum of the losses and the number of correct predictions."""
        total, correct = 0.0, 0
        for images, labels in self.loader:
            labels = labels.to(self.device, non_blocking=True)
            logits = self.model(images.to(self.device, non_blocking=True))
            loss = nn.functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item()
            correct += int(logits.max(1)[1].eq(labels).sum().item())
        return total, correct
