"""Pinned memory of the launcher; what it launches is tested in ``interpreted`` and, on a GPU, in ``test_cuda.py``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tvlars.optim.triton import launcher


def test_graphs_copy_from_memory_that_was_there_before_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver gives none while a graph is captured, and what a graph copies from is not used again."""
    allowed, one = True, launcher.Launcher()

    def new(size: int) -> Tensor:
        assert allowed
        return torch.empty(size, dtype=torch.uint8)

    monkeypatch.setattr(launcher, "_new_pinned", new)
    one._pinned(100, capturing=False, capturable=True)
    one._pinned(50, capturing=False, capturable=True)
    allowed = False
    captured = [one._pinned(100, capturing=True, capturable=True) for _ in range(launcher.SPARES)]
    assert len({x.data_ptr() for x in [*captured, *one._captured]}) == launcher.SPARES
    allowed = True
    after = [one._pinned(100, capturing=False, capturable=True) for _ in range(3)]
    assert not {x.data_ptr() for x in after} & {x.data_ptr() for x in captured}
