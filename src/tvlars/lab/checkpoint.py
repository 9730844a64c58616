"""Checkpoints: all that a run needs to go on as if nothing had happened, on disk whole or not at all.

    RUN/checkpoints/000000120/      after optimizer step 120
        .metadata, __R_K.distcp     weights and optimizer state, by torch.distributed.checkpoint: each process writes
                                    its shards, and any number of processes can read them
        progress.pt                 the rest: position, random states, rows, options of the optimizer
        manifest.json               what run this is of, and the SHA-256 of every file

A checkpoint is written into a folder of another name, synced, and renamed when its manifest is there. Reading one
executes no code: torch's files are read with ``weights_only=True``, and the metadata by an unpickler that knows the
classes of such metadata alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from tvlars import __version__
from tvlars.lab.disk import sync, write_synced
from tvlars.lab.errors import UsageError
from tvlars.lab.processes import Processes

FORMAT = 1
FOLDER = "checkpoints"
PART = ".part"
OLD = ".old.part"
METADATA = ".metadata"
T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself."""

    format: int
    step: int
    processes: int
    tvlars: str
    torch: str
    run: dict[str, Any]
    """Options and plan of the run."""
    files: dict[str, str]
    """SHA-256 of every other file, by name."""
    digest: str = ""
    """SHA-256 of the rest of the manifest."""


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Any],
    progress: dict[str, Any],
    run: dict[str, Any],
    processes: Processes,
    keep: int,
) -> Path:
    """Write the checkpoint of ``step`` below the run folder ``folder``; all processes call it.

    Args:
        folder: run folder.
        step: optimizer steps taken.
        tensors: weights and optimizer state, nested by name; sharded ones are written by those who hold them.
        progress: the rest, of the first process; whatever ``torch.load(weights_only=True)`` gives back.
        run: what is to be the same in a run that goes on from it.
        processes: those of the run.
        keep: newest checkpoints that are kept.

    Raises:
        OSError: it could not be written; those that were there are untouched.
    """
    final = folder / FOLDER / f"{step:09d}"
    part = final.with_name(final.name + PART)

    def finish() -> None:
        digests = {name: digest for some in found for name, digest in some.items()}
        content = io.BytesIO()
        torch.save(progress, content)
        write_synced(part / "progress.pt", content.getvalue())
        digests.update({name: _digest(part / name) for name in (METADATA, "progress.pt")})
        manifest = Manifest(FORMAT, step, processes.count, __version__, torch.__version__, run, digests)
        manifest = replace(manifest, digest=digest_of(vars(manifest)))
        write_synced(part / "manifest.json", json.dumps(vars(manifest), indent=1, default=str).encode())
        sync(part)
        _put_in_place(part)
        sync(final.parent)
        _prune(final, keep)

    try:
        together(processes, lambda: _fresh(part))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process is as it should be
            save_sharded(tensors, storage_writer=_Writer(part), no_dist=not processes.several)
        found = _of_all(processes, lambda: _digests(part.glob(f"__{processes.rank}_*")))
        together(processes, finish)
    except (Exception, CheckpointException) as error:
        if processes.first:
            shutil.rmtree(part, ignore_errors=True)
        cause = _os_error(error)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(final)) from error
    return final


def together(processes: Processes, work: Callable[[], object]) -> None:
    """Do ``work`` in the first process; all of them raise ``OSError`` where it does."""
    _of_all(processes, work if processes.first else lambda: None)


def _of_all(processes: Processes, work: Callable[[], T]) -> list[T]:
    """What ``work`` gives in each process; all of them raise ``OSError`` where one does."""
    result: Any = None
    failed: tuple[Any, ...] | None = None
    try:
        result = work()
    except OSError as error:
        failed = error.errno, error.strerror or str(error), error.filename
    found = processes.gather((result, failed))
    for _, reason in found:
        if reason is not None:
            raise OSError(*reason)
    return [one for one, _ in found]


