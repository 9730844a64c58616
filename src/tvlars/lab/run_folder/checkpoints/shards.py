"""Weights and optimizer state in a checkpoint: raw bytes of tensors, and a table in JSON that says where each one lies.

    tensors.json     {"byteorder": "little", "tensors": {"model.head.bias": {"dtype": "float32", "shape": [10],
                     "chunks": [{"offsets": [0], "sizes": [10], "file": "tensors-0.bin", "start": 4096}]}}}
    tensors-R.bin    what process R wrote: chunks one after the other, contiguous

torch.distributed.checkpoint plans who writes and reads which chunk, so that any number of processes can read what any
other number wrote. Its own storage keeps the table as a pickle; here it is plain data, and all of it is checked before
any is used.
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
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from tvlars._reading import open_regular, parse_json, read_bytes
from tvlars.lab.files.disk import write_synced
from tvlars.lab.run_folder.checkpoints.plain_pickle import Made, Name, Pairs, read_pickle, read_torch_file

TABLE = "tensors.json"
OLD_TABLE = ".metadata"
"""Table of a checkpoint of format 1, a pickle."""
DATA = re.compile(r"tensors-\d+\.bin")
OLD_DATA = re.compile(r"__\d+_\d+\.distcp")
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.complex64, torch.complex128),
    )
}
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Chunk:
    """Part of a tensor, and where its bytes are."""

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
    """All tensors of a checkpoint by name. ``old`` says that each chunk is a file of ``torch.save`` (format 1)."""

    entries: dict[str, Entry]
    old: bool = False

    def for_torch(self) -> Metadata:
        """Return what torch plans a load by."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(dtype=entry.dtype),
                    torch.Size(entry.shape),
                    [ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in entry.chunks],
                )
                for name, entry in self.entries.items()
            }
        )


def read_table(path: Path, files: Mapping[str, Any], old: bool = False) -> Table:
    """Read and check the table of the checkpoint ``path``, whose manifest names ``files``; ``old`` is format 1.

    Raises:
        ValueError: it does not describe tensors that lie in these files.
        OSError: a file cannot be read.
    """
    content = read_bytes(path / (OLD_TABLE if old else TABLE))
    entries = _from_pickle(content) if old else _from_json(content)
    pattern = OLD_DATA if old else DATA
    lengths = {name: os.stat(path / name).st_size for name in files if pattern.fullmatch(name)}
    for name, entry in entries.items():
        try:
            _check(entry, lengths, old)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{ascii(name)[:80]}: {error}") from error
    return Table(entries, old)


def _check(entry: Entry, lengths: dict[str, int], old: bool) -> None:
    """Raise ``ValueError`` unless the chunks are the tensor, each once, and lie within the files of ``lengths``."""
    _counts("shape", entry.shape)
    size = math.prod(entry.shape)
    if size > LARGEST or len(entry.shape) > 64:
        raise ValueError("its shape is too large")
    for chunk in entry.chunks:
        for name, values in (("offsets", chunk.offsets), ("sizes", chunk.sizes)):
            _counts(name, values)
            if len(values) != len(entry.shape):
                raise ValueError(f"{name} must be as many as its dimensions, {len(entry.shape)}, got {len(values)}")
        if any(o + s > d for o, s, d in zip(chunk.offsets, chunk.sizes, entry.shape, strict=True)):
            raise ValueError(f"a chunk of {chunk.sizes} at {chunk.offsets} is not within its shape {entry.shape}")
        if type(chunk.file) is not str or chunk.file not in lengths:
            raise ValueError(f"file must be one that the manifest names, got {ascii(chunk.file)[:40]}")
        _counts("start and length", (chunk.start, chunk.length))
        needed = math.prod(chunk.sizes) * entry.dtype.itemsize
        if chunk.length < needed or (chunk.length != needed and not old):
            raise ValueError(f"length must be {needed} bytes, got {chunk.length}")
        if chunk.start + chunk.length > lengths[chunk.file]:
            raise ValueError(f"start + length must be <= {lengths[chunk.file]}, the size of {chunk.file}")
    boxes = [[(o, o + s) for o, s in zip(c.offsets, c.sizes, strict=True)] for c in entry.chunks if math.prod(c.sizes)]
    if sum(math.prod(chunk.sizes) for chunk in entry.chunks) != size or not entry.chunks:
        raise ValueError("its chunks are not the whole tensor")
    if _overlap(boxes):
        raise ValueError("its chunks overlap")


def _overlap(boxes: list[list[tuple[int, int]]]) -> bool:
    """Say if two boxes, each with a begin and an end in every dimension, have a place in common."""
    boxes.sort()
    for i, one in enumerate(boxes):
        for other in itertools.islice(boxes, i + 1, None):
            if one and other[0][0] >= one[0][1]:
                break  # so do all that follow
            if all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True)):
                return True
    return False


