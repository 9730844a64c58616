"""Ctrl-C, SIGTERM and SIGHUP: noted at once, obeyed where the state of a run is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from tvlars.lab.errors import PreemptedError

HANDLED: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""The signals, and the handlers that are replaced: whoever has set one of their own keeps it, and a signal that is
ignored, as SIGHUP is under nohup, stays ignored."""
if hasattr(signal, "SIGHUP"):  # a terminal or a connection that goes away; Windows has none
    HANDLED[signal.SIGHUP] = signal.SIG_DFL


class StopSignals:
    """Takes these signals while it is entered.

    The first one is noted in ``received``, for the loop to obey after the step that is going on; a second Ctrl-C stops
    at once. Inside ``at_once()``, where no step is going on, the first one does.

    Args:
        patient: never raise by itself, since other processes have to stop at the same step.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.received: int = 0
        """The signal that came, 0 while none has."""
        self._at_once = False
        self._outer: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number, usual in HANDLED.items():
                if signal.getsignal(number) is usual:
                    self._outer[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._outer.items():
            signal.signal(number, handler)
        self._outer = {}

    def _take(self, number: int, frame: Any) -> None:
        again = number == self.received == signal.SIGINT and not self.patient
        self.received = number
        if again or self._at_once:
            self._at_once = False
            stop(number)

    @contextlib.contextmanager
    def at_once(self, always: bool = False) -> Iterator[None]:
        """Let a signal raise at any point inside, also one that has come already.

        Args:
            always: of several processes too, where each may end by itself.
        """
        if not self.patient or always:
            if self.received:
                stop(self.received)
            self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


def stop(number: int) -> None:
    """Raise what the signal stands for."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise PreemptedError(f"stopped by {signal.Signals(number).name}; what was measured is kept", number)


def not_ignored() -> list[int]:
    """Return the signals that this process has not been told to ignore."""
    return [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
