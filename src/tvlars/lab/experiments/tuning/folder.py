"""Folder of a tuning: the content of tune.json, and the check that the folder belongs to the same tuning.

A call may name other arms than earlier calls; each arm keeps its space and its trials.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tvlars._reading import read_json, reason
from tvlars.lab.config import MEANS
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.data.place import same_name
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.arms import Arm
from tvlars.lab.experiments.results import SweepResult, write_table
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.objective import ACCURACY, MAXIMIZE, Objective
from tvlars.lab.experiments.tuning.space import Space
from tvlars.lab.experiments.tuning.stages import Edge, Stage
from tvlars.lab.experiments.tuning.trial import Trial, Tuned
from tvlars.lab.files.lock import LOCK
from tvlars.lab.imported import said_path
from tvlars.lab.options import given
from tvlars.lab.registered.record import FILES, digest_entry
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.run_folder.identity import FINGERPRINT, check_data
from tvlars.lab.run_folder.record import write_json

OBJECTIVE, DIRECTION = "objective", "direction"
"""Entries of tune.json for the value that ranks trials: its name, and maximize or minimize."""
FILE, JOURNAL, TRIALS, ARMS = "tune.json", "study.journal", "trials.csv", "arms.csv"
RESULTS = ("trials", "spent", "best", "seeds", "results")
"""Entries of tune.json that are written when the tuning is done."""


@dataclass(frozen=True)
class Round:
    """A round that widened the spaces: ``trials`` further trials for each arm, ``after`` so many earlier ones."""

    trials: int
    after: int
    stages: dict[str, Stage] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the round for tune.json."""
        return {
            "trials": self.trials,
            "after": self.after,
            "arms": {key: stage.as_json() for key, stage in self.stages.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Round:
        """Return the round from the output of :meth:`as_json`; raise an error for other values."""
        trials, after = value["trials"], value["after"]
        if not all(type(one) is int and 0 < one <= 1_000_000 for one in (trials, after)):
            raise ValueError(f"a round of {trials!r:.60} trials after {after!r:.60}")
        return cls(trials, after, {str(key): Stage.from_json(trials, one) for key, one in value["arms"].items()})


@dataclass(frozen=True)
class Stored:
    """Content of tune.json: all arms that were tuned in this folder, and the results of the last finished call."""

    data: Fingerprint
    """Fingerprint of the data, the same for all calls."""
    space: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, Arm] = field(default_factory=dict)
    """Arms with their own names."""
    tune_seeds: tuple[int, ...] = ()
    rounds: list[Round] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    """Number of earlier trials outside of this folder, by arm."""
    edges: dict[str, list[Edge]] = field(default_factory=dict)
    """Edges at which the best trial of each arm lies."""
    results: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Fingerprint, content: dict[str, Any]) -> Stored:
        """Return the content of tune.json; raise an error if a tuning cannot have written it."""
        arms = {
            str(key): Arm(str(key), one["optimizer"], {n: _tuple(v) for n, v in one["options"].items()})
            for key, one in content.get("arms", {}).items()
        }
        seeds = content.get("tune_seeds", [content["tune_seed"]])
        before = content.get("before", {})
        if not all(type(one) is int for one in (*seeds, *before.values())):
            raise ValueError("tuning seeds and numbers of trials must be integers")
        return cls(
            data,
            dict(content["space"]),
            arms,
            tuple(seeds),
            [Round.from_json(one) for one in content.get("rounds", [])],
            dict(before),
            {str(key): [Edge.from_json(one) for one in some] for key, some in content.get("edges", {}).items()},
            {name: content[name] for name in RESULTS if name in content},
        )

    def write(self, folder: Path, said: dict[str, Any], results: dict[str, Any] | None = None) -> None:
        """Write tune.json with the identity ``said``, and new results if there are any."""
        arms = {key: {"optimizer": arm.optimizer, "options": dict(arm.options)} for key, arm in self.arms.items()}
        more = {
            "space": {**self.space, **said["space"]},
            "arms": {**json.loads(json.dumps(arms, default=str)), **said["arms"]},
            "rounds": [one.as_json() for one in self.rounds],
            "before": self.before,
            "edges": {key: [one.as_json() for one in some] for key, some in self.edges.items()},
            FINGERPRINT: self.data.as_json(),
            **digest_entry(folder),
        }
        write_json(folder / FILE, {"command": command_line(), **said, **more, **(results or self.results)})

    def arm(self, key: str) -> Arm:
        """Return the arm with this key."""
        return self.arms.get(key) or Arm.of(key)

    def stages(self, key: str) -> list[Stage]:
        """Return the stages of an arm in the rounds that included it."""
        found = []
        for one in self.rounds:
            if key not in one.stages:
                break
            found.append(one.stages[key])
        return found


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def identity(config: TuneConfig, spaces: dict[str, Space], objective: Objective) -> dict[str, Any]:
    """Return the options that must be the same when a tuning is continued."""
    not_base = (*MEANS, "optimizer", "seed")
    base = {name: value for name, value in given(config.base).items() if name not in not_base}
    text = {key: {name: str(one) for name, one in space.items()} for key, space in spaces.items()}
    arms = {arm.key: asdict(arm) for arm in config.all_arms() if not arm.plain}
    arms = {key: {name: one[name] for name in ("optimizer", "options")} for key, one in arms.items()}
    return {
        OBJECTIVE: objective.name,
        DIRECTION: objective.direction,
        "base": json.loads(json.dumps(base, default=str)),
        "sampler": config.sampler if config.sampler != "grid" else f"grid of {config.trials}",
        "prune": config.prune,
        "tune_seed": config.tune_seeds[0],
        "tune_seeds": list(config.tune_seeds),
        "space": text,
        "arms": json.loads(json.dumps(arms, default=str)),
    }


