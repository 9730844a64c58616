"""Sharpness of finished runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tvlars.cli import main
from tvlars.lab import UsageError, load_run, run_sharpness


def test_sharpness_of_a_finished_run_is_what_was_measured_at_its_end(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, measured = (Path(shutil.copytree(run, tmp_path / run.name)) for run in runs)
    expected = load_run(measured).sharpness.iloc[-1]
    assert main(["sharpness", str(plain), "--samples", "32"]) == 0
    row = load_run(plain).sharpness.iloc[0]
    for name in ("epoch", "step", "samples"):
        assert row[name] == expected[name]
    for name in ("loss", "hessian_max", "hessian_trace", "worst_case", "average_case"):
        assert row[name] == pytest.approx(expected[name], rel=1e-3)
    out = capsys.readouterr().out
    assert f"top eigenvalue {row['hessian_max']:.4g}" in out
    run_sharpness(measured, samples=16)  # takes the place of the row of that step, and of no other
    assert list(load_run(measured).sharpness["samples"]) == [32, 16]


def test_a_run_without_weights_or_with_damaged_statistics(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[1], tmp_path / "run"))
    (run / "weights.pt").unlink()
    with pytest.raises(UsageError, match="has no weights"):
        run_sharpness(run)
    next((run / "layer-stats").glob("*.parquet")).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UsageError, match="must hold layer statistics, but a file is damaged"):
        load_run(run).layer_stats()
