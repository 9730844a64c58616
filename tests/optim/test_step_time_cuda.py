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
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # it imports those beside it
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
    assert {
        benchmark.BASELINE,
        benchmark.ADAMW,
        "tvlars LARS fused",
        "tvlars TVLARS fused",
        "tvlars LAMB fused",
    } <= set(field)
    for name, contestant in field.items():
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        contestant.step(contestant.make([p], False))
        assert (p < 1).all(), name


def test_a_row_of_the_table(benchmark: Any) -> None:
    contestant = benchmark.Contestant(None, "lamb", True, 10)
    times = {"eager own": [4e-3] * 4, "graph own": [2e-3] * 4}
    for kind in ("eager", "graph"):
        times |= {f"{kind} {benchmark.BASELINE}": [1e-3] * 4, f"{kind} {benchmark.ADAMW}": [2e-3] * 4}
    row = benchmark.row(times, contestant, size=10**8, bandwidth=1e12)  # the floor is 0.9 ms
    assert {name: value[0] if isinstance(value, list) else value for name, value in row.items()} == {
        "eager, ms": pytest.approx(4.0),
        "eager, to SGD": pytest.approx(4.0),
        "eager, to AdamW": pytest.approx(2.0),
        "eager / floor": pytest.approx(4.0 / 0.9),
        "graph, ms": pytest.approx(2.0),
        "graph, to SGD": pytest.approx(2.0),
        "graph, to AdamW": pytest.approx(1.0),
        "graph / floor": pytest.approx(2.0 / 0.9),
        "moved in the graph": "500 GB/s, 50%",
    }
    assert "graph, ms" not in benchmark.row({**times, "graph own": []}, contestant, size=10**8, bandwidth=1e12)
