"""Training on digits that the figures look into: the laboratory's small ResNet, batch size 256, one thread."""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tvlars import LARS, TVLARS, Plan, layer_groups, plan
from tvlars.lab import load_data
from tvlars.lab.models import build_model
from tvlars.noise_scale import NoiseScale, noise_scale
from tvlars.stats import LayerStats

BATCH_SIZE = 256


@cache
def images() -> tuple[Tensor, Tensor]:
    """The training images, standardized, and their labels."""
    data = load_data("digits")
    mean, std = data.mean_and_std()
    return (data.train_images.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1), data.train_labels


def planned(epochs: int, **options: Any) -> Plan:
    return plan(batch_size=BATCH_SIZE, dataset_size=len(images()[0]), epochs=epochs, **options)


def train(
    p: Plan, seed: int = 0, bias_norm_lr_scale: float | None = None, steps: int | None = None, **options: Any
) -> tuple[nn.Module, list[float], pd.DataFrame]:
    """Train by a plan of TVLARS or LARS, all of it or its first steps; returns model, losses and layer statistics."""
    torch.manual_seed(seed)
    x, y = images()
    model, _ = build_model("small_resnet", 1, 8, 10)
    scale = p.bias_norm_lr_scale if bias_norm_lr_scale is None else bias_norm_lr_scale
    groups = layer_groups(model, weight_decay=p.weight_decay, lr=p.lr, bias_norm_lr_scale=scale)
    optimizer: torch.optim.Optimizer
    if p.optimizer == "tvlars":
        optimizer = TVLARS(groups, **p.optimizer_arguments(), **options)
    else:
        optimizer = LARS(groups, **p.optimizer_arguments(), **options)
    scheduler, losses = p.scheduler(optimizer), []
    with LayerStats(optimizer, model, every=1) as stats:
        for index in batches(p)[:steps]:
            loss = nn.functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if scheduler is not None:
                scheduler.step()
    return model, losses, stats.frame()


def batches(p: Plan) -> list[Tensor]:
    """The samples of every step of a run, shuffled anew each epoch."""
    samples = p.steps_per_epoch * p.batch_size
    epochs = [torch.randperm(p.dataset_size)[:samples].split(p.batch_size) for _ in range(p.epochs)]
    return [index for epoch in epochs for index in epoch]


@cache
def measured_noise() -> NoiseScale:
    """The noise scale after the first epoch of twelve, from micro-batches of 32 training images."""
    x, y = images()
    p = planned(12)
    model, _, _ = train(p, steps=p.steps_per_epoch)
    return noise_scale(model, nn.CrossEntropyLoss(), list(zip(x[:1408].split(32), y[:1408].split(32), strict=True)))
