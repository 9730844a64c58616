"""The command line: ``tvlars train``, ``compare``, ``evaluate``, ``sharpness``, ``landscape``.

It parses and prints; the work is in ``tvlars.lab``.

Exit codes: 0 done, 2 bad input, 3 a run diverged, 130 interrupted.

argparse over the dataclasses' fields: every option, its default and its help stand once, in ``lab.config``.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn

DIVERGED, INTERRUPTED, BAD_INPUT = 3, 130, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to stop
    try:
        from tvlars.lab.errors import DivergedError, UsageError
    except ModuleNotFoundError as error:
        return _missing_extra(error)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    try:
        words = sys.argv[1:] if arguments is None else arguments
        parser = _parser(words[0] if words else "", _config_file(words))
        parsed, unknown_arguments = parser.parse_known_args(arguments)
        if unknown_arguments:
            _refuse_unknown(parser, parsed.command, unknown_arguments)
        return int(parsed.run(parsed))
    except ModuleNotFoundError as error:
        return _missing_extra(error)
    except UsageError as error:
        return _fail(str(error), BAD_INPUT)
    except DivergedError as error:
        return _fail(str(error), DIVERGED)
    except KeyboardInterrupt:
        return _fail("interrupted; what was measured is kept", INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as in `tvlars ... | head`
            sys.stderr.close()
            return 1
        where = f" {error.filename}" if error.filename else ""
        return _fail(f"cannot write{where}: {error.strerror or error}; what was written before is kept", BAD_INPUT)


def _fail(message: str, code: int) -> int:
    print(f"tvlars: {message}", file=sys.stderr)
    return code


def _missing_extra(error: ModuleNotFoundError) -> int:
    return _fail(f"the laboratory needs {error.name!r}: pip install 'tvlars[lab]'", BAD_INPUT)


# -- the commands ---------------------------------------------------------------------------------------


def _train(parsed: argparse.Namespace) -> int:
    from tvlars.lab.engine import train

    result = train(_train_config(parsed))
    last = result.epochs[-1]
    seconds = sum(epoch.seconds for epoch in result.epochs)
    speed = last.step * result.config.batch_size / seconds
    print(
        f"{result.config.optimizer}: test accuracy {last.test_accuracy:.2%}, test loss {last.test_loss:.4f}, "
        f"{last.step} steps in {seconds:.1f} s of training ({speed:,.0f} images/s)"
    )
    print(f"run folder: {result.folder}")
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from tvlars.lab.evaluate import evaluate
    from tvlars.lab.run_folder import load_run

    run = load_run(parsed.run_folder)
    for problem in run.problems:
        print(f"note     {problem}")
    result = evaluate(run, data=parsed.data, data_dir=parsed.data_dir, image_size=parsed.image_size)
    print(f"run      {run.folder}, {run.status}")
    print(f"data     {result.data}")
    print(f"test accuracy {result.accuracy:.2%}, test loss {result.loss:.4f} over {result.samples:,} images")
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    from tvlars.lab.compare import compare
    from tvlars.lab.config import CompareConfig
    from tvlars.lab.table import print_table

    base = _train_config(parsed, optimizer=parsed.optimizers[0], batch_size=parsed.batch_size[0], seed=parsed.seeds[0])
    config = CompareConfig(
        base=base,
        optimizers=tuple(parsed.optimizers),
        batch_sizes=tuple(parsed.batch_size),
        seeds=tuple(parsed.seeds),
        overrides=_overrides(parsed),
        out=parsed.out,
    )
    comparison = compare(config, announce=lambda line: print(line, flush=True))
    print_table(comparison)
    print(f"page: {comparison.folder / 'report.html'}")
    for run in comparison.diverged:
        _fail(f"{run.optimizer}, batch size {run.batch_size}, seed {run.seed} diverged: {run.note}", DIVERGED)
    return DIVERGED if comparison.diverged else 0


def _sharpness(parsed: argparse.Namespace) -> int:
    from tvlars.lab.surface import run_sharpness

    _check_samples(parsed)
    row = run_sharpness(parsed.run_folder, samples=parsed.samples, data_dir=parsed.data_dir)
    print(f"run      {parsed.run_folder}, after epoch {row.epoch} (step {row.step})")
    print(f"on       {row.samples:,} training images, loss {row.loss:.4f}")
    print(
        f"Hessian  top eigenvalue {row.hessian_max:.4g}, trace {row.hessian_trace:.4g} ± {row.hessian_trace_error:.2g}"
    )
    print(
        f"adaptive worst case {row.worst_case:.4g}, average case {row.average_case:.4g} ± {row.average_case_error:.2g}"
    )
    print(f"Keskar   {row.keskar:.4g} % ({row.seconds:.0f} s; kept in {parsed.run_folder / 'sharpness.csv'})")
    return 0


def _landscape(parsed: argparse.Namespace) -> int:
    from tvlars.lab.errors import UsageError
    from tvlars.lab.surface import run_landscape

    _check_samples(parsed)
    try:
        frame, picture = run_landscape(
            parsed.run_folder,
            parsed.to,
            dimensions=parsed.dimensions,
            points=parsed.points,
            span=parsed.span,
            samples=parsed.samples,
            data_dir=parsed.data_dir,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f"training loss from {frame['loss'].min():.4f} to {frame['loss'].max():.4f} at {len(frame)} points")
    print(f"numbers: {picture.with_suffix('.csv')}")
    print(f"picture: {picture}")
    return 0


def _report(parsed: argparse.Namespace) -> int:
    import time

    from tvlars.lab.errors import UsageError
    from tvlars.lab.record import command_line
    from tvlars.lab.report import report

    out = parsed.out
    if out is None:
        only = parsed.folders[0] if len(parsed.folders) == 1 else Path()
        out = only / "report.html"
    if parsed.watch is not None and not 1 <= parsed.watch <= 86_400:
        raise UsageError(f"watch must be an integer from 1 to 86400 (seconds), got {parsed.watch}")
    page = report(parsed.folders, out, command=command_line(), refresh=parsed.watch)
    print(f"page: {page}", flush=True)
    while parsed.watch is not None:
        time.sleep(parsed.watch)
        report(parsed.folders, out, command=command_line(), refresh=parsed.watch)
    return 0


def _check_samples(parsed: argparse.Namespace) -> None:
    from tvlars.lab.errors import UsageError

    if parsed.samples < 2:
        raise UsageError(f"samples must be an integer >= 2, got {parsed.samples}")


# -- parsing --------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the names that were nearest."""

    def error(self, message: str) -> NoReturn:
        from tvlars.lab.errors import UsageError

        raise UsageError(f"{message}. See {self.prog} --help.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        from tvlars.lab.errors import unknown

        if action.choices is not None and value not in action.choices:
            raise unknown("command", value, list(action.choices))


def _config_file(arguments: Sequence[str]) -> dict[str, Any]:
    """What ``--config`` names: the options of an earlier run or comparison, which stand in for the defaults."""
    from tvlars.lab.errors import UsageError

    first = _Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    file = first.parse_known_args(arguments)[0].config
    if file is None:
        return {}
    try:
        if file.is_dir():
            file = file / "config.json"
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"config must be a JSON file or a run folder, but {str(file)!r} cannot be read: {reason}"
        ) from error
    if not isinstance(values, dict):
        raise UsageError(f"config must hold an object of options, got {values!r:.60}")
    return values


