"""Reading of pickles that torch wrote, without an unpickler: no opcode calls, imports or changes anything.

An unpickler that knows few classes is no protection: the BUILD opcode sets attributes of whatever it can name. Here a
name of a class or function is text, and a call of it a record of the text and its arguments. What is made of them is
decided by whoever reads the result, by comparison with the few things that torch writes. Any other name is refused:

    read_pickle(content, known)    numbers, texts, tuples, lists, ``Pairs``, ``Name``, ``Made`` and ``Stored``
    read_torch_file(file)          what ``torch.save`` wrote: the same, with dictionaries and tensors made of them
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401  # zipfile decodes names by it: nothing is imported while a file is read
import math
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from tvlars.lab import memory

MAX_DEPTH = 32
"""Levels of nested values, far above what a state has."""
SHARED = 64
"""By how much values may be more than the bytes of their pickle: torch has the same text, pair or tensor in several
places, and a few hundred bytes can have the same list in more places than anybody can walk through."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """Name of a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Made:
    """Record of a call that is not made: a class or function, and what it would be given."""

    of: Name
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """Reference to something outside the pickle, which torch uses for storages."""

    reference: Any


class Pairs(list[tuple[Any, Any]]):
    """Keys and values of a dictionary, in order. Keys may be anything, since none is hashed or compared."""


