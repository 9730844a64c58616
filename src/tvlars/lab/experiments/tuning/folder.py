"""Folder of a tuning: the content of tune.json, and the check that the folder is that of the same tuning.

Calls may name other optimizers than earlier ones; each optimizer keeps its space and its trials.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvlars._reading import read_json, reason
from tvlars.lab.config import MEANS
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.data.place import same_name
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.results import SweepResult, write_table
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.objective import ACCURACY, MAXIMIZE, Objective
from tvlars.lab.experiments.tuning.space import Space
from tvlars.lab.experiments.tuning.trial import Trial, Tuned
from tvlars.lab.files.lock import LOCK
from tvlars.lab.options import given
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.identity import FINGERPRINT, check_data
from tvlars.lab.run_folder.record import write_json

OBJECTIVE, DIRECTION = "objective", "direction"
"""Entries of tune.json on the value that trials are chosen by: its name, and maximize or minimize."""
FILE, JOURNAL, TRIALS = "tune.json", "study.journal", "trials.csv"
RESULTS = ("trials", "spent", "best", "seeds", "results")
"""Entries of tune.json that are written when all is done."""


@dataclass(frozen=True)
class Stored:
    """Content of tune.json: the spaces of all optimizers that were tuned here, and the results of the newest call that
    came to its end."""

    data: Fingerprint
    """Fingerprint of the data, the same for all calls."""
    space: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, said: dict[str, Any], results: dict[str, Any] | None = None) -> None:
        """Write tune.json with the identity ``said``, and with new results if there are any."""
        more = {"space": {**self.space, **said["space"]}, FINGERPRINT: self.data.as_json()}
        write_json(folder / FILE, {"command": command_line(), **said, **more, **(results or self.results)})


def identity(config: TuneConfig, spaces: dict[str, Space], objective: Objective) -> dict[str, Any]:
    """Return the options that have to be the same when a tuning is continued."""
    not_base = (*MEANS, "optimizer", "seed")
    base = {name: value for name, value in given(config.base).items() if name not in not_base}
    text = {optimizer: {name: str(one) for name, one in space.items()} for optimizer, space in spaces.items()}
    return {
        OBJECTIVE: objective.name,
        DIRECTION: objective.direction,
        "base": json.loads(json.dumps(base, default=str)),
        "sampler": config.sampler if config.sampler != "grid" else f"grid of {config.trials}",
        "prune": config.prune,
        "tune_seed": config.tune_seed,
        "space": text,
    }


def read_stored(folder: Path, said: dict[str, Any], data: Fingerprint) -> Stored:
    """Return the content of tune.json, which is empty for a new folder.

    Raises:
        UsageError: the folder is neither new nor empty nor of this tuning, or it is of other data.
    """
    if not folder.exists():
        return Stored(data)
    if not os.path.lexists(folder / FILE):
        if folder.is_dir() and all(path.name in (LOCK, JOURNAL) for path in folder.iterdir()):
            return Stored(data)
        raise UsageError(f"out must be a new or empty folder, or that of a tuning, got {str(folder)!r}")
    try:
        content = read_json(folder / FILE, folder)
        _check_objective(folder, content)
        content = {DIRECTION: MAXIMIZE, **content}  # earlier versions chose by accuracy alone
        there = {name: content[name] for name in said}
        spaces = dict(there["space"])
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{str(folder / FILE)!r} must say what is tuned there, but cannot be read: {reason(error)}"
        ) from error
    common = set(spaces) & set(said["space"])
    here = {**said, "space": {name: said["space"][name] for name in common}}
    check_same({**there, "space": {name: spaces[name] for name in common}}, here)
    if FINGERPRINT in content:
        check_data(folder, content[FINGERPRINT], data)
    return Stored(data, spaces, {name: content[name] for name in RESULTS if name in content})


def _check_objective(folder: Path, content: Any) -> None:
    """Raise ``UsageError`` if the trials of an earlier version were chosen by test images."""
    if isinstance(content, dict) and {"base", "sampler", "space"} <= set(content) and OBJECTIVE not in content:
        raise UsageError(
            f"out must be a folder of a tuning by validation images, but in {str(folder)!r} an earlier version chose "
            "trials by their accuracy on test images: take a new folder"
        )


def check_same(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if the identity ``there`` is not that of the tuning ``here``."""
    for name, value in here.items():
        stored = there.get(name, value)
        if name == "base" and isinstance(stored, dict):  # earlier versions kept some means too
            stored = {option: one for option, one in stored.items() if option not in MEANS}
            if same_name(stored.get("data"), value.get("data")):
                stored["data"] = value["data"]  # the fingerprint tells whether its content is the same
        if stored != value:
            raise UsageError(
                f"out must be a folder of the same tuning, but has {name} {str(stored)[:300]}, got {value}"
            )


def write_trials(folder: Path, trials: Mapping[str, list[Trial]]) -> None:
    """Write trials.csv: a row per trial, by optimizer.

    Raises:
        OSError: trials.csv could not be written; one that is there is untouched.
    """
    import pandas as pd

    rows = [
        {"optimizer": optimizer, "trial": one.number, "status": one.status, one.objective.column: one.value}
        | ({} if one.objective.measure == ACCURACY else {DIRECTION: one.objective.direction})
        | {"epochs": one.epochs, **one.params, "folder": one.folder}
        for optimizer, some in trials.items()
        for one in some
    ]
    write_table(folder / TRIALS, pd.DataFrame(rows))


def results_of(config: TuneConfig, tuned: list[Tuned], final: SweepResult | None) -> dict[str, Any]:
    """Return the entries of tune.json that are written when all is done."""
    table = [] if final is None else final.comparison().table().to_dict("records")
    columns = ["optimizer", "batch_size", "lr", "seeds", "of", "accuracy", "interval", "accuracies"]
    if config.base.own_task:
        measured = [str(name) for name in (table[0] if table else {}) if f"{name}_interval" in table[0]]
        found = [column for name in measured for column in (name, f"{name}_interval", f"{name}_seeds")]
        columns[5:] = dict.fromkeys(["test_loss", *(column for column in found if table and column in table[0])])
    return {
        "trials": config.trials,
        "spent": [{name: value for name, value in vars(one).items() if name != "best"} for one in tuned],
        "best": {one.optimizer: one.best.as_json() if one.best else None for one in tuned},
        "seeds": list(config.seeds),
        "results": [
            {name: None if isinstance(row[name], float) and row[name] != row[name] else row[name] for name in columns}
            for row in table
        ],
    }