def _counts(name: str, values: Any) -> None:
    if type(values) is not tuple or not all(type(value) is int and 0 <= value <= LARGEST for value in values):
        raise ValueError(f"{name} must be integers >= 0, got {ascii(values)[:60]}")


def _from_json(content: bytes) -> dict[str, Entry]:
    found = parse_json(content.decode())
    order, tensors = _fields(found, "byteorder", "tensors")
    if order != sys.byteorder:
        raise ValueError(f"byteorder must be {sys.byteorder!r}, that of this machine, got {ascii(order)[:20]}")
    if type(tensors) is not dict:
        raise ValueError("tensors must be an object")
    entries = {}
    for name, values in tensors.items():
        dtype_name, shape, parts = _fields(values, "dtype", "shape", "chunks")
        dtype = DTYPES.get(dtype_name) if type(dtype_name) is str else None
        if dtype is None or type(parts) is not list:
            raise ValueError(f"{ascii(name)[:80]}: dtype must be one of {', '.join(DTYPES)}, and chunks a list")
        chunks = []
        for part in parts:
            offsets, sizes, file, start = _fields(part, "offsets", "sizes", "file", "start")
            offsets, sizes = _tuple(offsets), _tuple(sizes)
            _counts("sizes", sizes)
            chunks.append(Chunk(offsets, sizes, file, start, math.prod(sizes) * dtype.itemsize))
        entries[name] = Entry(dtype, _tuple(shape), tuple(chunks))
    return entries


def _fields(found: Any, *names: str) -> list[Any]:
    if type(found) is not dict or set(found) != set(names):
        raise ValueError(f"an object must have {', '.join(names)}, and does not")
    return [found[name] for name in names]


def _tuple(values: Any) -> Any:
    return tuple(values) if type(values) is list else values


# -- format 1 -----------------------------------------------------------------------------------------

PREFIX = "torch.distributed.checkpoint"


