"""Fixtures that tests of comparisons, sweeps and tuning share."""

from __future__ import annotations

import pytest

from tests.lab.experiments.forked import fork_runs


@pytest.fixture
def forked_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of workers on this machine start at once."""
    fork_runs(monkeypatch)
