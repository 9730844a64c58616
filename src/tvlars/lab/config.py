"""What a run and a comparison are made of. Each field is an option of the command line, with its help."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tvlars._checks import check_number
from tvlars.lab.data import DATASETS, FOLDER_PREFIX, check_data_name
from tvlars.lab.data.place import absolute, as_path, spelled
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.fits import check_batch, check_rendezvous
from tvlars.lab.models import INITS, MODELS
from tvlars.lab.ssl.evaluations import parse_evaluations
from tvlars.lab.ssl.methods import METHODS, parse_options, parse_widths
from tvlars.lab.ssl.presets import BIAS_NORM, PRESETS, Preset, preset_of, preset_plan, repeating
from tvlars.plan import DEFAULTS, SCHEDULES, Plan, plan

OPTIMIZERS = tuple(DEFAULTS)
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")
TASKS = ("classification", *METHODS)
EVALUATIONS = "linear,knn,random"
PLAN_OPTIONS = (
    *("lr", "momentum", "nesterov", "weight_decay", "bias_norm_lr_scale"),
    *("delay_factor", "delay", "alpha", "gamma_min", "warmup_epochs"),
)
"""Options that :func:`tvlars.plan` chooses where they are None."""
PHI_SCOPES = ("all", "ratio")
SECTIONS = {
    "data": "the run",
    "lr": "the optimizer",
    "schedule": "the schedule",
    "augment": "the rest",
    "preset": "self-supervised learning",
    "layer_stats": "what is measured besides",
    "devices": "many processes, and long runs",
}
"""Titles of the help's sections, each by its first option in ``TrainConfig``."""
SHARPNESS_SAMPLES = 1024
MAX_SEED = 2**32 - 1
MAX_LR = 1e30
"""Far above any use, and below what would overflow in float32."""
MAX_TIMEOUT = 30 * 86400.0
COUNTS = {
    "batch_size": (2, 2**40),  # batch norm wants two samples at least
    "epochs": (1, 10**9),
    "micro_batch_size": (2, 2**40),
    "seed": (0, MAX_SEED),
    "crop_padding": (0, 4096),
    "image_size": (8, 4096),
    "layer_stats": (1, 10**9),
    "sharpness_samples": (2, 2**40),
    "devices": (1, 2**20),
    "nodes": (1, 2**20),
    "checkpoint_keep": (1, 10**6),
}
"""The ranges of the options that are counts."""


TRAINED, MEASURED, MEANS = "trained", "measured", "means"
"""Role of an option: it decides what is trained, what is measured, or by which means.

This is the one meaning of "the same run". Two runs are the same if all options but those of ``MEANS`` are equal: one
resumes the other (``lab.run_folder.identity``), and a sweep does them once (``lab.experiments``). They are of the same
arm of a report (``lab.report``) if those of ``TRAINED`` are equal, batch size and seed aside.
"""


def option(default: Any, help: str, decides: str = TRAINED) -> Any:
    """A dataclass field that the command line offers with this help text; see ``TRAINED`` for what it may decide."""
    return field(default=default, metadata={"help": help, "decides": decides})


def deciding(*kinds: str) -> tuple[str, ...]:
    """Return the names of the options of a run that decide one of these: ``TRAINED``, ``MEASURED``, ``MEANS``."""
    return tuple(f.name for f in fields(TrainConfig) if f.metadata["decides"] in kinds)


