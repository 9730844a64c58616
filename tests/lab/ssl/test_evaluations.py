"""Evaluations by name: which there are, and what they need."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tvlars.lab import UsageError
from tvlars.lab.data import ImageData
from tvlars.lab.ssl.evaluations import check_labels, parse_evaluations


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


def test_labels_missing(digits: ImageData) -> None:
    zeros = {name: torch.zeros_like(getattr(digits, name)) for name in ("train_labels", "test_labels")}
    one_class = replace(digits, classes=1, class_names=("x",), **zeros)
    with pytest.raises(UsageError, match="evaluations need labels of two classes or more, but digits has 1"):
        check_labels(one_class, "linear")
    check_labels(one_class, "none")
