"""Batches of a run: augmented samples of each process, and a feed that fetches images one step ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.data.augment import crop_and_flip, draw_crops, rotate
from tvlars.lab.training.prepare import Prepared
from tvlars.lab.training.profile import Phases

SHARE = 0.5
"""Share of an accelerator's free memory that images may take; larger data sets stay on the host."""


class Batches:
    """Training and test images of one process, normalized, on its device.

    Every process draws the random numbers of the whole batch and uses its share of them. The generators are used for
    nothing else, so that batches are the same for every optimizer.
    """

    def __init__(self, prepared: Prepared, phase: Phases) -> None:
        config, device = prepared.config, prepared.fabric.device
        self.config, self.processes, self.phase = config, prepared.processes, phase
        self.feed = Feed(prepared.data, device)
        self.data = self.feed.data
        self.mean, self.std = (value.view(1, -1, 1, 1).to(device) for value in prepared.mean_and_std)
        padding = config.crop_padding
        self.padding = max(round(self.data.image_size / 12), 1) if padding is None else padding
        self.count = micro_batches(config, self.processes.count)
        """Number of micro-batches in this process's share of a batch."""
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator(device).manual_seed(config.seed)

    def shuffle(self) -> Tensor:
        """Return the indices of all training images in a new order, the same in every process."""
        return self.feed.indices(torch.randperm(len(self.data.train_labels), generator=self.order, device="cpu"))

    def split(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Return this process's share of a batch (n, ...) as micro-batches of about the same size."""
        return torch.tensor_split(self.processes.share(batch), self.count)

    def images(self, parts: tuple[Tensor, ...], then: Tensor) -> Iterator[Tensor]:
        """Yield the uint8 images of each part while those of the next part, and finally of ``then``, are fetched."""
        for index, following in zip(parts, (*parts[1:], then), strict=True):
            with self.phase("data"):
                images = self.feed.take(index, following)
            yield images

    def parts(self, batch: Tensor, upcoming: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of the samples ``batch`` as micro-batches: augmented images and labels.

        ``upcoming`` are the samples of the next batch, whose images may be fetched meanwhile.
        """
        indices = self.split(batch)
        draws = [self.split(drawn) for drawn in self._draws(len(batch))]
        for index, images, *drawn in zip(indices, self.images(indices, self.split(upcoming)[0]), *draws, strict=True):
            with self.phase("augmentation"):
                if drawn:
                    images = crop_and_flip(images, self.padding, drawn[0])
                if len(drawn) > 1:
                    images = rotate(images, self.config.rotation, drawn[1])
                images = self.normalize(images)
            yield images, self.data.train_labels[index]

    def _draws(self, count: int) -> list[Tensor]:
        """Return the random numbers of a batch of ``count`` samples."""
        if not self.config.augment:
            return []
        draws = [draw_crops(count, self.padding, self.data.flip, self.draws)]
        if self.config.rotation:
            draws.append(torch.rand(count, generator=self.draws, device=self.draws.device))
        return draws

    def normalize(self, images: Tensor) -> Tensor:
        """Return normalized images on the model's device, of images of values 0 to 255 on any device."""
        images = images.to(self.mean.device, non_blocking=True)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def test(self, split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of a split without augmentation, in as many parts as in other processes."""
        images, labels = self.data.part(split)
        most = -(-len(labels) // self.processes.count)
        count = -(-most // self.config.micro_batch_size)
        for part in torch.tensor_split(self.processes.share(torch.arange(len(labels), device="cpu")), count):
            place = slice(int(part[0]), int(part[-1]) + 1) if len(part) else slice(0)
            yield self.normalize(images[place]), labels[place]


class Feed:
    """Training images of a data set by their indices, on ``device``.

    A data set that fits lies on the device. A larger one stays on the host, in memory or in a mapped file: a thread
    gathers the next images into pinned memory while the device computes, and they are copied asynchronously.

    Args:
        data: the data set, on the host.
        device: device of the batches.
    """

    def __init__(self, data: ImageData, device: torch.device) -> None:
        self.device = device
        self.resident = not data.mapped and fits(data, device)
        self.data = data.to(device) if self.resident else data.with_labels_on(device)
        self._pool = None if self.resident else ThreadPoolExecutor(1, "feed")
        self._next: tuple[Tensor, Future[Tensor]] | None = None

    def indices(self, order: Tensor) -> Tensor:
        """Return indices on the device of the images."""
        return order.to(self.device) if self.resident else order.cpu()

    def take(self, index: Tensor, then: Tensor | None = None) -> Tensor:
        """Return the uint8 images with these indices; a thread fetches those of ``then`` meanwhile."""
        if self._pool is None:
            return self.data.train_images[index]
        ready = None
        if self._next is not None and torch.equal(self._next[0], index):
            ready = self._next[1]
        images = (ready or self._pool.submit(self._gather, index)).result()
        self._next = None if then is None or not len(then) else (then, self._pool.submit(self._gather, then))
        return images.to(self.device, non_blocking=True)

    def _gather(self, index: Tensor) -> Tensor:
        images = self.data.train_images[index]
        return images.pin_memory() if self.device.type == "cuda" else images

    def close(self) -> None:
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def fits(data: ImageData, device: torch.device) -> bool:
    """Return True if all images may lie on ``device``."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    held = 0 if data.validation_images is None else data.validation_images.nbytes
    return data.train_images.nbytes + held + data.test_images.nbytes <= SHARE * free


def micro_batches(config: TrainConfig, processes: int = 1) -> int:
    """Return the number of micro-batches of a process; they have about the same size, which batch norm needs."""
    share = -(-config.batch_size // processes)
    return -(-share // config.micro_batch_size)