def check_options(cls: Any, values: Any) -> None:
    """Raise ``UsageError`` unless ``values`` is a mapping of names of fields of the dataclass ``cls``."""
    if not isinstance(values, dict):
        raise UsageError(f"a config must be an object of options, got {values!r}")
    known = [f.name for f in fields(cls)]
    for name in values:
        if name not in known:
            raise unknown("option", name, known)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. What is left at None is chosen by :func:`tvlars.plan`.

    Raises:
        UsageError: a value is unknown or out of its range (when it is made), or does not fit the data
            (:meth:`plan`).
    """

    data: str = option("digits", "one of " + ", ".join(DATASETS) + f", {FOLDER_PREFIX}PATH")
    data_dir: Path | None = option(None, "folder where the data set lies or is downloaded to", MEANS)
    image_size: int | None = option(None, "pixels that images of a folder are scaled to (default: their own)")
    skip_bad_images: bool = option(False, "go on without those images of a folder that cannot be read")
    model: str = option("small_resnet", "one of " + ", ".join(MODELS))
    init: str = option("default", "weights of the model's convolutions and linear layers: " + ", ".join(INITS))
    task: str = option("classification", "what is learned: one of " + ", ".join(TASKS))
    optimizer: str = option("tvlars", "one of " + ", ".join(OPTIMIZERS))
    batch_size: int = option(256, "samples per optimizer step")
    epochs: int = option(30, "passes over the training set")
    seed: int = option(0, "seed of initialization, shuffling and augmentation")

    lr: float | None = option(None, "learning rate (default: from the batch size, see tvlars.plan)")
    bias_norm_lr_scale: float | None = option(None, "lr of biases and norms is lr times this (default: from the plan)")
    weight_decay: float | None = option(None, "of all but biases and norms (default: from the plan)")
    momentum: float | None = option(None, "of tvlars, lars and sgd (default: 0.9)")
    nesterov: bool | None = option(None, "Nesterov momentum of tvlars, lars and sgd (default: yes)")
    trust_coefficient: float | None = option(None, "of tvlars and lars (default: 0.001)")

    schedule: str = option("auto", "one of " + ", ".join(SCHEDULES) + "; tvlars has its own")
    warmup_epochs: float | None = option(
        None, "epochs of linear warm-up before the cosine, may be 0 (default: a fifth)"
    )
    delay_factor: float | None = option(
        None, "slope (lambda) of the sigmoid schedule, per step (default: from the plan)"
    )
    delay: float | None = option(None, "d_e of the sigmoid schedule, in steps (default: from the plan)")
    alpha: float | None = option(None, "bound of the sigmoid schedule, at most 1 / alpha (default: 1)")
    gamma_min: float | None = option(None, "floor of the sigmoid schedule (default: 0)")
    phi_scope: str | None = option(None, "what the factor phi of tvlars multiplies: all, ratio (default: all)")

    augment: bool = option(True, "random crops, and mirroring where the data set allows it")
    crop_padding: int | None = option(None, "pixels of padding for random crops (default: image size / 12)")
    rotation: float = option(0.0, "degrees that images are turned by at most, either way")
    micro_batch_size: int = option(1024, "samples per forward pass at most; larger batches are accumulated")
    precision: str = option("auto", "one of " + ", ".join(PRECISIONS) + "; auto is bf16-mixed where that is faster")
    accelerator: str = option("auto", "one of " + ", ".join(ACCELERATORS), MEANS)
    compile: bool = option(False, "compile the model with torch.compile", MEANS)
    tensorboard: bool = option(False, "write TensorBoard logs into the run folder too", MEANS)
    preset: str | None = option(
        None, "settings of the optimizer for self-supervised learning: corrected, as-published (default: the plan's)"
    )
    projector: str | None = option(
        None, "widths of the projector's layers (default: 4096-4096-4096, on a CPU 512-512-512)"
    )
    method_options: str | None = option(
        None, "options of the method, as in lambda_param=0.005 (the run says which it takes)"
    )
    evaluations: str = option(
        EVALUATIONS,
        "what features are tested by: linear, knn, random, random-knn, finetune, linear-1%%, finetune-10%% and so on, "
        f"with commas between, or none (default: {EVALUATIONS})",
        decides=MEASURED,
    )
    layer_stats: int | None = option(None, "record norms and ratios of every layer each N-th optimizer step", MEASURED)
    sharpness: str | None = option(
        None, "when to measure the sharpness of the loss: end, or epochs:N for every N-th", MEASURED
    )
    sharpness_samples: int = option(SHARPNESS_SAMPLES, "training images that sharpness is measured on", MEASURED)
    noise_scale: bool = option(False, "measure the gradient noise scale after every epoch", MEASURED)

    devices: int | None = option(
        None,
        "processes on each machine, one a device (default: 1, or as many as torchrun started)",
        decides=MEANS,
    )
    nodes: int | None = option(None, "machines (default: 1, or as many as torchrun or srun started)", MEANS)
    shard: bool = option(False, "spread weights, gradients and optimizer state over the processes (FSDP2)", MEANS)
    sync_batch_norm: bool = option(True, "batch norm's statistics are those of all processes")
    timeout: float = option(1800.0, "seconds that a process waits for the others at most", MEANS)
    rendezvous: str | None = option(
        None, "HOST:PORT of the first machine, the same on all, where nodes is more than 1", MEANS
    )
    checkpoint_every: str | None = option(
        None,
        "how often to save what resume needs: 5m (or s, h), 2-epochs, 100-steps (default: never, but when stopped)",
        decides=MEANS,
    )
    checkpoint_keep: int = option(2, "newest checkpoints that are kept", MEANS)
    resume: bool = option(
        False, "go on from the newest good checkpoint in out, from the start where there is none", MEANS
    )
    profile: bool = option(
        False, "print where the time went, and write a trace of some steps into the run folder", MEANS
    )
    out: Path | None = option(None, "run folder to write, new or empty (default: below runs/)", MEANS)

    def __post_init__(self) -> None:
        for name in ("data_dir", "out"):
            object.__setattr__(self, name, as_path(name, getattr(self, name)))
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", absolute(self.data_dir))
        for kind, name, valid in (
            ("model", self.model, MODELS),
            ("task", self.task, TASKS),
            ("init", self.init, INITS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("accelerator", self.accelerator, ACCELERATORS),
            *((("phi_scope", self.phi_scope, PHI_SCOPES),) if self.phi_scope is not None else ()),
        ):
            if not isinstance(name, str) or name not in valid:
                raise unknown(kind, name, valid)
        for flag in (
            "skip_bad_images",
            "augment",
            "compile",
            "tensorboard",
            "noise_scale",
            "profile",
            "shard",
            "sync_batch_norm",
            "resume",
        ):
            if not isinstance(getattr(self, flag), bool):
                raise UsageError(f"{flag} must be true or false, got {getattr(self, flag)!r}")
        check_data_name(self.data, self.image_size, self.skip_bad_images, self.data_dir)
        object.__setattr__(self, "data", spelled(self.data, self.data_dir))
        self._check_numbers()
        self._check_task()
        self._check_processes()
        if self.sharpness is not None:
            self.sharpness_epochs()
        elif self.sharpness_samples != SHARPNESS_SAMPLES:
            raise UsageError(f"sharpness must be given with sharpness_samples, got {self.sharpness_samples} alone")
        if not self.augment and (self.rotation or self.crop_padding):
            raise UsageError("rotation and crop_padding must not be given where augment is false, they play no part")
        if self.optimizer not in ("tvlars", "lars") and self.trust_coefficient is not None:
            raise UsageError(f"trust_coefficient must not be given for {self.optimizer}, which has none")
        if self.optimizer != "tvlars" and self.phi_scope not in (None, "all"):
            raise UsageError(f"phi_scope must be 'all' for {self.optimizer}, got {self.phi_scope!r}")

    def _check_task(self) -> None:
        """What belongs to self-supervised learning goes with it, and what does not, does not."""
        parse_evaluations(self.evaluations)
        if self.task != "classification":
            if self.projector is not None:
                parse_widths(self.projector)
            if self.method_options is not None and not isinstance(self.method_options, str):
                raise UsageError(f"method_options must be text as lambda_param=0.005, got {self.method_options!r}")
            parse_options(self.task, self.method_options)
            if self.preset is not None:
                if not isinstance(self.preset, str) or self.preset not in PRESETS:
                    raise unknown("preset", self.preset, PRESETS)
                preset_of(self.preset, self.optimizer)
            for name in ("sharpness", "noise_scale", "compile", "rotation", "shard"):
                if getattr(self, name):
                    raise UsageError(f"{name} must not be given for {self.task}, it goes with classification alone")
            if not self.augment:
                raise UsageError(f"augment must be true for {self.task}, which learns from augmented views, got false")
            return
        if self.evaluations != EVALUATIONS:
            raise UsageError(f"evaluations must not be given for classification, got {self.evaluations!r}")
        for name in ("preset", "projector", "method_options"):
            if getattr(self, name) is not None:
                raise UsageError(f"{name} must not be given for classification, got {getattr(self, name)!r}")

    def _check_numbers(self) -> None:
        for name, (low, high) in COUNTS.items():
            value = getattr(self, name)
            if value is None and name in ("crop_padding", "image_size", "layer_stats", "devices", "nodes"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise UsageError(f"{name} must be an integer >= {low}, got {value!r}")
            if value > high:
                raise UsageError(f"{name} must be <= {high}, got {value}")
        try:
            if self.trust_coefficient is not None:
                check_number("trust_coefficient", self.trust_coefficient, open_low=True)
            if self.lr is not None:
                check_number("lr", self.lr, high=MAX_LR, open_low=True)
            check_number("rotation", self.rotation, high=180.0, unit="degrees")
            check_number("timeout", self.timeout, high=MAX_TIMEOUT, open_low=True, unit="seconds")
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _check_processes(self) -> None:
        """What belongs to many processes and to checkpoints goes together."""
        self.checkpoint_interval()
        if self.resume and self.out is None:
            raise UsageError("out must be given with resume: the run folder to go on with")
        check_batch(self.batch_size, self.micro_batch_size, (self.devices or 1) * (self.nodes or 1))
        if self.rendezvous is not None:
            check_rendezvous(self.rendezvous)
        if self.rendezvous is not None and (self.nodes or 1) == 1 and not self.resume:
            raise UsageError(f"nodes must be > 1 with rendezvous, the place where machines meet, got {self.nodes or 1}")
        for name in ("sharpness", "noise_scale", "compile"):
            if self.shard and getattr(self, name):
                raise UsageError(f"{name} must not be given with shard, it wants the whole model in one process")
        if self.shard and self.precision == "16-mixed":
            raise UsageError("precision must be bf16-mixed or 32-true with shard, got '16-mixed'")

    def checkpoint_interval(self) -> tuple[str, float] | None:
        """Unit ("seconds", "epochs" or "steps") and number between two checkpoints; None: none are planned.

        Raises:
            UsageError: ``checkpoint_every`` is not of the form 5m, 2-epochs or 100-steps.
        """
        if self.checkpoint_every is None:
            return None
        text = str(self.checkpoint_every)
        if match := re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smh])", text):
            seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
            if seconds > 0:
                return "seconds", seconds
        elif (match := re.fullmatch(r"([1-9]\d{0,8})-(epoch|step)s?", text)) is not None:
            return f"{match[2]}s", float(match[1])
        raise UsageError(f"checkpoint_every must be as 5m, 30s, 2-epochs or 100-steps, got {self.checkpoint_every!r}")

    def plan(self, dataset_size: int) -> Plan:
        """Learning rate and schedule for a training set of ``dataset_size`` samples.

        Raises:
            UsageError: a value does not fit the data, or the schedule ends elsewhere than the run.
        """
        made = self._plan(dataset_size)
        if made.delay is not None and self.delay is not None and made.delay >= made.total_steps:
            raise UsageError(
                f"delay must be < {made.total_steps}, the steps of this run, so that φ falls in it, got {self.delay:g}"
            )
        return made

    def _plan(self, dataset_size: int) -> Plan:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the console says it in its own way
            try:
                given: dict[str, Any] = {name: getattr(self, name) for name in PLAN_OPTIONS}
                preset = self.optimizer_preset()
                options = preset_plan(preset, self.batch_size, self.epochs, self.schedule, given)
                made = plan(
                    self.batch_size, dataset_size, self.epochs, self.optimizer, schedule=self.schedule, **options
                )
                return repeating(made) if preset.repeats and made.schedule == "warmup-cosine" else made
            except ValueError as error:
                raise UsageError(str(error)) from error

    def accuracy_name(self) -> str:
        """What the accuracy of such a run is that of."""
        if self.task == "classification":
            return "test accuracy"
        linear = "linear" in [one.name for one in parse_evaluations(self.evaluations)]
        return "linear-probe accuracy" if linear else "online-probe accuracy"

    def optimizer_preset(self) -> Preset:
        """What is set for this optimizer besides the plan's own choices."""
        if self.preset is not None:
            return preset_of(self.preset, self.optimizer)
        if self.task != "classification" and self.optimizer in ("tvlars", "lars"):
            return Preset(plan={"bias_norm_lr_scale": BIAS_NORM})
        return Preset()

    def sharpness_epochs(self) -> set[int]:
        """The epochs after which sharpness is measured: every N-th for "epochs:N", and the last.

        Raises:
            UsageError: ``sharpness`` is neither "end" nor "epochs:N".
        """
        if self.sharpness is None:
            return set()
        match = re.fullmatch(r"epochs:([1-9]\d{0,8})", str(self.sharpness))
        if self.sharpness != "end" and not match:
            raise UsageError(f"sharpness must be 'end' or 'epochs:N' with N >= 1, got {self.sharpness!r}")
        every = int(match[1]) if match else self.epochs
        return {*range(every, self.epochs + 1, every), self.epochs}

    def label(self) -> str:
        """A short name, fit for a folder: data, optimizer, batch size and seed."""
        task = "" if self.task == "classification" else f"{self.task}-"
        return f"{self.data_label()}-{task}{self.optimizer}-b{self.batch_size}-s{self.seed}"

    def data_label(self) -> str:
        """The data set's name, fit for a file; of a folder its last part."""
        name = Path(self.data.removeprefix(FOLDER_PREFIX)).resolve().name if ":" in self.data else self.data
        return re.sub(r"[^\w.-]+", "_", name)

    def to_json(self) -> str:
        """All fields as JSON; :meth:`from_mapping` reads it back."""
        return json.dumps(asdict(self), indent=1, default=str)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TrainConfig:
        """A config from field names and values.

        Raises:
            UsageError: a name is not a field's, or a value is bad.
        """
        check_options(cls, values)
        return cls(**values)
