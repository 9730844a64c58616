"""Many processes: DDP, ZeroRedundancyOptimizer, FSDP2, tensor parallel, several meshes; FSDP1 is refused.

The checks are in ``tests/optim/distributed``.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.optim.distributed.harness import all_checks, outcomes

pytest.importorskip("numpy", reason="torch's ZeroRedundancyOptimizer needs numpy")


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Failures of each check of this session; all run in one start, which takes seconds."""
    items: list[Any] = [item for item in request.session.items if item.path == request.path]
    return outcomes([item.callspec.params["check"] for item in items], tmp_path_factory.mktemp("processes"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
@pytest.mark.parametrize("check", list(all_checks()))
def test_in_processes(check: str, results: dict[str, str]) -> None:
    if results[check]:
        pytest.fail(results[check], pytrace=False)
