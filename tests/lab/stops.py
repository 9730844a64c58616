"""A reporter that ends a run where a test wants it, and keeps what the run says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvlars.lab import Reporter


class StopAt(Reporter):
    """Stop a run after a step, or after the row of an epoch, as if it had been cut off there.

    Args:
        step: the step after which it happens; 0 for none.
        epoch: the epoch after which it happens; 0 for none.
        error: the exception to raise, or a function to call instead.
    """

    def __init__(
        self, step: int = 0, epoch: int = 0, error: type[BaseException] | Callable[[], object] = SystemExit
    ) -> None:
        self.at_step, self.at_epoch, self.error = step, epoch, error
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.ended: list[str] = []

    def _act(self) -> None:
        if isinstance(self.error, type):
            raise self.error
        self.error()

    def start(self, config: Any, plan: Any, lines: list[str], folder: Path, step: int = 0) -> None:
        self.lines = lines

    def step(self, row: Any) -> None:
        if row.step == self.at_step:
            self._act()

    def epoch(self, row: Any) -> None:
        if row.epoch == self.at_epoch:
            self._act()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end(self, status: str) -> None:
        self.ended.append(status)
