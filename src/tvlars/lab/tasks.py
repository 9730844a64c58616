"""Tasks of users: the loss of a batch, and further measures."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tvlars._checks import one_line
from tvlars.lab import memory
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.imported import GIVEN, is_theirs, load_object, refused, said_path
from tvlars.lab.metrics import Metric, check_methods, check_metric_name, numbers


def plus_minus(value: float, error: float = math.nan) -> str:
    """Return a value in four digits with its error in two, as in "848.5 ± 160"; NaN is "-", and no error."""
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" + ("" if math.isnan(error) else f" ± {float(f'{error:.2g}'):g}")


@dataclass(frozen=True)
class Measure:
    """Value by which runs are reported and compared.

    Args:
        name: name for tables and messages, such as "test accuracy" or "test r2".
        better: None for an accuracy, a fraction that is shown in percent; "min" or "max" for a measure of a user's
            task whose lower or higher values are better.
    """

    name: str = "test accuracy"
    better: str | None = None

    @property
    def of_task(self) -> bool:
        """True for a measure of a user's task."""
        return self.better is not None

    @property
    def lower(self) -> bool:
        """True if lower values are better."""
        return self.better == "min"

    @property
    def best(self) -> str:
        """Word for the best value: "highest" or "lowest"."""
        return "lowest" if self.lower else "highest"

    @property
    def column(self) -> str:
        """Column name, such as "test_r2"."""
        return self.name.replace(" ", "_")

    @property
    def unit(self) -> str:
        """Text after a value: " %" or ""."""
        return "" if self.of_task else " %"

    @property
    def title(self) -> str:
        """Name with the unit, for the header of a column."""
        return self.name if self.of_task else f"{self.name}, %"

    def text(self, value: float, interval: float = math.nan) -> str:
        """Return a value, or a difference, with the half width of its interval; "-" for NaN."""
        if self.of_task or math.isnan(value):
            return plus_minus(value, interval)
        return f"{100 * value:.2f}" + ("" if math.isnan(interval) else f" ± {100 * interval:.2f}")


