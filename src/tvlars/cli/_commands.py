"""Parser of all commands that need the laboratory, and the exit codes and messages of their errors."""

from __future__ import annotations

import contextlib
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tvlars._checks import one_line
from tvlars._command import BAD_INPUT, DIVERGED, FAILED, INTERRUPTED, NOTHING_YET, by_import, not_imported, ready
from tvlars.cli._names import without_commands
from tvlars.cli._options import config_file, fail
from tvlars.cli._parser import Parser, refuse_option_alone, refuse_unknown
from tvlars.lab.console import Lasting
from tvlars.lab.errors import (
    DivergedError,
    FailedRunError,
    Interrupted,
    LostProcessError,
    MovedFolderError,
    PreemptedError,
    SaidElsewhereError,
    UsageError,
)
from tvlars.lab.files.disk import cannot_write
from tvlars.lab.imported import is_theirs, their_traceback, where_raised
from tvlars.lab.memory import amount, has_ended
from tvlars.lab.processes.launcher import die_with_launcher, report_unexpected, way_on

MODULES: dict[str, tuple[str, ...]] = {
    "train": ("train", "compare", "evaluate"),
    "ssl": ("ssl", "probe"),
    "look": ("sharpness", "landscape", "report", "diff", "views"),
    "runs": ("runs",),
    "bench": ("bench",),
    "sweep": ("sweep", "tune"),
    "study": ("robustness", "scaling"),
    "protocol": ("protocol",),
    "doctor": ("doctor",),
    "completion": ("completion",),
}
"""Commands of each module of the command line."""


def run(words: list[str]) -> int:
    """Run the command in ``words`` and return its exit code."""
    die_with_launcher()
    if not sys.warnoptions:  # users of the command cannot fix deprecated calls between libraries
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|lightning|lightly|curvlinops)\b")
    streams = contextlib.ExitStack()
    out: Any = Lasting(sys.stdout)
    err: Any = Lasting(sys.stderr)
    try:
        streams.enter_context(contextlib.redirect_stdout(out))
        streams.enter_context(contextlib.redirect_stderr(err))
        parser = make_parser(words)
        refuse_option_alone(parser, words[0] if words else "")
        parsed, unknown_arguments = parser.parse_known_args(words)
        if unknown_arguments:
            refuse_unknown(parser, parsed.command, unknown_arguments)
        parsed.words = words
        ready()
        code = int(parsed.run(parsed))
        out.flush()
        return code or (BAD_INPUT if out.lost else 0)
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
    except Interrupted as error:
        return fail(f"interrupted; {_way_on(words[0], error)}", INTERRUPTED)
    except KeyboardInterrupt:
        return fail(NOTHING_YET, INTERRUPTED)
    except Exception as error:
        if is_theirs(error) and not has_ended(error):
            return _fail_theirs(error)
        if by_import(error):
            return fail(not_imported(error), BAD_INPUT)
        if has_ended(error):
            return fail(f"memory ran out{amount(error)}: the command needs more, or smaller data", BAD_INPUT)
        if not isinstance(error, OSError):
            report_unexpected(error)
            raise
        return fail(f"{cannot_write(error)}; what was written before is kept", BAD_INPUT)
    finally:
        out.flush()
        err.flush()
        streams.close()


def _way_on(command: str, error: Interrupted) -> str:
    """Return what was kept of an interrupted command, and how to continue."""
    if command in ("train", "ssl"):
        return f"{error}, and tvlars {command} --resume {shlex.quote(str(error.folder))} continues"
    if command == "compare":
        return f"{error}, and the same command with --out {shlex.quote(str(error.folder))} continues"
    return f"{error}, and the same command continues"


def _fail_theirs(error: Exception) -> int:
    """Print the traceback of an error in the user's code, without our frames, and return the exit code."""
    with contextlib.suppress(OSError):  # the pipe may be closed
        sys.stderr.write(their_traceback(error))
    return fail(f"{one_line(error)}, raised in {where_raised(error)}", FAILED)


def make_parser(words: Sequence[str] = ()) -> Parser:
    """Return the parser of ``words``, with the commands of their module alone; of all commands where they name none.

    A ``--config`` among the words sets defaults.
    """
    parser, commands = without_commands()
    command, config = (words[0] if words else ""), config_file(words)
    for module in [name for name, some in MODULES.items() if command in some] or MODULES:
        import_module(f"tvlars.cli._{module}").add(commands, command, config)
    return parser
