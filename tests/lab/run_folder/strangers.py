"""Checkpoints as an attacker makes them: with checksums that fit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tvlars.lab.files.disk import digest_of
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints import checkpoint


def seal(path: Path, **entries: Any) -> None:
    """Write a manifest of the files that are there, with digests that fit, and with ``entries`` in place of its own."""
    stored = {**json.loads((path / "manifest.json").read_text()), **entries}
    names = [file.name for file in path.iterdir() if file.name != "manifest.json"]
    stored["files"] = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in sorted(names)}
    stored["digest"] = digest_of(stored)
    (path / "manifest.json").write_text(json.dumps(stored))


def small_checkpoint(folder: Path, processes: Processes, tensors: dict[str, Any] | None = None) -> Path:
    """A checkpoint of one tensor in the run folder ``folder``."""
    given = {"model": {"w": torch.arange(6.0).reshape(2, 3)}} if tensors is None else tensors
    return checkpoint.save(folder, 4, given, {"step": 4, "pair": (0.5, None)}, {"plan": {}}, processes, keep=9)


def forged(manifest: checkpoint.Manifest, **entries: Any) -> checkpoint.Manifest:
    """``manifest`` with other entries, and a digest that fits."""
    other = replace(manifest, **entries)
    return replace(other, digest=digest_of(vars(other)))
