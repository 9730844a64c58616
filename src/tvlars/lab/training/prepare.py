"""Preparation of a run: its options are checked together with its data and with this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tvlars._machine import faster_in_bf16
from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, from_datasets, load_data
from tvlars.lab.data.augment.recipe import PADDED, RANDOM_RESIZED
from tvlars.lab.data.own.loaders import LoaderData, from_loaders
from tvlars.lab.data.own.rows import RowsData, load_rows, rows_from
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import GIVEN
from tvlars.lab.measure.layer_stats import check_layer_stats
from tvlars.lab.measure.sharpness import check_sharpness
from tvlars.lab.metrics import Metric, Metrics
from tvlars.lab.models import MODELS, Model, build_model, check_model
from tvlars.lab.processes.alike import check_alike, facts_of
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.loggers import check_loggers
from tvlars.lab.ssl.evaluations import check_labels
from tvlars.lab.tasks import Task, load_task, try_task
from tvlars.lab.training.optimizers import check_imported
from tvlars.plan import Plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Prepared:
    """Checked run with its data and its plan; :func:`prepare` returns it."""

    config: TrainConfig
    data: ImageData
    plan: Plan
    model: Model | None = None
    """Module or builder that was given in Python; None: the one that the config names."""

    task: Task | None = None
    """The user's own task, None for others."""
    given_metrics: Mapping[str, Metric] | None = None
    """Metrics that were given in Python, by name."""

    @cached_property
    def metrics(self) -> Metrics:
        """Extra measures of the run.

        Raises:
            UsageError: they do not suit.
        """
        return Metrics(self.config.metrics, self.data.classes, self.given_metrics)

    def build_model(self) -> tuple[nn.Module, str]:
        """Return the model with its initial weights, drawn from torch's generator, and its description."""
        data = self.data
        return build_model(self.config.model, data.channels, data.image_size, data.classes, **self._model_options())

    def untrained(self) -> nn.Module | None:
        """Return the model with random weights if the run begins with others, else None."""
        if not self.config.pretrained and self.config.weights is None:
            return None
        with torch.random.fork_rng():
            return replace(self, config=replace(self.config, pretrained=False, weights=None)).build_model()[0]

    def check_model(self) -> None:
        """Build the model and test it on two images, unless it is known to fit.

        Raises:
            UsageError: it cannot be built, or does not fit data and task.
        """
        config, data = self.config, self.data
        if self.task is not None:
            rows: Any = data.train_images
            with torch.random.fork_rng(devices=[]):
                try_task(self.task, self.build_model()[0], rows[:2].values)
            return
        plain = config.stem is None and not config.pretrained and config.weights is None
        if config.model in MODELS and plain:
            return
        sizes = (data.channels, data.image_size, data.classes)
        check_model(config.model, *sizes, features=config.self_supervised, **self._model_options())

    def _model_options(self) -> dict[str, Any]:
        config = self.config
        names = ("init", "stem", "pretrained", "weights")
        return {**{name: getattr(config, name) for name in names}, "given": self.model}

    @property
    def precision(self) -> str:
        """The precision of the run on this machine: ``auto`` is bf16-mixed if that is expected to be faster.

        Raises:
            UsageError: 16-mixed is asked for without a CUDA device.
        """
        config = self.config
        on_cuda = config.accelerator in ("auto", "cuda") and torch.cuda.is_available()
        if config.precision == "16-mixed" and not on_cuda:
            raise UsageError("precision must be bf16-mixed or 32-true without a CUDA device, got '16-mixed'")
        if config.precision != "auto":
            return config.precision
        on_mps = config.accelerator in ("auto", "mps") and torch.backends.mps.is_available()
        device = torch.device("cuda" if on_cuda else "mps" if on_mps else "cpu")
        return "bf16-mixed" if faster_in_bf16(device) else "32-true"

    @cached_property
    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, on the scale 0 to 255."""
        return self.data.mean_and_std()

    @cached_property
    def fabric(self) -> Fabric:
        """Device and processes. On first access several processes meet and check that all do the same run.

        Raises:
            UsageError: the device cannot be used, the batch cannot be split over so many processes, or the processes
                were started with different runs.
            LostProcessError: another process did not come.
        """
        from tvlars.lab.processes.fabric import make_fabric  # imports Fabric, which takes as long as torch

        fabric = make_fabric(self.config, self.precision)
        processes = Processes(fabric)
        if processes.several and isinstance(self.data, LoaderData):
            raise UsageError("loaders must not be given with several processes, which would read the same: give data=")
        if processes.several:
            with processes.lost_said():
                check_alike(processes, facts_of(self.config, self.plan, self.data, self.precision))
        return fabric

    @property
    def processes(self) -> Processes:
        """The processes of the run; they meet on first access, as for ``fabric``."""
        return Processes(self.fabric)


def taken(config: TrainConfig, data: Any, loaders: Any = None) -> tuple[TrainConfig, ImageData | None]:
    """Return a config and its data as the laboratory takes them, of ``data`` or ``loaders`` that a user gives.

    Args:
        config: the run; with Datasets its ``data`` becomes given:NAME, so that nobody takes them for others.
        data: None, ``ImageData``, or Datasets as :func:`tvlars.lab.data.from_datasets` takes them.
        loaders: None, or DataLoaders as :func:`tvlars.lab.data.own.loaders.from_loaders` takes them.

    Raises:
        UsageError: ``data`` are none of these, or have other samples.
        Exception: whatever a user's Dataset raises.
    """
    if loaders is not None:
        if config.own_task:
            raise UsageError("loaders must not be given for a task of your own: give data, Datasets of any samples")
        return _of_loaders(config, data, loaders)
    if data is None or isinstance(data, ImageData):
        return config, data
    if config.own_task:
        name = config.data if config.data.startswith(GIVEN) else f"{GIVEN}rows"
        return replace(config, data=name), rows_from(data, name)
    name = config.data.removeprefix(GIVEN) if config.data.startswith(GIVEN) else ""
    with memory.needed("data must fit into memory"):
        loaded = from_datasets(data, name=name, image_size=config.image_size, processes=config.data_workers)
    name = f"{GIVEN}{loaded.name}"
    return replace(config, data=name), replace(loaded, name=name)


def _of_loaders(config: TrainConfig, data: Any, loaders: Any) -> tuple[TrainConfig, ImageData]:
    if data is not None:
        raise UsageError("data must not be given with loaders, which have the data")
    idle = ("crop_padding", "crop_scale", "auto_augment", "mixup", "cutmix", "rotation", "flip", "image_size")
    named = [name for name in idle if getattr(config, name)] + ["crop"] * (config.crop != PADDED)
    if named:
        raise UsageError(f"{named[0]} must not be given with loaders, whose batches are taken as they are")
    for name in ("sharpness", "noise_scale"):
        if getattr(config, name):
            raise UsageError(f"{name} must not be given with loaders: it samples training images, as data= has them")
    if config.self_supervised:
        raise UsageError(f"loaders must not be given for {config.task}, which draws its own views: give data=")
    loaded = from_loaders(loaders, config.batch_size)
    name = config.data if config.data.startswith(GIVEN) else f"{GIVEN}{loaded.name}"
    return replace(config, data=name, micro_batch_size=loaded.loader_batch), replace(loaded, name=name)


def check_apart(data: Any, apart: bool) -> None:
    """Raise ``UsageError`` if runs are done by processes of their own (``apart``), which have no ``data`` of Python."""
    if apart and data is not None:
        raise UsageError(
            "workers must be 1, and ray None, with data that are given in Python, since processes of their own do not "
            "have them: name data by import path for those, as in data='./file.py:function'"
        )


def prepare(
    config: TrainConfig,
    data: ImageData | None = None,
    here: bool = True,
    model: Model | None = None,
    metrics: Mapping[str, Metric] | None = None,
    task: Task | None = None,
) -> Prepared:
    """Load the data, make the plan and check all options; nothing is written.

    Args:
        config: the run.
        data: the data set, if it is loaded already; None (default) loads ``config.data``.
        here: True if the run is for this machine, which then has to have its device, its packages and its model.
        model: module or builder that the run's model, given:NAME, stands for.
        metrics: those that the run's metrics, NAME=given:CLASS, stand for.
        task: the one that the run's task, given:NAME, stands for.

    Raises:
        UsageError: an option does not fit the data or this machine, or the data lack labels that the task needs.
    """
    data = data_of(config, data)
    _check_data(config, data)
    own = load_task(config.task, task) if config.own_task else None
    prepared = Prepared(config, data, config.plan(len(data.train_labels)), model, own, metrics)
    check_imported(config, prepared.plan)
    if here:
        _check_machine(prepared)
        with memory.needed(f"model {config.model!r} must fit into memory with its data"):
            prepared.check_model()
        _ = prepared.metrics  # raises if one does not suit
    return prepared


def data_of(config: TrainConfig, data: ImageData | None = None) -> ImageData:
    """Return the data of a run with its validation images held out; None (default) loads ``config.data``.

    Raises:
        UsageError: the data cannot be loaded, or ``config.validation`` does not fit them.
    """
    if data is None:
        if config.own_task:
            found = load_rows(config.data, config.data_dir)
            return found.hold_out(config.validation, config.validation_seed)
        loads = config.data, config.data_dir, config.image_size, config.skip_bad_images, config.data_workers
        data = load_data(*loads, encoded=config.crop == RANDOM_RESIZED)
    if config.flip is not None:
        data = replace(data, flip=config.flip)
    if config.own_task and not isinstance(data, RowsData):
        raise UsageError(f"data must be Datasets or tensors for a task of your own, got {type(data).__name__}")
    return data.hold_out(config.validation, config.validation_seed)


def _check_data(config: TrainConfig, data: ImageData) -> None:
    if config.keep_best and not data.validated:
        raise UsageError(
            "keep_best must not be given without images for validation, by which an epoch is best: give validation "
            "too, as 0.1"
        )
    if not config.test and not data.validated:
        raise UsageError("test must be true without images for validation: give validation too, as 0.1")
    if config.own_task:
        return
    if config.self_supervised:
        check_labels(data, config.evaluations)
        for split in ("validation", "test") if data.validated else ("test",):
            if len(data.part(split)[1]) < 2:
                raise UsageError(f"{data.name} must have at least two {split} images for {config.task}, got 1")
    elif data.classes < 2:
        raise UsageError(f"{data.name} must have images of at least two classes, a folder each, got {data.classes}")
    if config.auto_augment is not None and data.channels not in (1, 3):
        raise UsageError(
            f"auto_augment must not be given for {data.name}, which has {data.channels} channels, neither 1 nor 3, got "
            f"{config.auto_augment!r}"
        )
    if config.crop_padding is not None and config.crop_padding >= data.image_size:
        raise UsageError(f"crop_padding must be < the image size, {data.image_size}, got {config.crop_padding}")


def _check_machine(prepared: Prepared) -> None:
    config, _ = prepared.config, prepared.precision  # raises if the device cannot compute in it
    name = config.accelerator
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise UsageError(f"accelerator must be auto or cpu on this machine, which has no such device, got {name!r}")
    if config.sharpness is not None:
        check_sharpness()
    check_loggers(config.log)
    if config.layer_stats:
        check_layer_stats()
