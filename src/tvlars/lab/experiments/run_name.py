"""Names of runs, and the command lines that train them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path

from tvlars.lab.config import MEANS, OPTIONS, TrainConfig
from tvlars.lab.data.place import FOLDER_PREFIX, folder_of
from tvlars.lab.options import given


def run_name(config: TrainConfig) -> str:
    """Return the name of a run's folder: its label, and a digest of all options that affect the results.

    Equal options give equal names, for any other runs of the sweep and any later version with new options.
    """
    rates = [("lr", config.lr), ("lambda", config.delay_factor)]
    said = "".join(f"-{name}{value:g}" for name, value in rates if value is not None)
    return f"{config.label()}{said}-{digest(config)}"


def digest(config: TrainConfig) -> str:
    """Return ten hexadecimal digits that depend on the options that differ from their defaults and affect results."""
    values = {name: value for name, value in given(config).items() if name not in MEANS}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:10]


def at_home(config: TrainConfig) -> TrainConfig:
    """Return the config with absolute paths, for a process that may have another working directory."""
    values = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    if config.data.startswith(FOLDER_PREFIX):
        values["data"] = f"{FOLDER_PREFIX}{folder_of(config.data, config.data_dir).resolve()}"
    if config.data_dir is not None:
        values["data_dir"] = config.data_dir.resolve()
    return TrainConfig(**values)


def arguments(config: TrainConfig, out: Path) -> list[str]:
    """Return the arguments of ``tvlars`` that train or resume this run in the folder ``out``."""
    words = ["train"]
    for name, value in given(config).items():
        flag = name.replace("_", "-")
        if OPTIONS[name].not_in_grids or value is None:  # None: the epochs of a run whose length is in steps
            continue
        if isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag}={value!r}" if isinstance(value, float) else f"--{flag}={value}")
    return [*words, f"--out={out}", "--resume"]
