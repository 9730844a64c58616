"""Extra measures of classification: metrics of torchmetrics, and others with their interface."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tvlars.lab.errors import UsageError
from tvlars.lab.imported import GIVEN, is_import_path, load_object, refused, short_name, spelled_path

TAKEN = ("accuracy", "loss")
"""Names of measures that every run has."""
WANTED = ("update", "compute", "reset", "to")

Metric = Any
"""Object with ``update(probabilities, labels)``, ``compute()``, ``reset()`` and ``to(device)``."""


def parse_metrics(text: str | None) -> dict[str, str]:
    """Return import paths by name, of text such as "f1=torchmetrics.classification.MulticlassF1Score, ./mine.py:ece".

    Without a name, a metric is named after its class: f1_score for MulticlassF1Score.

    Raises:
        UsageError: a part is no import path, or a name is invalid, reserved or given twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, re.split(r"[,\s]+", text or "")):
        name, equals, path = part.rpartition("=")
        if not path.startswith(GIVEN) and not is_import_path(path):
            raise UsageError(
                f"metrics must be import paths, as torchmetrics.classification.MulticlassF1Score, got {path!r}"
            )
        if not equals:
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", short_name(path)).lower().removeprefix("multiclass_")
        check_metric_name(name, path)
        if name in found:
            raise UsageError(f"metrics must have different names, got {name} twice: write NAME={path} for one")
        found[name] = path
    return found


def check_metric_name(name: str, path: str = "...") -> None:
    """Raise ``UsageError`` unless a metric may have this name in tables."""
    if not re.fullmatch(r"[a-z]\w*", name, re.ASCII | re.IGNORECASE):
        raise UsageError(f"metrics must have names of letters, digits and _, got {name!r}")
    if name in TAKEN:
        raise UsageError(f"metrics must not be called {name}, which every run has: write my_{name}={path}")


def spelled_metrics(text: str | None) -> str | None:
    """Return the normal spelling of the metrics of a run: names, and files from the root."""
    return ", ".join(f"{name}={spelled_path(path)}" for name, path in parse_metrics(text).items()) or None


def given_metrics(given: Mapping[str, Metric]) -> str:
    """Return the text for metrics given in Python, as in "f1=given:MulticlassF1Score"."""
    for name in given:
        check_metric_name(name)
    return ", ".join(f"{name}={GIVEN}{type(metric).__name__}" for name, metric in given.items())


class Metrics:
    """Metrics of a run.

    Args:
        text: as for :func:`parse_metrics`.
        classes: number of classes.
        given: metrics given in Python, by name; they are copied.

    Raises:
        UsageError: a metric cannot be imported or built, is no metric, or does not return numbers.
    """

    def __init__(self, text: str | None, classes: int, given: Mapping[str, Metric] | None = None) -> None:
        self.metrics = {name: _made(path, classes, name, given) for name, path in parse_metrics(text).items()}
        self.device = torch.device("cpu")
        self._try(classes)

    def _try(self, classes: int) -> None:
        """Call each metric once, so that misfits are reported before any run."""
        labels = torch.arange(2 * classes) % classes
        for name, metric in self.metrics.items():
            with refused(f"metrics {name} must take probabilities (n, {classes}) and labels (n,), but that fails"):
                metric.update(torch.eye(classes)[labels], labels)
                numbers(name, metric.compute())
                metric.reset()

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch: logits (n, classes), labels (n,)."""
        if self.metrics and self.device != logits.device:
            self.device = logits.device
            self.metrics = {name: metric.to(self.device) for name, metric in self.metrics.items()}
        probabilities = logits.softmax(1) if self.metrics else logits
        for metric in self.metrics.values():
            metric.update(probabilities, labels)

    def compute(self) -> dict[str, float]:
        """Return the values by name, over all processes, and reset the metrics; every process calls it."""
        found: dict[str, float] = {}
        for name, metric in self.metrics.items():
            found |= numbers(name, metric.compute())
            metric.reset()
        return found


def _made(path: str, classes: int, name: str, given: Mapping[str, Metric] | None) -> Metric:
    """Return a new metric, with ``num_classes`` and ``task`` if its signature has them."""
    if path.startswith(GIVEN):
        if given is None or name not in given:
            raise UsageError(f"metrics must be given again, as in train(config, metrics={{{name!r}: ...}})")
        found: Any = copy.deepcopy(given[name])
    else:
        found = load_object(path, "metrics")
        if inspect.isclass(found) or inspect.isroutine(found):
            found = _called(found, path, {"num_classes": classes, "task": "multiclass"})
        else:
            found = copy.deepcopy(found)
    check_methods(name, found)
    return found


def check_methods(name: str, metric: Metric) -> None:
    """Raise ``UsageError`` unless a metric has the methods of torchmetrics' metrics."""
    if missing := [method for method in WANTED if not callable(getattr(metric, method, None))]:
        raise UsageError(
            f"metrics must have the methods of torchmetrics, but {name}, of type {type(metric).__name__}, has no "
            f"{missing[0]}"
        )


def _called(found: Any, path: str, ours: dict[str, Any]) -> Metric:
    with refused(f"metrics {path} cannot be made"):
        parameters = inspect.signature(found).parameters
        return found(**{name: value for name, value in ours.items() if name in parameters})


def numbers(name: str, value: Any) -> dict[str, float]:
    """Return a metric's result as numbers by name; results of a collection have both names."""
    if isinstance(value, Mapping):
        return {key: one for part, inner in value.items() for key, one in numbers(f"{name}_{part}", inner).items()}
    if isinstance(value, Tensor) and value.numel() != 1:
        raise UsageError(f"metrics {name} must be one number, got a tensor of shape {tuple(value.shape)}")
    try:
        return {name: float(value)}
    except (TypeError, ValueError):
        raise UsageError(f"metrics {name} must be one number, got an object of type {type(value).__name__}") from None
