"""The batches of a run: who gets which samples, with which augmentation, whatever the number of processes and parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.data.augment import crop_and_flip, draw_crops, rotate
from tvlars.lab.processes.processes import Processes
from tvlars.lab.training.feed import Feed
from tvlars.lab.training.prepare import micro_batches
from tvlars.lab.training.profile import Phases


class Batches:
    """Training and test images of one process, normalized, on its device.

    Random numbers are those of a whole batch in every process, and each takes its share of them. Their sources are of
    their own: the same for every optimizer.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: ImageData,
        mean_and_std: tuple[Tensor, Tensor],
        device: torch.device,
        processes: Processes,
        phase: Phases,
    ) -> None:
        self.config, self.processes, self.phase = config, processes, phase
        self.feed = Feed(data, device)
        self.data = self.feed.data
        self.mean, self.std = (value.view(1, -1, 1, 1).to(device) for value in mean_and_std)
        padding = config.crop_padding
        self.padding = max(round(data.image_size / 12), 1) if padding is None else padding
        self.count = micro_batches(config, processes.count)
        """Parts of this process's share of a batch."""
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator(device).manual_seed(config.seed)

    def shuffle(self) -> Tensor:
        """The indices of all training images in a new order, the same in every process."""
        return self.feed.indices(torch.randperm(len(self.data.train_labels), generator=self.order, device="cpu"))

    def parts(self, batch: Tensor, upcoming: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of this process's share of the samples ``batch``: augmented images and labels.

        ``upcoming`` are the samples of the next batch, which may be got ready.
        """
        indices = torch.tensor_split(self.processes.share(batch), self.count)
        following = [*indices[1:], torch.tensor_split(self.processes.share(upcoming), self.count)[0]]
        draws = [torch.tensor_split(x, self.count) for x in self._draws(len(batch))]
        for index, then, *drawn in zip(indices, following, *draws, strict=True):
            with self.phase("data"):
                images, labels = self.feed.take(index, then), self.data.train_labels[index]
            with self.phase("augmentation"):
                if drawn:
                    images = crop_and_flip(images, self.padding, drawn[0])
                if len(drawn) > 1:
                    images = rotate(images, self.config.rotation, drawn[1])
                images = self.normalize(images)
            yield images, labels

    def _draws(self, count: int) -> list[Tensor]:
        """The random numbers for this process's share of a batch of ``count``."""
        if not self.config.augment:
            return []
        draws = [draw_crops(count, self.padding, self.data.flip, self.draws)]
        if self.config.rotation:
            draws.append(torch.rand(count, generator=self.draws, device=self.draws.device))
        return [self.processes.share(drawn) for drawn in draws]

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
