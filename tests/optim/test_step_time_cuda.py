"""The benchmark of the fused step on a GPU, as far as that needs none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_time_cuda.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("step_time_cuda", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_says_what_it_needs() -> None:
    pytest.importorskip("numpy", reason="without numpy torch warns beside what the script says")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.strip() == "step_time_cuda.py needs a CUDA GPU, and torch finds none here."


def test_a_transformer_of_a_billion_parameters(benchmark: Any) -> None:
    count = sum(torch.Size(shape).numel() for shape in benchmark.shapes_of("transformer_1b"))
    assert 0.95e9 < count < 1.05e9


def test_every_contestant_steps(benchmark: Any) -> None:
    field = benchmark.contestants()
    assert {benchmark.SGD, benchmark.ADAMW, "tvlars LARS fused", "tvlars TVLARS fused", "tvlars LAMB fused"} <= set(
        field
    )
    for name, contestant in field.items():
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        contestant.step(contestant.make([p], False))
        assert (p < 1).all(), name


def test_a_row_of_the_table(benchmark: Any) -> None:
    contestant = benchmark.Contestant(None, "lamb", True, 10)
    times = benchmark.Times([4e-3] * 4, [2e-3] * 4)
    for of in (times.eager_of, times.graph_of):
        of.update({benchmark.SGD: [1e-3] * 4, benchmark.ADAMW: [2e-3] * 4})
    row = benchmark.row("ours", times, contestant, size=10**8, bandwidth=1e12)  # the floor is 0.9 ms
    cells = [cell.partition("(")[0].strip() for cell in row.strip("| ").split(" | ")]
    assert cells == ["ours", "4.000", "4.00", "2.00", "2.000", "2.00", "1.00", "2.22", "4.44", "500 GB/s, 50%"]
    assert len(cells) == len(benchmark.HEAD) + 1
