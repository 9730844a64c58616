"""How a run ended, in one word: in summary.json, for readers of run folders, and in tables."""

from __future__ import annotations

from enum import Enum

from tvlars.lab.errors import DivergedError, PreemptedError


class Status(str, Enum):
    """How a run ended. Each is the text that files have: ``Status.FINISHED == "finished"``."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    """By Ctrl-C."""
    PREEMPTED = "preempted"
    """By SIGTERM or SIGHUP."""
    DIVERGED = "diverged"
    """Its loss was not finite."""
    PRUNED = "pruned"
    """Tuning gave it up, since others did better."""
    FAILED = "failed"
    """By any other error."""
    UNFINISHED = "unfinished"
    """It is being done, or was cut off: its folder does not say how it ended."""

    NOT_DONE = "not done"
    """It has no folder yet."""

    __str__ = str.__str__

    @classmethod
    def of_error(cls, error: BaseException) -> Status:
        """Return how a run has ended that was ended by ``error``."""
        kinds = ((KeyboardInterrupt, cls.INTERRUPTED), (PreemptedError, cls.PREEMPTED), (DivergedError, cls.DIVERGED))
        return next((status for kind, status in kinds if isinstance(error, kind)), cls.FAILED)