class Task:
    """Base class of your own task: regression, segmentation, or any other task with a differentiable loss.

    A batch has the structure of one sample of the data, with a first dimension of samples, as ``default_collate``
    makes it. Tensors are on the model's device. Put random operations, such as augmentation, into :meth:`loss`, where
    ``model.training`` is True in training.

    Attributes:
        chosen_by: value by which ``tune`` ranks options on validation samples, and comparisons rank runs on test
            samples: "loss" (default) or the name of a measure or metric.
        better: "min" or "max", if lower or higher values of ``chosen_by`` are better. None (default): "min" for the
            loss; required for a measure.
    """

    chosen_by: str = "loss"
    better: str | None = None

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss over the samples of a batch, a differentiable scalar.

        Args:
            model: called as ``model(inputs)``.
            batch: samples.
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method loss(model, batch)")

    def measure(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        """Return measures by name, each a mean over the samples of a batch of held-out data. Default: no measures.

        Args:
            model: in evaluation mode; no gradients are computed.
            batch: samples.
        """
        return {}

    def metrics(self) -> Mapping[str, Metric]:
        """Return metrics of torchmetrics by name, which are updated with the result of :meth:`predict`.

        Use metrics for measures that are not means over samples. Default: no metrics.
        """
        return {}

    def predict(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Return predictions and targets of a batch, in the form that the :meth:`metrics` accept.

        Args:
            model: in evaluation mode; no gradients are computed.
            batch: samples.
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method predict(model, batch) for its metrics")


def given_task(task: Task) -> str:
    """Return the name of a task that was given in Python, such as "given:Regression"."""
    return f"{GIVEN}{type(task).__name__}"


def load_task(name: str, given: Task | None = None) -> Task:
    """Return a new instance of the task ``name``: the import path of a class or an instance, or given:NAME.

    Raises:
        UsageError: the object does not exist or is not a :class:`Task`, or a task given in Python is not given again.
    """
    if name.startswith(GIVEN):
        if given is None:
            raise UsageError(
                f"task must be given again, as in train(config, task=...), since it was the "
                f"{name.removeprefix(GIVEN)} that train was called with"
            )
        found: Any = given
    else:
        found = load_object(name, "task")
    if inspect.isclass(found) and issubclass(found, Task):
        try:
            found = found()
        except TypeError as error:
            if is_theirs(error):
                raise
            raise UsageError(f"task {said_path(name)} must be callable without arguments: {error}") from error
    elif isinstance(found, Task):
        with refused(f"task {type(found).__name__} must be copied for each run, but copy.deepcopy fails"):
            found = copy.deepcopy(found)
    if not isinstance(found, Task):
        kind = found.__name__ if inspect.isclass(found) else f"an object of type {type(found).__name__}"
        raise UsageError(f"task must be a subclass of tvlars.lab.Task, or an instance, got {kind}")
    return found


def chosen_by(task: Task) -> tuple[str, str]:
    """Return the name of the value that ranks options and runs, and "min" or "max".

    Raises:
        UsageError: the task does not declare if lower or higher values are better, or says that a higher loss is.
    """
    name, better = task.chosen_by, task.better
    if better not in ("min", "max") and not (better is None and name == "loss"):
        raise UsageError(
            f"better must be 'min' or 'max' in task {type(task).__name__}, whose chosen_by is {name}, got {better!r}"
        )
    if name == "loss" and better == "max":
        raise UsageError(f"better must be 'min' in task {type(task).__name__}, whose chosen_by is the loss, got 'max'")
    return name, better or "min"


def measure_of(task: Task, split: str = "test") -> Measure:
    """Return the measure by which runs of a task are compared, on "test" or "validation" samples."""
    name, better = chosen_by(task)
    return Measure(f"{split} {name.replace('_', ' ')}", better)


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return copies of the task's metrics by name.

    Raises:
        UsageError: a name is invalid, or a metric lacks the methods of torchmetrics.
    """
    found = dict(task.metrics())
    for name, metric in found.items():
        check_metric_name(name)
        check_methods(name, metric)
    return copy.deepcopy(found)


def try_task(task: Task, model: nn.Module, batch: Any, named: str | None = None) -> None:
    """Call each method of a task on two samples, so that errors are reported before any run.

    Args:
        named: name of the model if it is not the user's code, so that its errors mean that the inputs do not fit;
            None (default) for a user's model.

    Raises:
        UsageError: a result has another form.
        Exception: errors of the user's code.
    """
    name = type(task).__name__
    inside: list[bool] = []
    model.register_forward_pre_hook(lambda *_: inside.append(True))
    model.register_forward_hook(lambda *_: inside.clear())
    try:
        loss = task.loss(model.train(), batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.ndim or not loss.requires_grad:
            raise UsageError(
                f"task {name} must return a scalar loss that depends on the model's weights, got {_described(loss)}"
            )
        model.eval()
        with torch.no_grad():
            found = measures_of(task, model, batch)
            measures = list(found)
            _check_means(task, model, batch, {"loss": task.loss(model, batch), **found})
            if metrics := metrics_of(task):
                update(metrics, task.predict(model, batch), name)
                measures += values_of(metrics)
        if chosen_by(task)[0] not in ("loss", *measures):
            raise unknown(f"measure of task {name} in chosen_by", task.chosen_by, ("loss", *measures))
    except Exception as error:  # torch and torchmetrics raise errors of many types
        if isinstance(error, UsageError) or memory.has_ended(error):
            raise
        if inside and named is not None:
            raise UsageError(
                f"model must accept the inputs of task {name}, for example your own (./net.py:build), but {named} "
                f"does not: {one_line(error)}"
            ) from error
        if is_theirs(error):
            raise
        raise UsageError(f"task {name} fails on two samples: {one_line(error)}") from error


def _check_means(task: Task, model: nn.Module, batch: Any, values: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if the loss or a measure of a batch is a sum over samples, since batches are weighted by
    their size. If each sample is given twice, a mean stays the same, but a sum doubles."""
    twice = tree_map(lambda leaf: torch.cat([leaf, leaf]), batch)
    again = {"loss": task.loss(model, twice), **measures_of(task, model, twice)}
    for key, value in values.items():
        if float(value) and math.isclose(float(again.get(key, math.nan)), 2 * float(value), rel_tol=1e-4):
            what = "the loss" if key == "loss" else f"measure {key}"
            raise UsageError(
                f"{what} of task {type(task).__name__} must be the mean over the samples of a batch, but doubles if "
                "each sample is given twice, as a sum does"
            )


def measures_of(task: Task, model: nn.Module, batch: Any) -> dict[str, Any]:
    """Return the task's measures of a batch; raise ``UsageError`` if one is not a number or has an invalid name."""
    found = task.measure(model, batch)
    if not isinstance(found, Mapping):
        raise UsageError(f"task {type(task).__name__} must return measures by name, got {_described(found)}")
    for name, value in found.items():
        check_metric_name(str(name))
        if not (isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)):
            raise UsageError(f"measure {name} must be a number, its mean over the batch, got {_described(value)}")
    return dict(found)


def sums_of(
    task: Task,
    model: nn.Module,
    batches: Iterable[tuple[int, Any]],
    metrics: Mapping[str, Metric],
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the sums over samples of "loss" and measures, and update ``metrics``.

    Args:
        batches: number of samples of each batch, and the batch on ``device``.
    """
    sums: dict[str, Tensor] = {}
    for count, batch in batches:
        values = {"loss": task.loss(model, batch), **measures_of(task, model, batch)}
        if sums and sums.keys() != values.keys():
            got = (", ".join(name for name in found if name != "loss") or "none" for found in (sums, values))
            raise UsageError(
                f"task {type(task).__name__} must return the same measures for every batch, got "
                f"{' and then '.join(got)}"
            )
        for name, value in values.items():
            one = torch.as_tensor(value, dtype=torch.float64, device=device).reshape(())
            sums[name] = sums.get(name, torch.zeros_like(one)) + count * one
        if metrics:
            update(metrics, task.predict(model, batch), type(task).__name__)
    return sums


def update(metrics: Mapping[str, Metric], predicted: Any, name: str) -> None:
    """Update metrics with predictions and targets."""
    if not isinstance(predicted, tuple | list) or len(predicted) != 2:
        raise UsageError(f"task {name} must predict a pair, predictions and targets, got {_described(predicted)}")
    for metric in metrics.values():
        metric.update(*predicted)


def values_of(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return the values of metrics by name, over all processes, and reset them."""
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        found |= numbers(name, metric.compute())
        metric.reset()
    return found


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        without = "" if value.requires_grad or value.ndim else " without a gradient"
        return f"a tensor of shape {tuple(value.shape)}{without}"
    return f"an object of type {type(value).__name__}"
