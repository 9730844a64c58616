"""Pickles that torch wrote, read as plain data: nothing in them is called or imported.

A list of allowed classes is no protection: the BUILD opcode sets attributes of any of them. Here Python's own unpickler
has only the opcodes that torch writes, and each class or function becomes a :class:`Made`, which records its arguments
in place of a call. ``torch.load(weights_only=True)`` calls known classes, sets attributes of their objects, and trusts
the size that a file states for a storage.

    read_torch_file(file)      read a file of ``torch.save``: weights.pt, and chunks and progress of format 1
    read_metadata(content)     read the table of a checkpoint of format 1, written by torch.distributed.checkpoint
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401  # zipfile decodes names by it: nothing is imported while a file is read
import io
import math
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from tvlars.lab import memory
from tvlars.lab.run_folder.checkpoints.values import DTYPES, MAX_DEPTH, is_counts, tensor_of

SHARED = 64
"""Most values per byte of a pickle. Pickles of torch have the same text or tensor in several places; a hostile one of a
few hundred bytes can have nested lists in so many places that walking through them never ends."""
OPCODES = (
    *("PROTO", "FRAME", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_LIST", "EMPTY_TUPLE", "MARK", "TUPLE", "TUPLE1"),
    *("TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "APPEND", "APPENDS"),
    *("SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BINPERSID"),
)
"""Opcodes with Python's own meaning; EMPTY_DICT, NEWOBJ and BUILD are defined below."""
STORAGE = "a storage"


@dataclass(eq=False, slots=True)
class Made:
    """Name of a class or function; with ``arguments`` and ``state``, a recorded call of it."""

    of: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Record the call. An ordered dictionary is read as a plain one."""
        if self.arguments is not None:
            raise ValueError("torch did not write it: a call of a call")
        return Pairs() if self.of == "collections.OrderedDict" and not arguments else Made(self.of, arguments)


class Pairs:
    """Keys and values of a dictionary, in order. Keys may be anything, since they are not hashed."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))


class _Unpickler(pickle._Unpickler):
    stack: Any
    append: Any

    def __init__(self, content: bytes, known: Collection[str]) -> None:
        super().__init__(io.BytesIO(content))
        self.known = known

    def find_class(self, module: str, name: str) -> Made:
        if f"{module}.{name}" not in self.known:
            raise ValueError(f"{ascii(f'{module}.{name}')[1:-1]:.80} is not allowed in it")
        return Made(f"{module}.{name}")

    def persistent_load(self, reference: Any) -> Made:
        return Made(STORAGE, (reference,))

    def _empty_dict(self) -> None:
        self.append(Pairs())

    def _build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is Made and made.state is None and made.arguments == ():
            made.state = state
        elif type(made) is not Pairs or type(state) is not Pairs or [key for key, _ in state.pairs] != ["_metadata"]:
            # State dicts have versions of modules as an attribute, which is not needed.
            raise ValueError("torch did not write it: BUILD")

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in OPCODES)},
        pickle.EMPTY_DICT[0]: _empty_dict,
        pickle.NEWOBJ[0]: pickle._Unpickler.dispatch[pickle.REDUCE[0]],
        pickle.BUILD[0]: _build,
    }


def _read(content: bytes, known: Collection[str], make: Callable[[Made], Any]) -> Any:
    """Return a pickle's content as plain data, else raise ``ValueError``.

    Names in it must be among ``known``; ``make`` returns the value of a :class:`Made`, whose arguments and state are
    plain already.
    """
    left = SHARED * len(content)

    def plain(one: Any, above: tuple[int, ...] = ()) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("the same values are in it too many times")
        if one is None or type(one) in (bool, int, float, str):
            return one
        if id(one) in above:
            raise ValueError("a value holds itself")
        if len(above) > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        above = (*above, id(one))
        if type(one) in (list, tuple):
            return type(one)(plain(inner, above) for inner in one)
        if type(one) is Made:
            return make(Made(one.of, plain(one.arguments, above), plain(one.state, above)))
        if not all(type(key) in (int, str, Made) for key, _ in one.pairs):
            raise ValueError("a key is neither text nor a number")
        return {plain(key, above): plain(inner, above) for key, inner in one.pairs}

    try:
        return plain(_Unpickler(content, known).load())
    except Exception as error:  # a wrong order of opcodes can raise anything
        if type(error) is ValueError:
            raise
        raise ValueError(f"torch did not write it: {type(error).__name__}") from error


# -- files of torch.save ----------------------------------------------------------------------------------------------

