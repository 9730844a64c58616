"""Config of a run: each option with its range, role, help and section of the help."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from tvlars.lab.arguments import parse_arguments, spelled_arguments
from tvlars.lab.data import DATASETS, FOLDER_PREFIX, check_data_name
from tvlars.lab.data.augment.recipe import CROPS, PADDED, POLICIES, RANDOM_RESIZED
from tvlars.lab.data.image_data import check_amount
from tvlars.lab.data.place import absolute, short, spelled
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.imported import is_import_path, is_theirs, load_object, said_path, short_name, spelled_path
from tvlars.lab.metrics import spelled_metrics
from tvlars.lab.models import FORMS, INITS, MODELS, STEMS, check_model_name, spelled_model
from tvlars.lab.optimizers import (
    OWN_OPTIONS,
    check_own_options,
    default_of,
    has_argument,
    has_own_schedule,
    is_class,
    is_known,
    optimizer_name,
    options_of_optimizer,
)
from tvlars.lab.options import USERS, Is, check, check_names, option, options_of, schedule_of
from tvlars.lab.presets import (
    BIAS_NORM,
    PRESETS,
    Preset,
    check_preset,
    describe_preset,
    preset_of,
    preset_plan,
    repeating,
)
from tvlars.lab.ssl.evaluations import parse_evaluations
from tvlars.lab.ssl.methods import METHODS, parse_options, parse_widths
from tvlars.plan import CURVES, DEFAULTS, SCHEDULES, Plan, options_of_schedule, plan
from tvlars.schedule import TAILS

OPTIMIZERS = tuple(DEFAULTS)
CLASSIFICATION = "classification"
EVALUATIONS = "linear,knn,random"
SHARPNESS_SAMPLES = 1024
EPOCHS = 30
"""Length of a run that is given neither in epochs nor in steps."""
STATISTICS = ("fresh", "running")
"""Statistics of batch norm: estimated anew on training images, or the running ones from training."""
STATISTICS_SAMPLES = 4096
LOGGERS = ("tensorboard", "wandb", "mlflow")
MAX_SEED = 2**32 - 1
MAX_LR = 1e30
"""Largest learning rate: far above any use, but without overflow in float32."""
MOST, MOST_PIXELS = 2**40, 4096
OTHERS = tuple(name for name in OPTIMIZERS if name != "tvlars")
"""Optimizers known by name that have no schedule of their own."""
TRUSTING = ("tvlars", "lars")
LAYERWISE = (*TRUSTING, "lamb")
ADAPTATION = ("layer_adaptation", "adapt_bias_norm")
"""Options that determine where the trust ratio acts."""
WITH_MOMENTUM = tuple(name for name, usual in DEFAULTS.items() if usual.momentum is not None)
EARLIER_NAMES = {"warmup-cosine": "cosine"}
"""Schedules that had another name in earlier versions."""
ONE_MACHINE = "a run of a sweep is on one machine"


def _planned(help: str, kinds: Is = Is.TRAINED, **more: Any) -> Any:
    """Return the field of an option that :func:`tvlars.plan` chooses if it is None."""
    return option(None, help, kinds | Is.PLANNED | Is.TUNABLE, **more)


def _of_schedule(name: str, help: str, kinds: Is = Is.TRAINED, **more: Any) -> Any:
    """Return the field of an option for the schedules to which :func:`tvlars.plan` applies it."""
    return _planned(help, kinds, schedules=tuple(kind for kind in CURVES if name in options_of_schedule(kind)), **more)


@dataclass(frozen=True)
class SharpnessTimes:
    """When sharpness is measured: after ``epochs``, after optimizer ``steps``, and where the training loss first falls
    to one of ``losses``, which descend."""

    epochs: frozenset[int]
    steps: frozenset[int]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Options that are None are chosen by :func:`tvlars.plan`.

    Raises:
        UsageError: a value is unknown or out of its range (when it is made), or does not fit the data
            (:meth:`plan`).
    """

    data: str = option(
        "digits",
        f"one of {{choices}}, {FOLDER_PREFIX}PATH, torchvision:CLASS, ./file.py:function",
        Is.SAME | Is.LOADS | Is.COMMON,
        section="the run",
        choices=DATASETS,
        closed=False,
    )
    data_dir: Path | None = option(None, "folder of the data set, or of its download", Is.MACHINE | Is.SAME | Is.LOADS)
    image_size: int | None = option(
        None,
        "size in pixels to which images of a folder, torchvision or your Dataset are scaled (default: their own)",
        Is.SAME | Is.LOADS,
        within=(8, MOST_PIXELS),
    )
    skip_bad_images: bool = option(False, "skip images of a folder that cannot be read", Is.SAME | Is.LOADS)
    validation: float | None = option(
        None,
        "training images held out for validation, the same for every run, stratified by class: a number (5000) or a "
        "share (0.1) (default: the val folder, if there is one beside test, else none, or 0.1 for tune; 0: none)",
        Is.SAME | Is.COMMON,
        metavar="N|SHARE",
    )
    validation_seed: int = option(0, "seed of the validation split", Is.SAME, within=(0, MAX_SEED))
    test: bool = option(
        True, "with validation images: also test at the end; --no-test reports validation only", Is.SAME
    )
    validate_every: int = option(
        1,
        "epochs between two evaluations of the validation (or test) images; the last epoch is always evaluated",
        Is.MEASURED | Is.SAME,
        within=(1, 10**9),
    )
    data_workers: int | None = option(
        None,
        "processes that read your data and augment single images; 0: none (default: one per core if reading is slow)",
        Is.MACHINE,
        within=(0, 1024),
    )
    keep_best: bool = option(
        False, "keep the weights of the best epoch by validation, and test them at the end", Is.SAME | Is.CLASSIFICATION
    )
    model: str = option(
        "small_resnet", f"one of {{choices}}, {', '.join(FORMS)}", Is.SETUP | Is.COMMON, choices=MODELS, closed=False
    )
    stem: str | None = option(
        None,
        "first layers of the model: small (a 3x3 convolution with stride 1, no max-pool) or standard (default: small "
        "below 64 pixels for models without a prefix)",
        Is.SETUP,
        choices=STEMS,
    )
    pretrained: bool = option(False, "start from the pretrained weights of timm, torchvision or your builder", Is.SETUP)
    weights: Path | None = option(
        None, "start from the weights in a file: a state dict as .pt or .safetensors", Is.SETUP
    )
    init: str = option(
        "default", "initialization of convolutions and linear layers: {choices}", Is.TUNABLE, choices=INITS
    )
    task: str = option(
        CLASSIFICATION,
        "one of {choices}, or the import path of your Task",
        Is.SAME,
        choices=(CLASSIFICATION, *METHODS),
        closed=False,
    )
    optimizer: str = option(
        "tvlars",
        "one of {choices}, or an import path such as torch.optim.NAdam or ./file.py:name",
        Is.AXIS | Is.COMMON,
        choices=OPTIMIZERS,
        closed=False,
    )
    batch_size: int = option(256, "samples per optimizer step", Is.AXIS | Is.COMMON, within=(2, MOST))
    epochs: int | None = option(EPOCHS, "passes over the training set", Is.SAME | Is.COMMON, within=(1, 10**9))
    steps: int | None = option(
        None, "optimizer steps, instead of epochs; the last epoch may be partial", Is.SAME, within=(1, 10**9)
    )
    seed: int = option(
        0, "seed of initialization, shuffling and augmentation", Is.AXIS | Is.COMMON, within=(0, MAX_SEED)
    )

    lr: float | None = _planned(
        "learning rate (default: from the batch size, see tvlars.plan)",
        Is.COMMON,
        section="the optimizer",
        above=True,
        within=(0, MAX_LR),
    )
    bias_norm_lr_scale: float | None = _planned(
        "learning rate of biases and norms, relative to lr (default: from the plan)"
    )
    weight_decay: float | None = _planned(
        "weight decay, not applied to biases and norms (default: from the plan)", Is.COMMON
    )
    momentum: float | None = _planned("momentum of tvlars, lars and sgd (default: 0.9)", optimizers=WITH_MOMENTUM)
    nesterov: bool | None = _planned(
        "Nesterov momentum of tvlars, lars and sgd (default: yes)", optimizers=WITH_MOMENTUM
    )
    optimizer_options: str | None = option(
        None,
        "more arguments of the optimizer, such as 'betas=(0.9,0.95) eps=1e-6' (default: its own)",
        parts=("NAME=VALUE", " "),
    )
    trust_coefficient: float | None = option(
        None,
        "trust coefficient of tvlars and lars (default: 0.001)",
        Is.TUNABLE,
        above=True,
        optimizers=TRUSTING,
        within=(0, None),
    )
    layer_adaptation: bool | None = option(
        None,
        "use the trust ratio of tvlars, lars and lamb; --no-layer-adaptation sets it to 1 (default: yes, or the "
        "preset's)",
        optimizers=LAYERWISE,
    )
    adapt_bias_norm: bool | None = option(
        None,
        "apply the trust ratio and weight decay of tvlars, lars and lamb to biases and norms, too (default: no, or "
        "the preset's)",
        optimizers=LAYERWISE,
    )

    schedule: str = option(
        "auto",
        "one of {choices}, or the import path of a torch LR scheduler or of a function (step, plan) -> factor, such as "
        "torch.optim.lr_scheduler.OneCycleLR or ./file.py:name; tvlars always uses its sigmoid",
        Is.TUNABLE | Is.COMMON,
        section="the schedule",
        choices=SCHEDULES,
        closed=False,
        optimizers=OTHERS,
    )
    schedule_options: str | None = option(
        None,
        "more arguments of a schedule by import path, such as 'max_lr=0.1 pct_start=0.3' (default: its own; the number "
        "of steps is filled in)",
        Is.TUNABLE,
        schedules=(USERS,),
        optimizers=OTHERS,
        parts=("NAME=VALUE", " "),
    )
    warmup_epochs: float | None = _of_schedule(
        "warmup_epochs",
        "epochs of linear warm-up (default: a fifth for cosine, polynomial, trapezoid, linear but not of lars; else 0)",
        Is.COMMON,
        optimizers=OTHERS,
    )
    warmup_steps: int | None = _of_schedule(
        "warmup_steps", "steps of linear warm-up, instead of warmup_epochs", optimizers=OTHERS
    )
    final_factor: float | None = _of_schedule(
        "final_factor", "final learning rate of cosine, linear, polynomial, trapezoid, relative to lr (default: 0.001)"
    )
    power: float | None = _of_schedule("power", "power of the polynomial schedule (default: 2)")
    decay_share: float | None = _of_schedule(
        "decay_share", "decay phase of the trapezoid schedule as a share of all steps (default: 0.2)"
    )
    decay_tail: str | None = _of_schedule(
        "decay_tail",
        "decay of the trapezoid schedule: {choices} (1 - sqrt of the progress) (default: linear)",
        choices=TAILS,
    )
    delay_factor: float | None = _of_schedule(
        "delay_factor",
        "slope (lambda) of the sigmoid schedule, per step (default: from the plan; of published-phi: 0.001)",
    )
    delay: float | None = _of_schedule("delay", "d_e of the sigmoid schedule, in steps (default: from the plan)")
    alpha: float | None = _of_schedule("alpha", "bound of the sigmoid schedule, at most 1 / alpha (default: 1)")
    gamma_min: float | None = _of_schedule("gamma_min", "floor of the sigmoid schedule (default: 0)")
    phi_scope: str | None = option(
        None,
        "scope of the factor phi of tvlars: {choices}; ratio multiplies the trust ratio only (default: all)",
        Is.TUNABLE,
        choices=("all", "ratio"),
        optimizers=("tvlars",),
    )

    augment: bool = option(
        True,
        "random crops, and mirroring where the data set allows it",
        Is.SETUP | Is.CLASSIFICATION | Is.COMMON,
        section="augmentation, precision and device",
    )
    crop_padding: int | None = option(
        None, "pixels of padding for random crops (default: image size / 12)", Is.SETUP | Is.TUNABLE, within=(0, 4096)
    )
    flip: bool | None = option(None, "mirror half of the images (default: where the data set allows it)", Is.SETUP)
    crop: str = option(
        PADDED,
        "random crops: {choices}; random-resized crops the full image of a file",
        Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE,
        choices=CROPS,
    )
    crop_scale: float | None = option(
        None,
        "smallest area of a random-resized crop, relative to the image (default: 0.08)",
        Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE,
        above=True,
        within=(0, 1),
    )
    auto_augment: str | None = option(
        None, "augmentation policy: {choices}", Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE, choices=POLICIES
    )
    mixup: float = option(
        0.0,
        "mix pairs of images; alpha of the Beta distribution",
        Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE,
        within=(0, 1000),
    )
    cutmix: float = option(
        0.0,
        "paste a part of another image; alpha of the Beta distribution; with mixup, each batch uses one of the two",
        Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE,
        within=(0, 1000),
    )
    rotation: float = option(
        0.0,
        "largest angle of random rotations, in either direction",
        Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE,
        unit="degrees",
        within=(0, 180),
    )
    label_smoothing: float | None = option(
        None,
        "label smoothing (default: 0, or the preset's)",
        Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE,
        within=(0, 1),
        below=True,
    )
    clip_grad_norm: float | None = option(
        None,
        "largest norm of the gradient of a whole batch (default: no limit)",
        Is.SETUP | Is.TUNABLE,
        above=True,
        within=(0, None),
    )
    ema: float | None = option(
        None,
        "decay per step of an exponential moving average of the weights, tested and saved instead (default: none)",
        Is.SETUP | Is.CLASSIFICATION | Is.TUNABLE,
        above=True,
        within=(0, 1),
        below=True,
    )
    micro_batch_size: int = option(
        1024, "largest number of samples per forward pass; larger batches use gradient accumulation", within=(2, MOST)
    )
    precision: str = option(
        "auto",
        "one of {choices}; auto is the faster of bf16-mixed and 32-true, measured on a CPU",
        Is.COMMON,
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
    )
    accelerator: str = option("auto", "one of {choices}", Is.MEANS | Is.COMMON, choices=("auto", "cpu", "cuda", "mps"))
    compile: bool | None = option(
        None,
        "compile the model with torch.compile (default: if that is measured to pay, in runs of ten minutes or more)",
        Is.MEANS | Is.CLASSIFICATION,
    )
    log: tuple[str, ...] = option(
        (),
        "also log to {choices}, or to the import path of a function from run folder to logger",
        Is.MACHINE | Is.COMMON,
        choices=LOGGERS,
        closed=False,
    )
    preset: str | None = option(
        None,
        "settings of the optimizer: mlperf (classification with lars), as-published (the comparison published with "
        "TVLARS) or corrected (the same without its faults); other options override it (default: the plan's)",
        choices=PRESETS,
    )
    projector: str | None = option(
        None,
        "widths of the projector's layers (default: 4096-4096-4096, on a CPU 512-512-512)",
        Is.SELF_SUPERVISED,
        section="self-supervised learning",
        metavar="WIDTHS",
    )
    method_options: str | None = option(
        None,
        "options of the method, such as lambda_param=0.005 (the run prints their names)",
        Is.SELF_SUPERVISED | Is.TUNABLE,
        parts=("NAME=VALUE", ","),
    )
    evaluations: str = option(
        EVALUATIONS,
        "evaluations of the features: linear, knn, random, random-knn, finetune, linear-1%%, finetune-10%% and so on, "
        f"or none (default: {EVALUATIONS})",
        Is.MEASURED | Is.SAME | Is.SELF_SUPERVISED | Is.COMMON,
        parts=("NAME", ","),
    )
    layer_stats: int | None = option(
        None,
        "record norms and ratios of every layer at each N-th optimizer step",
        Is.MEASURED,
        section="diagnostics",
        within=(1, 10**9),
    )
    test_share: float | None = option(
        None,
        "also test on a random share of the test set after each epoch, drawn anew each time; 0.25 gives the accuracy "
        "that the comparison published with TVLARS reports (default: none)",
        Is.MEASURED | Is.SAME | Is.CLASSIFICATION,
        above=True,
        within=(0, 1),
    )
    metrics: str | None = option(
        None,
        "torchmetrics classes by import path, computed after every epoch, such as "
        "f1=torchmetrics.classification.MulticlassF1Score",
        Is.MEASURED | Is.CLASSIFICATION,
        parts=("[NAME=]PATH", ","),
    )
    sharpness: str | None = option(
        None,
        "when to measure the sharpness of the loss: end, epochs:N (every N-th and the last), steps:7,14, or "
        "loss:1.0,0.5 (as soon as the training loss, mean of 3 steps, falls to a level); ';' joins several",
        Is.MEASURED | Is.CLASSIFICATION | Is.COMMON,
        parts=("WHEN", ";"),
    )
    sharpness_samples: int = option(
        SHARPNESS_SAMPLES, "training images for sharpness", Is.MEASURED | Is.CLASSIFICATION, within=(2, MOST)
    )
    sharpness_statistics: str = option(
        STATISTICS[0],
        "batch norm statistics for sharpness: {choices}; running ones lag behind the weights",
        Is.MEASURED | Is.CLASSIFICATION,
        choices=STATISTICS,
    )
    sharpness_statistics_samples: int = option(
        STATISTICS_SAMPLES, "training images for fresh statistics", Is.MEASURED | Is.CLASSIFICATION, within=(2, MOST)
    )
    noise_scale: bool = option(
        False, "measure the gradient noise scale after every epoch", Is.MEASURED | Is.CLASSIFICATION | Is.COMMON
    )

    devices: int | None = option(
        None,
        "processes per machine, one for each device (default: 1, or as many as torchrun started)",
        Is.MACHINE | Is.SEVERAL | Is.COMMON,
        section="processes, checkpoints and output",
        within=(1, 2**20),
    )
    nodes: int | None = option(
        None,
        "machines (default: 1, or as many as torchrun or srun started)",
        Is.MACHINE | Is.SEVERAL,
        not_in_grids=ONE_MACHINE,
        within=(1, 2**20),
    )
    shard: bool = option(
        False,
        "shard weights, gradients and optimizer state over the processes (FSDP2)",
        Is.MEANS | Is.CLASSIFICATION | Is.SEVERAL,
    )
    sync_batch_norm: bool = option(True, "synchronize batch norm over all processes", Is.SEVERAL)
    timeout: float = option(
        1800.0,
        "longest time that a process waits for the others, in seconds",
        Is.MACHINE,
        above=True,
        unit="seconds",
        within=(0, 30 * 86400),
    )
    rendezvous: str | None = option(
        None,
        "HOST:PORT of the first machine, the same on all machines, if nodes > 1",
        Is.MACHINE | Is.SEVERAL,
        not_in_grids=ONE_MACHINE,
        metavar="HOST:PORT",
    )
    checkpoint_every: str | None = option(
        None,
        "when to save a checkpoint: 5m (or s, h), 2-epochs, 100-steps (default: 5m in sets of runs, else when stopped)",
        Is.MEANS | Is.COMMON,
        metavar="INTERVAL",
    )
    checkpoint_keep: int = option(2, "number of checkpoints to keep", Is.MEANS, within=(1, 10**6))
    resume: bool = option(
        False,
        "resume from the newest valid checkpoint in out, or start if there is none",
        Is.MEANS | Is.OWN,
        not_in_grids="runs resume anyway",
    )
    profile: bool = option(
        False, "print the time spent in each phase, and write a trace of some steps to the run folder", Is.MACHINE
    )
    arm: str | None = option(
        None, "name of this setting in folder names, tables and pages (default: the optimizer's name)", Is.MEANS
    )
    protocol: str | None = option(
        None, "digest of the run's protocol, see tvlars protocol (default: none)", Is.MEANS | Is.OWN
    )
    out: Path | None = option(
        None,
        "folder to write: new or empty for one run; sets of runs continue theirs (default: below runs/)",
        Is.MACHINE | Is.OWN | Is.COMMON,
        not_in_grids="every run has its own folder in that of the sweep",
    )

    def __post_init__(self) -> None:
        if by_steps := self.steps is not None:
            if self.epochs not in (None, EPOCHS):
                raise UsageError(f"epochs must not be given with steps, got {self.epochs!r} and {self.steps!r}")
            object.__setattr__(self, "epochs", EPOCHS)
        check(self)
        if by_steps:
            object.__setattr__(self, "epochs", None)
        self._check_optimizer()
        self._check_schedule()
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", absolute(self.data_dir))
        check_data_name(self.data, None, self.skip_bad_images, self.data_dir)  # data may be given, of any size
        object.__setattr__(self, "data", spelled(self.data, self.data_dir))
        check_amount(self.validation)
        check_model_name(self.model)
        object.__setattr__(self, "model", spelled_model(self.model))
        self._check_weights()
        object.__setattr__(self, "metrics", spelled_metrics(self.metrics))
        self._check_task()
        self._check_processes()
        for one in self.log:
            if one not in LOGGERS and not is_import_path(one):
                raise unknown("logger", one, LOGGERS)
        if len(set(self.log)) != len(self.log):
            raise UsageError(f"log must not repeat, got {', '.join(self.log)}")
        object.__setattr__(self, "log", tuple(one if one in LOGGERS else spelled_path(one) for one in self.log))
        if self.sharpness is not None:
            self.sharpness_times(1)
        else:
            for f in fields(self):
                if f.name.startswith("sharpness_") and (value := getattr(self, f.name)) != f.default:
                    raise UsageError(f"sharpness must be given with {f.name}, got {value} alone")
        self._check_augmentation()
        if self.trust_coefficient is not None and self.optimizer not in TRUSTING:
            raise UsageError(f"trust_coefficient must not be given for {self.optimizer}, which has none")
        for name in ADAPTATION:
            if getattr(self, name) is not None and self.optimizer not in LAYERWISE:
                raise UsageError(f"{name} must not be given for {self.optimizer}, which has no trust ratio")
        if self.test_share is not None and not self.test:
            raise UsageError(f"test_share must not be given if the test set is not read, got {self.test_share:g}")
        if self.validate_every > 1 and ((best := self.preset == "as-published") or self.test_share is not None):
            why = "preset as-published" if best else "test_share"
            raise UsageError(f"validate_every must be 1 with {why}, which tests every epoch, got {self.validate_every}")
        if self.optimizer != "tvlars" and self.phi_scope not in (None, "all"):
            raise UsageError(f"phi_scope must be 'all' for {self.optimizer}, got {self.phi_scope!r}")

    def _check_optimizer(self) -> None:
        """Check names of optimizer and arm, and normalize the spelling of options; nothing is imported."""
        object.__setattr__(self, "optimizer", optimizer_name(self.optimizer))
        self._spell_arguments("optimizer_options")
        if self.arm is not None:
            check_arm_name(self.arm)
        if self.protocol is not None and not re.fullmatch(r"[0-9a-f]{64}", str(self.protocol)):
            raise UsageError(f"protocol must be a sha256 digest, 64 hexadecimal digits, got {self.protocol!r:.80}")

    def _check_schedule(self) -> None:
        """Check the name of the schedule, and normalize its spelling; nothing is imported."""
        name: Any = self.schedule
        name = EARLIER_NAMES.get(name, name) if isinstance(name, str) else name
        if is_import_path(name):
            name = spelled_path(name)
        elif not isinstance(name, str) or name not in SCHEDULES:
            path = "torch.optim.lr_scheduler.OneCycleLR or ./file.py:name"
            raise UsageError(f"{unknown('schedule', name, SCHEDULES)} Or an import path, as {path}.")
        object.__setattr__(self, "schedule", name)
        self._spell_arguments("schedule_options")

    def _spell_arguments(self, name: str) -> None:
        """Normalize the spelling of a text of arguments, or of a mapping."""
        given = getattr(self, name)
        if isinstance(given, str):
            given = parse_arguments(given, name)
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(f"{name} must be text as betas=(0.9,0.95) eps=1e-6, got {given!r}")
        object.__setattr__(self, name, spelled_arguments(given) if given else None)

    @property
    def arm_name(self) -> str:
        """Name of the run's setting for tables and pages: the arm's, or the optimizer's."""
        return self.arm or said_path(self.optimizer)

    @property
    def self_supervised(self) -> bool:
        """True if the task is self-supervised learning."""
        return self.task in METHODS

    def _check_weights(self) -> None:
        """Check that the initial weights have one source."""
        if self.weights is not None:
            object.__setattr__(self, "weights", absolute(self.weights))
        sources = {"init": self.init != "default", "pretrained": self.pretrained, "weights": self.weights is not None}
        if len(given := [name for name, there in sources.items() if there]) > 1:
            raise UsageError(f"{given[1]} must not be given with {given[0]}: each decides the initial weights")

    @property
    def own_task(self) -> bool:
        """True if the task is a user's own."""
        return self.task != CLASSIFICATION and self.task not in METHODS

    def _check_own_task(self) -> None:
        """Check the name of a user's task, and that no option of images and classes is given."""
        if not (isinstance(self.task, str) and is_import_path(self.task)):
            path = "package.module:MyTask or ./file.py:MyTask"
            raise UsageError(f"{unknown('task', self.task, (CLASSIFICATION, *METHODS))} Or an import path, as {path}.")
        object.__setattr__(self, "task", spelled_path(self.task))
        general = ("compile", "shard", "ema", "keep_best")
        of_others = ("crop_padding", "flip", "image_size", "skip_bad_images", "preset")
        for name in (*names_of(Is.CLASSIFICATION | Is.SELF_SUPERVISED), *of_others):
            if name not in general and getattr(self, name) != OPTIONS[name].default:
                raise UsageError(f"{name} must not be given for a task of your own, {said_path(self.task)}")

    def _check_task(self) -> None:
        """Check that options of the other kind of task have their defaults."""
        if self.own_task:
            self._check_own_task()
            return
        parse_evaluations(self.evaluations)
        if self.preset is not None:
            check_preset(self.preset, self.optimizer, self.self_supervised)
        for name in names_of(Is.CLASSIFICATION if self.self_supervised else Is.SELF_SUPERVISED):
            value = getattr(self, name)
            if value == OPTIONS[name].default:
                continue
            if name == "augment":
                raise UsageError(f"augment must be true for {self.task}, which learns from augmented views, got false")
            why = "it goes with classification alone" if self.self_supervised else f"got {value!r}"
            raise UsageError(f"{name} must not be given for {self.task}, {why}")
        if not self.self_supervised:
            return
        if self.projector is not None:
            parse_widths(self.projector)
        if self.method_options is not None and not isinstance(self.method_options, str):
            raise UsageError(f"method_options must be text as lambda_param=0.005, got {self.method_options!r}")
        parse_options(self.task, self.method_options)

    def _check_augmentation(self) -> None:
        if not self.augment:
            given = ("rotation", "crop_padding", "crop_scale", "auto_augment", "flip", "mixup", "cutmix")
            named = [name for name in given if getattr(self, name)] + ["crop"] * (self.crop != PADDED)
            if named:
                raise UsageError(f"{named[0]} must not be given if augment is false, since it has no effect")
        if self.crop == RANDOM_RESIZED and self.crop_padding is not None:
            raise UsageError("crop_padding must not be given with crop random-resized, which pads nothing")
        if self.crop != RANDOM_RESIZED and self.crop_scale is not None:
            raise UsageError(f"crop must be random-resized with crop_scale, got crop {self.crop!r}")

    def _check_processes(self) -> None:
        """Check options of many processes and of checkpoints that depend on each other."""
        self.checkpoint_interval()
        if self.resume and self.out is None:
            raise UsageError("out must be given with resume: the run folder to continue")
        check_batch(self.batch_size, self.micro_batch_size, (self.devices or 1) * (self.nodes or 1))
        if self.rendezvous is not None:
            _check_rendezvous(self.rendezvous)
            if (self.nodes or 1) == 1 and not self.resume:
                raise UsageError(
                    f"nodes must be > 1 with rendezvous, the place where machines meet, got {self.nodes or 1}"
                )
        for name in ("sharpness", "noise_scale", "compile", "ema"):
            if self.shard and getattr(self, name):
                raise UsageError(f"{name} must not be given with shard, since it needs the whole model in one process")
        if self.shard and self.precision == "16-mixed":
            raise UsageError("precision must be bf16-mixed or 32-true with shard, got '16-mixed'")

    def checkpoint_interval(self) -> tuple[str, float] | None:
        """Return unit ("seconds", "epochs" or "steps") and interval of checkpoints; None if none are planned.

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
        """Return learning rate and schedule for a training set of ``dataset_size`` samples.

        Raises:
            UsageError: a value does not fit the data, or the schedule does not end with the run.
        """
        preset = self.optimizer_preset()
        wanted = preset.schedule if self.schedule == "auto" else self.schedule
        chosen = {name: getattr(self, name) for name in names_of(Is.PLANNED)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the console has its own message
            try:
                epochs = self.epochs or cast(int, self.steps) / max(dataset_size // self.batch_size, 1)
                options = preset_plan(preset, self.batch_size, epochs, wanted, chosen)
                options_of_optimizer(self.optimizer, self.optimizer_options)
                if known := is_known(self.optimizer):
                    schedule, lr_from = wanted, ""
                else:
                    schedule, lr_from = self._complete(options)
                name = said_path(self.optimizer)
                made = plan(
                    self.batch_size,
                    dataset_size,
                    self.epochs,
                    name,
                    total_steps=self.steps,
                    schedule=load_object(schedule, "schedule") if is_import_path(schedule) else schedule,
                    schedule_options=parse_arguments(self.schedule_options or "", "schedule_options"),
                    **options,
                )
                made = made if known else replace(made, lr_from=lr_from)
                if preset.repeats and made.schedule == "cosine":
                    made = repeating(made)
            except ValueError as error:
                if is_theirs(error):
                    raise
                untold = dataset_size < self.batch_size == OPTIONS["batch_size"].default
                raise UsageError(f"{error}{', the default' * untold}") from error
        if made.delay is not None and self.delay is not None and made.delay >= made.total_steps:
            raise UsageError(
                f"delay must be < {made.total_steps}, the steps of this run, so that φ falls in it, got {self.delay:g}"
            )
        return made

    def _complete(self, options: dict[str, Any]) -> tuple[str, str]:
        """Add the defaults of an imported class to ``options`` of its plan; return its schedule, and where lr is from.

        Raises:
            UsageError: an option is given that the class does not have, or lr is missing and has no default.
        """
        name, said = self.optimizer, said_path(self.optimizer)
        if is_class(name) and not has_argument(name, "lr"):
            raise UsageError(
                f"optimizer must have an argument lr, but {said} has none: write a function of (model, plan) that "
                "returns it, and name that as ./file.py:function"
            )
        check_own_options(name, {one: options[one] for one in OWN_OPTIONS if options.get(one) is not None})
        schedule = "constant" if self.schedule == "auto" and has_own_schedule(name) else self.schedule
        if not is_class(name):
            return schedule, ""
        if options.get("weight_decay") is None:
            decays = has_argument(name, "weight_decay")
            options["weight_decay"] = (default_of(name, "weight_decay") or 0.0) if decays else 0.0
        if options.get("lr") is not None:
            return schedule, ""
        if (default := default_of(name, "lr")) is None:
            raise UsageError(f"lr must be given for {said}, which has no default")
        options["lr"] = default
        return schedule, f"default of {said}"

    def evaluates(self, epoch: int, of: int) -> bool:
        """Return True if the validation (or test) images are evaluated after ``epoch`` in a run of ``of`` epochs."""
        return epoch % self.validate_every == 0 or epoch == of

    def accuracy_name(self) -> str:
        """Return the name of the reported accuracy, for example "test accuracy"."""
        return self.named("linear" in [one.name for one in parse_evaluations(self.evaluations)])

    def named(self, linear: bool) -> str:
        """Return the name of the reported accuracy; of the ``linear`` evaluation in self-supervised learning."""
        of = "" if self.test else " validation"
        if not self.self_supervised:
            return f"{of.strip() or 'test'} accuracy"
        return f"linear-probe{of} accuracy" if linear else f"online-probe{of} accuracy"

    @property
    def smoothing(self) -> float:
        """Label smoothing: as given, or the preset's."""
        return self.optimizer_preset().label_smoothing if self.label_smoothing is None else self.label_smoothing

    @property
    def length(self) -> str:
        """Length of the run in words: "30 epochs" or "500 steps"."""
        count, unit = (self.epochs, "epoch") if self.steps is None else (self.steps, "step")
        return f"{count} {unit}{'s' * (count != 1)}"

    def optimizer_preset(self) -> Preset:
        """Return the settings of this optimizer that are not in the plan."""
        given = {name: value for name in ADAPTATION if (value := getattr(self, name)) is not None}
        if self.preset is not None:
            found = preset_of(self.preset, self.optimizer, self.batch_size, self.self_supervised)
            return replace(found, **given)
        if self.self_supervised and self.optimizer in TRUSTING:
            return replace(Preset(plan={"bias_norm_lr_scale": BIAS_NORM}), **given)
        return replace(Preset(), **given)

    def preset_facts(self) -> dict[str, str]:
        """Return the preset in words under "preset"; nothing if there is none."""
        return {} if self.preset is None else {"preset": describe_preset(self.preset, self.optimizer_preset())}

    def sharpness_times(self, of: int) -> SharpnessTimes:
        """Return when sharpness is measured in a run of ``of`` epochs; never if ``sharpness`` is None.

        Raises:
            UsageError: ``sharpness`` is not of the form end, epochs:N, steps:7,14 or loss:1.0,0.5, joined by ";".
        """
        epochs: set[int] = set()
        steps: set[int] = set()
        losses: set[float] = set()
        for part in () if self.sharpness is None else str(self.sharpness).split(";"):
            kind, _, text = part.strip().partition(":")
            values = [value.strip() for value in text.split(",")]
            counts = all(re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII) for value in values)
            if part.strip() == "end":
                epochs.add(of)
            elif kind == "epochs" and counts and len(values) == 1:
                epochs |= {*range(int(text), of + 1, int(text)), of}
            elif kind == "steps" and counts:
                steps |= {int(value) for value in values}
            elif kind == "loss" and all(re.fullmatch(r"\d{1,9}(\.\d{1,9})?", v, re.ASCII) and float(v) for v in values):
                losses |= {float(value) for value in values}
            else:
                raise UsageError(
                    "sharpness must be end, epochs:N with N >= 1, steps:N,N or loss:X,X with X > 0, several joined by "
                    f"';', got {self.sharpness!r}"
                )
        return SharpnessTimes(frozenset(epochs), frozenset(steps), tuple(sorted(losses, reverse=True)))

    def label(self) -> str:
        """Return a short name for a folder: data, task, arm or optimizer, batch size and seed."""
        task = f"{short_name(self.task)}-" if self.self_supervised or self.own_task else ""
        return f"{self.data_label()}-{task}{self.arm or short_name(self.optimizer)}-b{self.batch_size}-s{self.seed}"

    def data_label(self) -> str:
        """Return the data set's name for use in file names; for a folder or an import path, its last part."""
        return re.sub(r"[^\w.-]+", "_", short(self.data))

    def to_json(self) -> str:
        """Return all fields as JSON for :meth:`from_mapping`."""
        return json.dumps(asdict(self), indent=1, default=str)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TrainConfig:
        """Return a config from field names and values.

        Raises:
            UsageError: a name is no field, or a value is invalid.
        """
        if isinstance(values, dict) and isinstance(before := values.get("tensorboard"), bool):  # of earlier versions
            values = {name: value for name, value in values.items() if name != "tensorboard"}
            values.setdefault("log", ("tensorboard",) if before else ())
        check_names(cls, values)
        return cls(**values)


