"""Folders of JPEGs: the laboratory's ways to read them beside torchvision's ImageFolder and a DataLoader, and DALI.

    python benchmarks/folder_speed.py --folder /tmp/jpegs
    python benchmarks/folder_speed.py --folder /tmp/many --count 200000 --different 20000 --rows resized

The images are drawn once, the same each time: leaves of all sizes over each other with a texture, which have edges
and a spectrum as photographs have, 256 to 500 pixels a side. Beyond ``--different`` images, the files are copies of
earlier ones. All contestants have the same number of processes or threads for decoding. Each is in a process of its own
and reads an epoch in turn with the others.

reading    The shorter side is scaled to ``--image-size``; the middle square is cropped at random with padding,
           mirrored and normalized. Ours comes twice: decoded into memory, and into a mapped file as it is done where
           images would take more than half of the machine's memory; and that once more, when the file is there.
training   The same, training the small ResNet.
resized    Random resized crops of the full images, which all contestants decode in every epoch, reading alone.
           DALI's CPU pipeline takes part where ``nvidia.dali`` can be imported (tried: 2.4.0, which needs no GPU).
listing    Only the start, without decoding: the laboratory's scan of ``--files`` files in 1,000 classes beside
           ImageFolder's. The files are hard links to a few images, in a folder that is removed afterwards.

"start" is from the call to the first batch, of ours with all decoding; "1 epoch" is the start and an epoch. Memory is
what a contestant's processes took at most on top of their imports, mapped files aside. Files have just been written, so
they are read from the system's cache, as far as the memory suffices for it. A table of another ``--count`` than 20,000
has a name of its own, such as "resized --count 200000".
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
from importlib.util import find_spec
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
from tvlars.lab.data.augment.recipe import RANDOM_RESIZED

SIDES = (256, 500)
CANVAS = 2048
QUALITY = 90
COUNT, SCALE = 20_000, 0.08
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOADER, DALI, ON_DEMAND = "DataLoader", "DALI", "on demand"
WAYS = {
    LOADER: "ImageFolder, DataLoader",
    "memory": "tvlars, decoded into memory",
    "mapped": "tvlars, decoded into a mapped file",
    "again": "tvlars, the mapped file is there",
}
RESIZED_WAYS = {LOADER: WAYS[LOADER], ON_DEMAND: "tvlars, read on demand", DALI: "DALI on the CPU"}
LISTED_WAYS = {LOADER: "ImageFolder", ON_DEMAND: "tvlars"}
LISTED_CLASSES, MOST_LINKS = 1000, 10_000


# -- the images -----------------------------------------------------------------------------------------------


def generate(folder: Path, count: int, test: int, different: int | None = None) -> None:
    """Fill ``folder`` with ``count`` training and ``test`` test images, unless it has them.

    Of the training images, the first ``different`` are drawn, and the others are copies of them; None: all are drawn.
    """
    said = {"count": count, "test": test, "sides": SIDES, "quality": QUALITY, "canvas": CANVAS}
    if different is not None and different < count:
        said["different"] = different
    marker = folder / "generated.json"
    if marker.is_file() and json.loads(marker.read_text()) == json.loads(json.dumps(said)):
        return
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"--folder must be new, empty or one that this script has filled so, got {folder}")
    for part in ("train", "val"):
        for label in range(CLASSES):
            (folder / part / str(label)).mkdir(parents=True, exist_ok=True)
    drawn = [i for i in range(count + test) if i >= count or i < said.get("different", count)]
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(partial(write_image, folder, count), drawn, chunksize=64))
    for i in range(said.get("different", count), count):
        shutil.copyfile(image_file(folder, i % said["different"], count), image_file(folder, i, count))
    marker.write_text(json.dumps(said))


def image_file(folder: Path, i: int, train: int) -> Path:
    """Return the path of the ``i``-th image; the first ``train`` are for training."""
    return folder / ("train" if i < train else "val") / str(i % CLASSES) / f"{i:06}.jpg"


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
    Image.fromarray(pixels).save(image_file(folder, i, train), quality=QUALITY)


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


@contextlib.contextmanager
def many_files(folder: Path, count: int) -> Iterator[Path]:
    """Yield a folder of ``count`` training files, hard links to images of ``folder``, and a test image; remove it."""
    images = sorted((folder / "train").glob("*/*.jpg"))[: -(-count // MOST_LINKS)]
    listed = Path(tempfile.mkdtemp(prefix="tvlars-listed-", dir=folder.parent))
    try:
        for label in range(min(LISTED_CLASSES, count)):
            (listed / "train" / f"n{label:08}").mkdir(parents=True)
        for i in range(count):
            label = i % LISTED_CLASSES
            os.link(images[i % len(images)], listed / "train" / f"n{label:08}" / f"n{label:08}_{i}.JPEG")
        (listed / "val" / f"n{0:08}").mkdir(parents=True)
        os.link(images[0], listed / "val" / f"n{0:08}" / "0.JPEG")
        yield listed
    finally:
        shutil.rmtree(listed)


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
    resized: bool = False

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
        loop, batches = {LOADER: self.loader, DALI: self.dali}.get(self.reading.way, self.lab)()
        next(batches())
        self.epoch = loop if self.reading.training else lambda: timed(lambda: exhaust(batches()))

    def lab(self) -> tuple[Turn, Callable[[], Iterator[Any]]]:
        """The laboratory's loop, and its batches alone."""
        if self.reading.way in ("mapped", "again"):
            os.environ["TVLARS_CACHE"] = str(self.reading.cache)
            decoded.SHARE = 0.0  # as if the machine's memory were small
        data = load_data(
            f"imagefolder:{self.reading.folder}",
            image_size=self.reading.workload.size,
            data_workers=self.reading.workers,
            encoded=self.reading.resized,
        )
        # Nothing is measured to choose a precision or the compiler, which would count as the start.
        options: dict[str, Any] = {"precision": "bf16-mixed" if faster_in_bf16(self.device) else "32-true"}
        if self.reading.resized:
            options |= {"crop": RANDOM_RESIZED, "crop_scale": SCALE, "crop_padding": None}
        loop = self.reading.workload.lab_loop(data, compile=False, **options)

        def batches() -> Iterator[Any]:
            order, size = loop.batches.shuffle(), loop.config.batch_size
            for i in range(loop.plan.steps_per_epoch):
                batch, upcoming = order[i * size : (i + 1) * size], order[(i + 1) * size : (i + 2) * size]
                yield from loop.batches.parts(batch, upcoming)

        return partial(timed, loop.run_epoch), batches

    def loader(self) -> tuple[Turn, Callable[[], Iterator[Any]]]:
        """The DataLoader's loop, and its batches alone."""
        workload = self.reading.workload
        crop: list[Any] = [
            transforms.Resize(workload.size),
            transforms.CenterCrop(workload.size),
            transforms.RandomCrop(workload.size, padding=workload.padding),
        ]
        if self.reading.resized:
            crop = [transforms.RandomResizedCrop(workload.size, scale=(SCALE, 1))]
        last = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        dataset = datasets.ImageFolder(str(self.reading.folder / "train"), transforms.Compose([*crop, *last]))
        # With the precision and memory format of ours: here it is the reading that is compared.
        loop = OtherLoop(
            workload, self.reading.workers, faster_in_bf16(self.device), channels_last=True, dataset=dataset
        )

        def batches() -> Iterator[Any]:
            for images, labels in loop.loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

        return loop, batches

    def dali(self) -> tuple[Turn, Callable[[], Iterator[Any]]]:
        """DALI's batches alone."""
        from nvidia.dali import fn, pipeline_def, types

        workload = self.reading.workload
        mean, std = ([255 * value for value in values] for values in (MEAN, STD))

        @pipeline_def(batch_size=workload.batch_size, num_threads=max(self.reading.workers, 1), device_id=None, seed=0)  # type: ignore[untyped-decorator]
        def described() -> Any:
            files, labels = fn.readers.file(file_root=str(self.reading.folder / "train"), random_shuffle=True)
            area = {"random_area": [SCALE, 1.0], "random_aspect_ratio": [3 / 4, 4 / 3]}
            images = fn.decoders.image_random_crop(files, device="cpu", **area)
            images = fn.resize(images, size=[workload.size] * 2, interp_type=types.INTERP_LINEAR, antialias=True)
            more = {"dtype": types.FLOAT, "output_layout": "CHW", "mirror": fn.random.coin_flip()}
            return fn.crop_mirror_normalize(images, mean=mean, std=std, **more), labels

        pipeline = described()
        pipeline.build()

        def batches() -> Iterator[Any]:
            for _ in range(workload.images // workload.batch_size):
                # The next run writes into the same memory, so that a batch is copied, as it is to a device.
                yield [torch.from_dlpack(part.as_tensor()).clone().to(self.device) for part in pipeline.run()]

        return lambda: 0.0, batches


@dataclass(frozen=True)
class Listing:
    """Lists the files of a folder in each turn. It can be pickled."""

    folder: Path
    way: str

    def __call__(self) -> Turn:
        return lambda: timed(self.listed)

    def listed(self) -> None:
        if self.way == LOADER:
            for part in ("train", "val"):
                datasets.ImageFolder(str(self.folder / part))
        else:
            load_data(f"imagefolder:{self.folder}", image_size=64, encoded=True, data_workers=0)


def exhaust(batches: Iterator[Any]) -> None:
    for _ in batches:
        pass


# -- the tables -----------------------------------------------------------------------------------------------


def main() -> None:
    parser = options(__doc__, ["reading", "training", "resized", "listing"], count=5)
    parser.add_argument("--folder", type=Path, required=True, help="where the JPEGs are, or are to be written")
    parser.add_argument("--count", type=int, default=COUNT, help=f"of the training images; default: {COUNT}")
    parser.add_argument("--different", type=int, help="images that are drawn; the others are copies of them")
    parser.add_argument("--files", type=int, default=1_000_000, help="of the table listing; default: 1000000")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2, help="processes or threads that decode; default: 2")
    arguments = parser.parse_args()
    generate(arguments.folder, arguments.count, 10 * CLASSES, arguments.different)
    if arguments.count != COUNT:
        arguments.rows = [name if name == "listing" else f"{name} --count {arguments.count}" for name in arguments.rows]
    for results, name in asked(arguments):
        (measure_listing if name == "listing" else measure)(results, name, arguments)


