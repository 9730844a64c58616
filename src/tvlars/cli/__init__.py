"""The command line: ``tvlars train``, ``compare``, ``evaluate``, ``ssl``, ``probe``, ``sharpness``, ``landscape``,
``report``, ``views``, ``bench``, ``sweep``, ``tune``, ``doctor``, ``completion``.

It parses and prints; the work is in ``tvlars.lab``, without which ``doctor`` and ``--version`` still answer.

Exit codes: 0 done, 1 a process was lost or a sweep's run failed, 2 bad input or a full disk, 3 a run diverged, 130
interrupted, 129 stopped by SIGHUP, 143 stopped by SIGTERM. A reader of the output that goes away changes none of them:
a command goes on to its end without it.

argparse over the dataclasses' fields: every option, its default and its help stand once, in ``lab.config``.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from tvlars import __version__, _command
from tvlars._checks import one_line
from tvlars._environment import VariableError
from tvlars.cli import _bench, _completion, _doctor, _look, _ssl, _sweep, _train
from tvlars.cli._options import (
    BAD_INPUT,
    DIVERGED,
    FAILED,
    INTERRUPTED,
    Parser,
    config_file,
    fail,
    refuse_option_alone,
    refuse_unknown,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _command.begun()
    _open_closed_streams()
    try:
        code = _main(arguments)
    except Exception as error:
        if not _in_group():
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        code = FAILED
    if code and _in_group():
        # Threads that wait for processes that have gone would abort this one at its end, with a code of their own.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def _open_closed_streams() -> None:
    """Connect standard streams that were closed when this process started (``>&-``) to the null device, before a file
    gets the number of one and receives what is meant for a terminal.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:
                os.set_inheritable(null, True)
            else:
                os.dup2(null, number)
                os.close(null)
        setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (for the life of the process)


def _in_group() -> bool:
    """Whether this process has met others."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _main(arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to stop
    words = sys.argv[1:] if arguments is None else arguments
    try:
        from tvlars.lab.console import Lasting
        from tvlars.lab.errors import (
            DivergedError,
            FailedRunError,
            LostProcessError,
            MovedFolderError,
            PreemptedError,
            SaidElsewhereError,
            UsageError,
        )
        from tvlars.lab.files.disk import cannot_write
        from tvlars.lab.memory import amount, has_ended
        from tvlars.lab.processes.launcher import die_with_launcher, report_unexpected, way_on
    except KeyboardInterrupt:
        print("tvlars: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # a package that is broken may raise anything
        return _without_laboratory(words, error)
    die_with_launcher()
    streams = contextlib.ExitStack()
    out: Any = Lasting(sys.stdout)
    err: Any = Lasting(sys.stderr)
    try:
        streams.enter_context(contextlib.redirect_stdout(out))
        streams.enter_context(contextlib.redirect_stderr(err))
        parser = make_parser(words)
        refuse_option_alone(parser, words[0] if words else "")
        parsed, unknown_arguments = parser.parse_known_args(arguments)
        if unknown_arguments:
            refuse_unknown(parser, parsed.command, unknown_arguments)
        parsed.words = list(words)
        code = int(parsed.run(parsed))
        out.flush()
        return code or (BAD_INPUT if out.lost else 0)
    except ModuleNotFoundError as error:
        return fail(_missing_extra(error), BAD_INPUT)
    except SaidElsewhereError:
        return BAD_INPUT
    except (FailedRunError, LostProcessError, MovedFolderError) as error:
        return fail(str(error), FAILED)
    except UsageError as error:
        return fail(str(error), BAD_INPUT)
    except DivergedError as error:
        return fail(str(error), DIVERGED)
    except PreemptedError as error:
        return fail(str(error) + way_on(parsed.command), 128 + error.signal)
    except KeyboardInterrupt:
        return fail("interrupted; what was measured is kept" + way_on(words[0] if words else ""), INTERRUPTED)
    except Exception as error:
        if has_ended(error):
            return fail(f"memory has ended{amount(error)}: the command needs more, or smaller data", BAD_INPUT)
        if not isinstance(error, OSError):
            report_unexpected(error)
            raise
        return fail(f"{cannot_write(error)}; what was written before is kept", BAD_INPUT)
    finally:
        out.flush()
        err.flush()
        streams.close()


def make_parser(words: Sequence[str] = ()) -> Parser:
    """The parser of all commands. A ``--config`` among ``words``, which are to be parsed, sets defaults."""
    parser = Parser(prog="tvlars", description="Large-batch training with TVLARS, LARS and LAMB.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"tvlars {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    command, config = (words[0] if words else ""), config_file(words)
    _train.add(commands, command, config)
    _ssl.add(commands, command, config)
    _look.add(commands)
    _bench.add(commands)
    _sweep.add(commands, command, config)
    _doctor.add(commands)
    _completion.add(commands, parser)
    return parser


def _without_laboratory(words: Sequence[str], error: Exception) -> int:
    """The commands that need the core alone, or why the others cannot be had: the laboratory raised ``error``."""
    if list(words) == ["--version"]:
        print(f"tvlars {__version__}")
        return 0
    if words and words[0] == "doctor":
        return _doctor.without_laboratory(words[1:])
    if isinstance(error, VariableError):
        reason = str(error)
    elif isinstance(error, ModuleNotFoundError):
        reason = _missing_extra(error)
    elif _command.memory_has_ended(error):
        reason = _command.OUT_OF_MEMORY
    else:
        reason = f"the laboratory cannot be imported: {one_line(error)}; tvlars doctor says what is installed"
    print(f"tvlars: {reason}", file=sys.stderr)
    return BAD_INPUT


def _missing_extra(error: ModuleNotFoundError) -> str:
    return f"the laboratory needs {error.name!r}: pip install '.[lab]' in the source folder"