class _Writer(FileSystemWriter):
    """Says what the disk said. From here an error goes to the other processes without what it came from."""

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().write_data(*args, **kwargs)
        except Exception as error:
            cause = _os_error(error)
            if cause is None and any(word in str(error) for word in ("inline_container", "PytorchStreamWriter")):
                # Its own writer, closing a file that has no room.
                cause = OSError(errno.EIO, str(error).splitlines()[0])
            if cause is None:
                raise
            raise OSError(cause.errno, cause.strerror or str(cause)) from error


def newest(folder: Path, tell: Callable[[str], None]) -> tuple[Path, Manifest] | None:
    """The newest good checkpoint of the run folder ``folder``, None where there is none at all; ``tell`` hears of
    those that are damaged.

    Raises:
        UsageError: all that there are are damaged, the newest good one is of a version that cannot be read, or one may
            not be read.
    """
    damaged = []
    finish_putting(folder)
    for path in reversed(those_in(folder)):
        try:
            return path, check(path)
        except PermissionError as error:  # which says nothing of what it holds
            raise UsageError(f"{path} must be a checkpoint that can be read, but is not: {error.strerror}") from error
        except UsageError:
            raise
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
            damaged.append(f"{path.name} ({reason})")
            tell(f"checkpoint {path.name} is damaged ({reason}), the one before it is tried")
    if damaged:
        raise UsageError(
            f"{folder / FOLDER} must hold a good checkpoint to go on from, but all are damaged: {', '.join(damaged)}. "
            "Move the run folder away to begin anew."
        )
    return None


