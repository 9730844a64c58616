"""Numbers, texts, tensors and collections of them in two files: the values in JSON, the bytes of tensors beside them.

JSON has no tuples, no keys that are numbers and no tensors. These are objects of one entry:

    {"tuple": [0.9, 0.999]}    {"dict": [[0, 1.5], ["lr", 0.1]]}    {"tensor": ["float32", [10], 4096]}

The last one is dtype, shape and the place of the first byte.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import torch
from torch import Tensor

from tvlars._reading import parse_json
from tvlars.lab.run_folder.checkpoints.shards import DTYPES, LARGEST, bytes_of, read_tensor

MAX_DEPTH = 32


def encode(value: Any) -> tuple[bytes, bytes]:
    """Return ``value`` as JSON, and the bytes of its tensors."""
    data = io.BytesIO()

    def plain(one: Any) -> Any:
        if one is None or type(one) in (bool, int, float, str):
            return one
        if isinstance(one, Tensor):
            dtype = str(one.dtype).removeprefix("torch.")
            assert dtype in DTYPES, dtype
            start = data.tell()
            data.write(bytes_of(one))
            return {"tensor": [dtype, list(one.shape), start]}
        if isinstance(one, dict):
            return {"dict": [[plain(key), plain(inner)] for key, inner in one.items()]}
        if isinstance(one, tuple):
            return {"tuple": [plain(inner) for inner in one]}
        if isinstance(one, list):
            return [plain(inner) for inner in one]
        raise TypeError(f"{type(one).__name__} is no value that can be kept")

    text = json.dumps(plain(value))
    return text.encode(), data.getvalue()


def decode(text: bytes, data: bytes) -> Any:
    """Return what :func:`encode` was given.

    Raises:
        ValueError: these are no such values.
    """
    found = parse_json(text.decode())

    def value(one: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if type(one) is list:
            return [value(inner, depth + 1) for inner in one]
        if type(one) is not dict:
            return one
        (kind, content), *rest = one.items() or [("", None)]
        if rest or type(content) is not list:
            raise ValueError(f"an object must be a tuple, a dict or a tensor, got {ascii(one)[:40]}")
        if kind == "tensor":
            return _tensor(content, data)
        if kind == "tuple":
            return tuple(value(inner, depth + 1) for inner in content)
        pairs = kind == "dict" and all(type(pair) is list and len(pair) == 2 for pair in content)
        if pairs and all(type(key) in (int, str) for key, _ in content):
            return {key: value(inner, depth + 1) for key, inner in content}
        raise ValueError(f"an object must be a tuple, a dict or a tensor, got {ascii(one)[:40]}")

    return value(found, 0)


def _tensor(content: list[Any], data: bytes) -> Tensor:
    name, shape, start = content if len(content) == 3 else (None, None, None)
    dtype = DTYPES.get(name) if type(name) is str else None
    good = dtype is not None and type(shape) is list and len(shape) <= 64
    if not good or not all(type(n) is int and 0 <= n <= LARGEST for n in (*shape, start)):  # type: ignore[misc]
        raise ValueError(f"a tensor must be a dtype, a shape and a place, got {ascii(content)[:60]}")
    assert dtype is not None
    length = math.prod(shape) * dtype.itemsize  # type: ignore[arg-type]
    if start + length > len(data):  # type: ignore[operator]
        raise ValueError(f"a tensor must lie within its file of {len(data)} bytes, got {ascii(content)[:60]}")
    if not length:
        return torch.empty(shape, dtype=dtype, device="cpu")  # type: ignore[arg-type]
    file = io.BytesIO(data)
    file.seek(start)  # type: ignore[arg-type]
    return read_tensor(file, dtype, tuple(shape))  # type: ignore[arg-type]
