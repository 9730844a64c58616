"""Batches of a run: the samples of each process, augmented, and the feed that fetches images a step ahead."""

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
"""The part of an accelerator's free memory that images may take; more of them stay on the host."""


class Batches:
    """Training and test images of one process, normalized, on its device.

    Random numbers are those of a whole batch in every process, and each takes its share of them. Their sources are of
    their own: the same for every optimizer.
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
        """Parts of this process's share of a batch."""
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator(device).manual_seed(config.seed)

    def shuffle(self) -> Tensor:
        """The indices of all training images in a new order, the same in every process."""
        return self.feed.indices(torch.randperm(len(self.data.train_labels), generator=self.order, device="cpu"))

    def split(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The parts of this process's share of a batch (n, ...), of about the same size."""
        return torch.tensor_split(self.processes.share(batch), self.count)

    def images(self, parts: tuple[Tensor, ...], then: Tensor) -> Iterator[Tensor]:
        """The images of each part, uint8, while those of the next part, and at last of ``then``, are fetched."""
        for index, following in zip(parts, (*parts[1:], then), strict=True):
            with self.phase("data"):
                images = self.feed.take(index, following)
            yield images

    def parts(self, batch: Tensor, upcoming: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of this process's share of the samples ``batch``: augmented images and labels.

        ``upcoming`` are the samples of the next batch, which may be got ready.
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
        """The random numbers of a batch of ``count``."""
        if not self.config.augment:
            return []
        draws = [draw_crops(count, self.padding, self.data.flip, self.draws)]
        if self.config.rotation:
            draws.append(torch.rand(count, generator=self.draws, device=self.draws.device))
        return draws

    def normalize(self, images: Tensor) -> Tensor:
        """Images of values 0 to 255, on any device, as the model wants them."""
        images = images.to(self.mean.device, non_blocking=True)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the test set, as it is, in as many parts as the other processes have."""
        images, labels = self.processes.share(self.data.test_images), self.processes.share(self.data.test_labels)
        most = -(-len(self.data.test_labels) // self.processes.count)
        count = -(-most // self.config.micro_batch_size)
        parts = zip(torch.tensor_split(images, count), torch.tensor_split(labels, count), strict=True)
        return ((self.normalize(x), y) for x, y in parts)


class Feed:
    """The training images of a data set by their indices, on ``device``.

    Images that fit lie on the device and are taken from there. Others stay on the host, in memory or in a mapped file:
    a thread gathers the next ones while the device computes, into pinned memory, and they are copied without a wait.

    Args:
        data: the data set, on the host.
        device: where batches are wanted.
    """

    def __init__(self, data: ImageData, device: torch.device) -> None:
        self.device = device
        self.resident = not data.mapped and fits(data, device)
        self.data = data.to(device) if self.resident else data.with_labels_on(device)
        self._pool = None if self.resident else ThreadPoolExecutor(1, "feed")
        self._next: tuple[Tensor, Future[Tensor]] | None = None

    def indices(self, order: Tensor) -> Tensor:
        """Indices where they are needed."""
        return order.to(self.device) if self.resident else order.cpu()

    def take(self, index: Tensor, then: Tensor | None = None) -> Tensor:
        """The images with these indices, uint8; those of ``then`` are got ready meanwhile."""
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
        """Let the thread end."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def fits(data: ImageData, device: torch.device) -> bool:
    """Return whether all images may lie on ``device``."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return data.train_images.nbytes + data.test_images.nbytes <= SHARE * free


def micro_batches(config: TrainConfig, processes: int = 1) -> int:
    """Return the number of micro-batches of a process, all of about the same size, as batch norm wants it."""
    share = -(-config.batch_size // processes)
    return -(-share // config.micro_batch_size)
