"""Evaluations of features, against numbers worked out another way."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")

from tvlars.lab import UsageError
from tvlars.lab.data import ImageData
from tvlars.lab.models import build_model
from tvlars.lab.ssl.evaluations import parse_evaluations
from tvlars.lab.ssl.probes import (
    Features,
    backbone_of,
    evaluate_features,
    folded,
    knn_accuracy,
    label_subset,
    linear_probe,
)


def clusters(scale: float = 1.0) -> Features:
    """Three classes about three directions, with features of very different deviations."""
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 3.0, 0]])
    labels = torch.arange(300) % 3
    x = (middles[labels] + torch.randn(300, 4, generator=generator)) * torch.tensor([1.0, 100.0, 0.01, 1.0]) * scale
    return Features(x[:200], labels[:200], x[200:], labels[200:], 3)


def test_linear_probe_does_what_a_solver_finds() -> None:
    """scikit-learn's logistic regression on the same features is as good."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = clusters()
    scaler = StandardScaler().fit(features.train.numpy())
    solved = LogisticRegression(C=1e4).fit(scaler.transform(features.train.numpy()), features.train_labels.numpy())
    expected = solved.score(scaler.transform(features.test.numpy()), features.test_labels.numpy())
    classifier, accuracy = linear_probe(features)
    assert accuracy == pytest.approx(expected, abs=0.02)
    assert accuracy == pytest.approx(
        float((classifier(features.test).argmax(1) == features.test_labels).float().mean()), abs=1e-6
    )


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_linear_probe_does_not_depend_on_the_scale_of_features(scale: float) -> None:
    assert linear_probe(clusters(scale))[1] == pytest.approx(linear_probe(clusters())[1], abs=0.011)


def test_folded_classifier_takes_plain_features() -> None:
    torch.manual_seed(0)
    classifier, x = nn.Linear(4, 3), torch.randn(5, 4)
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    torch.testing.assert_close(folded(classifier, mean, std)(x), classifier((x - mean) / std))


def test_knn_counts_votes_by_cosine() -> None:
    """Against a vote counted by hand."""
    features, right = clusters(), 0
    for x, y in zip(features.test, features.test_labels, strict=True):
        similar = F.cosine_similarity(x[None], features.train, dim=1)
        votes: dict[int, float] = {}
        for i in similar.topk(20).indices:
            label = int(features.train_labels[i])
            votes[label] = votes.get(label, 0.0) + math.exp(float(similar[i]) / 0.07)
        right += max(votes, key=lambda label: votes[label]) == int(y)
    assert knn_accuracy(features) == pytest.approx(right / len(features.test), abs=0.011)


def test_knn_with_fewer_samples_than_neighbours() -> None:
    features = clusters().with_labels(torch.arange(6))
    assert 0 <= knn_accuracy(features) <= 1


def test_label_subsets_are_stratified_and_seeded() -> None:
    labels = torch.cat([torch.zeros(1000), torch.ones(100), torch.full((5,), 2)]).long()
    chosen = label_subset(labels, 0.1, seed=3)
    assert torch.bincount(labels[chosen]).tolist() == [100, 10, 1]
    assert len(chosen.unique()) == len(chosen)
    torch.testing.assert_close(chosen, label_subset(labels, 0.1, seed=3))
    assert not torch.equal(chosen, label_subset(labels, 0.1, seed=4))
    assert len(label_subset(labels, 1.0, seed=0)) == len(labels)


def test_test_images_are_never_augmented_and_nothing_is_changed(digits: ImageData) -> None:
    """The same answer every time, from features of exactly these images; the backbone and random numbers stay."""
    torch.manual_seed(0)
    seen: list[Tensor] = []
    backbone = backbone_of(build_model("small_resnet", 1, 8, 10)[0])
    backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    before = {name: v.clone() for name, v in backbone.state_dict().items()}
    wanted = parse_evaluations("linear,knn")
    found = list(evaluate_features(backbone, digits, lambda x: x / 16, wanted, seed=1))
    torch.testing.assert_close(torch.cat(seen), torch.cat([digits.train_images, digits.test_images]) / 16)
    again = evaluate_features(backbone, digits, lambda x: x / 16, wanted, seed=1)
    assert [(name, one.accuracy) for name, one, _ in again] == [(name, one.accuracy) for name, one, _ in found]
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert [head is not None for _, _, head in found] == [True, False]
    assert not backbone.training


def test_fine_tuning_beats_a_frozen_untrained_network_and_leaves_the_backbone(digits: ImageData) -> None:
    torch.manual_seed(0)
    backbone = backbone_of(build_model("small_resnet", 1, 8, 10)[0])
    before = {name: v.clone() for name, v in backbone.state_dict().items()}
    wanted = parse_evaluations("linear,finetune,finetune-10%")
    evaluated = evaluate_features(backbone, digits, lambda x: (x - 78) / 96, wanted, padding=1)
    found = {name: one for name, one, _ in evaluated}
    assert found["finetune"].accuracy > found["linear"].accuracy
    assert found["finetune-10%"].labels == pytest.approx(144, abs=5)
    assert found["finetune-10%"].accuracy < found["finetune"].accuracy
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_features_that_are_not_finite(digits: ImageData) -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.constant_(backbone[1].weight, math.inf)
    with pytest.raises(UsageError, match="features to evaluate must be finite"):
        next(evaluate_features(backbone, digits, lambda x: x.float(), parse_evaluations("linear")))
