"""Program between a worker and its run: it runs ``tvlars``, and stops the run if the worker dies.

It is needed because Ray kills the children of a dead worker at once, while a run needs time to save its state: Ray
kills only this program, and the run is told to stop. The program is run as a file, so that it imports nothing else.
Arguments: the worker's process id, then the arguments of ``tvlars``. The exit code is that of the run, or 128 + N if
signal N killed the run.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
STOP_PATIENCE = 300
"""Seconds in which a run may save its state after it is told to stop; then it is killed."""


def main() -> None:
    """Start the process that looks after the run, pass SIGTERM on to it, and end with its exit code.

    Ray sends SIGKILL only to direct children of its workers: to this process, whose death does no harm.
    """
    worker, *arguments = sys.argv[1:]
    die_with(int(worker))
    me = os.getpid()
    keeper = os.fork()
    if keeper == 0:
        die_with(me)
        sys.exit(look_after(arguments))
    signal.signal(signal.SIGTERM, lambda *_: send(keeper, signal.SIGTERM))
    sys.exit(code_of(keeper))


def look_after(arguments: list[str]) -> int:
    """Start the command, pass SIGTERM on to it, and kill it if it does not end; return its exit code."""
    me = os.getpid()
    run = os.fork()
    if run == 0:
        die_with(me)
        os.execv(sys.executable, [sys.executable, "-m", "tvlars", *arguments])

    def pass_on(number: int, frame: Any) -> None:
        send(run, signal.SIGTERM)
        signal.alarm(STOP_PATIENCE)

    signal.signal(signal.SIGALRM, lambda *_: send(run, signal.SIGKILL))
    signal.signal(signal.SIGTERM, pass_on)
    return code_of(run)


def send(process: int, number: int) -> None:
    """Send a signal to a process unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def code_of(process: int) -> int:
    """Wait for a process, and return its exit code, 128 + N if signal N killed it."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if code >= 0 else 128 - code


def die_with(parent: int) -> None:
    """Make the system send SIGTERM to this process when its parent dies, also after an ``exec``."""
    if sys.platform == "linux":  # on other systems the run of a killed worker continues, and the next attempt waits
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it has died already
            sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
