"""Options as they stand in files and on command lines: their types, and which optimizer has which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tvlars._reading import parse_number
from tvlars.lab.config import MEANS, TrainConfig, deciding
from tvlars.lab.data.place import FOLDER_PREFIX, folder_of
from tvlars.lab.errors import UsageError, unknown
from tvlars.plan import DEFAULTS

SIGMOID = ("delay_factor", "delay", "alpha", "gamma_min")
FORBIDDEN = {
    "out": "every run has its own folder in that of the sweep",
    "resume": "runs go on from where they were anyway",
    "nodes": "a run of a sweep is on one machine",
    "rendezvous": "a run of a sweep is on one machine",
}
"""Options that are no user's here, and why."""


def option_name(text: object, what: str) -> str:
    """The name of an option of ``TrainConfig`` that was written with - or _.

    Raises:
        UsageError: there is none of this name, or it is not for the user of ``what``.
    """
    name = str(text).replace("-", "_")
    known = [f.name for f in fields(TrainConfig) if f.name not in FORBIDDEN]
    if name in FORBIDDEN:
        raise UsageError(f"{name} must not be given in {what}: {FORBIDDEN[name]}")
    if not isinstance(text, str) or name not in known:
        raise unknown(f"option of {what}", name, known)
    return name


def convert(name: str, value: Any) -> Any:
    """``value`` of a file as the option ``name`` has it: YAML reads 1e-3 as text, and 4 is a rate as 4.0 is."""
    kind = next(str(f.type) for f in fields(TrainConfig) if f.name == name).split("|")[0].strip()
    if kind == "float" and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return parse_number(float, value) if isinstance(value, str) else float(value)
        except (ValueError, OverflowError):
            return value
    return Path(value) if kind == "Path" and isinstance(value, str) else value


def parse(name: str, text: str) -> Any:
    """The value of the option ``name`` that was typed as ``text``.

    Raises:
        UsageError: it has another type.
    """
    kind = next(str(f.type) for f in fields(TrainConfig) if f.name == name).split("|")[0].strip()
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{name} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return parse_number({"int": int, "float": float}[kind], text) if kind in ("int", "float") else text
    except ValueError:
        raise UsageError(f"{name} must be {'an integer' if kind == 'int' else 'a number'}, got {text!r}") from None


def listed(names: Iterable[str]) -> str:
    """ "lars, lamb and sgd"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def schedule_of(optimizer: str, schedule: str) -> str:
    """What "auto" stands for."""
    if optimizer == "tvlars":
        return "sigmoid"
    return "warmup-cosine" if schedule == "auto" else schedule


def has(optimizer: str, schedule: str, name: str) -> bool:
    """Whether the option ``name`` plays a part in runs of ``optimizer`` under ``schedule``."""
    if name in ("phi_scope", "trust_coefficient"):
        return optimizer == "tvlars" or (optimizer == "lars" and name == "trust_coefficient")
    if name == "schedule":
        return optimizer != "tvlars"
    if name in ("momentum", "nesterov"):
        return optimizer not in DEFAULTS or DEFAULTS[optimizer].momentum is not None
    if name in SIGMOID:
        return schedule_of(optimizer, schedule) == "sigmoid"
    return name != "warmup_epochs" or schedule_of(optimizer, schedule) == "warmup-cosine"


def run_name(config: TrainConfig) -> str:
    """A folder's name for a run: what it is, and a digest of all its options that decide what is computed.

    The same options have the same name, whatever else is in the sweep, and whatever else the program can do.
    """
    rates = [("lr", config.lr), ("lambda", config.delay_factor)]
    said = "".join(f"-{name}{value:g}" for name, value in rates if value is not None)
    return f"{config.label()}{said}-{digest(config)}"


def digest(config: TrainConfig) -> str:
    """Ten hexadecimal digits of the options that are not at their defaults and make another run."""
    values = {name: value for name, value in given(config).items() if name not in deciding(MEANS)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:10]


def given(config: TrainConfig) -> dict[str, Any]:
    """The options of a config that are not at their defaults."""
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    return {name: value for name, value in asdict(config).items() if value != defaults[name]}


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
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif name not in FORBIDDEN:
            words.append(f"--{flag}={value!r}" if isinstance(value, float) else f"--{flag}={value}")
    return [*words, f"--out={out}", "--resume"]
