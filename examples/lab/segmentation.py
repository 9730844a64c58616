"""A task of one's own. The guide "Your own task" has the command."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchmetrics.classification import BinaryJaccardIndex

from tvlars.lab import Task


class Segmentation(Task):
    """Cross-entropy of each pixel, with intersection over union beside it."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, masks = batch
        return nn.functional.cross_entropy(model(images), masks)

    def metrics(self) -> dict[str, BinaryJaccardIndex]:
        return {"iou": BinaryJaccardIndex()}

    def predict(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, masks = batch
        return model(images).argmax(1), masks


def load() -> dict[str, object]:
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    masks = (digits > 0.5).long().squeeze(1)
    noisy = digits + 0.5 * torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    return {"train": (noisy[:1400], masks[:1400]), "test": (noisy[1400:], masks[1400:])}


def build(channels: int) -> nn.Module:
    first = [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1))
