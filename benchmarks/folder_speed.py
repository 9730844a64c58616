"""A folder of 20,000 JPEGs: the laboratory's way (decoded once) beside torchvision's ImageFolder and a DataLoader.

    python benchmarks/folder_speed.py --folder /tmp/jpegs

The images are drawn once, the same each time: leaves of all sizes over each other with a texture, which have edges
and a spectrum as photographs have, 256 to 500 pixels a side. All contestants scale the shorter side to
``--image-size``, take the middle square, then crop at random with padding, mirror and normalize, and have the same
number of processes or threads for decoding. Each is in a process of its own and reads an epoch in turn with the others:
once reading and augmenting alone, once training the small ResNet. Ours comes twice: decoded into memory, and into a
mapped file as it is done where images would take more than half of the machine's memory; and that once more, when the
file is there.

"start" is from the call to the first batch, of ours with all decoding; "1 epoch" is the start and an epoch. Memory is
what a contestant's processes took at most on top of their imports, mapped files aside. Files have just been written, so
they are read from the system's cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import Apart, mebibytes
from harness import Cell, Results, Spread, Turn, asked, options, ratios, spread, timed
from PIL import Image, ImageDraw
from torchvision import datasets, transforms
from workloads import OtherLoop, Workload

from tvlars._machine import cores, faster_in_bf16
from tvlars.lab.bench.loops import CLASSES
from tvlars.lab.data import decoded, load_data

SIDES = (256, 500)
CANVAS = 2048
QUALITY = 90
LOADER = "DataLoader"
WAYS = {
    LOADER: "ImageFolder, DataLoader",
    "memory": "tvlars, decoded into memory",
    "mapped": "tvlars, decoded into a mapped file",
    "again": "tvlars, the mapped file is there",
}


# -- the images -----------------------------------------------------------------------------------------------


def generate(folder: Path, count: int, test: int) -> None:
    """Fill ``folder`` with ``count`` training and ``test`` test images, unless it has them."""
    said = {"count": count, "test": test, "sides": SIDES, "quality": QUALITY, "canvas": CANVAS}
    marker = folder / "generated.json"
    if marker.is_file() and json.loads(marker.read_text()) == json.loads(json.dumps(said)):
        return
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"--folder must be new, empty or one that this script has filled so, got {folder}")
    for part in ("train", "val"):
        for label in range(CLASSES):
            (folder / part / str(label)).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(partial(write_image, folder, count), range(count + test), chunksize=64))
    marker.write_text(json.dumps(said))


def write_image(folder: Path, train: int, i: int) -> None:
    """The ``i``-th image: a window of the canvas, turned, mirrored and with colours of its own."""
    rng = np.random.default_rng(i)
    width, height = (int(x) for x in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    left, top = (int(rng.integers(CANVAS - side)) for side in (width, height))
    window = canvas()[top : top + height, left : left + width]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    gain, shift = rng.uniform(0.6, 1.2, 3), rng.uniform(-30, 30, 3)
    pixels = (window * gain + shift).clip(0, 255).astype(np.uint8)
    part = "train" if i < train else "val"
    Image.fromarray(pixels).save(folder / part / str(i % CLASSES) / f"{i:06}.jpg", quality=QUALITY)


@cache
def canvas() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Leaves whose radii have density r^-3, the later ones over the earlier ones, times a texture of all octaves."""
    rng = np.random.default_rng(0)
    drawn = Image.new("RGB", (CANVAS, CANVAS), (120, 120, 120))
    pen = ImageDraw.Draw(drawn)
    for _ in range(40_000):
        radius = 4.0 / np.sqrt(1 - rng.random() * (1 - (4.0 / 400) ** 2))
        x, y = rng.uniform(0, CANVAS, 2)
        box = (x - radius, y - radius * rng.uniform(0.5, 1), x + radius, y + radius * rng.uniform(0.5, 1))
        pen.ellipse(box, fill=tuple(int(v) for v in rng.integers(20, 236, 3)))
    texture = np.zeros((CANVAS, CANVAS), np.float32)
    for octave in range(4, 12):
        noise = Image.fromarray(rng.standard_normal((2**octave, 2**octave)).astype(np.float32))
        texture += np.asarray(noise.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)) * 6
    return (np.asarray(drawn, np.float32) + texture[:, :, None]).clip(0, 255).astype(np.uint8)


# -- the contestants ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Input of a contestant, its reader, and whether it trains. It can be pickled."""

    folder: Path
    way: str
    workload: Workload
    workers: int
    training: bool
    cache: Path

    def __call__(self) -> Contestant:
        return Contestant(self)


