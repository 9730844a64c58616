"""Signals that stop runs: which handlers are replaced, and what is noted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tvlars.lab.processes.signals import StopSignals


def own(number: int, frame: Any) -> None:
    raise AssertionError("the handler of somebody else was called")


@pytest.fixture
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
def test_handlers_of_others_are_replaced_on_request_alone() -> None:
    with StopSignals() as signals:
        assert signal.getsignal(signal.SIGTERM) is own
    with StopSignals(patient=True, replace=True) as signals:
        signal.raise_signal(signal.SIGHUP)  # stays ignored
        assert signals.received == 0
        signal.raise_signal(signal.SIGTERM)
        assert (signals.received, signals.again.is_set()) == (signal.SIGTERM, False)
        signal.raise_signal(signal.SIGINT)
        assert (signals.received, signals.again.is_set()) == (signal.SIGINT, True)
    assert signal.getsignal(signal.SIGTERM) is own
