"""Weights and optimizer state in a checkpoint: raw bytes of tensors, and a table in JSON with their positions.

    tensors.json     {"byteorder": "little", "tensors": {"model.head.bias": {"dtype": "float32", "shape": [10],
                     "chunks": [{"offsets": [0], "sizes": [10], "file": "tensors-0.bin", "start": 4096}]}}}
    tensors-R.bin    chunks written by process R, one after the other, contiguous

Each process writes the shards that it holds, and its share of the tensors that all processes have. A reader takes the
part that it needs from every chunk, so the number of processes may change. The whole table is checked before use.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tvlars._reading import open_regular, parse_json, read_bytes
from tvlars.lab.files.disk import named
from tvlars.lab.run_folder.checkpoints.values import DTYPES, LARGEST, bytes_of, is_counts, name_of, tensor_of

TABLE = "tensors.json"
DATA = re.compile(r"tensors-\d+\.bin")


@dataclass(frozen=True)
class Chunk:
    """Part of a tensor, and the position of its bytes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int


@dataclass(frozen=True)
class Entry:
    """Tensor in a checkpoint."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


Table = dict[str, Entry]
"""All tensors of a checkpoint by name."""

# -- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, rank: int, count: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write this process's part of ``tensors`` into ``tensors-R.bin``.

    Returns entries of the table with one chunk each, for :func:`table_of`. An ``OSError`` names the file.
    """
    file, entries = path / f"tensors-{rank}.bin", {}
    with named(file), open(file, "xb") as out:
        for number, (name, value) in enumerate(tensors.items()):
            offsets, part = _local(value)
            if part is value and number % count != rank:  # all processes have it, and one writes it
                continue
            chunk = {"offsets": offsets, "sizes": list(part.shape), "file": file.name, "start": out.tell()}
            entries[name] = {"dtype": name_of(value.dtype), "shape": list(value.shape), "chunks": [chunk]}
            out.write(bytes_of(part))
        out.flush()
        os.fsync(out.fileno())
    return entries


def table_of(written: list[dict[str, Any]]) -> bytes:
    """Return the table of a checkpoint from the entries that :func:`write` returned in each process."""
    tensors: dict[str, Any] = {}
    for name, entry in sorted((item for some in written for item in some.items()), key=lambda item: item[0]):
        tensors.setdefault(name, {**entry, "chunks": []})["chunks"] += entry["chunks"]
    for entry in tensors.values():
        # A process without a part of a tensor has an empty chunk, and several may hold the same chunk.
        full = {tuple(chunk["offsets"]): chunk for chunk in entry["chunks"] if math.prod(chunk["sizes"])}
        entry["chunks"] = list(full.values()) or entry["chunks"][:1]
    return json.dumps({"byteorder": sys.byteorder, "tensors": tensors}).encode()


def _local(value: Any) -> tuple[list[int], Tensor]:
    """Return the offsets of this process's part of a tensor, and that part."""
    if not hasattr(value, "__create_chunk_list__"):
        return [0] * value.dim(), value
    (chunk,) = value.__create_chunk_list__()  # of a DTensor
    return list(chunk.offsets), value.to_local()


# -- reading ----------------------------------------------------------------------------------------------------------


def load(path: Path, table: Table, tensors: dict[str, Tensor]) -> None:
    """Fill ``tensors``, which have the names, shapes and dtypes of ``table``, from the checkpoint ``path``."""
    for name, value in tensors.items():
        offsets, local = _local(value)
        entry, room = table[name], local.detach()
        for chunk in entry.chunks:
            here, there = [], []  # the overlap, in both
            for begin, size, other, length in zip(offsets, room.shape, chunk.offsets, chunk.sizes, strict=True):
                low, high = max(begin, other), min(begin + size, other + length)
                here.append(slice(low - begin, max(high, low) - begin))
                there.append(slice(low - other, max(high, low) - other))
            if room[tuple(here)].numel():
                with open_regular(path / chunk.file) as file:
                    room[tuple(here)].copy_(read_chunk(file, entry.dtype, chunk)[tuple(there)])