class Contestant:
    """The first turn is the start, every other one an epoch."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.device = reading, torch.device(reading.workload.device)
        self.batches: Callable[[], Iterator[Any]] | None = None
        self.epoch: Turn | None = None

    def __call__(self) -> float:
        """Seconds of the turn."""
        if self.epoch is None:
            return timed(self.start)
        return self.epoch()

    def start(self) -> None:
        """To the first batch on the device."""
        if self.reading.way == LOADER:
            loop, batches = self.loader()
        else:
            loop, batches = self.lab()
        next(batches())
        self.epoch = loop if self.reading.training else lambda: timed(lambda: exhaust(batches()))

    def lab(self) -> tuple[Turn, Callable[[], Iterator[Any]]]:
        """The laboratory's loop, and its batches alone."""
        if self.reading.way != "memory":
            os.environ["TVLARS_CACHE"] = str(self.reading.cache)
            decoded.SHARE = 0.0  # as if the machine's memory were small
        data = load_data(f"imagefolder:{self.reading.folder}", image_size=self.reading.workload.size)
        # Nothing is measured to choose a precision or the compiler, which would count as the start.
        precision = "bf16-mixed" if faster_in_bf16(self.device) else "32-true"
        loop = self.reading.workload.lab_loop(data, precision=precision, compile=False)

        def batches() -> Iterator[Any]:
            order, size = loop.batches.shuffle(), loop.config.batch_size
            for i in range(loop.plan.steps_per_epoch):
                batch, upcoming = order[i * size : (i + 1) * size], order[(i + 1) * size : (i + 2) * size]
                yield from loop.batches.parts(batch, upcoming)

        return partial(timed, loop.run_epoch), batches

    def loader(self) -> tuple[Turn, Callable[[], Iterator[Any]]]:
        """The DataLoader's loop, and its batches alone."""
        workload = self.reading.workload
        transform = transforms.Compose(
            [
                transforms.Resize(workload.size),
                transforms.CenterCrop(workload.size),
                transforms.RandomCrop(workload.size, padding=workload.padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
        dataset = datasets.ImageFolder(str(self.reading.folder / "train"), transform)
        # With the precision and memory format of ours: here it is the reading that is compared.
        loop = OtherLoop(
            workload, self.reading.workers, faster_in_bf16(self.device), channels_last=True, dataset=dataset
        )

        def batches() -> Iterator[Any]:
            for images, labels in loop.loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

        return loop, batches


def exhaust(batches: Iterator[Any]) -> None:
    for _ in batches:
        pass


# -- the tables -----------------------------------------------------------------------------------------------


def main() -> None:
    parser = options(__doc__, ["reading", "training"], count=5)
    parser.add_argument("--folder", type=Path, required=True, help="where the JPEGs are, or are to be written")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2, help="processes or threads that decode; default: 2")
    arguments = parser.parse_args()
    generate(arguments.folder, arguments.count, 10 * CLASSES)
    for results, name in asked(arguments):
        measure(results, name, arguments)


def measure(results: Results, name: str, arguments: argparse.Namespace) -> None:
    """Measure one table. The start cannot be measured again beside earlier epochs, so that a table is done whole."""
    count = arguments.count // arguments.batch_size * arguments.batch_size
    size, padding = arguments.image_size, max(round(arguments.image_size / 12), 1)
    workload = Workload("small_resnet", count, arguments.batch_size, size, padding, device=arguments.device)
    table = results.table(name, images=count, batch_size=arguments.batch_size, size=size, workers=arguments.workers)
    if not results.missing(table):
        return
    cached = Path(tempfile.mkdtemp(prefix="tvlars-decoded-", dir=arguments.folder.parent))
    try:
        with contextlib.ExitStack() as stack:
            turns, starts = {}, {}
            for way in WAYS:
                reading = Reading(arguments.folder, way, workload, arguments.workers, name == "training", cached)
                turns[way] = stack.enter_context(Apart(reading))
                starts[way] = turns[way]()
            times = results.measure(table, turns, warmup=0)
            memory = {way: turn.memory for way, turn in turns.items()}
        disk = sum(file.stat().st_size for file in cached.iterdir())
    finally:
        shutil.rmtree(cached)
    base = Spread.of(times[LOADER]).median
    for way, seconds in times.items():
        each = Spread.of(seconds).median
        cells: dict[str, Cell] = {"start, s": starts[way], "images/s after it": spread([count / s for s in seconds])}
        cells[f"{LOADER}'s time / its"] = ratios(times[LOADER], seconds)
        for n in (1, 10):
            whole = (starts[LOADER] + n * base) / (starts[way] + n * each)
            cells[f"{n} epoch{'s' * (n > 1)}"] = whole
        cells |= {"memory, MiB": mebibytes(memory[way])}
        cells |= {"disk, MiB": mebibytes(disk) if way in ("mapped", "again") else 0}
        results.row(table, WAYS[way], **cells)


if __name__ == "__main__":
    main()
