"""Evaluations of frozen features: linear, nearest neighbours, few labels, and fine-tuning.

Features are computed once, from images without augmentation, and kept in memory; test images are never augmented.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from torch.optim.swa_utils import update_bn

from tvlars.lab.data.augment.batch import crop_and_flip, draw_crops
from tvlars.lab.data.image_data import ImageData, pick
from tvlars.lab.errors import UsageError
from tvlars.lab.models import head_of, put_head
from tvlars.lab.ssl.evaluations import NEIGHBOURS, Evaluated, ProbeSpec

BATCH = 256
LINEAR_EPOCHS, LINEAR_LR, LINEAR_DECAY = 100, 0.3, 1e-6
TEMPERATURE = 0.07
FINETUNE_EPOCHS, FINETUNE_HEAD_LR = 20, 0.5
CALIBRATION = 4096
"""Number of images for the batch norm statistics of an untrained network."""

Normalize = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Features:
    """Features (n, d) of all images of a data set, float32, and their labels (n,)."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int

    def with_labels(self, chosen: Tensor) -> Features:
        """Return the features with only these training samples."""
        return replace(self, train=self.train[chosen], train_labels=self.train_labels[chosen])


def evaluate_features(
    backbone: nn.Module,
    data: ImageData,
    normalize: Normalize,
    evaluations: list[ProbeSpec],
    *,
    untrained: nn.Module | None = None,
    seed: int = 0,
    padding: int = 2,
    batch_size: int = BATCH,
) -> Iterator[tuple[str, Evaluated, nn.Linear | None]]:
    """Run evaluations of a backbone on the device of the backbone and ``data``.

    Yield the name and the result of each evaluation and, for a linear evaluation, the classifier of features. Raise
    ``UsageError`` if features are not finite.

    Args:
        backbone: maps normalized images (n, C, H, W) to features (n, d); not modified.
        untrained: the network before training, for "random" and "random-knn"; None skips these.
        seed: seed of label subsets, shuffles and new heads.
        padding: pixels of random crops in fine-tuning.
        batch_size: most images per forward pass.
    """

    @functools.cache
    def features(random: bool) -> Features:
        net = backbone if not random or untrained is None else _calibrated(untrained, data, normalize, batch_size)
        was = net.training
        net.eval()
        with torch.no_grad():
            train, test = (
                torch.cat([net(normalize(part)).float() for part in torch.split(images, batch_size)])
                for images in (data.train_images, data.test_images)
            )
        net.train(was)
        if not (train.isfinite().all() and test.isfinite().all()):
            raise UsageError("the features to evaluate must be finite, but some are NaN or infinite")
        return Features(train, data.train_labels, test, data.test_labels, data.classes)

    for one in evaluations:
        start = time.perf_counter()
        random = one.kind.startswith("random")
        if random and untrained is None:
            continue
        chosen = label_subset(data.train_labels, one.share, seed)
        head: nn.Linear | None = None
        if one.kind.endswith("knn"):
            accuracy = knn_accuracy(features(random))
        elif one.kind == "finetune":
            accuracy = finetune(backbone, data, normalize, chosen, one.share, seed, padding, batch_size)
        else:
            whole = features(random)
            head, accuracy = linear_probe(whole if one.share == 1.0 else whole.with_labels(chosen), seed)
        yield one.name, Evaluated(accuracy, len(chosen), round(time.perf_counter() - start, 3)), head


