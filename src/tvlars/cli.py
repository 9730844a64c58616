"""The command line: ``tvlars train`` and ``tvlars compare``. It parses and prints; the work is in ``tvlars.lab``.

Exit codes: 0 done, 2 bad input, 3 a run diverged, 130 interrupted.

argparse over the dataclasses' fields: every option, its default and its help stand once, in ``lab.config``.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

DIVERGED, INTERRUPTED, BAD_INPUT = 3, 130, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        from tvlars.lab.errors import DivergedError, UsageError
    except ModuleNotFoundError as error:
        return _missing_extra(error)
    try:
        parser = _parser()
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
    except BrokenPipeError:  # the reader of our output has gone, as in `tvlars ... | head`
        sys.stderr.close()
        return 1


def _fail(message: str, code: int) -> int:
    print(f"tvlars: {message}", file=sys.stderr)
    return code


def _missing_extra(error: ModuleNotFoundError) -> int:
    return _fail(f"the laboratory needs {error.name!r}: pip install 'tvlars[lab]'", BAD_INPUT)


# -- the commands ---------------------------------------------------------------------------------------


def _train(parsed: argparse.Namespace) -> int:
    from tvlars.lab.engine import train
    from tvlars.lab.progress import choose_reporter

    result = train(_train_config(parsed), reporter=choose_reporter())
    last = result.epochs[-1]
    seconds = sum(epoch.seconds for epoch in result.epochs)
    speed = last.step * result.config.batch_size / seconds
    print(
        f"{result.config.optimizer}: test accuracy {last.test_accuracy:.2%}, test loss {last.test_loss:.4f}, "
        f"{last.step} steps in {seconds:.1f} s of training ({speed:,.0f} images/s)"
    )
    print(f"run folder: {result.folder}")
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    from tvlars.lab.compare import compare
    from tvlars.lab.config import CompareConfig
    from tvlars.lab.progress import choose_reporter
    from tvlars.lab.table import print_table

    base = _train_config(parsed, optimizer=parsed.optimizers[0], batch_size=parsed.batch_size[0], seed=parsed.seeds[0])
    config = CompareConfig(
        base=base,
        optimizers=tuple(parsed.optimizers),
        batch_sizes=tuple(parsed.batch_size),
        seeds=tuple(parsed.seeds),
        overrides=tuple(_override(text) for text in parsed.set or ()),
        out=parsed.out,
    )
    comparison = compare(
        config, reporter=lambda: choose_reporter(brief=True), announce=lambda line: print(line, flush=True)
    )
    print_table(comparison)
    print(f"page: {comparison.folder / 'report.html'}")
    for run in comparison.diverged:
        _fail(f"{run.optimizer}, batch size {run.batch_size}, seed {run.seed} diverged: {run.note}", DIVERGED)
    return DIVERGED if comparison.diverged else 0


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


def _parser() -> _Parser:
    parser = _Parser(prog="tvlars", description="Large-batch training with TVLARS, LARS and LAMB.", allow_abbrev=False)
    from tvlars import __version__

    parser.add_argument("--version", action="version", version=f"tvlars {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    train = _command(commands, "train", "train one model and keep a record of it", _train)
    for f in _options():
        _add(train, f)

    compare = _command(commands, "compare", "train several optimizers, batch sizes and seeds; table and page", _compare)
    compare.add_argument(
        "--optimizers",
        nargs="+",
        default=["tvlars", "lars", "lamb"],
        metavar="NAME",
        help="(default: tvlars lars lamb)",
    )
    compare.add_argument(
        "--batch-size",
        nargs="+",
        type=_type(int),
        default=[256],
        metavar="N",
        help="samples per optimizer step, one or more (default: 256)",
    )
    compare.add_argument("--seeds", nargs="+", type=_type(int), default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    compare.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="OPTIMIZER.OPTION=VALUE",
        help="an option for one optimizer alone, as in --set lars.lr=16 lamb.warmup-epochs=0",
    )
    for f in _options():
        if f.name not in ("optimizer", "batch_size", "seed"):
            _add(compare, f)
    return parser


def _command(commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def _options() -> tuple[Field[Any], ...]:
    from tvlars.lab.config import TrainConfig

    return fields(TrainConfig)


def _add(parser: argparse.ArgumentParser, f: Field[Any]) -> None:
    flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
    if f.default is not None and "default" not in text and not isinstance(f.default, bool):
        text += f" (default: {f.default})"
    kind = _kind(f)
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=f.default, help=text)
    else:
        parser.add_argument(flag, type=_type(kind), default=f.default, metavar=kind.__name__.upper(), help=text)


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