REBUILD = "torch._utils._rebuild_tensor_v2"
STORAGES = {
    f"torch.{name}Storage": DTYPES[dtype]
    for name, dtype in (
        *(("Float", "float32"), ("Double", "float64"), ("Half", "float16"), ("BFloat16", "bfloat16")),
        *(("Long", "int64"), ("Int", "int32"), ("Short", "int16"), ("Char", "int8"), ("Byte", "uint8")),
        *(("Bool", "bool"), ("ComplexFloat", "complex64"), ("ComplexDouble", "complex128")),
    )
}


def read_torch_file(file: IO[bytes]) -> Any:
    """Return the content of a file of ``torch.save``: tensors on the CPU, numbers, texts and collections of them.

    Raises ``ValueError`` if ``file``, which is seekable, is no such file, is damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive)
    except Exception as error:  # zipfile raises many types for invalid archives
        if memory.has_ended(error) or isinstance(error, ValueError):
            raise
        raise ValueError(f"it is no file of torch.save: {type(error).__name__}") from error


def _read_archive(archive: zipfile.ZipFile) -> Any:
    (name,) = [name for name in archive.namelist() if re.fullmatch(r"[^/]*/data\.pkl", name)]
    folder = name.removesuffix("data.pkl")
    storages: dict[str, Tensor] = {}

    def content(name: str) -> bytes:
        info = archive.getinfo(f"{folder}{name}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("torch did not write it: compressed")
        return archive.read(info)

    def make(made: Made) -> Any:
        if made.of in (STORAGE, *STORAGES):
            return made
        if made.of != REBUILD or made.arguments is None or made.state is not None:
            raise ValueError(f"{made.of[:80]} is not allowed in it")
        storage, offset, size, stride = made.arguments[:4]
        if type(storage) is not Made or storage.of != STORAGE or storage.arguments is None:
            raise ValueError("a tensor is not described as torch does it")
        kind, of, key, _, count = storage.arguments[0]
        good = kind == "storage" and type(of) is Made and of.arguments is None and type(key) is str
        if not good or not is_counts(size, stride, (offset, count)) or len(size) != len(stride):
            raise ValueError("a tensor is not described as torch does it")
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if math.prod(size) > count or (math.prod(size) and end > count):
            raise ValueError("a tensor reaches beyond its storage")
        dtype = STORAGES[of.of]
        if not math.prod(size):
            return torch.empty(size, dtype=dtype, device="cpu")
        if key not in storages:
            storages[key] = tensor_of(bytearray(content(f"data/{key}")), torch.uint8)
        if len(storages[key]) != count * dtype.itemsize:
            raise ValueError(f"a storage must have {count * dtype.itemsize} bytes, got {len(storages[key])}")
        return storages[key].view(dtype).as_strided(size, stride, offset)

    if f"{folder}byteorder" in archive.namelist():
        order = content("byteorder").decode("ascii", "replace")
        if order != sys.byteorder:
            raise ValueError(f"its byte order must be {sys.byteorder}, got {order!r:.20}")
    found = _read(content("data.pkl"), {REBUILD, "collections.OrderedDict", *STORAGES}, make)
    if type(found) is Made:
        raise ValueError(f"{found.of[:80]} is not allowed in it")
    return found


# -- metadata of torch.distributed.checkpoint -------------------------------------------------------------------------

PREFIX = "torch.distributed.checkpoint"
OF_METADATA = {
    *(f"{PREFIX}.metadata.{name}" for name in ("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    *(f"{PREFIX}.metadata.{name}" for name in ("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    *(f"{PREFIX}.filesystem._StorageInfo", "torch.Size", "torch.serialization._get_layout"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *(f"torch.{dtype}" for dtype in DTYPES),
}
"""Every name that such a pickle may hold."""


def read_metadata(content: bytes) -> dict[str, Any]:
    """Return the metadata of a checkpoint of format 1, else raise ``ValueError``.

    Objects of torch become their states, shapes tuples, dtypes names, and an index a pair of name and offsets.
    """

    def make(made: Made) -> Any:
        name = made.of.rpartition(".")[2]
        if made.of == "torch.Size" and made.arguments and len(made.arguments) == 1 and is_counts(made.arguments[0]):
            return made.arguments[0]
        if name == "MetadataIndex" and type(made.state) is dict and type(made.state.get("fqn")) is str:
            offsets = made.state.get("offset")
            return made.state["fqn"], offsets if is_counts(offsets) else ()
        return name if made.arguments is None else made.state

    found = _read(content, OF_METADATA, make)
    if type(found) is not dict:
        raise ValueError("it lacks entries")
    return found
