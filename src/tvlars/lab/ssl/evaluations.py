"""Evaluations of features: names for ``TrainConfig.evaluations``, and results in words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvlars.lab.data.image_data import ImageData
from tvlars.lab.errors import UsageError, unknown

NEIGHBOURS = 20
EVALUATIONS = {
    "linear": "linear evaluation",
    "knn": f"nearest neighbours (k = {NEIGHBOURS})",
    "random": "untrained network, linear evaluation",
    "random-knn": "untrained network, nearest neighbours",
    "finetune": "fine-tuning",
}
"""Evaluations by name, with descriptions; a share of the labels may follow linear and finetune, as in linear-1%."""


@dataclass(frozen=True)
class ProbeSpec:
    """Evaluation to run: ``kind`` is a key of ``EVALUATIONS``, ``share`` is the share of the training labels used."""

    name: str
    kind: str
    share: float = 1.0


@dataclass(frozen=True)
class Evaluated:
    """Result of an evaluation: test accuracy (a fraction), number of training labels used, and duration."""

    accuracy: float
    labels: int
    seconds: float


def parse_evaluations(text: str) -> list[ProbeSpec]:
    """Return the evaluations in text such as "linear,knn,linear-1%,finetune-10%"; "none" returns an empty list.

    Raise ``UsageError`` if an evaluation is unknown or repeated.
    """
    if not isinstance(text, str):
        raise UsageError(f"evaluations must be names separated by commas, got {text!r}")
    if text == "none":
        return []
    found = []
    for name in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(linear|finetune)-(\d{1,2}(?:\.\d{1,4})?)%", name)
        if match and float(match[2]) > 0:
            found.append(ProbeSpec(name, match[1], float(match[2]) / 100))
        elif name in EVALUATIONS:
            found.append(ProbeSpec(name, name))
        else:
            raise unknown("evaluation", name, [*EVALUATIONS, "linear-1%", "finetune-10%", "none"])
    if len({one.name for one in found}) < len(found):
        raise UsageError(f"evaluations must not repeat, got {text!r}")
    return found


def check_labels(data: ImageData, evaluations: str) -> None:
    """Raise ``UsageError`` if there are evaluations, but the data have no labels of at least two classes."""
    if data.classes < 2 and evaluations != "none":
        raise UsageError(
            f"evaluations need labels of two classes or more, but {data.name} has {data.classes}; "
            "evaluations 'none' trains without evaluations"
        )


def describe_evaluation(name: str, found: Evaluated, images: int, split: str = "test") -> str:
    """Return a result on a ``split`` in words, with the number of labels if below the number of training ``images``."""
    labels = f" with {found.labels:,} labels" if found.labels < images else ""
    how = EVALUATIONS[name if name in EVALUATIONS else name.partition("-")[0]]
    return f"{how}{labels}: {found.accuracy:.2%} of {split} images right ({found.seconds:.1f} s)"
