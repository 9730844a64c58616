"""Images that other processes read on demand: data sets that do not fit into memory when decoded, and data sets with
augmentation of single samples.

The random numbers of a sample's augmentation are keyed by seed, epoch and index, so that images do not depend on the
process that reads them.
"""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import signal
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tvlars._machine import cores
from tvlars.lab.data.augment.recipe import Recipe
from tvlars.lab.errors import UsageError

MOST_PROCESSES = 16
CHUNK = 16
"""Most images that a process reads at once."""
AHEAD = 4
"""Chunks per process that are read in advance."""
PR_SET_PDEATHSIG = 1
T = TypeVar("T")
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Source(ABC):
    """Images by index."""

    @abstractmethod
    def original(self, index: int) -> Any:
        """Return an image in its original size: PIL, uint8 (C, H, W), or a function from a choice to a part of it."""

    @abstractmethod
    def fixed(self, index: int) -> Tensor:
        """Return an image as in tests, without augmentation: uint8 (C, H, H)."""


class Readers:
    """Processes that read images of a ``source``; with 0 ``processes``, this process reads.

    The processes start at once, before this process has threads of the device, and keep the source as it is now.
    """

    def __init__(self, source: Source, processes: int) -> None:
        self.source, self.processes = source, processes
        self._pool: ProcessPoolExecutor | None = None
        if processes > 0:
            # A forked process needs neither a copy of the source nor its class; on other systems it is pickled.
            way = "fork" if sys.platform == "linux" else None
            context = multiprocessing.get_context(way)
            self._pool = ProcessPoolExecutor(processes, context, _begin, (source, os.getpid()))
            with warnings.catch_warnings():
                # Python warns of forks of a process with threads; DataLoader forks in the same way.
                warnings.simplefilter("ignore", DeprecationWarning)
                for job in [self._pool.submit(os.getpid) for _ in range(processes)]:
                    job.result()

    def each(self, work: Callable[..., T], index: Sequence[int], *more: Any) -> Iterator[T]:
        """Yield ``work(source, some, *more)`` in order for chunks of ``index``.

        Args:
            work: module-level function; if it raises an error, it is called again in this process, so that the
                traceback shows the source's code.
            index: indices of images.
            more: further arguments.
        """
        size = min(CHUNK, -(-len(index) // max(self.processes, 1))) or 1
        jobs = [list(index[i : i + size]) for i in range(0, len(index), size)]
        if self._pool is None:
            yield from (work(self.source, some, *more) for some in jobs)
            return
        ahead: deque[Future[tuple[T] | None]] = deque()
        try:
            for i, some in enumerate(jobs):
                upcoming = jobs[i + len(ahead) : i + AHEAD * self.processes]
                ahead.extend(self._pool.submit(_there, work, *more, index=one) for one in upcoming)
                found = ahead.popleft().result()
                yield work(self.source, some, *more) if found is None else found[0]
        except BrokenProcessPool as error:
            raise UsageError(
                "data_workers must be fewer, or 0: a process that reads images was killed, perhaps for lack of memory"
            ) from error
        finally:
            for future in ahead:
                future.cancel()

    def read(self, index: Sequence[int], augment: Recipe | None = None, seed: int = 0) -> Tensor:
        """Return the images uint8 (n, C, H, H) with these indices, augmented if ``augment`` is given."""
        chunks = list(self.each(_read, index, augment, seed))
        return torch.from_numpy(np.concatenate(chunks)) if chunks else torch.empty(0, dtype=torch.uint8, device="cpu")

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def default_processes(given: int | None = None) -> int:
    """Return the number of reading processes: ``given``, or one per core of this process up to ``MOST_PROCESSES``."""
    if given is not None:
        return given
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    return max(min(cores() // max(here, 1), MOST_PROCESSES), 1)


_source: Source


def _begin(source: Source, parent: int) -> None:
    """Prepare a reading process: it ends with its parent, and leaves signals to the parent."""
    global _source
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    torch.set_num_threads(1)
    _source = source


def _there(work: Callable[..., T], *more: Any, index: list[int]) -> tuple[T] | None:
    try:
        return (work(_source, index, *more),)
    except Exception:
        return None


def _read(source: Source, index: list[int], augment: Recipe | None, seed: int) -> Pixels:
    if augment is None:
        return np.stack([source.fixed(i).numpy() for i in index])
    taken = source.original if augment.whole else source.fixed
    with torch.random.fork_rng(devices=[]):
        return np.stack([augment(taken(i), key_of(seed, i)).numpy() for i in index])


def key_of(seed: int, index: int) -> int:
    """Return the 63-bit seed of a sample's random numbers; neighbouring samples get unrelated seeds."""
    digest = hashlib.blake2b(b"%d %d" % (seed, index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Decoded(Source):
    """Images of a tensor uint8 (N, C, H, H)."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def original(self, index: int) -> Tensor:
        image: Tensor = self.images[torch.tensor([index], device="cpu")][0]
        return image

    fixed = original


class LazyImages(ABC):
    """Images on the host that are read on demand, by their indices ``index`` in a source.

    They are indexed like a tensor uint8 (N, C, H, H): by a tensor, which returns a tensor, or by a slice.
    """

    dtype, ndim, device = torch.uint8, 4, torch.device("cpu")

    def __init__(self, shape: tuple[int, ...], index: Tensor) -> None:
        self.index = index
        self.shape = torch.Size((len(index), *shape))
        self.nbytes = self.shape.numel()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: Any) -> Any:
        return self.at(torch.arange(len(self))[which]) if isinstance(which, slice) else self.read(self.index[which])

    @abstractmethod
    def at(self, index: Tensor) -> LazyImages:
        """Return some of the images, by their indices in this object."""

    @abstractmethod
    def read(self, index: Tensor) -> Tensor:
        """Return the images with these indices in the source."""

    def split(self, size: int, dim: int = 0) -> Iterator[Tensor]:
        """Yield tensors of ``size`` images."""
        return (self.read(index) for index in torch.split(self.index, size))

    def to(self, *args: Any, **more: Any) -> Tensor:
        """Return all images as a tensor, with the arguments of :meth:`torch.Tensor.to`."""
        return self.read(self.index).to(*args, **more)

    def detach(self) -> LazyImages:
        """Return this object: images have no gradient."""
        return self


class StreamedImages(LazyImages):
    """Images that ``readers`` read."""

    def __init__(self, readers: Readers, shape: tuple[int, ...], index: Tensor) -> None:
        super().__init__(shape, index)
        self.readers = readers

    def at(self, index: Tensor) -> StreamedImages:
        return StreamedImages(self.readers, tuple(self.shape[1:]), self.index[index.cpu()])

    def read(self, index: Tensor) -> Tensor:
        return self.readers.read(index.tolist()).reshape(-1, *self.shape[1:])


def is_streamed(images: Any) -> bool:
    """Return True for images that are read on demand, False for tensors."""
    return isinstance(images, StreamedImages)
