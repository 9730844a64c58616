"""What frozen features are worth: linear evaluation, nearest neighbours, few labels, and fine-tuning.

Features are computed once, of images as they are, and kept in memory; test images are never augmented.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.lab.data import ImageData
from tvlars.lab.data.augment import crop_and_flip, draw_crops
from tvlars.lab.data.image_data import pick
from tvlars.lab.errors import UsageError
from tvlars.lab.models import head_of, put_head
from tvlars.lab.ssl.evaluations import NEIGHBOURS, Evaluated, ProbeSpec

BATCH = 256
LINEAR_EPOCHS, LINEAR_LR, LINEAR_DECAY = 100, 0.3, 1e-6
TEMPERATURE = 0.07
FINETUNE_EPOCHS, FINETUNE_HEAD_LR = 20, 0.5
CALIBRATION = 4096
"""Images that set an untrained network's batch norm statistics."""


@dataclass(frozen=True)
class Features:
    """Features (n, d) of all images of a data set, float32, and their labels (n,)."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int

    def with_labels(self, chosen: Tensor) -> Features:
        """The same with these training samples alone."""
        return replace(self, train=self.train[chosen], train_labels=self.train_labels[chosen])


def extract(
    backbone: nn.Module, data: ImageData, normalize: Callable[[Tensor], Tensor], batch_size: int = 1024
) -> Features:
    """Features of all images, in evaluation mode; the backbone's own mode stays."""
    was = backbone.training
    backbone.eval()

    def of(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([backbone(normalize(part)).float() for part in torch.split(images, batch_size)])

    found = Features(of(data.train_images), data.train_labels, of(data.test_images), data.test_labels, data.classes)
    backbone.train(was)
    return found


def evaluate_features(
    backbone: nn.Module,
    data: ImageData,
    normalize: Callable[[Tensor], Tensor],
    evaluations: list[ProbeSpec],
    *,
    untrained: nn.Module | None = None,
    seed: int = 0,
    padding: int = 2,
    batch_size: int = 256,
    announce: Callable[[str, Evaluated, nn.Linear | None], None] = lambda name, found, head: None,
) -> tuple[dict[str, Evaluated], nn.Linear | None]:
    """Run evaluations of a backbone on the data set ``data``, on the device both lie on.

    Args:
        backbone: normalized images to features (n, d); left as it is.
        data: training and test images with labels.
        normalize: what the backbone wants done with images (n, C, H, W) of values 0 to 255.
        evaluations: what to do, from :func:`parse_evaluations`.
        untrained: the same network as it was before training, for "random" and "random-knn".
        seed: of label subsets, shuffles and new heads.
        padding: pixels of random crops in fine-tuning.
        batch_size: images per forward pass at most.
        announce: is told each result as it comes, with the classifier of a linear evaluation.

    Returns:
        Results by name, and the linear evaluation's classifier for features, None where there was none.

    Raises:
        UsageError: the features are not finite.
    """
    found: dict[str, Evaluated] = {}
    head: nn.Linear | None = None
    cached: dict[bool, Features] = {}
    for one in evaluations:
        start = time.perf_counter()
        classifier: nn.Linear | None = None
        random = one.kind.startswith("random")
        if random and untrained is None:
            continue
        if one.kind != "finetune" and random not in cached:
            net = _calibrated(untrained, data, normalize, batch_size) if random and untrained is not None else backbone
            cached[random] = extract(net, data, normalize, batch_size)
            if not all(torch.isfinite(x).all() for x in (cached[random].train, cached[random].test)):
                raise UsageError("the features to evaluate must be finite, but some are NaN or infinite")
        chosen = label_subset(data.train_labels, one.share, seed)
        if one.kind.endswith("knn"):
            accuracy = knn_accuracy(cached[random])
        elif one.kind == "finetune":
            options = dict(share=one.share, seed=seed, padding=padding, batch_size=batch_size)
            accuracy = finetune(backbone, data, normalize, chosen, **options)  # type: ignore[arg-type]
        else:
            features = cached[random] if one.share == 1.0 else cached[random].with_labels(chosen)
            classifier, accuracy = linear_probe(features, seed=seed)
            head = classifier if one.name == "linear" else head
        found[one.name] = Evaluated(accuracy, len(chosen), round(time.perf_counter() - start, 3))
        announce(one.name, found[one.name], classifier)
    return found, head


def label_subset(labels: Tensor, share: float, seed: int) -> Tensor:
    """Indices of a share of the samples of each class, one at least."""
    if share == 1.0:
        return torch.arange(len(labels), device=labels.device)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator, device="cpu").to(labels.device)
    chosen = []
    for label in torch.unique(labels):
        mine = order[labels[order] == label]
        chosen.append(mine[: max(round(share * len(mine)), 1)])
    return torch.cat(chosen)