def those_in(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, good or not; those that were never finished are none.

    Raises:
        UsageError: there is a place for them that cannot be looked into.
    """
    there = folder / FOLDER
    try:
        paths = [there / name for name in sorted(os.listdir(there))]
        return [path for path in paths if path.name[0].isdigit() and path.suffix != PART and path.is_dir()]
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(there):
            return []
        raise UsageError(f"{there} must be a folder of checkpoints, but cannot be read: {error.strerror}") from error


def check(path: Path) -> Manifest:
    """The manifest of a checkpoint whose files are all as they were written.

    Raises:
        ValueError: one is not.
        UsageError: it is as it was written, by a version that wrote otherwise.
    """
    stored = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or "digest" not in stored or "format" not in stored:
        raise ValueError("manifest.json lacks entries")
    if stored["digest"] != digest_of(stored):
        raise ValueError("manifest.json is not as it was written")
    if stored["format"] != FORMAT:
        raise UsageError(
            f"{path} must be a checkpoint of format {FORMAT}, which tvlars {__version__} reads, but is of format "
            f"{stored['format']}, written by tvlars {stored.get('tvlars')}"
        )
    if set(stored) != set(Manifest.__dataclass_fields__):
        raise ValueError("manifest.json lacks entries")
    manifest = Manifest(**stored)
    if not isinstance(manifest.files, dict) or not isinstance(manifest.run, dict):
        raise ValueError("manifest.json has entries of the wrong kind")
    for name, digest in manifest.files.items():
        if Path(name).name != name or _digest(path / name) != digest:
            raise ValueError(f"{name} is not as it was written")
    return manifest


def digest_of(entries: dict[str, Any]) -> str:
    """SHA-256 of all entries of a manifest but ``digest``: made so in every format, so that damage is told from age."""
    rest = {name: value for name, value in entries.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()


def read_progress(path: Path) -> dict[str, Any]:
    """What a checkpoint has besides weights and optimizer state.

    Raises:
        UsageError: it holds something else, code for instance.
    """
    try:
        found = torch.load(path / "progress.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many types for a bad file
        raise UsageError(f"{path / 'progress.pt'} must hold numbers and tensors alone, but does not") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path / 'progress.pt'} must hold a mapping, got {type(found).__name__}")
    return found


def load_tensors(path: Path, tensors: dict[str, Any], processes: Processes) -> None:
    """Fill ``tensors``, nested as they were saved, in place.

    Raises:
        UsageError: the checkpoint has others, by name or shape, and says which.
    """
    reader = _Reader(path)
    try:
        there = {name: tuple(entry.size) for name, entry in reader.read_metadata().state_dict_metadata.items()}  # type: ignore[union-attr]
    except Exception as error:  # an unpickler has many for what is no pickle, MemoryError among them
        raise UsageError(f"{path / METADATA} must describe tensors alone, but does not") from error
    here = {f"{part}.{name}": tuple(value.shape) for part, some in tensors.items() for name, value in some.items()}
    different = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if different:
        name = different[0]
        raise UsageError(
            f"{path} must be a checkpoint of this model, but {len(different)} tensors differ: {name} is "
            f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_sharded(tensors, storage_reader=_Reader(path), no_dist=not processes.several)
    except (Exception, CheckpointException) as error:  # its files tell one thing and hold another
        raise UsageError(f"{path} must hold the tensors that it describes, but they cannot be read") from error


class _Reader(FileSystemReader):
    """Reads the metadata of tensors, and refuses to make anything else of it.

    torch's own reader unpickles the metadata, which may execute anything; entries that are no tensors would be
    unpickled in the same way, so their class is not among those that are known.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / METADATA, "rb") as file:
            metadata = _TensorMetadata(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("no metadata of a checkpoint")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _TensorMetadata(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in ("PosixPath", "WindowsPath"):  # where it was written, which plays no part
            return PurePath
        known = {
            ("torch.distributed.checkpoint.metadata", part)
            for part in (
                *("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
                *("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
            )
        } | {
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("collections", "OrderedDict"),
        }
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in known or is_dtype:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in metadata of tensors")


def _put_in_place(part: Path) -> None:
    """Give a complete checkpoint its name. One of the same step makes room first, and is there until then."""
    final = part.with_name(part.name.removesuffix(PART))
    old = final.with_name(f"{final.name}{OLD}")
    _remove(old)
    if os.path.lexists(final):
        os.replace(final, old)
    os.replace(part, final)
    _remove(old)


def finish_putting(folder: Path) -> None:
    """Do what is left of :func:`_put_in_place` in the run folder ``folder``, where it was cut off between its two
    renames; whoever resumes calls it before it asks what checkpoints there are."""
    for ending in (PART, OLD):  # the new one before the old one
        for left in (folder / FOLDER).glob(f"[0-9]*{ending}"):
            final = left.with_name(left.name.removesuffix(ending))
            if final.name.isdigit() and not os.path.lexists(final):
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
                    check(left)  # else it was cut off before: it is swept away by the next save
                    os.replace(left, final)
                    _remove(final.with_name(f"{final.name}{OLD}"))


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _fresh(part: Path) -> None:
    _remove(part)
    part.mkdir(parents=True)


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: _digest(file) for file in files}


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        found = hashlib.sha256()
        while block := content.read(2**22):
            found.update(block)
        return found.hexdigest()


def _prune(newest: Path, keep: int) -> None:
    """Take away all but the newest, and what was begun and not finished.

    Those of later steps do not count: the run went on from before them, since they were damaged.
    """
    done = sorted(path for path in newest.parent.glob("[0-9]*") if not path.name.endswith(PART))
    done = [path for path in done if path.name <= newest.name]
    for path in [*done[:-keep], *newest.parent.glob(f"*{PART}")]:
        shutil.rmtree(path, ignore_errors=True)


def _os_error(error: BaseException) -> OSError | None:
    """The error of the disk behind what torch made of it."""
    if isinstance(error, OSError):
        return error
    inner: list[BaseException] = [e for e in (error.__cause__, error.__context__) if e is not None]
    for failure in getattr(error, "failures", {}).values():  # of each rank, with a traceback
        inner.append(failure[0] if isinstance(failure, tuple) else failure)
    for one in inner:
        if (found := _os_error(one)) is not None:
            return found
    return None