def _parser(command: str, config: dict[str, Any]) -> _Parser:
    parser = _Parser(prog="tvlars", description="Large-batch training with TVLARS, LARS and LAMB.", allow_abbrev=False)
    from tvlars import __version__

    parser.add_argument("--version", action="version", version=f"tvlars {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    train = _command(commands, "train", "train one model and keep a record of it", _train)
    _add_all(train)
    _add_config(train)

    compare = _command(commands, "compare", "train several optimizers, batch sizes and seeds; table and page", _compare)
    compare.add_argument(
        "--optimizers",
        nargs="+",
        default=["tvlars", "lars", "lamb"],
        metavar="NAME",
        help="those compared, one or more (default: tvlars lars lamb)",
    )
    compare.add_argument(
        "--batch-size",
        nargs="+",
        type=_type(int),
        default=[256],
        metavar="N",
        help="samples per optimizer step, one or more (default: 256)",
    )
    compare.add_argument(
        "--seeds", nargs="+", type=_type(int), default=[0, 1, 2], metavar="N", help="one or more (default: 0 1 2)"
    )
    compare.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="OPTIMIZER.OPTION=VALUE",
        help="an option for one optimizer alone, as in --set lars.lr=16 lamb.warmup-epochs=0",
    )
    _add_all(compare, without=("optimizer", "batch_size", "seed"))
    _add_config(compare)
    if config and command == "train":
        train.set_defaults(**_defaults_of_train(config))
    elif config and command == "compare":
        compare.set_defaults(**_defaults_of_compare(config))

    evaluate = _command(commands, "evaluate", "test the final weights of a run", _evaluate)
    evaluate.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")
    for f in _options():
        if f.name in ("data", "data_dir", "image_size"):
            _add(evaluate, f, default=None)
    sharpness = _command(commands, "sharpness", "measure how sharp the loss is at a run's final weights", _sharpness)
    landscape = _command(
        commands, "landscape", "draw the loss around a run's weights, or on the way to another's", _landscape
    )
    landscape.add_argument("--to", metavar="RUN", type=Path, help="another run: the loss on the line between both")
    landscape.add_argument("--dimensions", type=_type(int), default=1, metavar="INT", help="1 (default) or 2")
    landscape.add_argument(
        "--points", type=_type(int), default=21, metavar="INT", help="along a direction (default: 21)"
    )
    text = "how far a direction goes, in norms of the filters (default: 1.0)"
    landscape.add_argument("--span", type=_type(float), default=1.0, metavar="FLOAT", help=text)
    text = "one page of runs and comparisons: answer, curves, layers, sharpness, noise"
    page = _command(commands, "report", text, _report)
    page.add_argument("folders", metavar="RUN", nargs="+", type=Path, help="run or comparison folders")
    text = "page to write (default: report.html in the folder, where one is named, else here)"
    page.add_argument("-o", "--out", type=Path, metavar="FILE", help=text)
    text = "write it anew every so many seconds, and let browsers load it again, until interrupted"
    page.add_argument("--watch", type=_type(int), metavar="SECONDS", help=text)
    for command_parser in (sharpness, landscape):
        command_parser.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")
        text = "training images (default: 1024)"
        command_parser.add_argument("--samples", type=_type(int), default=1024, metavar="INT", help=text)
        command_parser.add_argument(
            "--data-dir", type=Path, help="folder where the data set lies (default: as the run)"
        )
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    text = "options of an earlier run: its folder or config.json; options given here override them"
    parser.add_argument("--config", type=Path, metavar="FILE", help=text)


