"""All images of a folder, decoded: in memory, or in a file that is mapped where they do not fit.

    ~/.cache/tvlars/decoded/NAME-HASH.u8       uint8 (N, 3, H, W), as numpy.memmap reads it, then what is known of them
    ~/.cache/tvlars/decoded/NAME-HASH.lock     held by the process that decodes; others wait, and find the file

The hash is of the files' names, sizes and times and of the size they are scaled to: a changed folder is decoded anew. A
file gets its name when it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from tvlars.lab.data.account import shown
from tvlars.lab.data.pixels import BadImageError, Picture
from tvlars.lab.data.walk import ImageFile
from tvlars.lab.errors import UsageError

CACHE = Path("~/.cache/tvlars/decoded")
SHARE = 0.5
"""The part of the machine's memory that decoded images may take."""
FORMAT = b"tvlars-decoded-2"
"""The end of a mapped file, and a part of its hash: another number where the same files give other pixels."""
CHUNK = 1024
"""Images that are given to the threads at once."""
DIGEST = np.dtype("V16")
Digests = np.ndarray[Any, np.dtype[Any]]
Read = Callable[[ImageFile, "int | None"], Picture]


@dataclass(frozen=True)
class Decoded:
    """Images uint8 (N, 3, H, W) of those files that can be read."""

    images: Tensor
    files: list[ImageFile]
    digests: Digests
    """Of each image's pixels."""
    all_files: Sequence[ImageFile]
    bad: dict[int, str]
    """By their place in ``all_files`` those that cannot be read, and why."""
    remarks: list[str]
    mapped: bool


def decode(folder: Path, files: Sequence[ImageFile], image_size: int | None, read: Read) -> Decoded:
    """Decode all files, on all cores.

    Args:
        folder: that they are in.
        files: one or more.
        image_size: pixels to scale them to.
        read: reads one of them.

    Raises:
        UsageError: sizes differ, none can be read, or there is no room for them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images and of EXIF data
        return _decode(folder, files, image_size, read)


def _decode(folder: Path, files: Sequence[ImageFile], image_size: int | None, read: Read) -> Decoded:
    shape = _first_shape(files, image_size, read)
    if not must_map(len(files) * int(np.prod(shape))):
        images = torch.empty((len(files), *shape), dtype=torch.uint8, device="cpu")
        array = images.numpy()
        digests, bad, remarks = _decode_each(files, image_size, read, shape, array.__setitem__)
        if bad:
            _close_gaps(len(files), bad, lambda i, j: array.__setitem__(j, array[i]))
            images = images[: len(files) - len(bad)]
        return Decoded(images, _good(files, bad), digests, files, bad, remarks, False)
    file = mapped_file(folder, files, shape, image_size)
    found = _open(file, files, shape)
    if found is None:
        with _held(file) as alone:
            found = _open(file, files, shape)  # another process may have been quicker
            if found is None:
                if alone:
                    _sweep(file)
                _write(file, files, image_size, read, shape)
                found = _open(file, files, shape)
    if found is None:
        raise UsageError(
            f"{file} must hold the images that were just decoded, but does not: another process changed it"
        )
    return found


def must_map(size: int) -> bool:
    """Whether ``size`` bytes are more than may be kept in memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return False
    return size > SHARE * memory


# -- decoding ---------------------------------------------------------------------------------------------


def _first_shape(files: Sequence[ImageFile], image_size: int | None, read: Read) -> tuple[int, ...]:
    """The shape (3, H, W) of all images, by the first that can be read."""
    if image_size is not None:
        return 3, image_size, image_size
    for file in files:
        with contextlib.suppress(BadImageError):
            shape = read(file, image_size).pixels.shape
            if shape[0] != shape[1]:
                raise UsageError(
                    f"images must be squares of one size, or image_size be given: {file.place} is {_size(shape)}"
                )
            return 3, shape[0], shape[1]
    return 3, 1, 1  # all are bad, as will be said


def _decode_each(
    files: Sequence[ImageFile],
    image_size: int | None,
    read: Read,
    shape: tuple[int, ...],
    put: Callable[[int, Any], object],
) -> tuple[Digests, dict[int, str], list[str]]:
    """Read all files, and ``put`` the pixels (3, H, W) of each that can be read; digests of these, those that cannot,
    and remarks."""
    from rich.console import Console
    from rich.progress import track

    digests = np.zeros(len(files), DIGEST)
    bad: dict[int, str] = {}
    frames, deep = [], []

    def one(i: int) -> None:
        try:
            picture = read(files[i], image_size)
        except BadImageError as error:
            bad[i] = shown(str(error))
            return
        if picture.pixels.shape[:2] != shape[1:]:
            raise UsageError(
                f"images must be squares of one size, or image_size be given: {files[0].place} is {_size(shape[1:])}, "
                f"{files[i].place} is {_size(picture.pixels.shape)}"
            )
        pixels = np.ascontiguousarray(picture.pixels.transpose(2, 0, 1))
        digests[i] = np.frombuffer(hashlib.blake2b(pixels.data, digest_size=16).digest(), DIGEST)[0]
        put(i, pixels)
        if picture.frames:
            frames.append(i)
        if picture.deep:
            deep.append(i)

    def all_of_them() -> Iterator[None]:
        for start in range(0, len(files), CHUNK):
            yield from pool.map(one, range(start, min(start + CHUNK, len(files))))

    quiet = not sys.stderr.isatty() or len(files) < 2000
    with ThreadPoolExecutor() as pool:
        console = Console(stderr=True)
        for _ in track(all_of_them(), "decoding images", len(files), console=console, transient=True, disable=quiet):
            pass
    remarks = [
        f"{len(some):,} {'image has' if len(some) == 1 else 'images have'} {text} ({files[min(some)].place})"
        for some, text in (
            (frames, "several frames, of which the first is read"),
            (deep, "16 bits a channel, of which the upper 8 are read"),
        )
        if some
    ]
    good = [i for i in range(len(files)) if i not in bad]
    return digests[good], dict(sorted(bad.items())), remarks


