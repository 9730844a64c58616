"""Checkpoints as an attacker makes them: with checksums that fit, and of the format that earlier versions wrote."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from tvlars.lab.files.disk import digest_of
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints import checkpoint
from tvlars.lab.run_folder.checkpoints.tensors import read_chunk


def seal(path: Path, **entries: Any) -> None:
    """Write a manifest of the files that are there, with digests that fit, and with ``entries`` in place of its own."""
    stored = {**json.loads((path / "manifest.json").read_text()), **entries}
    names = [file.name for file in path.iterdir() if file.name != "manifest.json"]
    stored["files"] = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in sorted(names)}
    stored["digest"] = digest_of(stored)
    (path / "manifest.json").write_text(json.dumps(stored))


def as_format_1(path: Path) -> None:
    """Write the checkpoint ``path`` anew as versions did that pickled, with torch's own writer."""
    manifest = checkpoint.check(path)
    progress = checkpoint.read_progress(path, manifest)
    table = checkpoint.read_tensor_table(path, manifest)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name, entry in table.entries.items():
        part, _, rest = name.partition(".")
        (chunk,) = entry.chunks
        with open(path / chunk.file, "rb") as file:
            tensors.setdefault(part, {})[rest] = read_chunk(file, entry.dtype, chunk, old=False)
    for file in path.iterdir():
        if file.name != "manifest.json":
            file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_sharded(tensors, storage_writer=FileSystemWriter(path), no_dist=True)
    torch.save(progress, path / "progress.pt")
    seal(path, format=1)


def small_checkpoint(folder: Path, processes: Processes, tensors: dict[str, Any] | None = None) -> Path:
    """A checkpoint of one tensor in the run folder ``folder``."""
    given = {"model": {"w": torch.arange(6.0).reshape(2, 3)}} if tensors is None else tensors
    return checkpoint.save(folder, 4, given, {"step": 4, "pair": (0.5, None)}, {"plan": {}}, processes, keep=9)


def forged(manifest: checkpoint.Manifest, **entries: Any) -> checkpoint.Manifest:
    """``manifest`` with other entries, and a digest that fits."""
    other = replace(manifest, **entries)
    return replace(other, digest=digest_of(vars(other)))
