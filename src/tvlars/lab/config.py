"""What a run and a comparison are made of. Each field is an option of the command line, with its help."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tvlars.lab.data import DATASETS
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.models import MODELS
from tvlars.plan import DEFAULTS, SCHEDULES, Plan, plan

OPTIMIZERS = tuple(DEFAULTS)
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")
PHI_SCOPES = ("all", "ratio")
MAX_SEED = 2**32 - 1


def option(default: Any, help: str) -> Any:
    """A dataclass field that the command line offers with this help text."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainConfig:
    """One training run. What is left at None is chosen by :func:`tvlars.plan`.

    Raises:
        UsageError: a value is unknown or out of its range (when it is made), or does not fit the data
            (:meth:`plan`).
    """

    data: str = option("digits", "data set: " + ", ".join(DATASETS))
    data_dir: Path | None = option(None, "folder where the data set lies or is downloaded to")
    model: str = option("small_resnet", "model: " + ", ".join(MODELS))
    optimizer: str = option("tvlars", "optimizer: " + ", ".join(OPTIMIZERS))
    batch_size: int = option(256, "samples per optimizer step")
    epochs: int = option(30, "passes over the training set")
    seed: int = option(0, "seed of initialization, shuffling and augmentation")

    lr: float | None = option(None, "learning rate (default: from the batch size, see tvlars.plan)")
    bias_norm_lr_scale: float | None = option(None, "lr of biases and norms is lr times this")
    weight_decay: float | None = option(None, "weight decay; biases and norms have none")
    momentum: float | None = option(None, "momentum (tvlars, lars, sgd)")
    nesterov: bool | None = option(None, "Nesterov momentum (tvlars, lars, sgd)")
    trust_coefficient: float | None = option(None, "trust coefficient (tvlars, lars; default: 0.001)")

    schedule: str = option("auto", "lr schedule: " + ", ".join(SCHEDULES) + " (tvlars has its own)")
    warmup_epochs: float | None = option(None, "epochs of linear warm-up before the cosine, may be 0")
    delay_factor: float | None = option(None, "λ of the sigmoid schedule, per step")
    delay: float | None = option(None, "d_e of the sigmoid schedule, in steps")
    alpha: float = option(1.0, "α of the sigmoid schedule")
    gamma_min: float = option(0.0, "floor of the sigmoid schedule")
    phi_scope: str = option("all", "what φ of tvlars multiplies: all, ratio")

    augment: bool = option(True, "random crops, and mirroring where the data set allows it")
    crop_padding: int | None = option(None, "pixels of padding for random crops (default: image size / 12)")
    micro_batch_size: int = option(1024, "samples per forward pass; larger batches are accumulated")
    precision: str = option("auto", "precision: " + ", ".join(PRECISIONS) + " (auto: bf16-mixed where native)")
    accelerator: str = option("auto", "device: " + ", ".join(ACCELERATORS))
    out: Path | None = option(None, "run folder to write, new or empty (default: below runs/)")

    def __post_init__(self) -> None:
        for name in ("data_dir", "out"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))
        for kind, name, valid in (
            ("data set", self.data, DATASETS),
            ("model", self.model, MODELS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("accelerator", self.accelerator, ACCELERATORS),
            ("phi_scope", self.phi_scope, PHI_SCOPES),
        ):
            if name not in valid:
                raise unknown(kind, name, valid)
        self._check_numbers()
        if self.optimizer not in ("tvlars", "lars") and self.trust_coefficient is not None:
            raise UsageError(f"trust_coefficient must not be given for {self.optimizer}, which has none")
        if self.optimizer != "tvlars" and self.phi_scope != "all":
            raise UsageError(f"phi_scope must be 'all' for {self.optimizer}, got {self.phi_scope!r}")

    def _check_numbers(self) -> None:
        counts = {"batch_size": 1, "epochs": 1, "micro_batch_size": 1, "seed": 0, "crop_padding": 0}
        for name, low in counts.items():
            value = getattr(self, name)
            if value is None and name == "crop_padding":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise UsageError(f"{name} must be an integer >= {low}, got {value!r}")
        if self.seed > MAX_SEED:
            raise UsageError(f"seed must be <= {MAX_SEED}, got {self.seed}")
        positive = self.trust_coefficient
        if positive is not None and not (positive > 0 and math.isfinite(positive)):
            raise UsageError(f"trust_coefficient must be > 0, got {positive!r}")

    def plan(self, dataset_size: int) -> Plan:
        """Learning rate and schedule for a training set of ``dataset_size`` samples."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the console says it in its own way
            try:
                return plan(
                    self.batch_size,
                    dataset_size,
                    self.epochs,
                    self.optimizer,
                    lr=self.lr,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    weight_decay=self.weight_decay,
                    bias_norm_lr_scale=self.bias_norm_lr_scale,
                    schedule=self.schedule,
                    delay_factor=self.delay_factor,
                    delay=self.delay,
                    alpha=self.alpha,
                    gamma_min=self.gamma_min,
                    warmup_epochs=self.warmup_epochs,
                )
            except ValueError as error:
                raise UsageError(str(error)) from error

    def label(self) -> str:
        """A short name, fit for a folder: data, optimizer, batch size and seed."""
        return f"{self.data}-{self.optimizer}-b{self.batch_size}-s{self.seed}"

    def to_json(self) -> str:
        """All fields as JSON; ``from_json`` reads it back."""
        return json.dumps(asdict(self), indent=1, default=str)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TrainConfig:
        """A config from field names and values.

        Raises:
            UsageError: a name is not a field's, or a value is bad.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown("option", name, known)
        return cls(**values)


@dataclass(frozen=True)
class CompareConfig:
    """Several runs of one kind, one after the other: every optimizer at every batch size with every seed."""

    base: TrainConfig = field(default_factory=TrainConfig)
    optimizers: tuple[str, ...] = ("tvlars", "lars", "lamb")
    batch_sizes: tuple[int, ...] = (256,)
    seeds: tuple[int, ...] = (0, 1, 2)
    overrides: tuple[tuple[str, str, Any], ...] = ()
    """(optimizer, option, value): options of ``TrainConfig`` for one optimizer alone."""
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("optimizers", "batch_sizes", "seeds"):
            values = getattr(self, name)
            if not values:
                raise UsageError(f"{name} must name at least one, got none")
            if len(set(values)) != len(values):
                raise UsageError(f"{name} must not repeat, got {', '.join(map(str, values))}")
        known = [f.name for f in fields(TrainConfig) if f.name not in ("optimizer", "out")]
        for optimizer, name, _ in self.overrides:
            if optimizer not in self.optimizers:
                raise unknown("optimizer among those compared", optimizer, self.optimizers)
            if name not in known:
                raise unknown("option", name, known)
        self.runs()

    def runs(self) -> list[TrainConfig]:
        """The config of every run, in the order in which they are trained: seeds outermost.

        So every optimizer has been seen once when a third of the time is over, and an interrupted
        comparison is a fair one.
        """
        runs = []
        for seed in self.seeds:
            for batch_size in self.batch_sizes:
                for optimizer in self.optimizers:
                    values = {f.name: getattr(self.base, f.name) for f in fields(TrainConfig)}
                    values.update(optimizer=optimizer, batch_size=batch_size, seed=seed, out=None)
                    values.update({name: value for owner, name, value in self.overrides if owner == optimizer})
                    runs.append(TrainConfig.from_mapping(values))
        return runs
