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
import math
import os
import sys
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from tvlars.lab.console import aside, console, is_terminal
from tvlars.lab.data.account import counted, shown
from tvlars.lab.data.pixels import DEEP, FRAMES, BadImageError, read_picture
from tvlars.lab.data.walk import ImageFile
from tvlars.lab.errors import UsageError

CACHE = Path("~/.cache/tvlars/decoded")
SHARE = 0.5
"""The part of the machine's memory that decoded images may take."""
FORMAT = b"tvlars-decoded-2"
"""The end of a mapped file, and a part of its hash: another number where the same files give other pixels."""
AHEAD = 8
"""Images for each thread that are decoded ahead of the one that is needed next."""
DIGEST = np.dtype("V16")
Shape = tuple[int, ...]
Digests = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Decoded:
    """Images uint8 (N, 3, H, W) of the files that can be read, in order."""

    images: Tensor
    digests: Digests
    """Of each image's pixels."""
    bad: dict[int, str]
    """By index of the file: why it cannot be read."""
    remarks: list[str]
    mapped: bool = False


def decode(folder: Path, files: Sequence[ImageFile], image_size: int | None) -> Decoded:
    """Decode all ``files`` of ``folder`` on all cores, scaled to ``image_size`` pixels.

    Raises:
        UsageError: sizes differ, none can be read, or there is no room for them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images and of EXIF data
        shape = _first_shape(files) if image_size is None else (3, image_size, image_size)
        if must_map(len(files) * math.prod(shape)):
            return _mapped(mapped_file(folder, files, shape, image_size), files, image_size, shape)
        images = torch.empty((len(files), *shape), dtype=torch.uint8, device="cpu")
        places = iter(images.numpy())
        digests, bad, remarks = _decode_each(files, image_size, shape, lambda pixels: np.copyto(next(places), pixels))
        return Decoded(images[: len(digests)], digests, bad, remarks)


def must_map(size: int) -> bool:
    """Return whether ``size`` bytes are more than may be kept in memory."""
    try:
        return size > SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return False


def _first_shape(files: Sequence[ImageFile]) -> Shape:
    for file in files:
        with contextlib.suppress(BadImageError):
            height, width, _ = read_picture(file.path, None).pixels.shape
            if height != width:
                raise _no_squares(f"{file.place} is {width} x {height} pixels")
            return 3, height, width
    return 3, 1, 1  # all are bad, as will be said


def _decode_each(
    files: Sequence[ImageFile], image_size: int | None, shape: Shape, put: Callable[[Any], object]
) -> tuple[Digests, dict[int, str], list[str]]:
    """Read all files, ``put`` the pixels (3, H, W) of those that can be read, in order; the facts of ``Decoded``."""
    from rich.progress import track

    def one(file: ImageFile) -> tuple[Any, bytes, list[str]] | str:
        try:
            picture = read_picture(file.path, image_size)
        except BadImageError as error:
            return shown(str(error))
        pixels = np.ascontiguousarray(picture.pixels.transpose(2, 0, 1))
        return pixels, hashlib.blake2b(pixels.data, digest_size=DIGEST.itemsize).digest(), picture.remarks

    def in_order() -> Iterator[tuple[Any, bytes, list[str]] | str]:
        ahead: deque[Future[Any]] = deque()
        for file in files:
            ahead.append(pool.submit(one, file))
            if len(ahead) >= AHEAD * (os.cpu_count() or 1):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    digests, bad = [], {}
    remarked: dict[str, list[str]] = {FRAMES: [], DEEP: []}
    quiet = not is_terminal(sys.stderr) or len(files) < 2000
    with ThreadPoolExecutor() as pool:
        found = track(in_order(), "decoding images", len(files), console=console(True), transient=True, disable=quiet)
        for i, (file, result) in enumerate(zip(files, found, strict=True)):
            if isinstance(result, str):
                bad[i] = result
                continue
            pixels, digest, remarks = result
            if pixels.shape != shape:
                sizes = f"{files[0].place} is {shape[2]} x {shape[1]} pixels"
                raise _no_squares(f"{sizes}, {file.place} is {pixels.shape[2]} x {pixels.shape[1]} pixels")
            put(pixels)
            digests.append(digest)
            for remark in remarks:
                remarked[remark].append(file.place)
    said = [
        f"{counted(len(places), 'image has', 'images have')} {text} ({places[0]})"
        for text, places in remarked.items()
        if places
    ]
    return np.frombuffer(b"".join(digests), DIGEST), bad, said


def _no_squares(said: str) -> UsageError:
    return UsageError(f"images must be squares of one size, or image_size be given: {said}")


# -- the mapped file --------------------------------------------------------------------------------------


def mapped_file(folder: Path, files: Sequence[ImageFile], shape: Shape, image_size: int | None) -> Path:
    """Return the path of the decoded form of these files."""
    root = os.fsencode(os.path.realpath(folder))
    digest = hashlib.sha256(FORMAT + f"{shape} {image_size} {len(root)} ".encode() + root)
    for file in files:
        place = os.fsencode("/".join(file.parts))
        digest.update(f"{len(place)} {file.size} {file.times} ".encode() + place)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.resolve().name)[:60]
    cache = Path(os.environ.get("TVLARS_CACHE", CACHE)).expanduser()
    return cache / f"{name}-{digest.hexdigest()[:16]}.u8"


def _mapped(file: Path, files: Sequence[ImageFile], image_size: int | None, shape: Shape) -> Decoded:
    """Map the file, which is written unless it is there; images are read from it when they are used."""
    found = _open(file, len(files), shape)
    if found is None:
        with _held(file):
            found = _open(file, len(files), shape)  # another process may have been quicker
            if found is None:
                _write(file, files, image_size, shape)
                found = _open(file, len(files), shape)
    if found is None:
        raise UsageError(
            f"{file} must hold the images that were just decoded, but does not: another process changed it"
        )
    return found


@contextlib.contextmanager
def _held(file: Path) -> Iterator[None]:
    """Hold the lock of a mapped file, which one process at a time writes, and clear away what killed ones have left.

    Where a file system has no locks, several may write, each a file of its own.
    """
    lock = FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=2)
        except Timeout:
            aside(f"waiting for another process, which decodes the same images into {file}")
            lock.acquire()
        for left in file.parent.glob("*.*.part"):
            stem = left.name.rsplit(".", 2)[0]
            theirs = lock if stem == file.stem else FileLock(left.with_name(f"{stem}.lock"), timeout=0)
            with contextlib.suppress(OSError, Timeout), theirs:
                left.unlink(missing_ok=True)
    except NotImplementedError:
        pass
    except OSError as error:
        raise UsageError(
            f"TVLARS_CACHE must be a folder that can be written, and {file.parent} is none: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _write(file: Path, files: Sequence[ImageFile], image_size: int | None, shape: Shape) -> None:
    """Decode into a file of another name, which is renamed when it is whole and on the disk."""
    size = len(files) * math.prod(shape)
    part = file.with_name(f"{file.stem}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "xb") as out:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(out.fileno(), 0, max(size, 1))
            digests, bad, remarks = _decode_each(files, image_size, shape, out.write)
            facts = json.dumps({"bad": bad, "remarks": remarks}).encode()
            out.write(digests.tobytes() + facts + len(facts).to_bytes(8, "little") + FORMAT)
            out.truncate()
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except OSError as error:
        raise UsageError(
            f"TVLARS_CACHE must be a folder with room for {size / 2**30:.1f} GiB of decoded images, and {file.parent} "
            f"cannot take them: {error.strerror}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _open(file: Path, count: int, shape: Shape) -> Decoded | None:
    """Map the decoded images of ``count`` files; None if the file is missing or not whole."""
    each, ending = math.prod(shape), len(FORMAT) + 8
    try:
        raw = np.memmap(file, np.uint8, "c")
        length = int.from_bytes(raw[-ending : -len(FORMAT)].tobytes(), "little")
        if raw[-len(FORMAT) :].tobytes() != FORMAT or not 0 < length <= len(raw) - ending:
            return None
        facts = json.loads(raw[-ending - length : -ending].tobytes())
        bad = {int(i): str(reason) for i, reason in facts["bad"].items()}
        kept = count - len(bad)
        if len(raw) != kept * (each + DIGEST.itemsize) + length + ending:
            return None
        images = torch.from_numpy(raw[: kept * each].reshape(kept, *shape))
        digests = np.frombuffer(raw[kept * each :][: kept * DIGEST.itemsize].tobytes(), DIGEST)
        return Decoded(images, digests, bad, list(map(str, facts["remarks"])), mapped=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
