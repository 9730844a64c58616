"""Contestants of the scripts here: each in a process of its own, and training steps with this switch or that."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import RandomRotation

from tvlars._machine import PROC
from tvlars.lab.bench.loops import CLASSES, LoaderLoop, Pictures, lab_loop, random_images, seeded_model
from tvlars.lab.bench.measure import FUSED_SGD, OPTIMIZERS
from tvlars.lab.bench.result import Spread, Turn, timed
from tvlars.lab.data import ImageData
from tvlars.lab.models import SMALL_IMAGE
from tvlars.lab.training.run import Run

EVERY = 1.0
"""Seconds between two looks at the memory of a process, each of which takes some milliseconds."""


def announced(turns: Mapping[str, Turn]) -> dict[str, Turn]:
    """Return turns that each print the contestant's name on standard error first."""

    def take(name: str, turn: Turn) -> float:
        print(name, file=sys.stderr, flush=True)
        return turn()

    return {name: partial(take, name, turn) for name, turn in turns.items()}


def per_second(count: float, seconds: Sequence[float]) -> Spread:
    """Return how many of ``count`` are done in a second."""
    return Spread.of([count / s for s in seconds])


# -- processes ------------------------------------------------------------------------------------------------


class Apart:
    """``make(*arguments)`` in another process, which is alive until :meth:`close`: its memory is known, and nothing
    that it leaves behind meets the others.

    Args:
        make: a function that can be pickled; it returns the contestant's turn.
        arguments: for it; they are pickled.

    Attributes: ``memory``, the most bytes that the process and those below it had in its turns, less those that it had
    before ``make`` (None where the system does not tell), and ``device_memory``, the most bytes that torch had on a
    CUDA device.
    """

    def __init__(self, make: Callable[..., Turn], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, line = context.Pipe()
        self._process = context.Process(target=_serve, args=(line, make, arguments))
        self._process.start()
        line.close()
        self.memory: int | None = None
        self.device_memory = 0
        try:
            self._before = int(self._answer())
            self._answer()
        except BaseException:
            self.close()
            raise

    def __call__(self) -> float:
        """Its turn."""
        self._line.send(True)
        while not self._line.poll(EVERY):
            self._look()
        self._look()
        seconds, self.device_memory = self._answer()
        return float(seconds)

    def _look(self) -> None:
        pid = self._process.pid
        now = tree_memory(pid) if pid is not None else None
        if now is not None:
            self.memory = max(self.memory or 0, now - self._before)

    def _answer(self) -> Any:
        try:
            fine, value = self._line.recv()
        except EOFError:
            self._process.join(5)
            raise RuntimeError(f"a contestant's process ended with code {self._process.exitcode}") from None
        if not fine:
            raise RuntimeError(f"a contestant failed:\n{value}")
        return value

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._line.send(False)
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
        self._line.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _serve(line: Connection, make: Callable[..., Turn], arguments: tuple[Any, ...]) -> None:
    # The system's own way of starting processes below this one; it would pass on the way that it was started in.
    multiprocessing.set_start_method(None, force=True)
    try:
        line.send((True, tree_memory(os.getpid()) or 0))
        turn = make(*arguments)
        line.send((True, None))
        while line.recv():
            seconds = turn()
            device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            line.send((True, (seconds, device)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the other end has gone
        return
    except Exception:
        line.send((False, traceback.format_exc()))


def tree_memory(pid: int) -> int | None:
    """Return the bytes of memory of a process and of all below it, files that they have mapped aside.

    Memory that several of them share counts once. None if the system does not tell.
    """
    total = 0
    for each in _tree(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may have ended meanwhile
            for line in (PROC / str(each) / "smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total or None


def _tree(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for folder in PROC.iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    after_name = (folder / "stat").read_text().rpartition(")")[2]
                    parents.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:  # grows while it is gone through
        found.extend(parents.get(each, []))
    return found


# -- training steps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """Model, images and augmentation that loops train. It can be pickled.

    One turn is an epoch of ``images`` random images of ``size`` x ``size``. ``rotation`` is in degrees, ``padding`` in
    pixels, as in the published code.
    """

    model: str
    images: int
    batch_size: int
    size: int = 32
    padding: int = 4
    rotation: float = 0.0
    device: str = "cpu"

    def build_model(self) -> nn.Module:
        """Return the model, the same each time."""
        return seeded_model(self.model, self.size)

    def data(self) -> ImageData:
        """Return the images, the same each time."""
        return random_images(self.images, self.size)

    def pictures(self) -> Pictures:
        """Return the images as the published code reads them."""
        turns = [RandomRotation(self.rotation)] if self.rotation else []
        return Pictures(self.data(), self.padding, *turns)

    def lab_loop(self, data: ImageData | None = None, **options: Any) -> Run:
        """Return the laboratory's loop, on ``data`` in place of random images; ``options`` are of ``TrainConfig``."""
        options = {"rotation": self.rotation, "crop_padding": self.padding, **options}
        return lab_loop(data or self.data(), self.build_model(), self.device, self.batch_size, **options)


class StandardStem(Workload):
    """A workload whose model has the stem that torchvision made for 224 pixels."""

    def build_model(self) -> nn.Module:
        return seeded_model(self.model, max(self.size, SMALL_IMAGE))


def lab_turn(workload: Workload, **options: Any) -> Turn:
    """Return the turn of the laboratory's loop, an epoch."""
    return partial(timed, workload.lab_loop(**options).run_epoch)


class OtherMeans(nn.Module):
    """A model that computes in bfloat16, or with images in the memory format channels_last."""

    def __init__(self, model: nn.Module, bf16: bool, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.model, self.bf16, self.format = model.to(memory_format=memory_format), bf16, memory_format

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(memory_format=self.format)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(images)


class OtherLoop(LoaderLoop):
    """The published loop, or one with other means; one turn is an epoch.

    Args:
        workload: what is trained.
        workers: processes of the DataLoader; 0: none.
        bf16: autocast to bfloat16; the published loop is in float32.
        channels_last: weights and images in that memory format.
        make_optimizer: from a model to what takes a step; None (default): TVLARS as the laboratory has it.
        dataset: what the DataLoader reads in place of the workload's images.
    """

    def __init__(
        self,
        workload: Workload,
        workers: int,
        bf16: bool = False,
        channels_last: bool = False,
        make_optimizer: Callable[[nn.Module], Any] | None = None,
        dataset: Dataset[Any] | None = None,
    ) -> None:
        model = workload.build_model()
        super().__init__(dataset or workload.pictures(), workers, model, workload.device, workload.batch_size)
        if make_optimizer is not None:
            self.optimizer = make_optimizer(model)
        if bf16 or channels_last:
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            self.model = OtherMeans(model, bf16, memory_format)

    def __call__(self) -> float:
        """Return the seconds of one epoch."""
        return timed(self.run_epoch)


@dataclass(frozen=True)
class Switches:
    """Switches of a training step."""

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        names = ["bf16" if self.bf16 else "float32", "channels_last" if self.channels_last else "contiguous"]
        return ", ".join([*names, *(["compiled"] if self.compiled else [])])


class TrainingSteps:
    """A turn is some times forward, backward and a step of fused SGD, on one batch that lies on the device.

    Attribute: ``first_seconds``, what the first step took, compiling included.
    """

    def __init__(self, workload: Workload, switches: Switches, steps: int = 1) -> None:
        self.device, self.switches, self.steps = torch.device(workload.device), switches, steps
        memory_format = torch.channels_last if switches.channels_last else torch.contiguous_format
        self.bare = workload.build_model().to(self.device, memory_format=memory_format).train()
        self.model: Callable[[Tensor], Tensor] = torch.compile(self.bare) if switches.compiled else self.bare
        generator = torch.Generator().manual_seed(0)
        shape = (workload.batch_size, 3, workload.size, workload.size)
        images = torch.randn(shape, generator=generator, device="cpu")
        self.images = images.to(self.device).contiguous(memory_format=memory_format)
        self.labels = torch.randint(0, CLASSES, (workload.batch_size,), generator=generator, device="cpu").to(
            self.device
        )
        self.optimizer = OPTIMIZERS[FUSED_SGD](self.bare.parameters())
        start = time.perf_counter()
        self.logits = self._backward()
        self.gradient = torch.cat([p.grad.flatten().float() for p in self.bare.parameters() if p.grad is not None])
        self.optimizer.zero_grad()
        self.first_seconds = time.perf_counter() - start

    def __call__(self) -> float:
        """Return the seconds of one step."""
        return timed(self._step, self.steps)

    def _step(self) -> None:
        self._backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _backward(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.switches.bf16):
            logits = self.model(self.images).float()
            loss = F.cross_entropy(logits, self.labels)
        loss.backward()
        return logits.detach()

    def differs_from(self, other: TrainingSteps) -> tuple[float, float]:
        """Return how far the first logits and gradient are from those of ``other``, relative to their norms."""
        pairs = ((self.logits, other.logits), (self.gradient, other.gradient))
        logits, gradient = (float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
        return logits, gradient
