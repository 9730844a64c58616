"""Fixtures of the tests of tuning."""

from __future__ import annotations

import pytest

from tests.lab.experiments.tuning.pretended import pretend_to_train_in
from tvlars.lab import TrainConfig


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Configs of all runs, none of which is trained."""
    return pretend_to_train_in(monkeypatch)