def linear_probe(
    features: Features, *, epochs: int = LINEAR_EPOCHS, lr: float = LINEAR_LR, seed: int = 0
) -> tuple[nn.Linear, float]:
    """Train a linear classifier on frozen features: SGD with momentum 0.9, cosine, batches of 256.

    Features are standardized with the training set's mean and deviation, so that one learning rate does for networks
    whose features differ in scale; the classifier that is returned takes them as they are.

    Source: the linear evaluation of Zbontar et al. 2021 (lr 0.3, weight decay 1e-6, 100 epochs).

    Returns:
        The classifier and its accuracy on the test set, a fraction.
    """
    x, y = features.train, features.train_labels
    mean, std = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / std
    generator = torch.Generator().manual_seed(seed)
    classifier = nn.Linear(x.shape[1], features.classes).to(x.device)
    nn.init.zeros_(classifier.weight)  # the problem is convex: where it starts matters little
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.SGD(classifier.parameters(), lr, momentum=0.9, weight_decay=LINEAR_DECAY)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for batch in torch.split(torch.randperm(len(y), generator=generator, device="cpu").to(y.device), BATCH):
            optimizer.zero_grad()
            F.cross_entropy(classifier(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    classifier = folded(classifier, mean, std)
    with torch.no_grad():
        correct = (classifier(features.test).argmax(1) == features.test_labels).float().mean()
    return classifier, float(correct)


def folded(classifier: nn.Linear, mean: Tensor, std: Tensor) -> nn.Linear:
    """The classifier of plain features that does what ``classifier`` does with standardized ones."""
    made = nn.Linear(classifier.in_features, classifier.out_features).to(mean.device)
    with torch.no_grad():
        made.weight.copy_(classifier.weight / std)
        made.bias.copy_(classifier.bias - made.weight @ mean)
    return made


def knn_accuracy(features: Features, k: int = NEIGHBOURS) -> float:
    """Test accuracy of the k nearest training samples' votes by cosine similarity s, each weighted exp(s / 0.07).

    Source: Wu et al. 2018 (arXiv 1805.01978), section 3.4.
    """
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
    normalize: Callable[[Tensor], Tensor],
    chosen: Tensor,
    *,
    share: float = 1.0,
    epochs: int = FINETUNE_EPOCHS,
    seed: int = 0,
    padding: int = 2,
    batch_size: int = BATCH,
) -> float:
    """Test accuracy after training a copy of the backbone with a new classifier on the chosen samples.

    SGD with momentum 0.9 and cosine, no weight decay; lr 0.5 for the classifier and 0.01 for the backbone (0.005 with
    2 % of the labels and less), batches of 256 in parts of ``batch_size`` images at most, training images cropped at
    random and mirrored as in ``tvlars train``.

    Source: the semi-supervised evaluation of Zbontar et al. 2021, its published commands.
    """
    net = copy.deepcopy(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.no_grad():
            width = net.eval()(normalize(data.train_images[:2])).shape[1]
        head = nn.Linear(width, data.classes).to(data.train_images.device)
    nn.init.normal_(head.weight, std=0.01, generator=torch.Generator(head.weight.device).manual_seed(seed))
    nn.init.zeros_(head.bias)
    groups: list[dict[str, Any]] = [
        {"params": list(net.parameters()), "lr": 0.005 if share <= 0.02 else 0.01},
        {"params": list(head.parameters()), "lr": FINETUNE_HEAD_LR},
    ]
    optimizer = torch.optim.SGD(groups, lr=FINETUNE_HEAD_LR, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    order = torch.Generator().manual_seed(seed)
    draws = torch.Generator(data.train_images.device).manual_seed(seed)
    for _ in range(epochs):
        net.train()
        shuffled = chosen[torch.randperm(len(chosen), generator=order, device="cpu").to(chosen.device)]
        for batch in torch.split(shuffled, BATCH):
            if len(batch) < 2:
                continue  # batch norm has no statistics of one sample
            optimizer.zero_grad()
            for part in torch.tensor_split(batch, min(-(-len(batch) // batch_size), len(batch) // 2)):
                images = crop_and_flip(
                    pick(data.train_images, part), padding, draw_crops(len(part), padding, data.flip, draws)
                )
                logits = head(net(normalize(images)))
                loss = F.cross_entropy(logits, data.train_labels[part], reduction="sum") / len(batch)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        scheduler.step()
    net.eval()
    correct = 0
    with torch.no_grad():
        for x, y in zip(
            torch.split(data.test_images, batch_size), torch.split(data.test_labels, batch_size), strict=True
        ):
            correct += int((head(net(normalize(x))).argmax(1) == y).sum())
    return correct / len(data.test_labels)


def backbone_of(model: nn.Module) -> nn.Module:
    """A copy of a classifier without its head, in evaluation mode."""
    net = copy.deepcopy(model)
    put_head(net, head_of(net)[0], nn.Identity())
    return net.eval()


def _calibrated(
    untrained: nn.Module, data: ImageData, normalize: Callable[[Tensor], Tensor], batch_size: int
) -> nn.Module:
    """An untrained network with batch norm statistics of the data: without, its features are worth less."""
    net = copy.deepcopy(untrained)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over all batches
    net.train()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)  # folders are in the order of their classes
        chosen = torch.randperm(len(data.train_labels), generator=generator, device="cpu")[:CALIBRATION].to(
            data.train_labels.device
        )
        for part in torch.split(chosen, min(batch_size, BATCH)):
            if len(part) > 1:
                net(normalize(pick(data.train_images, part)))
    return net
