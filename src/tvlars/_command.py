"""One sentence for errors that end the command ``tvlars`` before its ``main`` runs: a failed import of torch, Ctrl-C.

Importing torch takes seconds, and happens before a command begins. This module is imported first, and reports errors of
that time in one sentence. In other programs that import tvlars it does nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # without importing typing: an import here could be interrupted before the handlers are set
if TYPE_CHECKING:
    from types import FrameType, TracebackType

FAILED, BAD_INPUT, DIVERGED, INTERRUPTED = 1, 2, 3, 130
"""Exit codes of ``tvlars.cli``; 128 + N where signal N stopped a run."""


def _is_command() -> bool:
    """Return whether this process is ``tvlars ...`` or ``python -m tvlars ...``."""
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # as it is while the package of the module is imported
        words = sys.orig_argv
        return "-m" in words[:-1] and words[words.index("-m") + 1].split(".")[0] == "tvlars"
    name = os.path.basename(program).lower()
    return name in ("tvlars", "tvlars.exe", "tvlars-script.py")


OUT_OF_MEMORY = "memory ran out while libraries were imported: this process needs more, see ulimit -v"


NOTHING_YET = "interrupted before anything was measured; run the same command to start again"


def by_import(error: BaseException) -> bool:
    """Return whether ``error`` was raised while a module was imported, which may raise anything if it is broken."""
    import traceback

    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ImportError) or any(frame.f_code.co_name == "<module>" for frame, _ in frames)


def not_imported(error: Exception) -> str:
    """Return a sentence on the laboratory, or a part of it, whose import raised ``error``."""
    from tvlars._checks import one_line

    if isinstance(error, ModuleNotFoundError):
        return f"the laboratory needs {error.name!r}: pip install '.[lab]' in the source folder"
    if _memory_has_ended(error):
        return OUT_OF_MEMORY
    return f"the laboratory cannot be imported: {one_line(error)}; tvlars doctor says what is installed"


def _memory_has_ended(error: BaseException) -> bool:
    from tvlars._memory import says_so

    return isinstance(error, MemoryError) or says_so(error)


def _say(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        text, code = NOTHING_YET, INTERRUPTED
    elif issubclass(kind, ModuleNotFoundError):
        text, code = f"tvlars needs {getattr(error, 'name', None)!r} to be installed", BAD_INPUT
    elif _memory_has_ended(error):
        text, code = OUT_OF_MEMORY, BAD_INPUT
    elif issubclass(kind, Exception):
        reason = f"{kind.__name__}: {error}".removesuffix(": ").splitlines()[0]
        text, code = f"tvlars cannot be imported: {reason:.300}", BAD_INPUT
    else:
        sys.__excepthook__(kind, error, traceback)
        return
    _end(text, code)


def _end(text: str, code: int) -> None:
    """Print a sentence and end the process at once."""
    try:
        if sys.stderr is not None:
            os.write(2, f"tvlars: {text}\n".encode())  # a signal may arrive during a print
    except OSError:  # standard error may be closed
        pass
    os._exit(code)


def _interrupted(number: int, frame: FrameType | None) -> None:
    _end(NOTHING_YET, INTERRUPTED)


def begun() -> None:
    """Leave error messages to the command's own code, which runs now."""
    if sys.excepthook is _say:
        sys.excepthook = sys.__excepthook__


def ready() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` again: the command's work begins, and there may be results to keep."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def over() -> None:
    """Ignore Ctrl-C: the command has finished, and its exit code must not change."""
    import threading

    if _is_command() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if _is_command():
    sys.excepthook = _say

import signal  # noqa: E402  (takes milliseconds, in which Ctrl-C may come)

if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # An exception would be lost in a library's code that ignores all errors of an import, or end in its traceback.
    signal.signal(signal.SIGINT, _interrupted)