def measure(results: Results, name: str, arguments: argparse.Namespace) -> None:
    """Measure one table. The start cannot be measured again beside earlier epochs, so that a table is done whole."""
    kind, count = name.split()[0], arguments.count // arguments.batch_size * arguments.batch_size
    size, padding = arguments.image_size, max(round(arguments.image_size / 12), 1)
    workload = Workload("small_resnet", count, arguments.batch_size, size, padding, device=arguments.device)
    settings = {"images": count, "batch_size": arguments.batch_size, "size": size, "workers": arguments.workers}
    if arguments.different is not None and arguments.different < arguments.count:
        settings["different_images"] = arguments.different
    table = results.table(name, **settings)
    if not results.missing(table):
        return
    ways = WAYS if kind != "resized" else {w: said for w, said in RESIZED_WAYS.items() if w != DALI or has_dali()}
    cached = Path(tempfile.mkdtemp(prefix="tvlars-decoded-", dir=arguments.folder.parent))
    try:
        with contextlib.ExitStack() as stack:
            turns, starts = {}, {}
            for way in ways:
                how = kind == "training", cached, kind == "resized"
                reading = Reading(arguments.folder, way, workload, arguments.workers, *how)
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
        if kind != "resized":
            cells |= {"disk, MiB": mebibytes(disk) if way in ("mapped", "again") else 0}
        results.row(table, ways[way], **cells)


def has_dali() -> bool:
    """Return whether DALI is installed."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def measure_listing(results: Results, name: str, arguments: argparse.Namespace) -> None:
    """Measure the time and memory of listing files."""
    table = results.table(name, files=arguments.files)
    if not results.missing(table):
        return
    with many_files(arguments.folder, arguments.files) as folder, contextlib.ExitStack() as stack:
        turns = {way: stack.enter_context(Apart(Listing(folder, way))) for way in LISTED_WAYS}
        times = results.measure(table, turns)
        memory = {way: turn.memory for way, turn in turns.items()}
    for way, seconds in times.items():
        cells: dict[str, Cell] = {
            "start, s": spread(seconds),
            "ImageFolder's time / its": ratios(times[LOADER], seconds),
        }
        results.row(table, LISTED_WAYS[way], **cells, **{"memory, MiB": mebibytes(memory[way])})


if __name__ == "__main__":
    main()