def label_subset(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return the indices of a share of the samples of each class, at least one per class."""
    if share == 1.0:
        return torch.arange(len(labels), device=labels.device)
    order = _shuffled(len(labels), torch.Generator().manual_seed(seed), labels.device)
    chosen = []
    for label in torch.unique(labels):
        mine = order[labels[order] == label]
        chosen.append(mine[: max(round(share * len(mine)), 1)])
    return torch.cat(chosen)


def linear_probe(features: Features, seed: int = 0) -> tuple[nn.Linear, float]:
    """Train a linear classifier on frozen features; return it and its accuracy on the test set.

    SGD with momentum 0.9, a cosine schedule and batches of 256, as in Zbontar et al. 2021 (lr 0.3, weight decay 1e-6,
    100 epochs). Features are standardized with the training set's mean and standard deviation, so that one learning
    rate suits networks with features of different scale; the returned classifier accepts unstandardized features.
    """
    x, y = features.train, features.train_labels
    mean, std = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / std
    classifier = _linear(x.shape[1], features.classes, x.device)
    nn.init.zeros_(classifier.weight)  # the problem is convex, so the initial value matters little
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.SGD(classifier.parameters(), LINEAR_LR, momentum=0.9, weight_decay=LINEAR_DECAY)
    cosine = LambdaLR(optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / LINEAR_EPOCHS)))

    def backward(batch: Tensor) -> None:
        F.cross_entropy(classifier(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]

    _descend(optimizer, cosine, LINEAR_EPOCHS, torch.arange(len(y), device=y.device), seed, backward)
    classifier = folded(classifier, mean, std)
    with torch.no_grad():
        correct = (classifier(features.test).argmax(1) == features.test_labels).float().mean()
    return classifier, float(correct)


def folded(classifier: nn.Linear, mean: Tensor, std: Tensor) -> nn.Linear:
    """Return the classifier of plain features that is equivalent to ``classifier`` of standardized features."""
    made = copy.deepcopy(classifier)
    with torch.no_grad():
        made.weight.div_(std)
        made.bias.sub_(made.weight @ mean)
    return made


def knn_accuracy(features: Features, k: int = NEIGHBOURS) -> float:
    """Return the test accuracy of a vote of the k nearest training samples by cosine similarity s, with weights
    exp(s / 0.07) (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""
    from lightly.utils.benchmarking import knn_predict

    bank = F.normalize(features.train, dim=1).T.contiguous()
    k, correct = min(k, bank.shape[1]), 0
    for x, y in zip(torch.split(features.test, BATCH), torch.split(features.test_labels, BATCH), strict=True):
        predicted = knn_predict(F.normalize(x, dim=1), bank, features.train_labels, features.classes, k, TEMPERATURE)
        correct += int((predicted[:, 0] == y).sum())
    return correct / len(features.test_labels)


def finetune(
    backbone: nn.Module,
    data: ImageData,
    normalize: Normalize,
    chosen: Tensor,
    share: float = 1.0,
    seed: int = 0,
    padding: int = 2,
    batch_size: int = BATCH,
) -> float:
    """Return the test accuracy after training a copy of the backbone with a new classifier on chosen samples.

    Settings of the published commands of Zbontar et al. 2021: SGD with momentum 0.9, cosine schedule, no weight decay;
    lr 0.5 for the classifier and 0.01 for the backbone (0.005 with at most 2 % of the labels); batches of 256 in parts
    of at most ``batch_size`` images; training images cropped at random and mirrored as in ``tvlars train``.
    """
    net = copy.deepcopy(backbone)
    device = data.train_images.device
    with torch.no_grad():
        width = net.eval()(normalize(data.train_images[:2])).shape[1]
    head = _linear(width, data.classes, device)
    nn.init.normal_(head.weight, std=0.01, generator=torch.Generator(device).manual_seed(seed))
    nn.init.zeros_(head.bias)
    groups: list[dict[str, Any]] = [
        {"params": net.parameters(), "lr": 0.005 if share <= 0.02 else 0.01},
        {"params": head.parameters()},
    ]
    optimizer = torch.optim.SGD(groups, lr=FINETUNE_HEAD_LR, momentum=0.9)
    draws = torch.Generator(device).manual_seed(seed)

    def backward(batch: Tensor) -> None:
        if len(batch) < 2:
            return  # batch norm needs more than one sample
        for part in torch.tensor_split(batch, min(-(-len(batch) // batch_size), len(batch) // 2)):
            crops = draw_crops(len(part), padding, data.flip, draws)
            logits = head(net(normalize(crop_and_flip(pick(data.train_images, part), padding, crops))))
            loss = F.cross_entropy(logits, data.train_labels[part], reduction="sum") / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]

    net.train()
    _descend(optimizer, CosineAnnealingLR(optimizer, FINETUNE_EPOCHS), FINETUNE_EPOCHS, chosen, seed, backward)
    net.eval()
    with torch.no_grad():
        logits = torch.cat([head(net(normalize(part))) for part in torch.split(data.test_images, batch_size)])
    return int((logits.argmax(1) == data.test_labels).sum()) / len(data.test_labels)


def backbone_of(model: nn.Module) -> nn.Module:
    """Return a copy of a classifier without its head, in evaluation mode."""
    net = copy.deepcopy(model)
    put_head(net, head_of(net)[0], nn.Identity())
    return net.eval()


def _calibrated(untrained: nn.Module, data: ImageData, normalize: Normalize, batch_size: int) -> nn.Module:
    """Return an untrained network with batch norm statistics of the data, which improve its features."""
    net = copy.deepcopy(untrained)
    # A random sample, since images of folders are ordered by class.
    chosen = _shuffled(len(data.train_labels), torch.Generator().manual_seed(0), data.train_labels.device)[:CALIBRATION]
    parts = torch.split(chosen, min(batch_size, BATCH))
    with torch.no_grad():
        update_bn((normalize(pick(data.train_images, part)) for part in parts if len(part) > 1), net)
    return net


def _descend(
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    epochs: int,
    samples: Tensor,
    seed: int,
    backward: Callable[[Tensor], None],
) -> None:
    """Do a step for each batch of 256 shuffled ``samples``; the learning rate changes once per epoch."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.split(samples[_shuffled(len(samples), generator, samples.device)], BATCH):
            optimizer.zero_grad()
            backward(batch)
            optimizer.step()
        scheduler.step()


def _shuffled(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=generator, device="cpu").to(device)


def _linear(inputs: int, outputs: int, device: torch.device) -> nn.Linear:
    """Return a linear layer without initialization, which would draw random numbers."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs, device=device)  # type: ignore[no-untyped-call]
    return layer
