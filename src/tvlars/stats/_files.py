"""Layer statistics as a frame, and in a folder of Parquet files."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tvlars.stats._record import QUANTITIES, Table

if TYPE_CHECKING:
    import pandas as pd


def read_layer_stats(path: str | Path) -> pd.DataFrame:
    """What a :class:`LayerStats` wrote to the folder ``path``: columns step, layer, quantity and value.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    pandas = _needed("pandas")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"path must be a folder of layer statistics, got {path}")
    parts = [pandas.read_parquet(file) for file in sorted(path.glob("*.parquet"))]
    frame: pd.DataFrame = pandas.concat(parts, ignore_index=True) if parts else as_frame([], [])
    return frame


def open_folder(path: Path, start: int) -> None:
    """Make the folder, or take the records of steps after ``start`` out of it."""
    pandas = _needed("pandas")
    _needed("pyarrow")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if files and not start:
        raise ValueError(f"path must hold no records where start is 0, got {path} with {files[0].name}")
    for file in files:
        frame = pandas.read_parquet(file)
        kept = frame[frame["step"] <= start]
        if kept.empty:
            file.unlink()
        elif len(kept) < len(frame):
            write_parquet(file, kept)
    path.mkdir(parents=True, exist_ok=True)


def as_frame(done: list[Table], names: list[str]) -> pd.DataFrame:
    """The tables of some steps in long form."""
    pandas = _needed("pandas")
    parts = [known.nonzero() for _, _, known in done]
    places = torch.cat([torch.empty(0, 2, dtype=torch.int64), *parts])
    steps = torch.tensor([step for step, _, _ in done], dtype=torch.int64)
    counts = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    frame: pd.DataFrame = pandas.DataFrame(
        {
            "step": steps.repeat_interleave(counts).numpy(),
            "layer": pandas.Categorical.from_codes(places[:, 0].numpy(), categories=names),
            "quantity": pandas.Categorical.from_codes(places[:, 1].numpy(), categories=QUANTITIES),
            "value": torch.cat([torch.empty(0), *(table[known] for _, table, known in done)]).numpy(),
        }
    )
    return frame


def write_parquet(file: Path, frame: pd.DataFrame) -> None:
    """Write ``frame`` so that the file is there whole or not at all."""
    part = file.with_suffix(".part")
    try:
        frame.to_parquet(part, index=False)
        with open(part, "r+b") as written:
            os.fsync(written.fileno())
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)  # a full disk has no room for it
        raise


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"layer statistics as a frame or in files need {name}: pip install 'tvlars[lab]'") from error
