"""Checkpoints: the complete state of a run, from which it resumes bit-exactly; each is on disk whole or not at all.

    RUN/checkpoints/000000120/          after optimizer step 120
        tensors.json, tensors-R.bin     weights and optimizer state, see tensors.py
        progress.json, progress.bin     the rest: position, random states, rows, options of the optimizer, see values.py
        manifest.json                   identity of the run, and the SHA-256 of every file

A checkpoint is written into a folder of another name, synced, and renamed once it is complete. Reading one executes no
code, whoever wrote it: all files are JSON or raw bytes. Format 1 used pickles (.metadata, __R_K.distcp, progress.pt),
which are read as plain data, see pickles.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tvlars import __version__
from tvlars._reading import open_regular, read_bytes, read_json, reason
from tvlars.lab import memory
from tvlars.lab.errors import MovedFolderError, UsageError
from tvlars.lab.files.disk import DIGEST, digest_of, sync, write_synced
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints import tensors as stored
from tvlars.lab.run_folder.checkpoints.pickles import read_torch_file
from tvlars.lab.run_folder.checkpoints.tensors import DATA, OLD_DATA, OLD_TABLE, TABLE, Table, read_table
from tvlars.lab.run_folder.checkpoints.values import decode, encode, name_of

FORMAT = 2
OLD_FORMAT = 1
"""Read, but not written any more."""
FOLDER = "checkpoints"
PART = ".part"
OLD = ".old.part"
PROGRESS = ("progress.json", "progress.bin")
OLD_PROGRESS = "progress.pt"
MAX_PROCESSES = 2**20
FILES: dict[int, tuple[tuple[str, ...], re.Pattern[str]]] = {
    FORMAT: ((TABLE, *PROGRESS), DATA),
    OLD_FORMAT: ((OLD_TABLE, OLD_PROGRESS), OLD_DATA),
}
"""Files of a checkpoint besides its manifest: the required ones, and a pattern for those of the processes."""
DAMAGE = (OSError, ValueError, TypeError, KeyError, RecursionError)
"""Errors that :func:`check` raises for a damaged checkpoint."""


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json."""

    format: int
    step: int
    processes: int
    tvlars: str
    torch: str
    run: dict[str, Any]
    """Identity of the run, and the fingerprint of its data."""
    files: dict[str, str]
    """SHA-256 of every other file, by name."""
    digest: str = ""
    """SHA-256 of the rest of the manifest."""


# -- writing ----------------------------------------------------------------------------------------------------------


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Any],
    progress: dict[str, Any],
    run: dict[str, Any],
    processes: Processes,
    keep: int,
    check_place: Callable[[], None] = lambda: None,
) -> Path:
    """Write the checkpoint of ``step`` below the run folder ``folder``, in all processes.

    Args:
        tensors: nested by name; each process writes the shards that it has.
        progress: the rest of the state, written by the first process.
        run: identity of the run, which must not change when it resumes.
        keep: number of newest checkpoints that are kept.
        check_place: called before each write; it raises ``MovedFolderError`` if the folder was moved or replaced.

    Raises:
        OSError: it could not be written; earlier checkpoints are untouched.
    """
    final = folder / FOLDER / f"{step:09d}"
    part = final.with_name(final.name + PART)

    def begin() -> None:
        check_place()
        _remove(part)
        part.mkdir(parents=True)

    def write() -> tuple[dict[str, Any], dict[str, str]]:
        entries = stored.write(part, processes.rank, processes.count, _flat(tensors))
        return entries, _digests([part / f"tensors-{processes.rank}.bin"])

    def finish() -> None:
        check_place()
        contents = (stored.table_of([entries for entries, _ in written]), *encode(progress))
        for name, content in zip((TABLE, *PROGRESS), contents, strict=True):
            write_synced(part / name, content)
        digests = {name: digest for _, some in written for name, digest in some.items()}
        digests.update(_digests(part / name for name in (TABLE, *PROGRESS)))
        manifest = Manifest(FORMAT, step, processes.count, __version__, torch.__version__, run, digests)
        manifest = replace(manifest, digest=digest_of(vars(manifest)))
        write_synced(part / "manifest.json", json.dumps(vars(manifest), indent=1, default=str).encode())
        sync(part)
        _put_in_place(part)
        sync(final.parent)
        _prune(final, keep)

    try:
        processes.by_first(begin)
        written = processes.each(write)
        processes.by_first(finish)
    except Exception as error:
        if processes.first:
            with contextlib.suppress(OSError, MovedFolderError):
                check_place()
                shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(final)) from error
        raise
    return final


