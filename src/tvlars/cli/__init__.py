"""The command line: ``tvlars train``, ``compare``, ``evaluate``, ``ssl``, ``probe``, ``sharpness``, ``landscape``,
``report``, ``runs``, ``diff``, ``views``, ``bench``, ``sweep``, ``tune``, ``robustness``, ``scaling``, ``doctor``,
``completion``.

It parses and prints; the work is in ``tvlars.lab``. Each command imports the modules that it needs when it runs.
``--version``, the help of all commands and ``runs`` do not even import torch. If the laboratory cannot be imported,
these and ``doctor`` still work.

Exit codes: 0 done, 1 a process was lost or a sweep's run failed, 2 bad input or a full disk, 3 a run diverged, 130
interrupted, 129 stopped by SIGHUP, 143 stopped by SIGTERM. A closed pipe at the output changes none of them: the
command continues to its end.

Options, their defaults and help texts are defined once, in ``lab.config``.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

from tvlars import __version__, _command
from tvlars._command import BAD_INPUT, FAILED, INTERRUPTED, NOTHING_YET
from tvlars._environment import VariableError, check_early
from tvlars.cli import _runs
from tvlars.cli._names import help_of_all
from tvlars.lab.console import Lasting


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to stop
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words == ["--version"]:
        return _answer(f"tvlars {__version__}\n")
    if words[:1] in (["-h"], ["--help"], ["--help-all"]):
        return _answer(help_of_all())
    if words[:1] == ["runs"]:
        return _runs.main(words)
    import torch  # noqa: F401  (where this fails, _command says why)

    _command.begun()
    try:
        code = _main(words)
    except Exception as error:
        if not _in_group():
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        code = FAILED
    if code and _in_group():
        # Threads that wait for processes that have ended would abort this one at exit, with another exit code.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    _command.over()
    return code


def _open_closed_streams() -> None:
    """Connect standard streams that were closed when this process started (``>&-``) to the null device, so that no file
    gets their numbers, and with them output for a terminal.
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
    """Return whether this process has joined a process group."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _answer(text: str) -> int:
    """Print a text that needs neither torch nor the laboratory, and return the exit code."""
    out = Lasting(sys.stdout)
    out.write(text)
    out.flush()
    return BAD_INPUT if out.lost else 0


def _main(words: list[str]) -> int:
    try:
        check_early()
        from tvlars.cli import _commands
    except KeyboardInterrupt:
        print(f"tvlars: {NOTHING_YET}", file=sys.stderr)
        return INTERRUPTED
    except VariableError as error:
        print(f"tvlars: {error}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:  # a package that is broken may raise anything
        return _without_laboratory(words, error)
    return _commands.run(words)


def _without_laboratory(words: Sequence[str], error: Exception) -> int:
    """Run ``doctor``, which needs only the core, or say why other commands cannot run: an import raised ``error``."""
    if words and words[0] == "doctor":
        from tvlars.cli import _doctor

        return _doctor.without_laboratory(words[1:])
    print(f"tvlars: {_command.not_imported(error)}", file=sys.stderr)
    return BAD_INPUT
