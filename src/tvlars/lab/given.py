"""Objects that a user gives in Python: data or loaders, model, task and metrics, passed on as one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tvlars._checks import shown
from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, from_datasets
from tvlars.lab.data.augment.recipe import PADDED
from tvlars.lab.data.own.loaders import LoaderData, from_loaders
from tvlars.lab.data.own.rows import rows_from
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import GIVEN
from tvlars.lab.metrics import Metric, given_metrics
from tvlars.lab.models import Model, given_name
from tvlars.lab.tasks import Task, given_task

BY_PATH = {
    "data": "data='./file.py:function'",
    "loaders": "data='./file.py:function', which returns Datasets",
    "model": "model='./file.py:build'",
    "task": "task='./file.py:MyTask'",
    "metrics": "metrics='f1=./file.py:f1'",
}
"""Import paths to give in place of the objects for runs in processes of their own."""


@dataclass(frozen=True)
class Given:
    """Objects of runs in this process; None for those that the config names."""

    data: ImageData | None = None
    """Data in the form of the laboratory."""
    model: Model | None = None
    """Module, which each run copies with its weights, or a function that builds one for each run."""
    task: Task | None = None
    """Task, of which each run has a copy."""
    metrics: Mapping[str, Metric] | None = None
    """Metrics by name, which each run copies."""

    def objects(self) -> dict[str, Any]:
        """Return the given objects, as arguments of :func:`tvlars.lab.train`."""
        return {name: one for name, one in vars(self).items() if one is not None}

    def named(self, config: TrainConfig) -> TrainConfig:
        """Return the config with names such as given:Net, which mark objects given in Python.

        Loaders set its micro-batch size too.
        """
        named: dict[str, Any] = {}
        if self.data is not None and self.data.name.startswith(GIVEN):
            named["data"] = self.data.name
        if isinstance(self.data, LoaderData):
            named["micro_batch_size"] = self.data.loader_batch
        if self.model is not None:
            named["model"] = given_name(self.model)
        if self.task is not None:
            named["task"] = given_task(self.task)
        if self.metrics:
            texts = [text for text in (config.metrics, given_metrics(self.metrics)) if text]
            named["metrics"] = ", ".join(dict.fromkeys(", ".join(texts).split(", ")))
        return replace(config, **named)


def take(
    config: TrainConfig,
    *,
    data: Any = None,
    loaders: Any = None,
    model: Model | None = None,
    task: Task | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Given:
    """Return the objects of a user, with Datasets or loaders as data of the laboratory.

    Args:
        config: options of the runs; options of reading data, such as ``image_size``, apply.
        data: None, ``ImageData``, Datasets as :func:`tvlars.lab.data.from_datasets` takes them or, for a task of the
            user's own, samples as :func:`tvlars.lab.data.own.rows.rows_from` takes them.
        loaders: None, or DataLoaders as :func:`tvlars.lab.data.own.loaders.from_loaders` takes them.
        model, task, metrics: see :func:`tvlars.lab.train`.

    Raises:
        UsageError: an object has the wrong type, or ``data`` have samples of another form.
        Exception: whatever a user's Dataset raises.
    """
    if model is not None and not callable(model):
        raise UsageError(
            f"model must be a module or a function that builds one, got {shown(model)}: a name goes into the config, "
            "as in TrainConfig(model='timm:convnext_atto')"
        )
    if metrics is not None and not isinstance(metrics, Mapping):
        raise UsageError(f"metrics must be a dictionary of metrics by name, as {{'f1': ...}}, got {shown(metrics)}")
    given = Given(None, model, task, metrics)
    return replace(given, data=_data(given.named(config), data, loaders))


def _data(config: TrainConfig, data: Any, loaders: Any) -> ImageData | None:
    if loaders is not None:
        if config.own_task:
            raise UsageError("loaders must not be given for a task of your own: give data, Datasets of any samples")
        if data is not None:
            raise UsageError("data must not be given with loaders, which have the data")
        _check_loaders_suit(config)
        loaded: ImageData = from_loaders(loaders)
        return replace(loaded, name=config.data if config.data.startswith(GIVEN) else f"{GIVEN}{loaded.name}")
    if data is None or isinstance(data, ImageData):
        return data
    if config.own_task:
        return rows_from(data, config.data if config.data.startswith(GIVEN) else f"{GIVEN}rows")
    name = config.data.removeprefix(GIVEN) if config.data.startswith(GIVEN) else ""
    with memory.needed("data must fit into memory"):
        loaded = from_datasets(data, name=name, image_size=config.image_size, processes=config.data_workers)
    return replace(loaded, name=f"{GIVEN}{loaded.name}")


def check_loaders(config: TrainConfig, data: LoaderData) -> None:
    """Raise ``UsageError`` unless a run can take its batches from loaders."""
    _check_loaders_suit(config)
    if config.batch_size % data.loader_batch:
        raise UsageError(
            f"batch_size must be a multiple of the training loader's, {data.loader_batch}, whose batches are "
            f"micro-batches of a step, got {config.batch_size}"
        )


def _check_loaders_suit(config: TrainConfig) -> None:
    idle = ("crop_padding", "crop_scale", "auto_augment", "mixup", "cutmix", "rotation", "flip", "image_size")
    named = [name for name in idle if getattr(config, name)] + ["crop"] * (config.crop != PADDED)
    if named:
        raise UsageError(f"{named[0]} must not be given with loaders, whose batches are used unchanged")
    if config.test_share is not None:
        raise UsageError("test_share must not be given with loaders: it draws test images, as data= has them")
    for name in ("sharpness", "noise_scale"):
        if getattr(config, name):
            raise UsageError(f"{name} must not be given with loaders: it samples training images, as data= has them")
    if config.self_supervised:
        raise UsageError(f"loaders must not be given for {config.task}, which draws its own views: give data=")


def check_apart(apart: bool, **objects: Any) -> None:
    """Raise ``UsageError`` if runs are done by other processes (``apart``), which have no access to Python objects."""
    for name, value in objects.items():
        if apart and value is not None:
            raise UsageError(
                f"workers must be 1, and ray None, with {name} given in Python, since processes of their own do not "
                f"have that: give an import path instead, as in {BY_PATH[name]}"
            )
