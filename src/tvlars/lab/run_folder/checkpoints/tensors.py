"""Weights and optimizer state in a checkpoint: raw bytes of tensors, and a table in JSON with their positions.

    tensors.json     {"byteorder": "little", "tensors": {"model.head.bias": {"dtype": "float32", "shape": [10],
                     "chunks": [{"offsets": [0], "sizes": [10], "file": "tensors-0.bin", "start": 4096}]}}}
    tensors-R.bin    chunks written by process R, one after the other, contiguous

Each process writes the shards that it holds, and its share of the tensors that all processes have. A reader takes the
part that it needs from every chunk, so the number of processes may change. The whole table is checked before use.
"""

from __future__ import annotations

import io
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
from tvlars.lab.run_folder.checkpoints.pickles import read_metadata, read_torch_file
from tvlars.lab.run_folder.checkpoints.values import DTYPES, LARGEST, bytes_of, is_counts, name_of, tensor_of

TABLE = "tensors.json"
OLD_TABLE = ".metadata"
"""Table of a checkpoint of format 1, a pickle."""
DATA = re.compile(r"tensors-\d+\.bin")
OLD_DATA = re.compile(r"__\d+_\d+\.distcp")


@dataclass(frozen=True)
class Chunk:
    """Part of a tensor, and the position of its bytes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class Entry:
    """Tensor in a checkpoint."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Table:
    """All tensors of a checkpoint by name. ``old``: each chunk is a file of ``torch.save`` (format 1)."""

    entries: dict[str, Entry]
    old: bool = False


_Described = tuple[torch.dtype, Any, list[tuple[Any, ...]]]
"""Dtype, shape, and offsets, sizes, file, start and length of each chunk, not checked yet."""

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
        entry, room = table.entries[name], local.detach()
        for chunk in entry.chunks:
            here, there = [], []  # the overlap, in both
            for begin, size, other, length in zip(offsets, room.shape, chunk.offsets, chunk.sizes, strict=True):
                low, high = max(begin, other), min(begin + size, other + length)
                here.append(slice(low - begin, max(high, low) - begin))
                there.append(slice(low - other, max(high, low) - other))
            if room[tuple(here)].numel():
                with open_regular(path / chunk.file) as file:
                    room[tuple(here)].copy_(read_chunk(file, entry.dtype, chunk, table.old)[tuple(there)])


def read_chunk(file: IO[bytes], dtype: torch.dtype, chunk: Chunk, old: bool) -> Tensor:
    """Return the tensor of a chunk, else raise ``ValueError``; ``old`` is format 1."""
    file.seek(chunk.start)
    content = bytearray(file.read(chunk.length))
    found = read_torch_file(io.BytesIO(content)) if old else tensor_of(content, dtype, chunk.sizes)
    if not isinstance(found, Tensor) or found.dtype != dtype or found.shape != chunk.sizes:
        raise ValueError(f"{chunk.file} must hold a tensor {chunk.sizes} at {chunk.start}, but does not")
    return found


def read_table(path: Path, files: Mapping[str, Any], old: bool = False) -> Table:
    """Return the table of the checkpoint ``path``, whose manifest names ``files``; ``old`` is format 1.

    Raises ``ValueError`` if a tensor does not lie within these files.
    """
    content = read_bytes(path / (OLD_TABLE if old else TABLE))
    described = _from_pickle(content) if old else _from_json(content)
    pattern = OLD_DATA if old else DATA
    lengths = {name: os.stat(path / name).st_size for name in files if pattern.fullmatch(name)}
    entries = {}
    for name, (dtype, shape, chunks) in described.items():
        try:
            entries[name] = _entry(dtype, shape, chunks, lengths, old)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{ascii(name)[:80]}: {error}") from error
    return Table(entries, old)


def _from_json(content: bytes) -> dict[str, _Described]:
    order, tensors = _fields(parse_json(content.decode()), "byteorder", "tensors")
    if order != sys.byteorder:
        raise ValueError(f"byteorder must be {sys.byteorder!r}, that of this machine, got {ascii(order)[:20]}")
    if type(tensors) is not dict:
        raise ValueError("tensors must be an object")
    found = {}
    for name, values in tensors.items():
        dtype, shape, parts = _fields(values, "dtype", "shape", "chunks")
        if type(dtype) is not str or dtype not in DTYPES or type(parts) is not list:
            raise ValueError(f"{ascii(name)[:80]}: dtype must be one of {', '.join(DTYPES)}, and chunks a list")
        chunks = [(*_fields(part, "offsets", "sizes", "file", "start"), None) for part in parts]
        found[name] = DTYPES[dtype], shape, chunks
    return found


def _fields(found: Any, *names: str) -> list[Any]:
    if type(found) is not dict or set(found) != set(names):
        raise ValueError(f"an object must have {', '.join(names)}, and does not")
    return [found[name] for name in names]


def _from_pickle(content: bytes) -> dict[str, _Described]:
    """Return the same from the metadata of format 1, whose chunks are files of ``torch.save``."""
    whole, places, found = read_metadata(content), {}, {}
    try:
        for index, info in whole["storage_data"].items():
            if info.get("transform_descriptors"):
                raise ValueError("a chunk must be stored as it is")
            places[index] = info["relative_path"], info["offset"], info["length"]
        for name, entry in whole["state_dict_metadata"].items():
            chunks = [(c["offsets"], c["sizes"], *places[name, c["offsets"]]) for c in entry["chunks"]]
            found[str(name)] = DTYPES[entry["properties"][0]], entry["size"], chunks
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("it lacks entries") from error
    return found


def _entry(dtype: torch.dtype, shape: Any, chunks: list[tuple[Any, ...]], lengths: dict[str, int], old: bool) -> Entry:
    """Return an entry whose chunks cover the tensor once and lie within files of these ``lengths``."""
    shape = _counts("shape", shape)
    size = math.prod(shape)
    if size > LARGEST or len(shape) > 64:
        raise ValueError("its shape is too large")
    made = []
    for offsets, sizes, file, start, length in chunks:
        offsets, sizes = _counts("offsets", offsets), _counts("sizes", sizes)
        for name, values in (("offsets", offsets), ("sizes", sizes)):
            if len(values) != len(shape):
                raise ValueError(f"{name} must be as many as its dimensions, {len(shape)}, got {len(values)}")
        if any(o + s > d for o, s, d in zip(offsets, sizes, shape, strict=True)):
            raise ValueError(f"a chunk of {sizes} at {offsets} is not within its shape {shape}")
        if type(file) is not str or file not in lengths:
            raise ValueError(f"file must be one that the manifest names, got {ascii(file)[:40]}")
        needed = math.prod(sizes) * dtype.itemsize
        start, length = _counts("start and length", (start, length if old else needed))
        if length < needed:
            raise ValueError(f"length must be {needed} bytes, got {length}")
        if start + length > lengths[file]:
            raise ValueError(f"start + length must be <= {lengths[file]}, the size of {file}")
        made.append(Chunk(offsets, sizes, file, start, length))
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
