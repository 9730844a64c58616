"""Validation and the best weights in several processes, whole and sharded: the same images, rows and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.lab.first import first
from tests.lab.processes.processes import in_processes
from tests.lab.training.test_keep_best import play
from tvlars.lab import TrainConfig, evaluate, load_run, train
from tvlars.lab.data import load_data
from tvlars.lab.run_folder.best import epochs_kept
from tvlars.lab.training.progress import Reporter

CONFIG = TrainConfig(
    optimizer="sgd", lr=0.05, batch_size=128, epochs=3, validation=101, validation_seed=3, keep_best=True,
    schedule="constant", accelerator="cpu", precision="32-true",
)  # fmt: skip


def train_both(folder: Path, shards: tuple[bool, ...]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        play(patch, [0.5, 0.9, 0.7])
        for shard in shards:
            config = replace(CONFIG, shard=shard, out=folder / ("sharded" if shard else "whole"))
            train(config, data=first(load_data("digits"), 500, 359), reporter=Reporter())


@pytest.mark.slow
def test_several_processes_hold_out_and_keep_the_same(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "two").mkdir()
    train_both(tmp_path / "alone", (False,))
    in_processes(2, train_both, tmp_path / "two", (False, True), log=tmp_path / "log")
    one = load_run(tmp_path / "alone" / "whole")
    for name in ("whole", "sharded"):
        other = load_run(tmp_path / "two" / name)
        assert other.complete
        assert other.fingerprint() == one.fingerprint()
        assert other.epochs["validation_loss"].tolist() == pytest.approx(
            one.epochs["validation_loss"].tolist(), rel=1e-3
        )
        assert other.epochs["test_loss"].isna().all()
        assert epochs_kept(other.folder) == [2]
        assert other.best_epoch == 2
        assert other.test_accuracy == pytest.approx(one.test_accuracy, abs=0.006)
        assert other.test_loss == pytest.approx(one.test_loss, rel=1e-3)
        assert evaluate(other).loss == pytest.approx(one.test_loss, rel=1e-3)
        for file in ("best-2.pt", "weights.pt"):
            mine, theirs = (torch.load(run.folder / file, weights_only=True) for run in (one, other))
            assert list(mine) == list(theirs)
