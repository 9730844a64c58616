"""Preparation of a run: its options are checked together with its data and with this machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tvlars._machine import faster_in_bf16, native_bf16
from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.data.augment.recipe import RANDOM_RESIZED
from tvlars.lab.data.own.loaders import LoaderData
from tvlars.lab.data.own.rows import RowsData, load_rows
from tvlars.lab.errors import UsageError
from tvlars.lab.given import Given, check_loaders
from tvlars.lab.measure.layer_stats import check_layer_stats
from tvlars.lab.measure.sharpness import check_sharpness
from tvlars.lab.metrics import Metrics
from tvlars.lab.models import MODELS, build_model, check_model, has_code
from tvlars.lab.optimizers import is_class, is_known
from tvlars.lab.processes.alike import check_alike, facts_of
from tvlars.lab.processes.processes import Processes
from tvlars.lab.processes.started import layout
from tvlars.lab.run_folder.loggers import check_loggers
from tvlars.lab.run_folder.record import ENVIRONMENT, read_object
from tvlars.lab.ssl.evaluations import check_labels
from tvlars.lab.tasks import Task, load_task, try_task
from tvlars.lab.training.optimizers import LARGEST, build_optimizer, check_imported, check_step
from tvlars.lab.training.speed import PRECISIONS, choose_compile, choose_precision
from tvlars.plan import Plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Prepared:
    """Checked run with its data and its plan; :func:`prepare` returns it."""

    config: TrainConfig
    data: ImageData
    plan: Plan
    given: Given = field(default_factory=Given)
    """Objects of the user to which names of the config refer."""
    task: Task | None = None
    """The user's own task, None for others."""

    @cached_property
    def metrics(self) -> Metrics:
        """Extra measures of the run.

        Raises:
            UsageError: one cannot be used for the run.
        """
        return Metrics(self.config.metrics, self.data.classes, self.given.metrics)

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
            UsageError: the model cannot be built, or does not fit data and task.
        """
        config, data = self.config, self.data
        if self.task is not None:
            rows: Any = data.train_images
            with torch.random.fork_rng(devices=[]):
                theirs = has_code(config.model) or self.given.model is not None
                try_task(self.task, self.build_model()[0], rows[:2].values, None if theirs else config.model)
            return
        plain = config.stem is None and not config.pretrained and config.weights is None
        if config.model in MODELS and plain:
            return
        sizes = (data.channels, data.image_size, data.classes)
        check_model(config.model, *sizes, features=config.self_supervised, **self._model_options())

    def check_optimizer(self) -> None:
        """Have a user's function build its optimizer of the model once and take a step, before anything is written.

        Raises:
            UsageError: the function returns no optimizer of the model, or one that cannot take a step.
            Exception: whatever the function raises.
        """
        if not is_known(self.config.optimizer) and not is_class(self.config.optimizer):
            with torch.random.fork_rng(devices=[]):
                model = self.build_model()[0]
                optimizer = build_optimizer(self.config, self.plan, model).optimizer
                if sum(p.numel() for p in model.parameters()) <= LARGEST:
                    check_step(self.config, optimizer, model)

    def _model_options(self) -> dict[str, Any]:
        config = self.config
        names = ("init", "stem", "pretrained", "weights")
        return {**{name: getattr(config, name) for name in names}, "given": self.given.model}

    @property
    def precision(self) -> str:
        """Precision of the run on this machine."""
        return self.chosen_precision[0]

    @cached_property
    def chosen_precision(self) -> tuple[str, str]:
        """The precision of the run, and why it was chosen, "" if nothing was measured.

        ``auto`` is the one that the run had before if it resumes, else the faster one: on a CPU that computes in
        bfloat16 both are measured, by one process; elsewhere the hardware tells.
        """
        config, device = self.config, self.device
        if config.precision != "auto":
            return config.precision, ""
        if (before := self._before("precision")) in PRECISIONS:
            return str(before), ""
        if device.type == "cpu" and native_bf16(device) and self._can_be_measured():
            return choose_precision(*self._on_device())
        return PRECISIONS[faster_in_bf16(device)], ""

    @cached_property
    def chosen_compile(self) -> tuple[bool, str]:
        """True if torch compiles the model, and why, "" if nothing was measured.

        Unless the option says so, that is what the run did before if it resumes, else what pays.
        """
        config = self.config
        if config.compile is not None:
            return config.compile, ""
        if self._before("precision") is not None:
            return self._before("compiled") is True, ""
        if config.self_supervised or self.device.type == "mps" or not self._can_be_measured():
            return False, ""
        images = self.plan.total_steps * self.plan.batch_size
        return choose_compile(*self._on_device(), precision=self.precision, images=images)

    @property
    def device(self) -> torch.device:
        """Kind of the device that the run uses."""
        wanted = self.config.accelerator
        for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
            if there and wanted in ("auto", name):
                return torch.device(name)
        return torch.device("cpu")

    def _before(self, name: str) -> Any:
        """Return a fact that the folder has if the run resumes, None if there is none."""
        config = self.config
        return read_object(config.out / ENVIRONMENT).get(name) if config.resume and config.out else None

    def _can_be_measured(self) -> bool:
        """Return whether passes of the model are those of one process on images."""
        return layout(self.config) == (1, 1) and self.task is None and not isinstance(self.data, LoaderData)

    def _on_device(self) -> tuple[nn.Module, torch.device, tuple[int, ...], int]:
        """Return a model like that of the run, its device, the shape of its images, and the most of a forward pass."""
        with torch.random.fork_rng(devices=[]):
            model = self.build_model()[0]
        shape = self.data.channels, self.data.image_size, self.data.image_size
        return model, self.device, shape, min(self.config.micro_batch_size, self.config.batch_size)

    @cached_property
    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, on the scale 0 to 255."""
        return self.data.mean_and_std()

    @cached_property
    def fabric(self) -> Fabric:
        """Device and processes. On first access several processes connect and check that all do the same run.

        Raises:
            UsageError: the device cannot be used, the batch cannot be split over so many processes, or the processes
                were started with different runs.
            LostProcessError: another process did not connect.
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
        """Processes of the run; they connect on first access, as for ``fabric``."""
        return Processes(self.fabric)


def prepare(config: TrainConfig, given: Given | None = None, here: bool = True) -> Prepared:
    """Load the data, make the plan and check all options; nothing is written.

    Args:
        config: the run.
        given: the data set, if it is loaded already, and the objects to which names of the config refer. None (default)
            loads ``config.data``.
        here: True if the run is for this machine, which must then have the device, packages and model of the run.

    Raises:
        UsageError: an option does not fit the data or this machine, or the data lack labels that the task needs.
    """
    given = given or Given()
    data = data_of(config, given.data)
    _check_data(config, data)
    own = load_task(config.task, given.task) if config.own_task else None
    prepared = Prepared(config, data, config.plan(len(data.train_labels)), given, own)
    check_imported(config, prepared.plan)
    if here:
        _check_machine(prepared)
        with memory.needed(f"model {config.model!r} must fit into memory with its data"):
            prepared.check_model()
            prepared.check_optimizer()
        _ = prepared.metrics  # raises if one cannot be used
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
    if isinstance(data, LoaderData):
        check_loaders(config, data)
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
    config = prepared.config
    name = config.accelerator
    if config.precision == "16-mixed" and prepared.device.type != "cuda":
        raise UsageError("precision must be bf16-mixed or 32-true without a CUDA device, got '16-mixed'")
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise UsageError(f"accelerator must be auto or cpu on this machine, which has no such device, got {name!r}")
    if config.sharpness is not None:
        check_sharpness()
        last = prepared.plan.total_steps
        if beyond := [step for step in sorted(config.sharpness_times(prepared.plan.epochs).steps) if step > last]:
            raise UsageError(f"sharpness must name steps up to {last}, the last of the run, got {beyond[0]}")
    check_loggers(config.log)
    if config.layer_stats:
        check_layer_stats()