OPTIONS = options_of(TrainConfig)
"""The options of a run, by name."""


def names_of(kinds: Is) -> tuple[str, ...]:
    """Return the names of the options that have one of these kinds."""
    return tuple(name for name, one in OPTIONS.items() if one.kinds & kinds)


MEANS = names_of(Is.MEANS | Is.MACHINE)
"""Options that may differ between two configs of the same run."""


def plays_a_part(name: str, optimizer: str, schedule: str) -> bool:
    """Return True if an option affects runs of ``optimizer`` with ``schedule``; an import path is imported for it."""
    one = OPTIONS[name]
    if is_known(optimizer):
        return one.plays_a_part(optimizer, schedule)
    if name in OWN_OPTIONS:
        return name == "lr" or not is_class(optimizer) or has_argument(optimizer, name)
    if name == "optimizer_options":
        return is_class(optimizer)
    if one.schedules:
        free = schedule == "auto" and has_own_schedule(optimizer)
        return ("constant" if free else schedule_of(optimizer, schedule)) in one.schedules
    return name == "schedule" or not one.optimizers


def check_arm_name(name: object) -> None:
    """Raise ``UsageError`` unless ``name`` is short and fit for file names."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]{0,39}", name):
        raise UsageError(
            f"arm must be a name of at most 40 letters, digits, dots, hyphens and underscores, got {name!r:.60}"
        )


def check_batch(batch_size: int, micro_batch_size: int, processes: int) -> None:
    """Raise ``UsageError`` if a batch is too small for so many processes, or a part of it has a single sample.

    Parts are as in ``training.batches.micro_batches``: the share of each process is split evenly.
    """
    if batch_size < 2 * processes:
        raise UsageError(
            f"batch_size must be >= {2 * processes}, two samples for each of {processes} processes, got {batch_size}"
        )
    smallest, largest = batch_size // processes, -(-batch_size // processes)

    def fits(size: int) -> bool:
        return smallest // -(-largest // size) >= 2

    if not fits(micro_batch_size):
        enough = next(size for size in range(micro_batch_size, largest + 1) if fits(size))
        over = "" if processes == 1 else f" over {processes} processes"
        raise UsageError(
            f"micro_batch_size must leave two samples in every part of a batch of {batch_size}{over}, "
            f"since batch norm has no statistics of one, got {micro_batch_size}: take {enough} or more"
        )


def _check_rendezvous(place: Any) -> None:
    """Raise ``UsageError`` unless this is HOST:PORT, with IPv6 addresses in brackets."""
    match = re.fullmatch(r"(?:[\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", str(place), re.ASCII)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise UsageError(
            "rendezvous must be HOST:PORT of the first machine, as node1:29500, with a port from 1 to 65535, "
            f"got {place!r}"
        )
