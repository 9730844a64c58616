"""Accuracy on a random share of the test set, as the published comparison reports it."""

from __future__ import annotations

import html
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tvlars.lab import (
    LoadedRun,
    TrainConfig,
    UsageError,
    best_of_trials,
    expected_best,
    gain_by_luck,
    load_data,
    load_run,
    train,
)
from tvlars.lab.run_folder.rows import TEST_SHARE
from tvlars.lab.run_folder.status import Status
from tvlars.lab.training.learner import random_share

SHARE = 0.25


def small() -> Any:
    """Digits with 200 training images."""
    data = load_data("digits")
    return replace(data, train_images=data.train_images[:200], train_labels=data.train_labels[:200])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedRun]:
    """Runs without a share, with one, and with one beside images for validation."""
    folder = tmp_path_factory.mktemp("runs")
    settings: dict[str, dict[str, Any]] = {
        "whole": {},
        "share": dict(test_share=SHARE),
        "validated": dict(test_share=SHARE, validation=0.2),
    }
    for name, options in settings.items():
        config = TrainConfig(batch_size=50, epochs=2, lr=8.0, out=folder / name, **options)
        train(config, data=small())
    return {name: load_run(folder / name) for name in settings}


def test_the_share_is_random_and_fixed_by_the_epoch() -> None:
    first, second = random_share(360, SHARE, 1), random_share(360, SHARE, 2)
    assert len(first) == len(second) == 90
    assert len(set(first.tolist())) == 90
    assert first.tolist() == sorted(first.tolist()) == random_share(360, SHARE, 1).tolist()
    assert not torch.equal(first, second)
    assert 0 <= int(first.min()) < int(first.max()) < 360
    assert len(random_share(3, 0.01, 1)) == 1
    often = torch.zeros(40)
    for epoch in range(400):
        often[random_share(40, SHARE, epoch)] += 1
    assert 70 < float(often.min()) < float(often.max()) < 140  # 100 each, give or take 9


def test_training_is_the_same_with_it(runs: dict[str, LoadedRun]) -> None:
    one, other = (torch.load(runs[name].folder / "weights.pt") for name in ("whole", "share"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("test_accuracy", "test_loss", "train_loss"):
        assert runs["whole"].epochs[name].tolist() == runs["share"].epochs[name].tolist()
    assert TEST_SHARE not in runs["whole"].epochs


@pytest.mark.parametrize("name", ["share", "validated"])
def test_it_stands_beside_the_accuracy_on_the_whole_test_set(runs: dict[str, LoadedRun], name: str) -> None:
    run = runs[name]
    assert run.epochs[TEST_SHARE].notna().sum() == 2
    right = run.test_correct()
    assert right is not None
    assert run.test_accuracy == pytest.approx(float(np.mean(right)))
    share = float(np.mean(right[random_share(len(right), SHARE, 2).numpy()]))
    assert run.metrics[TEST_SHARE] == pytest.approx(share)
    assert run.summary[TEST_SHARE] == pytest.approx(share)
    assert run.environment["measured"] == "accuracy on a random 25 % of the test set, as published"


def test_it_is_refused_where_the_test_set_is_not_read() -> None:
    with pytest.raises(UsageError, match="must not be given if the test set is not read"):
        TrainConfig(test_share=SHARE, validation=0.1, test=False)
    with pytest.raises(UsageError, match="test_share must be"):
        TrainConfig(test_share=0.0)


# -- best of trials --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_expected_best_is_the_mean_over_all_draws(n: int) -> None:
    values = [0.3, 0.1, 0.4, 0.1, 0.5]
    by_hand = np.mean([max(draw) for draw in itertools.combinations(values, n)])
    assert expected_best(values, n) == pytest.approx(by_hand)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_expected_best_may_be_chosen_by_other_values(n: int) -> None:
    values, by = [0.3, 0.9, 0.4, 0.1, 0.5], [3.0, 1.0, 2.0, 2.0, 0.5]
    chosen = []
    for draw in itertools.combinations(range(5), n):
        best = max(by[i] for i in draw)
        chosen.append(np.mean([values[i] for i in draw if by[i] == best]))
    assert expected_best(values, n, by=by) == pytest.approx(np.mean(chosen))
    with pytest.raises(UsageError, match="by must have a value for each of 5 trials, got 1"):
        expected_best(values, n, by=[0.5])


def test_expected_best_of_many_trials_is_finite() -> None:
    assert expected_best([i / 5000 for i in range(5000)], 2500) == pytest.approx(0.9996, abs=1e-4)


def test_gain_by_luck() -> None:
    assert gain_by_luck(49, 3, 0.9) == pytest.approx(1.255, abs=0.001)
    assert gain_by_luck(3, 3, 0.9) == gain_by_luck(9, 3, 0.0) == 0.0
    assert gain_by_luck(2, 1, 1.0) == pytest.approx(1 / np.sqrt(np.pi))
    assert gain_by_luck(1, 2, 1.0) == pytest.approx(-1 / np.sqrt(np.pi))


def test_best_of_trials(runs: dict[str, LoadedRun], tmp_path: Path) -> None:
    trials = [runs["share"], runs["validated"]]
    best = best_of_trials(trials, n=1)
    values = [float(run.epochs[TEST_SHARE].max()) for run in trials]
    assert (best.measure, best.trials, best.failed) == (TEST_SHARE, 2, 0)
    assert best.values == pytest.approx(values)
    assert best.best == pytest.approx(max(values))
    assert best.run == trials[int(np.argmax(values))].folder
    assert best.expected == pytest.approx(sum(values) / 2)
    assert best.luck == pytest.approx(max(values) - sum(values) / 2)
    assert f"{max(values):.2%} at epoch {best.epoch} of {best.run}, the best of 2 trials" in str(best)
    assert html.escape(str(best)) in best._repr_html_()
    last = best_of_trials(trials, measure="test_accuracy", epochs="last")
    assert last.values == pytest.approx([run.test_accuracy for run in trials])
    assert (last.epoch, last.n, last.luck) == (2, 2, 0.0)
    assert best_of_trials(runs["share"].folder.parent, measure="test_accuracy", epochs="last").trials == 3


def test_a_diverged_trial_counts_as_none(runs: dict[str, LoadedRun]) -> None:
    found = best_of_trials([runs["share"], replace(runs["share"], status=Status.DIVERGED)], n=1)
    assert (found.trials, found.failed, found.values[1]) == (2, 1, 0.0)
    assert found.expected == pytest.approx(found.best / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n=0), "n must be an integer from 1 to the number of trials, 1, got 0"),
        (dict(n=2), "n must be an integer from 1 to the number of trials, 1, got 2"),
        (dict(epochs="first"), "epochs must be best or last, got 'first'"),
        (dict(measure="test_f1"), "must have test_f1 in its epochs, but does not"),
    ],
)
def test_what_best_of_trials_refuses(runs: dict[str, LoadedRun], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        best_of_trials([runs["share"]], **options)


def test_best_of_no_trials(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must contain run folders, but has none"):
        best_of_trials(tmp_path)
    with pytest.raises(UsageError, match="runs must name at least one run"):
        best_of_trials([])
