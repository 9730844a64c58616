"""Program that a worker starts: it runs ``tvlars``, and stops it when the worker dies, so that no run is left behind.

It stands between the two because Ray kills the children of a dead worker at once, while a run needs time to save its
state: this program may be killed, and the run is told to stop. It is run as a file, so that it imports nothing else.
Arguments: the worker's process id, then those of ``tvlars``. Its exit code is that of the run, 128 + N if signal N
killed it.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
STOP_PATIENCE = 300
"""Seconds that a run has to save its state when it is told to stop; it is killed after that."""


def main() -> None:
    """Start the process that looks after the run, pass SIGTERM on to it, and end with its exit code.

    Ray sends SIGKILL to the direct children of its workers alone: to this process, whose death harms nothing.
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
    """Start the command, pass SIGTERM on to it, and kill it if it hangs then; return its exit code."""
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
    """Have the system send SIGTERM to this process when its parent dies, also after an ``exec``."""
    if sys.platform == "linux":  # elsewhere a run whose worker was killed ends by itself, and is waited for
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it has died already
            sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