def read_stored(folder: Path, said: dict[str, Any], data: Fingerprint) -> Stored:
    """Return the content of tune.json; it is empty for a new folder.

    Raises:
        UsageError: the folder is neither new nor empty nor a folder of this tuning, or it is of other data.
    """
    if not folder.exists():
        return Stored(data)
    if not os.path.lexists(folder / FILE):
        if folder.is_dir() and all(path.name in (LOCK, JOURNAL, *FILES) for path in folder.iterdir()):
            return Stored(data)
        raise UsageError(f"out must be a new or empty folder, or one of a tuning, got {str(folder)!r}")
    try:
        content = read_json(folder / FILE, folder)
        _check_objective(folder, content)
        content = {DIRECTION: MAXIMIZE, "arms": {}, **content}  # earlier versions ranked only by accuracy
        stored = Stored.read(data, content)
        there = {name: content[name] for name in said if name != "tune_seeds"}
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{str(folder / FILE)!r} must have the options of a tuning, but cannot be read: {reason(error)}"
        ) from error
    common = [key for key in stored.space if key in said["space"]]

    def of_common(one: dict[str, Any]) -> dict[str, Any]:
        parts = ("space", "arms")
        return {**one, **{part: {key: one[part][key] for key in common if key in one[part]} for part in parts}}

    check_same(of_common(there), of_common({name: value for name, value in said.items() if name in there}))
    if left := [seed for seed in stored.tune_seeds if seed not in said["tune_seeds"]]:
        raise UsageError(f"tune_seeds must have {left[0]}, which runs in the folder used, got {said['tune_seeds']}")
    if FINGERPRINT in content:
        check_data(folder, content[FINGERPRINT], data)
    return stored


def _check_objective(folder: Path, content: Any) -> None:
    """Raise ``UsageError`` if an earlier version ranked the trials on test images."""
    if isinstance(content, dict) and {"base", "sampler", "space"} <= set(content) and OBJECTIVE not in content:
        raise UsageError(
            f"out must be a folder of a tuning on validation images, but in {str(folder)!r} an earlier version ranked "
            "trials by their accuracy on test images: use a new folder"
        )


