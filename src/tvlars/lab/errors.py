"""Errors for the user, each with one sentence as its message."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from tvlars._command import not_imported

MOST_NAMES = 24
"""Most names that an error lists; if there are more, it lists the nearest ones, or the first."""


class UsageError(ValueError):
    """An argument or input is invalid; the message names it in one sentence. Exit code 2 at the CLI."""


class LockedError(UsageError):
    """Another process is using this run folder."""


class SaidElsewhereError(UsageError):
    """Another process has reported the error."""


class PreemptedError(RuntimeError):
    """Training was stopped by a signal, and can resume from its checkpoint. Exit code 128 + ``signal`` at the CLI.

    Args:
        message: one sentence, which names the signal.
        number: the signal, stored as ``signal``: SIGTERM (default), or SIGHUP if the terminal was closed.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        self.signal = int(number)
        super().__init__(message)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; ``folder`` holds the results so far, ``far`` describes the progress."""

    def __init__(self, folder: Path, far: str = "") -> None:
        self.folder = folder
        super().__init__(f"{far}what was measured is kept in {folder}")


class LostProcessError(RuntimeError):
    """Another process has ended, or did not join a collective in time. Exit code 1 at the CLI."""

    def __init__(self, rank: int, timeout: float, reason: str) -> None:
        super().__init__(
            f"process {rank} has waited for the others in vain: one of them hangs or has ended "
            f"(timeout {timeout:g} s; {reason.strip().partition(chr(10))[0]:.160})"
        )


class MovedFolderError(RuntimeError):
    """A run's folder was moved or removed during the run. Exit code 1 at the CLI."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} must stay the folder of this run, but it was moved or removed: the run ends, and "
            "writes nothing more; its earlier records are in the folder that was moved"
        )


class FailedRunError(RuntimeError):
    """A run failed despite retries; the same command tries it again. Exit code 1 at the CLI."""


class DivergedError(RuntimeError):
    """A run of ``optimizer`` was stopped because its loss, or ``what``, was not finite. Exit code 3 at the CLI.

    Attributes: ``step`` (from 1) and ``lr`` of the divergence, ``folder`` of the record.
    """

    def __init__(self, optimizer: str, step: int, lr: float, folder: Path, what: str = "loss") -> None:
        self.step, self.lr, self.folder = step, lr, folder
        super().__init__(
            f"{optimizer} diverged: the {what} was not finite at step {step} with lr {lr:.4g}; "
            f"the record up to there is in {folder}. A smaller lr usually helps."
        )


SYNONYMS = dict(learning_rate="lr", wd="weight_decay", bs="batch_size", warmup="warmup_epochs")
"""Options under the names that other programs have for them."""


def unknown(kind: str, name: object, valid: Iterable[str], options: Iterable[str] = ()) -> UsageError:
    """Return the error for a name that is not ``valid``; it suggests near names, of the ``options`` of a run too."""
    by_lower: dict[str, str] = {}
    for one in valid:
        by_lower.setdefault(one.lower(), one)
    names = list(by_lower.values())
    for one in options:
        by_lower.setdefault(one.lower(), one)
    typed = str(name).lower()
    begun = [one for one in by_lower if (len(typed) > 1 and one.startswith(typed)) or (len(typed) > 3 and typed in one)]
    same = [one for one in by_lower if one == SYNONYMS.get(typed.replace("-", "_"))]
    near = [by_lower[one] for one in same or difflib.get_close_matches(typed, by_lower, n=2, cutoff=0.6) or begun[:2]]
    names += [one for one in near if one not in names]  # a name that is suggested is listed too
    if len(names) > MOST_NAMES:
        names = [f"{len(names):,} names"] if near else [*names[:MOST_NAMES], f"and {len(names) - MOST_NAMES:,} more"]
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    known = ", ".join([*names, "options of a run"] if options else names)
    return UsageError(f"unknown {kind} {str(name)!r}: {hint}Known: {known}.")


def listed(names: Iterable[str]) -> str:
    """Return names as a list in words: "lars, lamb and sgd"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def check_page_packages() -> None:
    """Raise ``ModuleNotFoundError``, which names the extra, if a package that pages need is missing: before any run."""
    for name in ("jinja2", "pandas", "plotly"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(not_imported(ModuleNotFoundError(name=name)), name=name)
