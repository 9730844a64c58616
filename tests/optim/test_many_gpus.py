"""The estimate of a step on many GPUs counts what the optimizer sends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_all_norms_of_a_model_take_one_all_reduce_however_many_processes_there_are() -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed (extra lab)")
    command = [sys.executable, "benchmarks/many_gpus.py", "--gpus", "4", "--batch-size", "256", "--latency", "1"]
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
    )
    assert found.returncode == 0, found.stderr[-2000:]
    resnet, vit = (line.strip("| ").split(" | ") for line in found.stdout.splitlines()[-2:])
    # 54 and 50 layers are adapted; two norms of each, at three scales, in float64
    assert resnet[-1] == f"1 of {54 * 2 * 3 * 8:,} bytes"
    assert vit[-1] == f"1 of {50 * 2 * 3 * 8:,} bytes"
    # messages of a second: two there and two back for four processes, 17 groups of blocks with two each way thrice
    assert float(resnet[-2]) == pytest.approx(4000, rel=0.01)
    assert float(resnet[5]) == pytest.approx(17 * 3 * 2 * 1000, rel=0.01)
