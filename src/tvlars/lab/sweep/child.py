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
    """Start the command, hand SIGTERM down to it, and end as it does."""
    worker, *arguments = sys.argv[1:]
    die_with(int(worker))
    me = os.getpid()
    run = os.fork()
    if run == 0:
        die_with(me)
        os.execv(sys.executable, [sys.executable, "-m", "tvlars", *arguments])

    def hand_down(number: int, frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(run, signal.SIGTERM)
        signal.alarm(STOP_PATIENCE)

    def kill(number: int, frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(run, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.signal(signal.SIGTERM, hand_down)
    code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
    sys.exit(code if code >= 0 else 128 - code)


def die_with(parent: int) -> None:
    """Have the system send SIGTERM to this process when its parent dies; an ``exec`` keeps that."""
    if sys.platform == "linux":  # elsewhere a run whose worker was killed ends by itself, and is waited for
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it has died already
            sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