def read_chunk(file: IO[bytes], dtype: torch.dtype, chunk: Chunk) -> Tensor:
    """Return the tensor of a chunk."""
    file.seek(chunk.start)
    return tensor_of(bytearray(file.read(math.prod(chunk.sizes) * dtype.itemsize)), dtype, chunk.sizes)


def read_table(path: Path, files: Mapping[str, Any]) -> Table:
    """Return the table of the checkpoint ``path``, whose manifest names ``files``.

    Raises ``ValueError`` if a tensor does not lie within these files.
    """
    order, tensors = _fields(parse_json(read_bytes(path / TABLE).decode()), "byteorder", "tensors")
    if order != sys.byteorder:
        raise ValueError(f"byteorder must be {sys.byteorder!r}, that of this machine, got {ascii(order)[:20]}")
    if type(tensors) is not dict:
        raise ValueError("tensors must be an object")
    lengths = {name: os.stat(path / name).st_size for name in files if DATA.fullmatch(name)}
    entries = {}
    for name, values in tensors.items():
        try:
            entries[name] = _entry(values, lengths)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{ascii(name)[:80]}: {error}") from error
    return entries


def _fields(found: Any, *names: str) -> list[Any]:
    if type(found) is not dict or set(found) != set(names):
        raise ValueError(f"an object must have {', '.join(names)}, and does not")
    return [found[name] for name in names]


def _entry(values: Any, lengths: dict[str, int]) -> Entry:
    """Return an entry whose chunks cover the tensor once and lie within files of these ``lengths``."""
    name, shape, parts = _fields(values, "dtype", "shape", "chunks")
    if type(name) is not str or name not in DTYPES or type(parts) is not list:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, and chunks a list")
    dtype, shape = DTYPES[name], _counts("shape", shape)
    size = math.prod(shape)
    if size > LARGEST or len(shape) > 64:
        raise ValueError("its shape is too large")
    made = []
    for part in parts:
        offsets, sizes, file, start = _fields(part, "offsets", "sizes", "file", "start")
        offsets, sizes = _counts("offsets", offsets), _counts("sizes", sizes)
        for name, values in (("offsets", offsets), ("sizes", sizes)):
            if len(values) != len(shape):
                raise ValueError(f"{name} must be as many as its dimensions, {len(shape)}, got {len(values)}")
        if any(o + s > d for o, s, d in zip(offsets, sizes, shape, strict=True)):
            raise ValueError(f"a chunk of {sizes} at {offsets} is not within its shape {shape}")
        if type(file) is not str or file not in lengths:
            raise ValueError(f"file must be one that the manifest names, got {ascii(file)[:40]}")
        (start,) = _counts("start", (start,))
        if start + math.prod(sizes) * dtype.itemsize > lengths[file]:
            raise ValueError(f"start + length must be <= {lengths[file]}, the size of {file}")
        made.append(Chunk(offsets, sizes, file, start))
    if sum(math.prod(chunk.sizes) for chunk in made) != size or not made:
        raise ValueError("its chunks are not the whole tensor")
    if _overlap([[(o, o + s) for o, s in zip(c.offsets, c.sizes, strict=True)] for c in made if math.prod(c.sizes)]):
        raise ValueError("its chunks overlap")
    return Entry(dtype, shape, tuple(made))


def _counts(name: str, values: Any) -> tuple[int, ...]:
    if not is_counts(values):
        raise ValueError(f"{name} must be integers >= 0, got {ascii(values)[:60]}")
    return tuple(values)


def _overlap(boxes: list[list[tuple[int, int]]]) -> bool:
    """Return True if any two boxes overlap; a box has a begin and an end in every dimension."""
    boxes.sort()
    for i, one in enumerate(boxes):
        for other in itertools.islice(boxes, i + 1, None):
            if one and other[0][0] >= one[0][1]:
                break  # so do all that follow
            if all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True)):
                return True
    return False
