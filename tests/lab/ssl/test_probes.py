"""Evaluations of features, and what is logged of them: against numbers worked out another way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")

from tvlars.lab import UsageError
from tvlars.lab.data import ImageData
from tvlars.lab.models import MODELS, build_model, head_of, put_head
from tvlars.lab.ssl import representation
from tvlars.lab.ssl.evaluations import check_labels, parse_evaluations
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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("linaer", "unknown evaluation 'linaer': did you mean 'linear'"),
        ("linear-0%", "unknown evaluation 'linear-0%'"),
        ("knn-10%", "unknown evaluation 'knn-10%'"),
        ("linear,linear", "evaluations must not repeat, got 'linear,linear'"),
        ("", "unknown evaluation ''"),
    ],
)
def test_bad_evaluations(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_evaluations(text)


def test_evaluations() -> None:
    found = parse_evaluations("linear,linear-1%, finetune-12.5%")
    assert [(one.kind, one.share) for one in found] == [("linear", 1.0), ("linear", 0.01), ("finetune", 0.125)]
    assert parse_evaluations("none") == []


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


def test_labels_missing(digits: ImageData) -> None:
    zeros = {name: torch.zeros_like(getattr(digits, name)) for name in ("train_labels", "test_labels")}
    one_class = replace(digits, classes=1, class_names=("x",), **zeros)
    with pytest.raises(UsageError, match="evaluations need labels of two classes or more, but digits has 1"):
        check_labels(one_class, "linear")
    check_labels(one_class, "none")


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_gives_up_its_head(name: str) -> None:
    model, _ = build_model(name, 1, 28, 7)
    path, head = head_of(model)
    assert head.out_features == 7
    put_head(model, path, nn.Identity())
    assert model.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, head.in_features)
    assert set(model.state_dict()) | {f"{path}.weight", f"{path}.bias"} == set(
        build_model(name, 1, 28, 7)[0].state_dict()
    )


# -- what is logged ---------------------------------------------------------------------------------------------


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
