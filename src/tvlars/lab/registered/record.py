"""Record of a protocol in the folder of its runs, written before the first run.

protocol.yaml             copy of the protocol's file
protocol.json             content of the protocol, planned runs, and time of the record
protocol-DIGEST.yaml      an earlier protocol of the folder, which was changed later
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tvlars._reading import read_json, reason
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import write_whole
from tvlars.lab.files.lock import LOCK
from tvlars.lab.run_folder.record import write_json

FILE, RECORD = "protocol.yaml", "protocol.json"
FILES = (FILE, RECORD)
"""Files that may be in a folder before its first run."""
OURS = {LOCK, "config.json", "sweep.json", "tune.json", "robustness.json", "scaling.json", "runs", *FILES}
"""File names in folders of commands that do many runs."""
DIGITS = 12
"""Digits of a digest in sentences."""


@dataclass(frozen=True)
class Planned:
    """Runs that a protocol plans, in a form for JSON."""

    command: str
    runs: tuple[dict[str, Any], ...]
    """Arm, and options that differ from their defaults, of each reported run."""
    searched: bool = False
    """True if options of runs come from a search; then only arms, batch sizes and seeds are compared."""
    declared: dict[str, Any] = field(default_factory=dict)
    """Values that the JSON files of the folder must have, such as family and margin."""
    trials: int = 0
    """Number of trials of each arm; 0 without a search."""
    widen: int = 0
    """Largest number of rounds of further trials."""


@dataclass(frozen=True)
class Registered:
    """Protocol that is recorded in a folder."""

    content: dict[str, Any]
    planned: Planned
    written: datetime.datetime
    """Time of the record."""
    changes: tuple[str, ...] = ()
    """Sentences on earlier protocols of the folder."""

    @property
    def name(self) -> str:
        """Name of the protocol."""
        return str(self.content.get("name", ""))

    @property
    def digest(self) -> str:
        """Digest of the protocol, computed from its content."""
        return digest_of(self.content)


def digest_of(content: Any) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of parsed content in canonical JSON.

    Keys are sorted, and equal numbers written alike: comments, order and layout of a file have no effect.
    """
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values: 8 and 8.0 are the same, true and 1 are not."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_registered(folder: Path) -> Registered | None:
    """Return the protocol that is recorded in a folder; None if there is none.

    Raises:
        UsageError: the record is damaged.
    """
    file = folder / RECORD
    try:
        stored = read_json(file, folder)
        planned = stored["planned"]
        runs = tuple(dict(one) for one in planned["runs"])
        written = datetime.datetime.fromisoformat(stored["written"])
        if written.tzinfo is None:
            raise ValueError("written has no time zone")
        content, changes = dict(stored["content"]), tuple(map(str, stored.get("changes", ())))
        return Registered(content, Planned(**{**planned, "runs": runs}), written, changes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{str(file)!r} must be the record of a protocol, but cannot be read: {reason(error)}"
        ) from error


def register(
    folder: Path,
    content: dict[str, Any],
    planned: Planned,
    text: bytes,
    *,
    allow_deviation: bool = False,
    beside: Sequence[str] = (),
) -> None:
    """Record a protocol in the folder of its runs before the first run; an existing record of it stays unchanged.

    Args:
        folder: new or empty folder, or the folder of an earlier call.
        content: content of the protocol's file.
        planned: runs that the protocol plans.
        text: bytes of the protocol's file.
        beside: deviations that are not visible in runs or tables, one clause each.
        allow_deviation: True to replace another recorded protocol, which is then a deviation.

    Raises:
        UsageError: the folder holds something else, or has another protocol.
    """
    there, mine = read_registered(folder), digest_of(content)
    if there is not None and there.digest == mine:
        if more := [one for one in beside if one not in there.changes]:
            _write(folder, content, there.planned, there.written, (*there.changes, *more))
        return
    changes: tuple[str, ...] = ()
    if there is not None:
        before, now = there.digest[:DIGITS], mine[:DIGITS]
        if not allow_deviation:
            raise UsageError(
                f"protocol must be the one that {str(folder)!r} started with, digest {before}, got one with digest "
                f"{now}: --allow-deviation (allow_deviation=True) continues, and records the change"
            )
        day = f"{datetime.datetime.now():%Y-%m-%d}"
        changes = (*there.changes, f"the protocol was changed on {day}, from digest {before} to {now}")
    elif folder.exists() and not (folder.is_dir() and _is_ours(folder)):
        raise UsageError(f"out must be a new or empty folder, or one of this protocol's runs, got {str(folder)!r}")
    make_folder(folder)
    if there is not None and (folder / FILE).is_file():
        (folder / FILE).replace(folder / f"protocol-{there.digest[:DIGITS]}.yaml")
    write_whole(folder / FILE, text)
    _write(folder, content, planned, datetime.datetime.now().astimezone(), (*changes, *beside))


def make_folder(folder: Path) -> None:
    """Make a folder of runs unless it exists; raise ``UsageError`` if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out must be a folder that can be written, got {str(folder)!r}: {error.strerror}") from error


def _write(
    folder: Path, content: dict[str, Any], planned: Planned, written: datetime.datetime, changes: Sequence[str]
) -> None:
    said = {"name": content.get("name"), "digest": digest_of(content), "written": written.isoformat(timespec="seconds")}
    write_json(folder / RECORD, {**said, "changes": list(changes), "content": content, "planned": asdict(planned)})


def _is_ours(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return not names or bool(names & OURS)


def digest_entry(folder: Path) -> dict[str, str]:
    """Return the entry with the protocol's digest for a folder's JSON files; {} without a protocol."""
    there = read_registered(folder)
    return {} if there is None else {"protocol_digest": there.digest}