IN_METADATA = {
    *(f"{PREFIX}.metadata.{name}" for name in ("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    *(f"{PREFIX}.metadata.{name}" for name in ("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    *(f"{PREFIX}.filesystem._StorageInfo", "torch.Size", "torch.serialization._get_layout"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *(f"torch.{dtype}" for dtype in DTYPES),
}
"""Every name in such a pickle."""


def _in_metadata(name: str) -> bool:
    return name in IN_METADATA


def _from_pickle(content: bytes) -> dict[str, Entry]:
    """Entries from a pickle of torch's own metadata, which is read and not unpickled."""
    whole = _state(read_pickle(content, _in_metadata), f"{PREFIX}.metadata.Metadata")
    places: dict[Any, Any] = {}
    for index, info in _pairs(whole.get("storage_data")):
        key = _state(index, f"{PREFIX}.metadata.MetadataIndex")
        place = _state(info, f"{PREFIX}.filesystem._StorageInfo")
        if place.get("transform_descriptors"):
            raise ValueError("a chunk must be stored as it is")
        where = (place.get("relative_path"), place.get("offset"), place.get("length"))
        places[_text(key.get("fqn")), _size(key.get("offset"))] = where
    entries = {}
    for name, described in _pairs(whole.get("state_dict_metadata")):
        entry = _state(described, f"{PREFIX}.metadata.TensorStorageMetadata")
        properties = _made(entry.get("properties"), f"{PREFIX}.metadata.TensorProperties").state
        dtype = properties[0] if type(properties) is tuple and properties else None
        known = DTYPES.get(dtype.name) if type(dtype) is Name and dtype.module == "torch" else None
        chunks = entry.get("chunks")
        if known is None or type(chunks) is not list:
            raise ValueError(f"{ascii(name)[:80]} is not described as torch does it")
        parts = []
        for chunk in chunks:
            part = _state(chunk, f"{PREFIX}.metadata.ChunkStorageMetadata")
            offsets, sizes = _size(part.get("offsets")), _size(part.get("sizes"))
            if (_text(name), offsets) not in places:
                raise ValueError(f"{ascii(name)[:80]} has a chunk that is nowhere")
            parts.append(Chunk(offsets, sizes, *places[_text(name), offsets]))
        entries[_text(name)] = Entry(known, _size(entry.get("size")), tuple(parts))
    return entries


def _made(value: Any, of: str) -> Made:
    if type(value) is not Made or str(value.of) != of or value.arguments:
        raise ValueError(f"it has something else in place of {of.rpartition('.')[2]}")
    return value


def _state(value: Any, of: str) -> dict[str, Any]:
    """Attributes of an object of torch's, by name."""
    return {_text(name): one for name, one in _pairs(_made(value, of).state)}


def _pairs(value: Any) -> Pairs:
    if type(value) is not Pairs:
        raise ValueError("it lacks entries")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("a name must be text")
    return value


def _size(value: Any) -> tuple[int, ...]:
    """``torch.Size`` as a tuple of integers."""
    good = type(value) is Made and str(value.of) == "torch.Size" and len(value.arguments) == 1
    numbers = value.arguments[0] if good else None
    _counts("a shape", numbers)
    return tuple(numbers)  # type: ignore[arg-type]


# -- the storage that torch.distributed.checkpoint writes to and reads from ----------------------------


class TensorWriter(StorageWriter):
    """Writes the tensors of one process into ``tensors-R.bin``, and in the first one the table.

    Args:
        path: folder of the checkpoint, which exists.
        rank: of this process.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self.path, self.file = path, f"tensors-{rank}.bin"

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a writer is used once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans as they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the chunks of this process.

        Raises:
            OSError: the disk does not take them; the error names the file.
        """
        results, file = [], self.path / self.file
        try:
            with open(file, "xb") as out:
                for item in plan.items:
                    content = bytes_of(planner.resolve_data(item))  # type: ignore[arg-type]
                    start = out.tell()
                    out.write(content)
                    results.append(WriteResult(item.index, len(content), (self.file, start)))
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(file)) from error
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the table."""
        # Processes that hold nothing of a tensor have empty chunks, which may lie at the place of others.
        written = sorted((result for some in results for result in some), key=lambda result: result.size_in_bytes)
        places = {(one.index.fqn, tuple(one.index.offset or ())): one.storage_data for one in written}
        tensors = {}
        for name, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata), name
            chunks = [c for c in entry.chunks if math.prod(c.sizes)] or entry.chunks[:1]
            described = []
            for chunk in chunks:
                file, start = places[name, tuple(chunk.offsets)]
                place = {"file": file, "start": start}
                described.append({"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), **place})
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            tensors[name] = {"dtype": dtype, "shape": list(entry.size), "chunks": described}
        table = {"byteorder": sys.byteorder, "tensors": tensors}
        write_synced(self.path / TABLE, json.dumps(table).encode())

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Say that it is none of those that torch chooses by a path."""
        return False


class TensorReader(StorageReader):
    """Reads the tensors of a checkpoint ``path``, whose ``table`` has been checked."""

    def __init__(self, path: Path, table: Table) -> None:
        self.path, self.table = path, table
        self.chunks = {(name, c.offsets): (e.dtype, c) for name, e in table.entries.items() for c in e.chunks}

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a reader is used once."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return what torch plans by."""
        return self.table.for_torch()

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what this process needs.

        Raises:
            ValueError: a chunk is not what the table says.
        """
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            _, chunk = self.chunks[item.storage_index.fqn, tuple(item.storage_index.offset or ())]
            by_file.setdefault(chunk.file, []).append(item)
        for name, items in by_file.items():
            with open_regular(self.path / name) as file:
                for item in items:
                    dtype, chunk = self.chunks[item.storage_index.fqn, tuple(item.storage_index.offset or ())]
                    found = self._tensor(file, dtype, chunk)
                    for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                        found = found.narrow(dimension, offset, length)
                    room = planner.resolve_tensor(item).detach()
                    room.copy_(found)
                    planner.commit_tensor(item, room)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _tensor(self, file: IO[bytes], dtype: torch.dtype, chunk: Chunk) -> Tensor:
        file.seek(chunk.start)
        if self.table.old:
            found = read_torch_file(io.BytesIO(file.read(chunk.length)))
            if not isinstance(found, Tensor) or found.dtype != dtype or found.shape != chunk.sizes:
                raise ValueError(f"{chunk.file} must hold a tensor {chunk.sizes} at {chunk.start}, but does not")
            return found
        return read_tensor(file, dtype, chunk.sizes)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Say that it is none of those that torch chooses by a path."""
        return False


def bytes_of(tensor: Tensor) -> memoryview:
    """Content of a tensor as it is written: contiguous, in the byte order of this machine."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(raw)


def read_tensor(file: IO[bytes], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Read a tensor from the place where ``file`` stands.

    Raises:
        ValueError: the file ends before.
    """
    content = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8, device="cpu")
    raw: Any = content.numpy()
    if file.readinto(memoryview(raw)) != len(content):  # type: ignore[attr-defined]
        raise ValueError(f"a tensor of {len(content)} bytes must be in the file, which ends before")
    return content.view(dtype).reshape(shape)
