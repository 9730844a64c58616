"""Where the images of a batch come from: the device itself, or the host, a step ahead of their use."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from tvlars.lab.data import ImageData

SHARE = 0.5
"""The part of an accelerator's free memory that images may take; more of them stay on the host."""


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
    """Whether all images may lie on ``device``."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return data.train_images.nbytes + data.test_images.nbytes <= SHARE * free
