"""Measures of a representation, of features whose values are known."""

from __future__ import annotations

import math

import pytest
import torch

from tvlars.lab.ssl import representation


def test_spread_and_rank_of_a_sphere_a_line_and_a_point() -> None:
    generator = torch.Generator().manual_seed(0)
    even = torch.randn(4000, 16, generator=generator)
    assert representation.feature_std(even) == pytest.approx(1.0, abs=0.02)
    assert representation.effective_rank(even) == pytest.approx(16, rel=0.02)
    line = torch.randn(100, 1, generator=generator) * torch.randn(1, 16, generator=generator)
    assert representation.effective_rank(line) == pytest.approx(1.0, abs=1e-3)
    point = torch.full((50, 16), 0.1)
    assert representation.feature_std(point) == pytest.approx(0.0, abs=1e-6)
    assert representation.effective_rank(point) == 0.0


def test_alignment_and_uniformity_by_hand() -> None:
    a, b = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 5.0]])
    assert representation.alignment(a, b) == pytest.approx(1.0)  # squared distances 2 and 0
    assert representation.uniformity(a) == pytest.approx(math.log(math.exp(-4.0)))
    assert representation.alignment(a, a) == 0.0
