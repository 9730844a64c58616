"""Processes of ``tvlars --devices`` or torchrun forked from the launcher, which has imported everything: they start at
once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn


def fork_ranks() -> None:
    """Have torch's launcher fork this process instead of starting ``python -m tvlars``; for ``Command(before=...)``."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = Forked  # type: ignore[attr-defined]


class Forked:
    """The part of ``subprocess.Popen`` that torch's launcher uses, for ``python -m tvlars WORDS``."""

    def __init__(
        self, args: Sequence[str], env: Mapping[str, str], stdout: None, stderr: None, start_new_session: bool
    ) -> None:
        options = [word for word in args[1:] if word != "-u"]  # which torchrun gives
        assert options[:2] == ["-m", "tvlars"], args
        assert stdout is stderr is None
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run(options[2:], env)

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("tvlars", timeout)
            time.sleep(0.01)
        return code


def _run(words: list[str], environment: Mapping[str, str]) -> NoReturn:
    """In the new process: be what an interpreter that has just started would be, with a name that says the rank."""
    code = 1
    try:
        os.setsid()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        Path("/proc/self/comm").write_text(f"rank {environment['RANK']}")
        from tvlars.cli import main

        sys.argv = ["tvlars", *words]
        code = main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
