"""Options as arguments of commands, with their defaults and help."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tvlars._reading import read_json, reason
from tvlars.cli._names import COMMANDS
from tvlars.cli._parser import Listed, Parser, rare, words_of
from tvlars.lab.config import OPTIONS, TrainConfig
from tvlars.lab.console import aside, say
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.options import Is, Option, options_of, parse_value
from tvlars.lab.processes.launcher import launch, report, wanted

DECLARED = {"family": "PAIRS", "margin": "POINTS"}
"""Options of the declared comparisons, with their metavars."""
KIND_NAMES: dict[type, str] = {int: "N", float: "X", Path: "PATH"}
"""Metavars of values by kind."""
ALIASES = {
    "--batch-size": "-b",
    "--batch-sizes": "-b",
    "--data-workers": "-j",
    "--optimizer": "--opt",
    "--optimizers": "--opt",
    "--out": "-o",
    "--weight-decay": "--wd",
}
"""Other names of options."""

WITH_PROTOCOL = ("compare", "tune", "robustness", "scaling")
"""Commands with the option --protocol."""


def fail(message: str, code: int) -> int:
    """Print an error, or leave that to the process that started this one; return ``code``."""
    if not report(message, code):
        rank = os.environ.get("RANK", "0")
        aside(f"tvlars: {message}" if rank == "0" else f"tvlars: process {rank}: {message}")
    return code


def new_command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], examples: str = "") -> Parser:
    """Add a command that calls ``run``; its help ends with ``examples``."""
    text = COMMANDS[name]
    parser: Parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", examples=examples
    )
    parser.set_defaults(run=run)
    return parser


def config_file(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options of the earlier run or comparison that ``--config`` names; they replace the defaults."""
    first = Parser(add_help=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", nargs="?", type=Path)
    first.add_argument("--protocol", type=Path)
    named = first.parse_known_args(arguments)[0]
    if named.protocol is not None and arguments[0] in WITH_PROTOCOL:
        return _of_protocol(named.protocol, arguments[0], named.config)
    file = named.config or named.resume
    if file is None:
        return {}
    try:
        if file.is_dir():
            file = file / "config.json"
        if named.config and file.suffix.lower() in (".yaml", ".yml"):
            return _of_yaml(file, arguments[0])
        values = read_json(file)
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        what = "config must be a run folder, a JSON or a YAML file" if named.config else "resume must be a run folder"
        raise UsageError(f"{what}, but {str(file)!r} cannot be read: {reason(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{'config' if named.config else 'resume'} must hold an object of options, got {values!r:.60}")
    return values


def _of_yaml(file: Path, command: str) -> dict[str, Any]:
    """Return the options in a YAML file, spelled with - or _: options of a run, and of ``command`` itself."""
    from tvlars.lab.experiments.yaml_file import read_yaml
    from tvlars.lab.protocol.parse import CONFIGS

    values = read_yaml(file, "config")
    if not isinstance(values, dict):
        raise UsageError(f"config must hold options as in 'epochs: 30', but {str(file)!r} holds {values!r:.60}")
    module, kind = CONFIGS.get(command, ("", ""))
    own = options_of(getattr(import_module(module), kind)) if module else {}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if f"{name}s" in own:  # as in batch-size: 128
            name, value = f"{name}s", value if isinstance(value, list) else [value]
        if name in ("out", "resume", "protocol"):
            raise UsageError(f"{name} must not be given in a config, which is for any run: give it as --{name}")
        if name in found:
            raise UsageError(f"config must have {name} once, but {str(file)!r} has it twice")
        one = {**OPTIONS, **own}.get(name)
        if one is None:
            raise unknown(f"option of {str(file)!r}", key, [*OPTIONS, *own])
        value = one.convert(value)
        found[name] = list(value) if isinstance(value, tuple) else value
    base = {name: value for name, value in found.items() if name not in own}
    return {"base": base, **{name: value for name, value in found.items() if name in own}} if own else base


def _of_protocol(file: Path, command: str, config: Path | None) -> dict[str, Any]:
    """Return the options of a protocol, which replace the defaults."""
    from tvlars.lab.protocol import Protocol

    protocol = Protocol.read(file)
    if protocol.command != command:
        raise UsageError(f"protocol must be one of {command}, but {str(file)!r} is one of {protocol.command}")
    if config is not None:
        raise UsageError(f"config must not be given with protocol, which has all options, got {str(config)!r}")
    options: dict[str, Any] = json.loads(json.dumps(asdict(protocol.config), default=str))
    return options


def defaults_of_run(config: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Return the defaults from the config of an earlier run, for all options but ``without`` and the run's folder."""
    if "base" in config:
        raise UsageError("config must be a run's, but it is a comparison's: give one of the run folders in it")
    stored = TrainConfig.from_mapping(config)
    taken = [name for name, one in OPTIONS.items() if name not in without and not one.kinds & Is.OWN]
    return {name: getattr(stored, name) for name in taken}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    text = "options of an earlier run (its folder or config.json), or of a YAML file; options given here override them"
    parser.add_argument("--config", type=Path, metavar="FILE", help=text)


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, which may name a run."""
    text = "resume from the newest valid checkpoint in RUN, with RUN's options, or in --out; start if there is none yet"
    parser.add_argument("--resume", nargs="?", const=True, default=False, metavar="RUN", help=text)


def add_all(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Add the options of one run, in their sections."""
    section: Any = parser
    for name, one in OPTIONS.items():
        if one.section:
            section = parser.add_argument_group(one.section)
        if name not in (*without, "protocol"):  # the digest of a file, which has an option of its own
            action = add_option(section, one)
            if not one.kinds & Is.COMMON or (one.kinds & Is.SELF_SUPERVISED and "task" not in without):
                rare(action)


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command whose runs may belong to a protocol."""
    text = "protocol of the runs: its options are the defaults, and other values are recorded as deviations"
    rare(parser.add_argument("--protocol", dest="protocol_file", type=Path, metavar="FILE", help=text))
    text = "continue in a folder that was started with another protocol; the change is recorded as a deviation"
    rare(parser.add_argument("--allow-deviation", action="store_true", help=text))


def under_protocol(parsed: argparse.Namespace, config: Any) -> Any:
    """Return the config of a command under the given protocol, which is recorded in its folder."""
    if parsed.protocol_file is None:
        if parsed.allow_deviation:
            raise UsageError("allow_deviation must be given with protocol")
        return config
    from tvlars.lab.protocol import Protocol

    protocol = Protocol.read(parsed.protocol_file)
    out = protocol.begin(parsed.out, allow_deviation=parsed.allow_deviation, config=config)
    say(f"protocol {protocol.name}, digest {protocol.digest}")
    return replace(config, out=out, base=replace(config.base, protocol=protocol.digest))


def add_those_of_data(parser: argparse.ArgumentParser, without: Collection[str] = (), **more: Any) -> None:
    """Add the options that decide which data are loaded; ``more`` is for :func:`add_option`."""
    for name, one in OPTIONS.items():
        if one.kinds & Is.LOADS and name not in without:
            add_option(parser, one, **more)


def add_option(
    parser: Any, one: Option, default: Any = MISSING, flag: str = "", metavar: str = "", **more: Any
) -> argparse.Action:
    """Add an option, with its own default, flag and metavar unless others are given."""
    default, text = one.default if default is MISSING else default, one.text
    if one.many:
        default, more = default if default is None else list(default), {"nargs": "+", "action": Listed, **more}
    elif one.parts[1]:
        more = {"nargs": "+", "action": joined(one.parts[1]), **more}
    if default not in (None, []) and "default" not in text:
        said = "yes" if default is True else "no" if default is False else default
        text += f" (default: {' '.join(map(str, default)) if one.many else said})"
    if one.kind is bool:
        more["action"] = argparse.BooleanOptionalAction
    else:
        of_kind = KIND_NAMES.get(one.kind) or ("TEXT" if not one.choices else "NAME" if one.closed else "NAME|PATH")
        convert = type_of(one.kind)
        if one.many:  # other texts may contain commas
            split = words_of if one.choices or one.kind is not str else lambda text: [text]
            more = {"type": lambda text: [convert(part) for part in split(text)], **more}
        more = {"type": text_of_mapping if one.parts[0] == "NAME=VALUE" else convert, **more}
        more["metavar"] = metavar or one.metavar or one.parts[0] or one.unit.upper() or of_kind
    flag = flag or "--" + one.name.replace("_", "-")
    names = sorted({flag, ALIASES.get(flag, flag)}, key=lambda name: (name.startswith("--"), -len(name)))
    action: argparse.Action = parser.add_argument(*names, default=default, **more)
    action.help = text  # set here, since Python 3.10 appends the default of a flag
    return action


def joined(separator: str) -> type[argparse.Action]:
    """Return an action that joins words to a text."""

    class Joined(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            words = values if len(values) == 1 else [word.strip(f"{separator} ") for word in values]
            setattr(namespace, self.dest, separator.join(words))

    return Joined


def text_of_mapping(text: str) -> str:
    """Return NAME=VALUE of each value of a mapping in YAML or JSON, as in ``{eps: 1e-6}``; other text as it is."""
    if not text.lstrip().startswith("{"):
        return text
    from tvlars.lab.experiments.yaml_file import parse_yaml

    try:
        return ",".join(f"{name}={value!r}" for name, value in parse_yaml(text).items())  # all options accept commas
    except ValueError as error:
        said = f"must be NAME=VALUE, or a mapping as {{eps: 1e-6}}, got {text!r}: {error}"
        raise argparse.ArgumentTypeError(said) from None


def type_of(kind: type) -> Callable[[str], Any]:
    """Return the ``type=`` of an argument: it converts a text, or raises an error that names the valid form."""

    def convert(text: str) -> Any:
        try:
            return parse_value(kind, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def in_processes(parsed: argparse.Namespace, config: Any) -> int | None:
    """Start the processes of a run and return their exit code, or None if this process does the work itself."""
    if not wanted(config):
        return None
    code, message = launch(parsed.words, config)
    return fail(message, code) if code else 0


def is_first() -> bool:
    """Return whether this process is the one that prints; call it after the work is done."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return True
    first = dist.get_rank() == 0
    time.sleep(0.1)  # PyTorch aborts if a thread of gloo frees its last work while the interpreter ends
    dist.destroy_process_group()
    return first


def train_config(parsed: argparse.Namespace, **values: Any) -> Any:
    """Return the config of one run from the command line and ``values``."""
    taken = {name: getattr(parsed, name) for name in OPTIONS if hasattr(parsed, name)}
    if isinstance(taken.get("resume"), str):
        if taken.get("out") is not None and taken["out"].resolve() != Path(taken["resume"]).resolve():
            raise UsageError(
                f"out must not be given with --resume {taken['resume']}, which is where the run continues, got "
                f"{str(taken['out'])!r}"
            )
        taken.update(out=Path(taken["resume"]), resume=True)
    return TrainConfig(**{**taken, **values})