def check_same(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if the identity ``there`` of a folder differs from the identity ``here`` of this tuning."""
    for name, value in here.items():
        stored = there.get(name, value)
        if name == "base" and isinstance(stored, dict):  # earlier versions also stored some means
            stored = {option: one for option, one in stored.items() if option not in MEANS}
            if same_name(stored.get("data"), value.get("data")):
                stored["data"] = value["data"]  # the fingerprint shows whether the content is the same
        if stored != value:
            raise UsageError(
                f"out must be a folder of the same tuning, but has {name} {str(stored)[:300]}, got {value}"
            )


def frame_of(trials: Mapping[str, Sequence[Trial]], tuned: Sequence[Tuned], seed: int) -> Any:
    """Return one row per trial and per rerun, by arm.

    The column ``chosen`` marks the trial whose options are run with the fresh seeds, and ``edge`` names its options
    that lie at an end of the searched space. ``seed`` is the first tuning seed.
    """
    import pandas as pd

    best = {one.arm: one for one in tuned}
    rows = []
    for arm, some in trials.items():
        for one in some:
            mine = best.get(arm)
            chosen = mine is not None and mine.best is not None and mine.best.number == one.number
            edge = "; ".join(f"{at.option} {at.side}" for at in mine.edges) if chosen and mine is not None else ""
            direction = {} if one.objective.measure == ACCURACY else {DIRECTION: one.objective.direction}
            first = (seed, one.status, one.value, one.epochs, one.folder)
            runs = [first, *((r.seed, r.status, r.value, r.epochs, r.folder) for r in one.reruns)]
            for by, status, value, epochs, folder in runs:
                head = {"arm": said_path(arm), "trial": one.number, "seed": by, "status": status}
                values = {one.objective.column: value, **direction, "epochs": epochs, **one.params}
                rows.append({**head, **values, "chosen": chosen, "edge": edge, "folder": folder})
    frame = pd.DataFrame(rows)
    last = ["chosen", "edge", "folder"]
    return frame[[*(name for name in frame if name not in last), *last]] if len(frame) else frame


def write_trials(folder: Path, trials: Mapping[str, Sequence[Trial]], tuned: Sequence[Tuned], seed: int) -> None:
    """Write trials.csv, and arms.csv with one row per arm: budget, best options, and alarms.

    Raises:
        OSError: a file could not be written; an existing file is unchanged.
    """
    import pandas as pd

    write_table(folder / TRIALS, frame_of(trials, tuned, seed))
    rows = []
    for one in tuned:
        counts = {name: getattr(one, name) for name in ("trials", "reruns", "before", "pruned", "diverged", "epochs")}
        best = {} if one.best is None else {"best": one.best.mean, **one.best.params, "folder": one.best.folder}
        rows.append({"arm": said_path(one.arm), **counts, **best, "alarm": "; ".join(one.alarms())})
    write_table(folder / ARMS, pd.DataFrame(rows))


def results_of(config: TuneConfig, tuned: list[Tuned], final: SweepResult | None) -> dict[str, Any]:
    """Return the entries of tune.json that are written when the tuning is done."""
    table = [] if final is None else final.comparison().table().to_dict("records")
    columns = ["optimizer", "batch_size", "lr", "seeds", "of", "accuracy", "interval", "accuracies"]
    if config.base.own_task:
        measured = [str(name) for name in (table[0] if table else {}) if f"{name}_interval" in table[0]]
        found = [column for name in measured for column in (name, f"{name}_interval", f"{name}_seeds")]
        columns[5:] = dict.fromkeys(["test_loss", *(column for column in found if table and column in table[0])])
    counts = ("arm", "trials", "reruns", "before", "budget", "pruned", "diverged", "epochs")
    return {
        "trials": config.trials,
        "spent": [{name: getattr(one, name) for name in counts} for one in tuned],
        "best": {one.arm: one.best.as_json() if one.best else None for one in tuned},
        "seeds": list(config.seeds),
        "results": [
            {name: None if isinstance(row[name], float) and row[name] != row[name] else row[name] for name in columns}
            for row in table
        ],
    }
