"""Decoded images of a folder: in memory, or in a mapped file if they do not fit.

    ~/.cache/tvlars/decoded/NAME-HASH.u8       uint8 (N, 3, H, W), as numpy.memmap reads it, then digests and remarks
    ~/.cache/tvlars/decoded/NAME-HASH.lock     held by the process that decodes; others wait for the file

The hash covers names, sizes and times of the files, and the size to which images are scaled, so that a changed folder
is decoded again. A file gets its name when it is complete and on the disk.
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

from tvlars._words import counted
from tvlars.lab.console import aside, console, is_terminal
from tvlars.lab.data.account import shown
from tvlars.lab.data.pixels import DEEP, FRAMES, BadImageError, read_picture
from tvlars.lab.data.walk import ImageFile
from tvlars.lab.errors import UsageError

CACHE = Path("~/.cache/tvlars/decoded")
SHARE = 0.5
"""Largest share of the machine's memory for decoded images."""
FORMAT = b"tvlars-decoded-2"
"""End of a mapped file, and part of its hash; the number changes if a new version decodes other pixels."""
AHEAD = 8
"""Images per thread that are decoded in advance."""
DIGEST = np.dtype("V16")
Shape = tuple[int, ...]
Digests = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Decoded:
    """Images uint8 (N, 3, H, W) of the readable files, in order."""

    images: Tensor
    digests: Digests
    """Digests of each image's pixels."""
    bad: dict[int, str]
    """Reasons why files cannot be read, by index of the file."""
    remarks: list[str]
    mapped: bool = False


def decode(folder: Path, files: Sequence[ImageFile], image_size: int | None) -> Decoded:
    """Decode all ``files`` of ``folder`` on all cores, scaled to ``image_size`` pixels.

    Raises:
        UsageError: sizes differ, no file can be read, or there is no disk space for the images.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large images and EXIF data
        shape = _first_shape(files) if image_size is None else (3, image_size, image_size)
        if must_map(len(files) * math.prod(shape)):
            return _mapped(mapped_file(folder, files, shape, image_size), files, image_size, shape)
        images = torch.empty((len(files), *shape), dtype=torch.uint8, device="cpu")
        places = iter(images.numpy())
        digests, bad, remarks = _decode_each(files, image_size, shape, lambda pixels: np.copyto(next(places), pixels))
        return Decoded(images[: len(digests)], digests, bad, remarks)


def must_map(size: int) -> bool:
    """Return whether ``size`` bytes exceed ``SHARE`` of the memory."""
    try:
        return size > SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # unknown on some systems
        return False


def _first_shape(files: Sequence[ImageFile]) -> Shape:
    for file in files:
        with contextlib.suppress(BadImageError):
            height, width, _ = read_picture(file.path, None).pixels.shape
            if height != width:
                raise _no_squares(f"{file.place} is {width} x {height} pixels")
            return 3, height, width
    return 3, 1, 1  # all files are bad, which is an error later


def _decode_each(
    files: Sequence[ImageFile], image_size: int | None, shape: Shape, put: Callable[[Any], object]
) -> tuple[Digests, dict[int, str], list[str]]:
    """Read all files and ``put`` pixels (3, H, W) in order; return digests, bad files and remarks of ``Decoded``."""
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
    return UsageError(f"images must be squares of one size unless image_size is given: {said}")


# -- the mapped file --------------------------------------------------------------------------------------


def mapped_file(folder: Path, files: Sequence[ImageFile], shape: Shape, image_size: int | None) -> Path:
    """Return the path of the mapped file of these images."""
    root = os.fsencode(os.path.realpath(folder))
    digest = hashlib.sha256(FORMAT + f"{shape} {image_size} {len(root)} ".encode() + root)
    for file in files:
        place = os.fsencode("/".join(file.parts))
        digest.update(f"{len(place)} {file.size} {file.times} ".encode() + place)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.resolve().name)[:60]
    cache = Path(os.environ.get("TVLARS_CACHE", CACHE)).expanduser()
    return cache / f"{name}-{digest.hexdigest()[:16]}.u8"


def _mapped(file: Path, files: Sequence[ImageFile], image_size: int | None, shape: Shape) -> Decoded:
    """Map the file, and write it before if it is missing; images are read from it on demand."""
    found = _open(file, len(files), shape)
    if found is None:
        with _held(file):
            found = _open(file, len(files), shape)  # another process may have written it in the meantime
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
    """Lock a mapped file while it is written, and remove temporary files of killed processes.

    On file systems without locks, several processes may write, each to its own temporary file.
    """
    lock = FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=2)
        except Timeout:
            aside(f"waiting for another process that decodes the same images into {file}")
            lock.acquire()
        for left in file.parent.glob("*.*.part"):
            stem = left.name.rsplit(".", 2)[0]
            theirs = lock if stem == file.stem else FileLock(left.with_name(f"{stem}.lock"), timeout=0)
            with contextlib.suppress(OSError, Timeout), theirs:
                left.unlink(missing_ok=True)
    except NotImplementedError:  # filelock's error on a file system without locks
        pass
    except OSError as error:
        raise UsageError(
            f"TVLARS_CACHE must be a writable folder, but {file.parent} is not: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _write(file: Path, files: Sequence[ImageFile], image_size: int | None, shape: Shape) -> None:
    """Decode into a temporary file, which is renamed when it is complete and on the disk."""
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
            f"TVLARS_CACHE must be a folder with room for {size / 2**30:.1f} GiB of decoded images, but writing to "
            f"{file.parent} failed: {error.strerror}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _open(file: Path, count: int, shape: Shape) -> Decoded | None:
    """Map the decoded images of ``count`` files; return None if the file is missing or incomplete."""
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