def _flat(tensors: dict[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for part, some in tensors.items() for name, value in some.items()}


def _put_in_place(part: Path) -> None:
    """Give a complete checkpoint its name. An earlier one of the same step is renamed first, and removed afterwards."""
    final = part.with_name(part.name.removesuffix(PART))
    old = final.with_name(f"{final.name}{OLD}")
    _remove(old)
    if os.path.lexists(final):
        os.replace(final, old)
    os.replace(part, final)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: _digest(file) for file in files}


def _digest(file: Path) -> str:
    with open_regular(file) as content:
        found = hashlib.sha256()
        while block := content.read(2**22):
            found.update(block)
        return found.hexdigest()


def _prune(newest: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, and incomplete ones.

    Checkpoints of later steps are left alone: they are damaged, which is why the run resumed from before them.
    """
    done = sorted(path for path in newest.parent.glob("[0-9]*") if not path.name.endswith(PART))
    done = [path for path in done if path.name <= newest.name]
    for path in [*done[:-keep], *newest.parent.glob(f"*{PART}")]:
        shutil.rmtree(path, ignore_errors=True)


# -- finding -----------------------------------------------------------------------------------------------------------


def newest(folder: Path, tell: Callable[[str], None]) -> tuple[Path, Manifest] | None:
    """Return the newest good checkpoint of a run folder, None if it has none; ``tell`` gets a sentence per damaged one.

    Raises ``UsageError`` if all are damaged, or if one must not be read or is of an unknown version.
    """
    damaged = []
    for path in reversed(those_in(folder)):
        try:
            return path, check(path)
        except PermissionError as error:  # its content may be good
            raise UsageError(f"{path} must be a checkpoint that can be read, but is not: {error.strerror}") from error
        except UsageError:
            raise
        except DAMAGE as error:
            why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
            damaged.append(_shown(f"{path.name} ({why})"))
            tell(_shown(f"checkpoint {path.name} is damaged ({why}), the run tries the one before it"))
    if damaged:
        raise UsageError(
            f"{folder / FOLDER} must hold a good checkpoint to go on from, but all are damaged: {', '.join(damaged)}. "
            "Move the run folder away to begin anew."
        )
    return None


def those_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a run folder, oldest first, good or damaged, without incomplete ones.

    A complete one that :func:`_put_in_place` could not rename, since the process was killed, is returned under its
    temporary name. Raises ``UsageError`` if their folder cannot be read, or is a link: nothing is written or removed
    through links.
    """
    there = folder / FOLDER
    try:
        paths = [there / name for name in sorted(os.listdir(there))]
        if there.is_symlink():
            raise UsageError(
                f"{there} must be a folder of checkpoints, but is a link: put the folder itself there, since nothing "
                "is written or taken away through a link"
            )
        named = [path for path in paths if path.name[0].isdigit() and path.suffix != PART and path.is_dir()]
        return sorted([*named, *_unnamed(paths).values()], key=lambda path: path.name.partition(".")[0])
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(there):
            return []
        raise UsageError(f"{there} must be a folder of checkpoints, but cannot be read: {error.strerror}") from error


def _unnamed(paths: list[Path]) -> dict[str, Path]:
    """Return the complete checkpoints among ``paths`` that have a temporary name, by their final names."""
    found: dict[str, Path] = {}
    for ending in (PART, OLD):  # the new one before the old one
        for path in paths:
            name = path.name.removesuffix(ending)
            if path.name != name and name.isdigit() and name not in found and not os.path.lexists(path.with_name(name)):
                with contextlib.suppress(*DAMAGE):
                    check(path)  # an incomplete one is removed by the next save
                    found[name] = path
    return found


def finish_putting(folder: Path) -> None:
    """Finish a :func:`_put_in_place` during which the process was killed; called after the state is loaded."""
    for name, path in _unnamed(sorted((folder / FOLDER).glob(f"[0-9]*{PART}"))).items():
        with contextlib.suppress(OSError):
            os.replace(path, path.with_name(name))
            _remove(path.with_name(f"{name}{OLD}"))


def check(path: Path) -> Manifest:
    """Return the manifest of a checkpoint after comparing all files with their checksums.

    Raises one of ``DAMAGE`` if it is damaged, ``UsageError`` if its format is unknown.
    """
    stored = read_json(path / "manifest.json")
    if not isinstance(stored, dict) or "digest" not in stored or "format" not in stored:
        raise ValueError("manifest.json lacks entries")
    if stored[DIGEST] != digest_of(stored):
        raise ValueError("manifest.json does not match its checksum")
    if stored["format"] not in (FORMAT, OLD_FORMAT):
        raise UsageError(
            f"{path} must be a checkpoint of format {FORMAT} or {OLD_FORMAT}, which tvlars {__version__} reads, but is "
            f"of format {ascii(stored['format'])[:20]}, written by tvlars {ascii(stored.get('tvlars'))[:40]}"
        )
    if set(stored) != set(Manifest.__dataclass_fields__):
        raise ValueError("manifest.json lacks entries")
    manifest = Manifest(**stored)
    kinds = {"format": int, "step": int, "processes": int, "files": dict, "run": dict}
    if any(type(stored[name]) is not kind for name, kind in kinds.items()):
        raise ValueError("manifest.json has entries of the wrong kind")
    if manifest.step != int(path.name.partition(".")[0]) or not 1 <= manifest.processes <= MAX_PROCESSES:
        raise ValueError(f"manifest.json is of step {manifest.step} and {manifest.processes} processes")
    needed, data = FILES[manifest.format]
    if missing := [name for name in needed if name not in manifest.files]:
        raise ValueError(f"manifest.json lacks {', '.join(missing)}")
    for name, digest in manifest.files.items():
        if name not in needed and not data.fullmatch(name):
            raise ValueError(f"manifest.json names {ascii(name)[:40]}, which is no part of a checkpoint")
        if _digest(path / name) != digest:
            raise ValueError(f"{name} does not match its checksum")
    return manifest


# -- reading ----------------------------------------------------------------------------------------------------------


def progress_file(path: Path, manifest: Manifest) -> Path:
    """Return the file with the progress of the run."""
    return path / (OLD_PROGRESS if manifest.format == OLD_FORMAT else PROGRESS[0])


def read_progress(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the progress in a checkpoint; raise ``UsageError`` if it holds anything but plain data and tensors."""
    file, found = progress_file(path, manifest), None
    with _one_sentence(f"{file} must hold numbers and tensors alone, but does not"):
        if manifest.format == OLD_FORMAT:
            with open_regular(file) as content:
                found = read_torch_file(content)
        else:
            found = decode(*(read_bytes(path / name, most=2**40) for name in PROGRESS))
    if not isinstance(found, dict):
        raise UsageError(f"{file} must hold a mapping, got {type(found).__name__}")
    return found


def read_tensor_table(path: Path, manifest: Manifest) -> Table:
    """Return the table of tensors; raise ``UsageError`` if one is not within the checkpoint's files."""
    old = manifest.format == OLD_FORMAT
    with _one_sentence(f"{path / (OLD_TABLE if old else TABLE)} must describe tensors alone, but does not"):
        return read_table(path, manifest.files, old)


def load_tensors(path: Path, table: Table, tensors: dict[str, Any]) -> None:
    """Fill ``tensors``, nested as they were saved; raise ``UsageError`` if names, shapes or dtypes differ."""
    there = {name: (entry.shape, entry.dtype) for name, entry in table.entries.items()}
    values = _flat(tensors)
    here = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
    different = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if different:
        name = different[0]
        raise UsageError(
            f"{path} must be a checkpoint of this model, but {len(different)} tensors differ: {ascii(name)[1:-1]:.120} "
            f"is {_described(there.get(name))} there and {_described(here.get(name))} here"
        )
    with _one_sentence(f"{path} must hold the tensors that it describes, but they cannot be read"):
        stored.load(path, table, values)


def _described(tensor: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing" if tensor is None else f"{tensor[0]} {name_of(tensor[1])}"


def _shown(text: str) -> str:
    """Text with names from a folder, control characters escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


@contextlib.contextmanager
def _one_sentence(sentence: str) -> Iterator[None]:
    """Raise ``UsageError`` in place of any error inside but the end of memory, control characters escaped."""
    try:
        yield
    except Exception as error:  # torch raises many types for invalid tensors
        if memory.has_ended(error):
            raise
        raise UsageError(f"{sentence}: {ascii(reason(error))[1:-1]}") from error
