"""Handlers of Ctrl-C, SIGTERM and SIGHUP: a signal is recorded at once, and handled between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvlars.lab.errors import Interrupted, PreemptedError

HANDLED: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""Handled signals and their default handlers. Only default handlers are replaced, so that an ignored signal, such as
SIGHUP under nohup, stays ignored."""
if hasattr(signal, "SIGHUP"):  # sent when a terminal or connection closes; Windows has none
    HANDLED[signal.SIGHUP] = signal.SIG_DFL


class StopSignals:
    """Context in which these signals are handled.

    The first signal is recorded in ``received``, and the loop stops after the current step; a second Ctrl-C raises at
    once. Inside ``at_once()``, between steps, the first signal raises.

    Args:
        patient: never raise, since other processes must stop before, or at the same step.
        replace: also replace handlers of other libraries, such as Ray's handler, which ends the process.
    """

    def __init__(self, patient: bool = False, replace: bool = False) -> None:
        self.patient, self.replace = patient, replace
        self.received: int = 0
        """Number of the last signal; 0 if there was none."""
        self.again = threading.Event()
        """Set when a second signal is received."""
        self._at_once = False
        self._outer: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in not_ignored():
                if self.replace or signal.getsignal(number) is HANDLED[number]:
                    self._outer[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._outer.items():
            signal.signal(number, handler)
        self._outer = {}

    def _take(self, number: int, frame: Any) -> None:
        again = number == self.received == signal.SIGINT and not self.patient
        if self.received:
            self.again.set()
        self.received = number
        if again or self._at_once:
            self._at_once = False
            stop(number)

    @contextlib.contextmanager
    def at_once(self, always: bool = False) -> Iterator[None]:
        """Return a context in which a signal raises at any point; a signal recorded before raises immediately.

        Args:
            always: also if ``patient``, for work in which each process may end by itself.
        """
        if not self.patient or always:
            if self.received:
                stop(self.received)
            self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Make Ctrl-C say that results so far are in ``folder``, if a record exists there."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not (folder / "config.json").is_file():
            raise
        raise Interrupted(folder) from error


def stop(number: int) -> None:
    """Raise the exception of a signal."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise PreemptedError(f"stopped by {signal.Signals(number).name}; what was measured is kept", number)


def not_ignored() -> list[int]:
    """Return the handled signals that this process does not ignore."""
    return [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
