"""Runs of a sweep as folders and command lines: their names, and the arguments that train them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path

from tvlars.lab.config import MEANS, OPTIONS, TrainConfig
from tvlars.lab.data.place import FOLDER_PREFIX, folder_of
from tvlars.lab.options import given


def run_name(config: TrainConfig) -> str:
    """A folder's name for a run: what it is, and a digest of all its options that decide what is computed.

    The same options have the same name, whatever else is in the sweep, and whatever else the program can do.
    """
    rates = [("lr", config.lr), ("lambda", config.delay_factor)]
    said = "".join(f"-{name}{value:g}" for name, value in rates if value is not None)
    return f"{config.label()}{said}-{digest(config)}"


def digest(config: TrainConfig) -> str:
    """Ten hexadecimal digits of the options that are not at their defaults and make another run."""
    values = {name: value for name, value in given(config).items() if name not in MEANS}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:10]


def at_home(config: TrainConfig) -> TrainConfig:
    """The same with absolute paths, for a process that may run elsewhere."""
    values = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    if config.data.startswith(FOLDER_PREFIX):
        values["data"] = f"{FOLDER_PREFIX}{folder_of(config.data, config.data_dir).resolve()}"
    if config.data_dir is not None:
        values["data_dir"] = config.data_dir.resolve()
    return TrainConfig(**values)


def arguments(config: TrainConfig, out: Path) -> list[str]:
    """The command line of ``tvlars`` that trains this run in the folder ``out``, or goes on with it."""
    words = ["train"]
    for name, value in given(config).items():
        flag = name.replace("_", "-")
        if OPTIONS[name].not_in_grids:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag}={value!r}" if isinstance(value, float) else f"--{flag}={value}")
    return [*words, f"--out={out}", "--resume"]
