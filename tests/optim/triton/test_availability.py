"""Reasons why the Triton kernels cannot run on a device."""

from __future__ import annotations

import sys

import pytest
import torch

from tvlars.optim.triton import availability


def test_reasons_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    why_not = availability.why_not.__wrapped__
    assert why_not(torch.device("meta")) == "there are no Triton kernels for meta"
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "tvlars.optim.triton.kernels", raising=False)
    assert why_not(torch.device("cuda", 0)) == "Triton is not installed (pip install triton)"
