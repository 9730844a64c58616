"""Layer statistics as a data frame, and in a folder of Parquet files."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tvlars._reading import open_regular, reason
from tvlars.stats._record import QUANTITIES, Table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("step", "layer", "quantity", "value")
MOST_ROWS = 10**8
"""Most rows of a file; a file holds 64 recorded steps, six quantities and all layers."""


def read_layer_stats(path: str | Path) -> pd.DataFrame:
    """Return the records of a :class:`LayerStats` in the folder ``path``: columns step, layer, quantity and value.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: a file in it is no regular file, is a link that leaves the folder, or cannot be read.
        ValueError: a file in it holds no layer statistics; the message names the file.
    """
    pandas = _needed("pandas")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"path must be a folder of layer statistics, got {path}")
    parts = [_read(file) for file in _files(path)]
    frame: pd.DataFrame = pandas.concat(parts, ignore_index=True) if parts else as_frame([], [])
    return frame


def open_folder(path: Path, start: int) -> None:
    """Make the folder, or remove the records of steps after ``start`` from it."""
    _needed("pandas")
    _needed("pyarrow")
    files = _files(path) if path.is_dir() else []
    if files and not start:
        raise ValueError(f"path must hold no records where start is 0, got {path} with {files[0].name}")
    frames = [_read(file) for file in files]  # all files, before any is changed
    for file, frame in zip(files, frames, strict=True):
        kept = frame[frame["step"] <= start]
        if kept.empty:
            file.unlink()
        elif len(kept) < len(frame):
            write_parquet(file, kept)
    path.mkdir(parents=True, exist_ok=True)


def _files(folder: Path) -> list[Path]:
    """Return the files of records in a folder, in order, without hidden ones, which macOS leaves on some disks."""
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))


def _read(file: Path) -> pd.DataFrame:
    """Return the rows of an untrusted file: four columns of known types, without the file's own metadata."""
    parquet, types = _needed("pyarrow.parquet"), _needed("pyarrow").types
    with open_regular(file, file.parent) as opened:
        try:
            content = parquet.ParquetFile(opened)
            rows, schema = content.metadata.num_rows, content.schema_arrow
            if sorted(schema.names) != sorted(COLUMNS):
                raise ValueError(f"its columns must be {', '.join(COLUMNS)}, got {', '.join(schema.names)}")
            kinds = {name: schema.field(name).type for name in COLUMNS}
            for name in ("layer", "quantity"):
                if types.is_dictionary(kinds[name]):
                    kinds[name] = kinds[name].value_type
                if not (types.is_string(kinds[name]) or types.is_large_string(kinds[name])):
                    raise ValueError(f"{name} must be text, got {kinds[name]}")
            if not types.is_signed_integer(kinds["step"]) or not types.is_floating(kinds["value"]):
                raise ValueError(f"step must be an integer and value a number, got {kinds['step']}, {kinds['value']}")
            if rows > MOST_ROWS:
                raise ValueError(f"it has {rows:,} rows, more than {MOST_ROWS:,}")
            table = content.read(columns=list(COLUMNS), use_pandas_metadata=False).replace_schema_metadata(None)
            if any(column.null_count for column in table.columns):
                raise ValueError("it has rows that are not whole")
            frame: pd.DataFrame = table.select(list(COLUMNS)).to_pandas()
            if len(frame) and int(frame["step"].min()) < 1:
                raise ValueError(f"step must be >= 1, got {frame['step'].min()}")
            return frame
        except Exception as error:  # pyarrow has many types for a damaged file
            raise ValueError(f"{file} must hold layer statistics, but does not: {reason(error)}") from error


def as_frame(done: list[Table], names: list[str]) -> pd.DataFrame:
    """Return the tables of some steps in long form."""
    pandas = _needed("pandas")
    parts = [known.nonzero() for _, _, known in done]
    places = torch.cat([torch.empty(0, 2, dtype=torch.int64, device="cpu"), *parts])
    steps = torch.tensor([step for step, _, _ in done], dtype=torch.int64, device="cpu")
    counts = torch.tensor([len(part) for part in parts], dtype=torch.int64, device="cpu")
    frame: pd.DataFrame = pandas.DataFrame(
        {
            "step": steps.repeat_interleave(counts).numpy(),
            "layer": pandas.Categorical.from_codes(places[:, 0].numpy(), categories=names),
            "quantity": pandas.Categorical.from_codes(places[:, 1].numpy(), categories=QUANTITIES),
            "value": torch.cat(
                [torch.empty(0, dtype=torch.float32, device="cpu"), *(table[known] for _, table, known in done)]
            ).numpy(),
        }
    )
    return frame


def write_parquet(file: Path, frame: pd.DataFrame) -> None:
    """Write ``frame`` so that the file is complete or does not exist."""
    part = file.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)
        with open(part, "xb") as written:  # never through an existing link
            frame.to_parquet(written, index=False)
            written.flush()
            os.fsync(written.fileno())
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)  # the disk may be full
        raise


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"layer statistics as a frame or in files need {name}: pip install '.[lab]' in the source folder"
        ) from error