def _good(files: Sequence[ImageFile], bad: dict[int, str]) -> list[ImageFile]:
    return [file for i, file in enumerate(files) if i not in bad]


def _close_gaps(count: int, bad: dict[int, str], move: Callable[[int, int], object]) -> None:
    """Move each image to the place that it has without the bad ones: always a lower one."""
    place = min(bad)
    for i in range(place, count):
        if i not in bad:
            move(i, place)
            place += 1


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


# -- the mapped file --------------------------------------------------------------------------------------


def mapped_file(folder: Path, files: Sequence[ImageFile], shape: tuple[int, ...], image_size: int | None) -> Path:
    """Where the decoded form of these files belongs."""
    root = os.fsencode(os.path.realpath(folder))
    digest = hashlib.sha256(FORMAT + f"{shape} {image_size} {len(root)} ".encode() + root)
    for file in files:
        place = os.fsencode("/".join(file.parts))
        digest.update(f"{len(place)} {file.size} {file.times} ".encode() + place)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.resolve().name)[:60]
    cache = Path(os.environ.get("TVLARS_CACHE", CACHE)).expanduser()
    return cache / f"{name}-{digest.hexdigest()[:16]}.u8"


@contextlib.contextmanager
def _held(file: Path) -> Iterator[bool]:
    """Hold the lock of a mapped file, which one process at a time writes; say that we wait for another.

    Yields whether there is nobody else; where a file system has no locks, several may write, each for itself.
    """
    alone = True
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_suffix(".lock"))
        try:
            lock.acquire(timeout=2)
        except Timeout:
            print(f"waiting for another process, which decodes the same images into {file}", file=sys.stderr)
            lock.acquire()
    except NotImplementedError:
        alone = False
    except OSError as error:
        raise UsageError(
            f"TVLARS_CACHE must be a folder that can be written, and {file.parent} is none: {error.strerror}"
        ) from error
    try:
        yield alone
    finally:
        lock.release()


def _sweep(file: Path) -> None:
    """Take away what processes have left that were killed while they wrote ``file``, whose lock we hold, or another."""
    for left in file.parent.glob("*.*.part"):
        stem = left.name.rsplit(".", 2)[0]
        if stem == file.stem:
            left.unlink(missing_ok=True)
            continue
        lock = FileLock(left.with_name(f"{stem}.lock"), timeout=0)
        with contextlib.suppress(OSError, Timeout, NotImplementedError), lock:
            left.unlink(missing_ok=True)


def _write(file: Path, files: Sequence[ImageFile], image_size: int | None, read: Read, shape: tuple[int, ...]) -> None:
    """Decode into a file of another name, which is renamed when it is whole and on the disk."""
    each = int(np.prod(shape))
    size = len(files) * each
    part = file.with_name(f"{file.stem}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "x+b", buffering=0) as out:
            handle = out.fileno()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, max(size, 1))

            def put(i: int, pixels: Any) -> None:
                _write_at(handle, memoryview(pixels).cast("B"), i * each)

            digests, bad, remarks = _decode_each(files, image_size, read, shape, put)
            if bad:
                _close_gaps(
                    len(files),
                    bad,
                    lambda i, j: _write_at(handle, memoryview(os.pread(handle, each, i * each)), j * each),
                )
            facts = json.dumps({"bad": bad, "remarks": remarks}).encode()
            tail = digests.tobytes() + facts + len(facts).to_bytes(8, "little") + FORMAT
            kept = len(digests) * each
            _write_at(handle, memoryview(tail), kept)
            os.ftruncate(handle, kept + len(tail))
            os.fsync(handle)
        os.replace(part, file)
    except OSError as error:
        raise UsageError(
            f"TVLARS_CACHE must be a folder with room for {size / 2**30:.1f} GiB of decoded images, and {file.parent} "
            f"cannot take them: {error.strerror}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _write_at(handle: int, content: memoryview, position: int) -> None:
    while content:
        written = os.pwrite(handle, content, position)
        content, position = content[written:], position + written


def _open(file: Path, files: Sequence[ImageFile], shape: tuple[int, ...]) -> Decoded | None:
    """Return the mapped images, which are read when they are used; None if the file is missing or of other images."""
    each = int(np.prod(shape))
    try:
        with open(file, "rb") as content:
            size = content.seek(0, os.SEEK_END)
            ending = len(FORMAT) + 8
            content.seek(size - ending)
            length, ends_well = int.from_bytes(content.read(8), "little"), content.read() == FORMAT
            if not ends_well or not 0 < length <= size - ending:
                return None
            content.seek(size - ending - length)
            facts = json.loads(content.read(length))
            bad = {int(i): str(reason) for i, reason in facts["bad"].items()}
            remarks = [str(text) for text in facts["remarks"]]
            kept = len(files) - len(bad)
            if size != kept * (each + DIGEST.itemsize) + length + ending:
                return None
            content.seek(kept * each)
            digests = np.frombuffer(content.read(kept * DIGEST.itemsize), DIGEST)
        if not kept:
            images = torch.empty((0, *shape), dtype=torch.uint8, device="cpu")
        else:
            images = torch.from_numpy(np.memmap(file, np.uint8, "c", shape=(kept, *shape)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Decoded(images, _good(files, bad), digests, files, bad, remarks, True)
