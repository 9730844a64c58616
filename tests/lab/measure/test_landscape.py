"""Loss landscapes of finished runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tvlars.cli import main
from tvlars.lab import run_landscape


def test_landscapes(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, measured = (Path(shutil.copytree(run, tmp_path / run.name)) for run in runs)
    assert main(["landscape", str(plain), "--samples", "32", "--points", "5"]) == 0
    out = capsys.readouterr().out
    assert f"picture: {plain / 'landscape.png'}" in out
    assert (plain / "landscape.png").read_bytes().startswith(b"\x89PNG")
    one = pd.read_csv(plain / "landscape.csv")
    assert list(one["x"]) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert one["loss"].idxmin() == 2
    two, _ = run_landscape(plain, dimensions=2, points=3, samples=32)
    assert two.set_index(["x", "y"]).loc[(0.0, 0.0), "loss"] == pytest.approx(one["loss"][2], rel=1e-5)
    line, picture = run_landscape(plain, measured, points=4, samples=32)
    assert picture == plain / "line.png"
    assert line["loss"].std() == pytest.approx(0.0, abs=1e-6)  # both ends are the same weights