def read_pickle(content: bytes, known: Callable[[str], bool]) -> Any:
    """Return what a pickle holds, as plain data.

    Args:
        content: the pickle.
        known: says if the class or function of a name, as "collections.OrderedDict", has a place in it.

    Raises:
        ValueError: it is no pickle, uses an opcode that torch does not write, or a name that is not known.
    """
    try:
        value = _run(content, known)
        _check_size(value, SHARED * len(content))
        return value
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no pickle: {type(error).__name__}") from error


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
EMPTY: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": Pairs, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(content: bytes, known: Callable[[str], bool]) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []
    """Stacks under those that MARK began."""
    memo: dict[int, Any] = {}

    def named(module: Any, attribute: Any) -> Name:
        name = Name(_as(str, module), _as(str, attribute))
        if not known(str(name)):
            raise ValueError(f"{str(name)[:80]} has no place in it")
        return name

    def popped() -> list[Any]:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in LITERALS:
            stack.append(argument)
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[_whole(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[_whole(argument)])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name == "TUPLE":
            items = popped()
            stack.append(tuple(items))
        elif name in TUPLES:
            items = [stack.pop() for _ in range(TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else popped()
            _as(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else popped()
            _as(Pairs, stack[-1]).extend(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            module, _, attribute = str(argument).partition(" ")
            stack.append(named(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(named(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, of = _as(tuple, stack.pop()), _as(Name, stack.pop())
            ordered = str(of) == "collections.OrderedDict" and not arguments
            stack.append(Pairs() if ordered else Made(of, arguments))
        elif name == "BUILD":
            state, made = stack.pop(), stack[-1]
            if type(made) is Made and made.state is None and not made.arguments:
                made.state = state
            elif type(made) is not Pairs or [key for key, _ in _as(Pairs, state)] != ["_metadata"]:
                # Versions of modules, which state dicts have as an attribute, are of no use.
                raise ValueError("it is none that torch wrote: BUILD")
        elif name == "BINPERSID":
            stack.append(Stored(stack.pop()))
        elif name == "STOP":
            if below or len(stack) != 1:
                raise ValueError("it is no pickle: more than one value")
            return stack[0]
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it is none that torch wrote: {name}")
    raise ValueError("it is no pickle: it has no end")


def _inner(value: Any) -> list[Any] | tuple[Any, ...]:
    """Parts of a value."""
    if type(value) in (list, tuple, Pairs):
        return value  # type: ignore[no-any-return]
    if type(value) is Made:
        return value.arguments, value.state
    return (value.reference,) if type(value) is Stored else ()


def _check_size(value: Any, most: int) -> None:
    """Raise ``ValueError`` where a value holds itself, or more than ``most`` values if each place is counted."""
    sizes: dict[int, int] = {}
    begun = set()
    stack = [(value, False)]
    while stack:
        one, done = stack.pop()
        if id(one) in sizes:
            continue
        inner = _inner(one)
        if done:
            sizes[id(one)] = 1 + sum(sizes[id(part)] for part in inner)
            if sizes[id(one)] > most:
                raise ValueError("the same values are in it too many times")
            continue
        if id(one) in begun:
            raise ValueError("a value holds itself")
        begun.add(id(one))
        stack.append((one, True))
        stack.extend((part, False) for part in inner)


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"it is none that torch wrote: {type(value).__name__} in place of {kind.__name__}")
    return value


def _whole(value: Any) -> int:
    return int(_as(int, value))


# -- what torch.save wrote ----------------------------------------------------------------------------

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


REBUILD = "torch._utils._rebuild_tensor_v2"


def _in_torch_file(name: str) -> bool:
    module, _, storage = name.rpartition(".")
    return name in (REBUILD, "collections.OrderedDict") or (module == "torch" and storage in STORAGES)


def read_torch_file(file: IO[bytes]) -> Any:
    """Return what ``torch.save`` wrote: tensors on the CPU, and numbers, texts, lists, tuples and dictionaries of them.

    Args:
        file: open for reading, and seekable.

    Raises:
        ValueError: it is no such file, is damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _TorchFile(archive).read()
    except ValueError:
        raise
    except Exception as error:  # zipfile has many types for what is no archive
        if memory.has_ended(error):
            raise
        raise ValueError(f"it is no file of torch.save: {type(error).__name__}") from error


class _TorchFile:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        (name,) = [name for name in archive.namelist() if re.fullmatch(r"[^/]*/data\.pkl", name)]
        self.folder = name.removesuffix("data.pkl")
        if f"{self.folder}byteorder" in archive.namelist():
            order = self._content(f"{self.folder}byteorder").decode("ascii", "replace")
            if order != sys.byteorder:
                raise ValueError(f"its byte order must be {sys.byteorder}, got {order!r:.20}")
        self.storages: dict[str, Tensor] = {}

    def read(self) -> Any:
        return self._plain(read_pickle(self._content(f"{self.folder}data.pkl"), _in_torch_file), 0)

    def _content(self, name: str) -> bytes:
        info = self.archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("it is none that torch wrote: compressed")
        return self.archive.read(info)

    def _plain(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (list, tuple):
            return type(value)(self._plain(one, depth + 1) for one in value)
        if type(value) is Pairs:
            if any(type(key) not in (int, str) for key, _ in value):
                raise ValueError("a key is neither text nor a number")
            return {key: self._plain(one, depth + 1) for key, one in value}
        if type(value) is Made and str(value.of) == REBUILD and value.state is None:
            return self._tensor(*value.arguments[:4])
        what = value.of if type(value) is Made else value
        raise ValueError(f"{ascii(str(what))[:80]} has no place in it")

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        kind, storage_type, key, _, count = _as(tuple, _as(Stored, storage).reference)
        dtype = STORAGES.get(_as(Name, storage_type).name)
        numbers = (offset, count, *_as(tuple, size), *_as(tuple, stride))
        good = kind == "storage" and storage_type.module == "torch" and dtype is not None
        if not good or len(size) != len(stride) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError("a tensor is not described as torch does it")
        assert dtype is not None
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if math.prod(size) > count or (math.prod(size) and end > count):
            raise ValueError("a tensor reaches beyond its storage")
        if not math.prod(size):
            return torch.empty(size, dtype=dtype, device="cpu")
        return self._storage(_as(str, key), dtype, count).as_strided(size, stride, offset)

    def _storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in self.storages:
            content = self._content(f"{self.folder}data/{key}")
            self.storages[key] = (
                torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, device="cpu")
            )
        found = self.storages[key]
        if len(found) != count * dtype.itemsize:
            raise ValueError(f"a storage must have {count * dtype.itemsize} bytes, got {len(found)}")
        return found.view(dtype)
