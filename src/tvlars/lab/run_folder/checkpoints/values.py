"""Numbers, texts, tensors and collections of them in two files: values as JSON, and the bytes of tensors.

JSON has no tuples, no keys that are numbers and no tensors. They are written as objects of one entry:

    {"tuple": [0.9, 0.999]}    {"dict": [[0, 1.5], ["lr", 0.1]]}    {"tensor": ["float32", [10], 4096]}

A tensor has its dtype, its shape and the position of its first byte.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import torch
from torch import Tensor

from tvlars._reading import parse_json

MAX_DEPTH = 32
"""Levels of nested values, far more than a state has."""
LARGEST = 2**63 - 1
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.complex64, torch.complex128),
    )
}


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype in ``DTYPES``."""
    return str(dtype).removeprefix("torch.")


def is_counts(*several: Any) -> bool:
    """Return True if each of ``several`` is a list or tuple of integers from 0 to 2^63 - 1, like a shape."""
    return all(
        type(values) in (list, tuple) and all(type(n) is int and 0 <= n <= LARGEST for n in values)
        for values in several
    )


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor: contiguous, in the byte order of this machine."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(raw)


def tensor_of(content: bytearray, dtype: torch.dtype, shape: Any = (-1,)) -> Tensor:
    """Return the tensor that :func:`bytes_of` turned into ``content``."""
    if not content:
        return torch.empty([max(n, 0) for n in shape], dtype=dtype, device="cpu")
    return torch.frombuffer(content, dtype=dtype).reshape(shape)


def encode(value: Any) -> tuple[bytes, bytes]:
    """Return ``value`` as JSON, and the bytes of its tensors."""
    data = io.BytesIO()

    def plain(one: Any) -> Any:
        if one is None or type(one) in (bool, int, float, str):
            return one
        if isinstance(one, Tensor):
            start = data.tell()
            data.write(bytes_of(one))
            return {"tensor": [name_of(one.dtype), list(one.shape), start]}
        if isinstance(one, dict):
            return {"dict": [[plain(key), plain(inner)] for key, inner in one.items()]}
        if isinstance(one, (tuple, list)):
            inside = [plain(inner) for inner in one]
            return inside if isinstance(one, list) else {"tuple": inside}
        raise TypeError(f"{type(one).__name__} is no value that can be kept")

    text = json.dumps(plain(value))
    return text.encode(), data.getvalue()


def decode(text: bytes, data: bytes) -> Any:
    """Return the value that :func:`encode` wrote; raise ``ValueError`` if it did not write this."""

    def value(one: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if type(one) is list:
            return [value(inner, depth + 1) for inner in one]
        if type(one) is not dict:
            return one
        kind, content = next(iter(one.items())) if len(one) == 1 else ("", [])
        if type(content) is not list:
            kind, content = "", []
        if kind == "tensor":
            return _tensor(content, data)
        if kind == "tuple":
            return tuple(value(inner, depth + 1) for inner in content)
        pairs = kind == "dict" and all(type(pair) is list and len(pair) == 2 for pair in content)
        keys = [_key(pair[0]) for pair in content] if pairs else [None]
        if all(map(is_key, keys)):
            return {key: value(inner, depth + 1) for key, (_, inner) in zip(keys, content, strict=True)}
        raise ValueError(f"an object must be a tuple, a dict or a tensor, got {ascii(one)[:40]}")

    return value(parse_json(text.decode()), 0)


def is_key(value: Any) -> bool:
    """Return True if ``value`` may be a key of a dictionary that is kept: an integer, text, or a tuple of these."""
    return type(value) in (int, str) or (type(value) is tuple and all(type(one) in (int, str) for one in value))


def _key(found: Any) -> Any:
    """Return a key from JSON, where a tuple is an object of one list."""
    inside = found.get("tuple") if type(found) is dict and len(found) == 1 else None
    return tuple(inside) if type(inside) is list else found


def _tensor(content: list[Any], data: bytes) -> Tensor:
    name, shape, start = content if len(content) == 3 else ("", [], -1)
    if type(name) is not str or name not in DTYPES or not is_counts(shape, [start]) or len(shape) > 64:
        raise ValueError(f"a tensor must be a dtype, a shape and a place, got {ascii(content)[:60]}")
    end = start + math.prod(shape) * DTYPES[name].itemsize
    if end > len(data):
        raise ValueError(f"a tensor must lie within its file of {len(data)} bytes, got {ascii(content)[:60]}")
    return tensor_of(bytearray(data[start:end]), DTYPES[name], shape)