def _defaults_of_train(config: dict[str, Any], comparison: bool = False) -> dict[str, Any]:
    """The defaults that a config file gives; where its run was written is not one of them."""
    from tvlars.lab.config import TrainConfig
    from tvlars.lab.errors import UsageError

    if "base" in config and not comparison:
        raise UsageError("config must be a run's, but it is a comparison's: name one of the run folders in it")
    stored = TrainConfig.from_mapping(config.get("base", config))
    return {f.name: getattr(stored, f.name) for f in _options() if f.name != "out"}


def _defaults_of_compare(config: dict[str, Any]) -> dict[str, Any]:
    from tvlars.lab.config import CompareConfig

    defaults = _defaults_of_train(config, comparison=True)
    if "base" not in config:  # of a single run
        return {**defaults, "batch_size": [defaults["batch_size"]], "seeds": [defaults["seed"]]}
    stored = CompareConfig.from_mapping({name: value for name, value in config.items() if name != "out"})
    return {
        **defaults,
        "optimizers": list(stored.optimizers),
        "batch_size": list(stored.batch_sizes),
        "seeds": list(stored.seeds),
        "set": list(stored.overrides),
    }


def _command(commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def _options() -> tuple[Field[Any], ...]:
    from tvlars.lab.config import TrainConfig

    return fields(TrainConfig)


def _add_all(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    from tvlars.lab.config import SECTIONS

    section: Any = parser
    for f in _options():
        if f.name in SECTIONS:
            section = parser.add_argument_group(SECTIONS[f.name])
        if f.name not in without:
            _add(section, f)


def _add(parser: Any, f: Field[Any], default: Any = MISSING) -> None:
    flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
    default = f.default if default is MISSING else default
    if default is not None and "default" not in text and not isinstance(default, bool):
        text += f" (default: {default})"
    kind = _kind(f)
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
    else:
        parser.add_argument(flag, type=_type(kind), default=default, metavar=kind.__name__.upper(), help=text)


def _kind(f: Field[Any]) -> type:
    """The type of a field, None aside."""
    name = str(f.type).split("|")[0].strip()
    return {"int": int, "float": float, "bool": bool, "str": str, "Path": Path}[name]


def _type(kind: type) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            wanted = {int: "an integer", float: "a number"}.get(kind, kind.__name__)
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}") from None

    return convert


def _train_config(parsed: argparse.Namespace, **values: Any) -> Any:
    from tvlars.lab.config import TrainConfig

    taken = {f.name: getattr(parsed, f.name) for f in _options() if hasattr(parsed, f.name)}
    return TrainConfig(**{**taken, **values})


def _overrides(parsed: argparse.Namespace) -> tuple[tuple[str, str, Any], ...]:
    """Those typed, and those of a config file for optimizers that are still compared."""
    given = parsed.set or ()
    return tuple(
        _override(entry) if isinstance(entry, str) else entry
        for entry in given
        if isinstance(entry, str) or entry[0] in parsed.optimizers
    )


def _override(text: str) -> tuple[str, str, Any]:
    """``lars.lr=16`` as (optimizer, option, value)."""
    from tvlars.lab.errors import UsageError, unknown

    owner, dot, rest = text.partition(".")
    name, equals, value = rest.partition("=")
    if not (dot and equals and owner and name and value):
        raise UsageError(f"--set must be OPTIMIZER.OPTION=VALUE, as in lars.lr=16, got {text!r}")
    by_name = {f.name: f for f in _options()}
    name = name.replace("-", "_")
    if name not in by_name:
        raise unknown("option", name, by_name)
    kind = _kind(by_name[name])
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise UsageError(f"--set {owner}.{name} must be true or false, got {value!r}")
        return owner, name, value.lower() == "true"
    try:
        return owner, name, _type(kind)(value)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--set {owner}.{name} {error}") from None


def _refuse_unknown(parser: argparse.ArgumentParser, command: str, arguments: list[str]) -> NoReturn:
    from tvlars.lab.errors import UsageError

    flag = arguments[0].partition("=")[0]
    chosen = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[command]
    flags = [option for action in chosen._actions for option in action.option_strings]
    near = difflib.get_close_matches(flag, flags, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"unknown argument {flag!r} of {command}: {hint}See tvlars {command} --help.")
