"""Run folders below a folder, each read as one row: settings, and results from JSON files.

To list a thousand runs quickly, this module imports neither torch nor pandas, and reads neither tables nor weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvlars._reading import is_inside, read_json, reason
from tvlars._words import counted
from tvlars.lab.run_folder.rows import epochs_done
from tvlars.lab.run_folder.status import Status

IDENTITY = ("optimizer", "batch_size", "data", "epochs")
"""Options by which the config.json of a run is recognized."""
DONE = ("epochs", "steps")
"""Entries of summary.json on the progress of a run, which have the same names as settings."""
MOST_TEXT = 500
"""Most characters of a cell."""


@dataclass(frozen=True)
class Row:
    """A run in a list: cells by column, and the content of config.json."""

    settings: dict[str, Any]
    results: dict[str, Any]
    config: dict[str, Any]

    def get(self, column: str) -> Any:
        """Return the cell of a column: a number, text, True, False or None."""
        return self.settings[column] if column in self.settings else self.results.get(column)


class LeftOut:
    """Folders that are not listed, by reason."""

    def __init__(self) -> None:
        self.by_reason: dict[str, list[str]] = {}

    def add(self, why: str, path: str | Path) -> None:
        """Record that ``path`` is left out."""
        self.by_reason.setdefault(why, []).append(shown(str(path)))

    def lines(self) -> list[str]:
        """Return one line per reason, with the number of folders and the names of some."""
        lines = []
        for why, paths in self.by_reason.items():
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            lines.append(f"left out: {counted(len(paths), 'folder')}, {why}: {', '.join(paths[:3])}{more}")
        return lines


def read_runs(folder: Path, left_out: LeftOut) -> Iterator[Row]:
    """Yield each run below ``folder``, in the order of their paths.

    Hidden folders are not searched. Links to folders elsewhere are not followed, but added to ``left_out``, and so are
    folders that look like runs but cannot be read.
    """
    for place, folders, files in os.walk(folder, onerror=lambda error: left_out.add(reason(error), error.filename)):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        here, linked = Path(place), [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in linked:
            if not is_inside(here / name, folder):
                left_out.add("a link to another folder; name that folder to list it", here / name)
        rows = {"epochs.csv", "steps.csv"} <= set(files)
        if "config.json" not in files:
            if rows:
                left_out.add("config.json is missing", here)
                folders.clear()
            continue
        try:
            config = read_json(here / "config.json", here)
        except (OSError, ValueError) as error:
            left_out.add(f"config.json cannot be read ({reason(error)})", here)
            continue
        if isinstance(config, dict) and all(name in config for name in IDENTITY):
            folders.clear()  # a run folder contains no other runs
            yield read_run(here, config)
        elif rows or not (isinstance(config, dict) and "base" in config):  # a comparison has base
            left_out.add("config.json does not belong to a run", here)


def read_run(folder: Path, config: dict[str, Any]) -> Row:
    """Return a run with its settings, including planned values, and its results."""
    plan, environment = _object(folder / "plan.json") or {}, _object(folder / "environment.json") or {}
    settings: dict[str, Any] = {"folder": str(folder), "status": ""}
    for name, value in config.items():
        if value is None or value == "auto":
            value = plan.get(name, environment.get(name, value))
        settings.setdefault(name, _cell(value))
    results: dict[str, Any] = {"epochs_done": None}
    if os.path.lexists(folder / "summary.json"):
        summary = _object(folder / "summary.json")
        status = (summary or {}).get("status")
        settings["status"] = status if status in list(map(str, Status)) else "damaged"
        for name, value in (summary or {}).items():
            if name == "status" or (name in settings and name not in DONE):
                continue
            if isinstance(value, dict):
                results.update({f"{name}_{inner}": _cell(one) for inner, one in value.items()})
            else:
                results[f"{name}_done" if name in DONE else name] = _cell(value)
    else:
        settings["status"] = Status.UNFINISHED.value
    if results["epochs_done"] is None:
        results["epochs_done"] = epochs_done(folder)
    versions = environment.get("versions")
    for name in ("tvlars", "torch"):
        results[f"{name}_version"] = _cell(versions.get(name)) if isinstance(versions, dict) else None
    results.update({name: _cell(environment.get(name)) for name in ("device", "started")})
    return Row(settings, results, config)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key for natural order: s10 follows s9."""
    parts, digits = [], ""
    for sign in f"{name}\0":
        if sign.isascii() and sign.isdigit():
            digits += sign
            continue
        if digits:
            parts.append((int(digits[:18]), digits))
            digits = ""
        parts.append((-1, sign))
    return parts


def shown(text: str) -> str:
    """Return text for a terminal: one line without control characters, which untrusted folders may contain."""
    return "".join(sign if sign.isprintable() else " " for sign in text)[:MOST_TEXT]


def _object(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if it cannot be read."""
    try:
        found = read_json(file, file.parent)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _cell(value: Any) -> Any:
    """Return a value as a cell: a number, text, True, False or None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, list):
        return shown(" ".join(map(str, value))) or None
    return shown(str(value))
