"""What a worker starts: it runs ``tvlars``, and stops it when the worker dies, so that no run is left behind.

It stands between the two, since Ray kills what its workers have started, at once, while a run wants to save what it
has: this one may be killed, and the run is told to stop. Run as a file, so that nothing has to be imported before.
Arguments: the worker's process id, then those of ``tvlars``. Its exit code is that of the run, 128 + N where signal N
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
"""Seconds that a run which was told to stop has to save what it has; one that hangs is killed then."""


def main() -> None:
    """Start the one who looks after the run, hand SIGTERM down, and end as it does.

    Ray kills what its workers have started with SIGKILL, and no more than that: this process, which can be spared.
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
    """Start the command, hand SIGTERM down to it, and kill it where it hangs then; returns its exit code."""
    me = os.getpid()
    run = os.fork()
    if run == 0:
        die_with(me)
        os.execv(sys.executable, [sys.executable, "-m", "tvlars", *arguments])

    def hand_down(number: int, frame: Any) -> None:
        send(run, signal.SIGTERM)
        signal.alarm(STOP_PATIENCE)

    signal.signal(signal.SIGALRM, lambda *_: send(run, signal.SIGKILL))
    signal.signal(signal.SIGTERM, hand_down)
    return code_of(run)


def send(process: int, number: int) -> None:
    """Send a signal to a process, where it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def code_of(process: int) -> int:
    """Wait for a process; its exit code, 128 + N where signal N killed it."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if code >= 0 else 128 - code


def die_with(parent: int) -> None:
    """Have the system send SIGTERM to this process when its parent dies; an ``exec`` keeps that."""
    if sys.platform == "linux":  # elsewhere a run whose worker was killed ends by itself, and is waited for
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it has died already
            sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
