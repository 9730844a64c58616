"""Status of a run in one word, as it stands in summary.json, in tables, and in the outcome of a job."""

from __future__ import annotations

from enum import Enum

from tvlars.lab.errors import DivergedError, PreemptedError


class Status(str, Enum):
    """Status of a run. Members are equal to the text in files: ``Status.FINISHED == "finished"``."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    """By Ctrl-C."""
    PREEMPTED = "preempted"
    """By SIGTERM or SIGHUP."""
    DIVERGED = "diverged"
    """The loss was not finite."""
    PRUNED = "pruned"
    """Stopped by tuning, since other trials were better."""
    FAILED = "failed"
    """By any other error."""
    UNFINISHED = "unfinished"
    """Running or killed: the folder has no summary.json."""

    NOT_DONE = "not done"
    """The run has not started, or its folder does not show that it has ended."""
    REFUSED = "refused"
    """Its options do not go with its data or its machine, so that another attempt would fail too."""
    LOST = "lost"
    """The machine or the process that did it is gone, which is not its fault."""

    __str__ = str.__str__

    @classmethod
    def of_error(cls, error: BaseException) -> Status:
        """Return the status of a run that ``error`` has ended."""
        kinds = ((KeyboardInterrupt, cls.INTERRUPTED), (PreemptedError, cls.PREEMPTED), (DivergedError, cls.DIVERGED))
        return next((status for kind, status in kinds if isinstance(error, kind)), cls.FAILED)
