"""Batches of a run: augmented samples of each process, and a feed that fetches images one step ahead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.data.augment.batch import crop_and_flip, draw_crops, rotate
from tvlars.lab.data.augment.recipe import PADDED, Mix, Recipe
from tvlars.lab.data.own.loaders import LoaderData
from tvlars.lab.data.streamed import Decoded, Readers, StreamedImages, default_processes, key_of
from tvlars.lab.errors import UsageError
from tvlars.lab.training.prepare import Prepared
from tvlars.lab.training.profile import Phases

SMALL = 2**24
"""Bytes of training images below which no processes augment them by default."""
SHARE = 0.5
"""Share of an accelerator's free memory that images may use; larger data sets stay on the host."""


class Batches:
    """Training and test images of one process, normalized, on its device.

    Every process draws the random numbers of the whole batch and uses its share of them. The generators serve no other
    purpose, so that batches are the same for every optimizer.
    """

    def __init__(self, prepared: Prepared, phase: Phases) -> None:
        config, device = prepared.config, prepared.fabric.device
        self.config, self.processes, self.phase = config, prepared.processes, phase
        padding = config.crop_padding
        self.padding = max(round(prepared.data.image_size / 12), 1) if padding is None else padding
        self.recipe = recipe_of(config, prepared.data, self.padding)
        self.feed = Feed(prepared.data, device, self.recipe, config.data_workers)
        self.data = self.feed.data
        self.number = 0
        """Number of batches taken so far in this epoch."""
        self.mix = Mix(config.mixup, config.cutmix, self.data.classes) if config.mixup or config.cutmix else None
        self.mean, self.std = (value.view(1, -1, 1, 1).to(device) for value in prepared.mean_and_std)
        self.count = micro_batches(config, self.processes.count)
        """Number of micro-batches in this process's share of a batch."""
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator(device).manual_seed(config.seed)

    def shuffle(self, epoch: int = 1, position: int = 0) -> Tensor:
        """Return the indices of all training images in a new order, the same in every process.

        ``epoch`` and ``position``, the number of its finished batches, key the random numbers of single samples
        and of mixed batches.
        """
        self.feed.key, self.number = key_of(self.config.seed, epoch), position
        return self.feed.indices(torch.randperm(len(self.data.train_labels), generator=self.order, device="cpu"))

    def begin_aside(self) -> None:
        """Prepare for batches outside of epochs, whose random numbers of samples are the same each time."""
        self.feed.key, self.number = key_of(self.config.seed, 0), 0

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
        indices, then = self._parted(batch), self._parted(upcoming)[0]
        augment = self.config.augment
        crops = self._parted(self._crops(len(batch))) if augment and self.recipe is None else None
        turns = self._parted(self._turns(len(batch))) if augment and self.config.rotation else None
        self.number += 1
        key = key_of(self.feed.key, -self.number)  # keys >= 0 belong to samples
        for i, images in enumerate(self.images(indices, then)):
            labels = self.data.train_labels[indices[i]]
            with self.phase("augmentation"):
                if crops is not None:
                    images = crop_and_flip(images, self.padding, crops[i])
                if turns is not None:
                    images = rotate(images, self.config.rotation, turns[i])
                images = self.normalize(images)
                if self.mix is not None:
                    images, labels = self.mix(images, labels, key)
            yield images, labels

    def _parted(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Return :meth:`split` of a batch; if it is mixed, each part begins with the sample before it."""
        if self.mix is None or not len(batch):
            return self.split(batch)
        before = self.split(batch.roll(1, 0))
        return tuple(torch.cat([b[:1], part]) for b, part in zip(before, self.split(batch), strict=True))

    def _crops(self, count: int) -> Tensor:
        return draw_crops(count, self.padding, self.data.flip, self.draws)

    def _turns(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.draws, device=self.draws.device)

    def normalize(self, images: Tensor) -> Tensor:
        """Return images with values from 0 to 255, on any device, normalized on the model's device."""
        images = images.to(self.mean.device, non_blocking=True)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def test(self, split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of a split without augmentation, in as many parts as in other processes."""
        images, labels = self.data.part(split)
        for part in self._test_parts(torch.arange(len(labels), device="cpu")):
            place = slice(int(part[0]), int(part[-1]) + 1) if len(part) else slice(0)
            yield self.normalize(images[place]), labels[place]

    def some(self, which: Tensor, split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
        """Yield only the samples ``which`` (indices, on the CPU) of a split, as :meth:`test` does."""
        images, labels = self.data.part(split)
        for part in self._test_parts(which):
            yield self.normalize(images[part.to(images.device)]), labels[part.to(labels.device)]

    def _test_parts(self, samples: Tensor) -> tuple[Tensor, ...]:
        most = -(-len(samples) // self.processes.count)
        return torch.tensor_split(self.processes.share(samples), -(-most // self.config.micro_batch_size))


class LoaderBatches(Batches):
    """Batches that a user's loaders give, on the device of the run.

    The loader's own shuffling is used. A run that resumes within an epoch skips as many batches as it has seen, and
    uses the others in the loader's new order.
    """

    def __init__(self, prepared: Prepared, phase: Phases) -> None:
        super().__init__(prepared, phase)
        assert isinstance(prepared.data, LoaderData)
        self.given = prepared.data
        self.device = prepared.fabric.device
        self.iterator: Iterator[tuple[Tensor, Tensor]] = iter(())

    def shuffle(self, epoch: int = 1, position: int = 0) -> Tensor:
        """Begin an epoch of the loader; return places of samples in it."""
        self.begin_aside()
        for _ in itertools.islice(self.iterator, position * self.count):
            pass
        return torch.arange(len(self.data.train_labels), device="cpu")

    def begin_aside(self) -> None:
        """Restart the loader."""
        self.iterator = self.given.batches("train")

    def parts(self, batch: Tensor, upcoming: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loader's next batches, as many as make a step."""
        for _ in range(self.count):
            with self.phase("data"):
                found = next(self.iterator, None)
                if found is None:
                    whole = len(self.data.train_labels) // self.given.loader_batch
                    raise UsageError(f"the training loader must give {whole:,} batches in every epoch, and gave fewer")
            inputs, labels = found
            if len(labels) != self.given.loader_batch:
                raise UsageError(
                    f"batches of the training loader must have {self.given.loader_batch} samples each, as the first, "
                    f"got {len(labels)}: drop_last=True leaves out the last"
                )
            yield self.normalize(inputs), labels.to(self.device, non_blocking=True)

    def normalize(self, images: Tensor) -> Tensor:
        """Return inputs on the device of the run; they are normalized already."""
        return images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)

    def test(self, split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a split's loader."""
        known, seen = self.data.part(split)[1].cpu(), 0
        for inputs, labels in self.given.batches(split):
            if not torch.equal(labels.cpu(), known[seen : seen + len(labels)]):
                raise UsageError(f"the {split} loader must give the same samples in the same order each time")
            seen += len(labels)
            yield self.normalize(inputs), labels.to(self.device, non_blocking=True)
        if seen != len(known):
            raise UsageError(f"the {split} loader must give {len(known):,} samples each time, and gave {seen:,}")


def batches_of(prepared: Prepared, phase: Phases) -> Batches:
    """Return the batches of a run: of its data, or of its user's loaders."""
    return (LoaderBatches if isinstance(prepared.data, LoaderData) else Batches)(prepared, phase)


class Feed:
    """Training images of a data set by their indices, on ``device``.

    A data set that fits is kept on the device. A larger one stays on the host, in memory or in a mapped file: a thread
    gathers the next images into pinned memory while the device computes, and they are copied asynchronously.

    Args:
        data: the data set, on the host.
        device: device of the batches.
        recipe: augments images one by one; None (default): images are as they are.
        processes: number of processes that do so; None (default): one per core if it takes long.
    """

    def __init__(
        self, data: ImageData, device: torch.device, recipe: Recipe | None = None, processes: int | None = None
    ) -> None:
        self.device, self.recipe, self.key = device, recipe, 0
        self.resident = recipe is None and not data.mapped and fits(data, device)
        self.data = data.to(device) if self.resident else data.with_labels_on(device)
        self.readers: Readers | None = None
        self.sources: Tensor | None = None
        """Numbers of the training images in the source of their readers; None: their own."""
        if recipe is not None:
            images: Any = data.train_images
            if isinstance(images, StreamedImages):
                self.readers, self.sources = images.readers, images.index
            else:
                small = images.shape.numel() < SMALL and processes is None
                self.readers = Readers(Decoded(images), 0 if small else default_processes(processes))
        # Without processes a recipe uses this process's random numbers, which a thread must not do.
        alone = self.readers is not None and not self.readers.processes
        self._pool = None if self.resident or alone else ThreadPoolExecutor(1 + (self.readers is not None), "feed")
        self._next: tuple[Tensor, Future[Tensor]] | None = None

    def indices(self, order: Tensor) -> Tensor:
        """Return indices on the device of the images."""
        return order.to(self.device) if self.resident else order.cpu()

    def take(self, index: Tensor, then: Tensor | None = None) -> Tensor:
        """Return the uint8 images with these indices on the device; a thread fetches those of ``then`` meanwhile."""
        if self._pool is None:
            images = self.data.train_images[index] if self.readers is None else self._gather(index, self.key)
            return images.to(self.device, non_blocking=True)
        known = self._next is not None and torch.equal(self._next[0], index)
        ready = self._next[1] if known and self._next else self._pool.submit(self._gather, index, self.key)
        # The next ones are asked for before these are there, so that no process waits at the end of a batch.
        self._next = None if then is None or not len(then) else (then, self._pool.submit(self._gather, then, self.key))
        return ready.result().to(self.device, non_blocking=True)

    def _gather(self, index: Tensor, key: int) -> Tensor:
        if self.recipe is not None and self.readers is not None:
            numbers = index if self.sources is None else self.sources[index]
            images = self.readers.read(numbers.tolist(), self.recipe, key)
        else:
            images = self.data.train_images[index]
        return images.pin_memory() if self.device.type == "cuda" else images

    def close(self) -> None:
        """End the thread, and processes that augment."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self.readers is not None and self.sources is None:
            self.readers.close()


def fits(data: ImageData, device: torch.device) -> bool:
    """Return True if all images may be kept on ``device``."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    held = 0 if data.validation_images is None else data.validation_images.nbytes
    return data.train_images.nbytes + held + data.test_images.nbytes <= SHARE * free


def recipe_of(config: TrainConfig, data: ImageData, padding: int) -> Recipe | None:
    """Return the augmentation of samples one by one; None if they are augmented as a batch."""
    if not config.augment or (config.crop == PADDED and config.auto_augment is None):
        return None
    scale = 0.08 if config.crop_scale is None else config.crop_scale
    return Recipe(data.image_size, config.crop, scale, padding, data.flip, config.auto_augment)


def micro_batches(config: TrainConfig, processes: int = 1) -> int:
    """Return the number of micro-batches of a process; they have about the same size, which batch norm needs."""
    share = -(-config.batch_size // processes)
    return -(-share // config.micro_batch_size)
