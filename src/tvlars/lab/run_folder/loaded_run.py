"""Runs read back from their folders, as far as files can be read, with one sentence per problem."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tvlars._notebook import Line, page, paragraph, picture
from tvlars._reading import is_inside, is_regular, read_bytes, reason
from tvlars.lab import memory
from tvlars.lab.config import MOST_PIXELS, TrainConfig
from tvlars.lab.data.fingerprint import Fingerprint
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import DIGEST, digest_of
from tvlars.lab.imported import GIVEN, file_of
from tvlars.lab.models import STEMS, Model, build_model, check_model_name, has_code, said_model, spelled_model
from tvlars.lab.run_folder.best import best_file, epochs_kept, read_weights
from tvlars.lab.run_folder.identity import FINGERPRINT
from tvlars.lab.run_folder.record import CORRECT, MODEL, read_object
from tvlars.lab.run_folder.rows import (
    METRICS,
    RUNNING,
    SHARPNESS,
    EpochRow,
    MetricsRow,
    NoiseRow,
    RepresentationRow,
    SharpnessRow,
    StepRow,
    columns,
    no_rows,
    read_rows,
)
from tvlars.lab.run_folder.status import Status
from tvlars.lab.ssl.evaluations import Evaluated
from tvlars.lab.tasks import Measure
from tvlars.plan import Plan
from tvlars.stats import read_layer_stats

if TYPE_CHECKING:
    import pandas as pd

SPLIT = re.compile(r"(test|validation)_")
MODEL_FACTS = ("model", "data", "channels", "image_size", "classes", "class_names", "mean", "std")
MOST = {"channels": 64, "image_size": MOST_PIXELS, "classes": 2**20}
"""Largest valid value of each count in model.json."""


@dataclass(frozen=True)
class Tested:
    """Loss and accuracy (a fraction) on the test set."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class RunResult:
    """Results of a run that finished."""

    folder: Path
    config: TrainConfig
    plan: Plan
    epochs: list[EpochRow]
    evaluations: dict[str, Evaluated] = field(default_factory=dict)
    """Evaluations of the features of self-supervised learning, by name: "linear", "knn" and others."""
    tested: Tested | None = None
    """Result of the test at the end, if there are images for validation; None: rows of ``epochs`` have it."""
    best_epoch: int | None = None
    """The best epoch by validation, whose weights the results are of; None: they are of the last weights."""

    def __repr__(self) -> str:
        result = f"{self.config.accuracy_name()} {self.accuracy:.2%}" if not self.config.own_task else ""
        result = result or f"loss {self.test_loss if self.config.test else self.validation_loss:.4g}"
        return f"RunResult({self.config.label()}, {result}, {len(self.epochs)} epochs, folder {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return what :class:`LoadedRun` shows of its folder, for notebooks."""
        return load_run(self.folder)._repr_html_()

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test set after the last epoch; with self-supervised learning that of the linear evaluation,
        or of the online probe if there is none. NaN if the test set was not read."""
        if "linear" in self.evaluations:
            return self.evaluations["linear"].accuracy if self.config.test else math.nan
        if self.tested is not None:
            return self.tested.accuracy
        return self._evaluated[-1].test_accuracy if self._evaluated else math.nan

    @property
    def test_loss(self) -> float:
        """Loss on the test set after the last epoch, NaN if it was not read."""
        if self.tested is not None:
            return self.tested.loss
        return self._evaluated[-1].test_loss if self._evaluated else math.nan

    @property
    def validation_accuracy(self) -> float:
        """Accuracy on the validation images after the last or the best epoch, NaN if there are none."""
        return self._counting.validation_accuracy if self._evaluated else math.nan

    @property
    def validation_loss(self) -> float:
        """Loss on the validation images after the last or the best epoch, NaN if there are none."""
        return self._counting.validation_loss if self._evaluated else math.nan

    @property
    def _counting(self) -> EpochRow:
        """Row of the epoch whose weights the results are of."""
        return self._evaluated[-1] if self.best_epoch is None else self.epochs[self.best_epoch - 1]

    @property
    def _evaluated(self) -> list[EpochRow]:
        return [row for row in self.epochs if self.config.evaluates(row.epoch, self.plan.epochs)]

    @property
    def accuracy(self) -> float:
        """The reported accuracy: ``test_accuracy``, or that on validation images if the test set was not read."""
        if self.config.test:
            return self.test_accuracy
        return self.evaluations["linear"].accuracy if "linear" in self.evaluations else self.validation_accuracy


@dataclass(frozen=True)
class LoadedRun:
    """Run read from its folder.

    Frames have the columns of the row classes in ``tvlars.lab.run_folder.rows``; a frame is empty if its quantity was
    not measured. A file that is missing or damaged leaves its attribute empty (``config``: None) and adds a sentence to
    ``problems``. ``evaluations`` are those of self-supervised learning, see ``tvlars.lab.ssl``.
    """

    folder: Path
    config: TrainConfig | None
    status: Status
    epochs: pd.DataFrame
    steps: pd.DataFrame
    sharpness: pd.DataFrame
    noise: pd.DataFrame
    representation: pd.DataFrame = field(default_factory=lambda: no_rows(()))
    evaluations: dict[str, Evaluated] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    given: Model | None = None
    """The module or builder that ``train`` was called with, if the model has no name."""

    def __repr__(self) -> str:
        setting = "" if self.config is None else f"{self.config.label()}, "
        value, measure = self.value, self.measure
        result = "" if value is None else f"{measure.name} {measure.text(value)}{measure.unit}, "
        return f"LoadedRun({setting}{self.status}, {result}{len(self.epochs)} epochs, folder {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return results and problems in sentences, with curves over epochs, for notebooks."""
        title, values = self.over_epochs()
        loss = [Line(list(self.epochs.get("epoch", ())), list(self.epochs.get("train_loss", ())))]
        curves = picture([Line(list(values), list(values.values()))], title, "epoch")
        curves += picture(loss, "training loss", "epoch", log="y")
        return page(*map(paragraph, (self, *self.problems)), curves)

    def over_epochs(self) -> tuple[str, dict[int, float]]:
        """Return the title and, by epoch, the values of a curve of the measure, accuracies in percent.

        It is that of validation images if there are some, and that of the online probe with self-supervised learning.
        """
        measure, split = self.measure, "validation" if self.validated else "test"
        name = f"{split} {measure.name.partition(' ')[2] if measure.of_task else 'accuracy'}"
        probe = "online probe: " * (self.config is not None and self.config.self_supervised)
        values = self.evaluated.get(name.replace(" ", "_"), ())
        found = dict(zip(self.evaluated.get("epoch", ()), values, strict=False))
        scale = 1 if measure.of_task else 100
        return probe + replace(measure, name=name).title, {epoch: scale * value for epoch, value in found.items()}

    @property
    def complete(self) -> bool:
        """True if the run finished and no epoch is missing, so that its results may be compared."""
        whole = len(self.epochs) == self.summary.get("epochs", len(self.epochs)) and len(self.epochs) > 0
        if self.status != Status.FINISHED or not whole or self.accuracy is None:
            return False
        if self.config is not None and self.config.self_supervised:
            if self.config.accuracy_name() == self.config.named(linear=True) and "linear" not in self.evaluations:
                return False
            if math.isnan(self.accuracy):  # no labels
                return True
        if self.config is not None and self.config.own_task:
            return True
        return 0 <= self.accuracy <= 1

    @property
    def accuracy_name(self) -> str:
        """Name of ``accuracy``, for example "test accuracy"."""
        return "test accuracy" if self.config is None else self.config.named("linear" in self.evaluations)

    @property
    def measure(self) -> Measure:
        """Measure that the run is reported by: its accuracy or, of a task of a user, what that declares."""
        if self.config is None or not self.config.own_task:
            return Measure(self.accuracy_name)
        found = self.environment.get("measure")  # the task itself is not imported
        name, better = (found.get("name"), found.get("better")) if isinstance(found, dict) else ("", None)
        known = isinstance(name, str) and re.fullmatch(r"[a-zA-Z]\w{0,80}", name, re.ASCII) and better in ("min", "max")
        name, better = (name, better) if known else ("loss", "min")  # of an earlier version
        return Measure(f"{'test' if self.config.test else 'validation'} {str(name).replace('_', ' ')}", better)

    @property
    def value(self) -> float | None:
        """Value of ``measure`` at the end, None if there is none yet."""
        measure = self.measure
        if not measure.of_task:
            return self.accuracy
        losses = {"test_loss": self.test_loss, "validation_loss": self._last("validation_loss")}
        return losses[measure.column] if measure.column in losses else self.metrics.get(measure.column)

    @property
    def accuracy(self) -> float | None:
        """The reported accuracy, None if there is none yet: that on the test set after the last epoch, or on
        validation images if the config says that the test set is not read.

        With self-supervised learning that of the linear evaluation, or of the online probe if there is none.
        """
        if "linear" in self.evaluations and self.config is not None and self.config.self_supervised:
            return self.evaluations["linear"].accuracy
        return self._last("validation_accuracy" if self._untested else "test_accuracy")

    @property
    def test_accuracy(self) -> float | None:
        """``accuracy``; None if the test set is not read."""
        return None if self._untested else self.accuracy

    @property
    def test_loss(self) -> float | None:
        """Loss on the test set after the last epoch, None if there is none."""
        return None if self._untested else self._last("test_loss")

    @property
    def validation_accuracy(self) -> float | None:
        """Accuracy on validation images after the last or the best epoch, None if there is none."""
        return self._last("validation_accuracy") if self.validated else None

    @property
    def best_epoch(self) -> int | None:
        """The best epoch by validation, whose weights the results are of; None if they are of the last weights."""
        if self.config is None or not self.config.keep_best:
            return None
        if type(found := self.summary.get("best_epoch")) is int and found in self.epochs["epoch"].to_numpy():
            return found
        kept = self.epochs[self.epochs["epoch"].isin(epochs_kept(self.folder))]
        order = kept.sort_values(["validation_accuracy", "validation_loss"], ascending=[False, True], kind="stable")
        return int(order["epoch"].iloc[0]) if len(order) else None

    @property
    def validated(self) -> bool:
        """True if epochs were tested on validation images."""
        return "validation_loss" in self.epochs and bool(self.epochs["validation_loss"].notna().any())

    @property
    def evaluated(self) -> pd.DataFrame:
        """The rows of ``epochs`` after which images were evaluated: with ``validate_every`` not all of them."""
        every = 1 if self.config is None else self.config.validate_every
        if every == 1 or not len(self.epochs):
            return self.epochs
        results = self.epochs[[name for name in self.epochs if SPLIT.match(str(name))]]
        return self.epochs[(self.epochs["epoch"] % every == 0) | results.notna().any(axis=1)]

    @property
    def _untested(self) -> bool:
        return self.config is not None and not self.config.test

    def _last(self, name: str) -> float | None:
        """Return a result after the last epoch; with images for validation, that of the test is in summary.json."""
        if not len(rows := self.evaluated):
            return None
        if name.startswith("validation"):
            rows = rows if self.best_epoch is None else rows[rows["epoch"] == self.best_epoch]
            return float(rows[name].iloc[-1])
        if not self.validated:
            return float(rows[name].iloc[-1])
        value = self.summary.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        without = self.config is not None and (self.config.self_supervised or self.config.own_task)
        unlabelled = without and self.status == Status.FINISHED
        return math.nan if unlabelled else None

    @property
    def metrics(self) -> dict[str, float]:
        """Extra measures by split and name, as in "test_f1": those of the weights that ``accuracy`` is of."""
        own = columns(EpochRow)
        found = {name: self._last(name) for name in map(str, self.epochs) if name not in own and SPLIT.match(name)}
        if self.validated:
            found |= {name: self._last(name) for name in self.summary if name not in own and name.startswith("test_")}
        return {name: value for name, value in found.items() if value is not None}

    def fingerprint(self) -> Fingerprint | None:
        """Return the fingerprint of the data, None if the run is of a version that kept none."""
        return Fingerprint.from_json(read_object(self.folder / MODEL).get(FINGERPRINT))

    def test_images(self) -> int | None:
        """Return the number of test images, None if the folder does not tell."""
        if (known := self.fingerprint()) is not None:
            return sum(known.test.counts) or None
        # Versions without a fingerprint kept this sentence about the data.
        found = re.search(r"training and ([\d,]{1,15}) test images", str(self.environment.get("data", "")))
        return int(found[1].replace(",", "")) or None if found else None

    def tested_images(self) -> int | None:
        """Return the number of images that ``accuracy`` is of, None if the folder does not tell."""
        return self.validation_images() if self._untested else self.test_images()

    def validation_images(self) -> int | None:
        """Return the number of images held out for validation, None if the folder does not tell."""
        if (known := self.fingerprint()) is None:
            return None
        return 0 if known.validation is None else sum(known.validation.counts)

    def test_correct(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Return True for each test image classified right after the last epoch; None if that was not kept."""
        images, accuracy = self.test_images(), self.test_accuracy
        if images is None or accuracy is None or self.accuracy_name != "test accuracy":
            return None
        return read_correct(self.folder, images, accuracy)

    def layer_stats(self) -> pd.DataFrame:
        """Return layer statistics in long form: step, layer, quantity, value; empty if none were recorded.

        Raises:
            UsageError: a file is damaged. These files are read here alone, so ``problems`` does not include that.
        """
        folder = self.folder / "layer-stats"
        if not folder.is_dir():
            return no_rows(["step", "layer", "quantity", "value"])
        if not is_inside(folder, self.folder):
            raise UsageError(f"{folder} must hold layer statistics, but is a link that leaves the run folder")
        try:
            import pandas as pd

            frame = read_layer_stats(folder).astype({"step": int, "quantity": str, "value": float})
            layers = frame["layer"]
            if not isinstance(layers.dtype, pd.CategoricalDtype):
                layers = pd.Series(pd.Categorical(layers, categories=layers.unique()))
            return frame.assign(layer=layers.cat.rename_categories(str))
        except ImportError as error:
            raise UsageError(str(error)) from error
        except Exception as error:  # pyarrow has many types for a damaged file
            if memory.has_ended(error):
                raise
            raise UsageError(f"{folder} must hold layer statistics, but a file is damaged: {reason(error)}") from error

    def model(self, best: bool | None = None) -> nn.Module:
        """Return the trained model in evaluation mode, on the CPU, for images from :meth:`normalize`.

        If the model is the user's own, known by its import path, that is imported and called.

        Args:
            best: True for the weights of the best epoch by validation, False for those of the last. None (default): the
                weights that the results are of.

        Raises:
            UsageError: model.json or the weights are missing or damaged, they do not fit each other, the model cannot
                be built here, or the run did not keep the ``best`` weights.
        """
        if best is not None and not isinstance(best, bool):
            raise UsageError(
                f"best must be True, False or None, got {type(best).__name__}: a module is given to "
                "load_run(folder, model=...)"
            )
        shape = self.model_facts()
        file = self.folder / "weights.pt"
        if best and self.best_epoch is None:
            raise UsageError(f"best must be False for {self.folder}, which kept no weights of a best epoch")
        if best is not False and self.best_epoch is not None:
            file = best_file(self.folder, self.best_epoch)
        if not os.path.lexists(file):
            said = f"the run is {self.status}, weights are written at its end"
            raise UsageError(f"{self.folder} has no {file.name}: {said}")
        model = self.build_model()
        try:
            weights = read_weights(file)
            kinds = {name: value.dtype for name, value in model.state_dict().items()}
            if {name: value.dtype for name, value in weights.items()} != kinds:  # torch would convert them
                raise ValueError("tensors of other types")
            model.load_state_dict(weights)
        except Exception as error:  # torch has many types for what does not fit
            if memory.has_ended(error):
                raise
            why = reason(error) if isinstance(error, OSError) else "it is damaged or of another model"
            raise UsageError(f"{file} must hold the weights of {shape['model']}, but {why}") from error
        return model.eval()

    def build_model(self, init: str = "default") -> nn.Module:
        """Return the run's model with new weights, initialized by ``init``.

        Raises:
            UsageError: model.json is missing or damaged, or the model cannot be built here; or it has no name, and
                :func:`load_run` was called without it.
        """
        facts = self.model_facts()
        if has_code(facts["model"]) and (file := file_of(facts["model"])) is not None and is_inside(file, self.folder):
            raise UsageError(
                f"model {said_model(facts['model'])} must be outside of {self.folder}: code in a run folder is not run"
            )
        sizes = (facts["channels"], facts["image_size"], facts["classes"])
        model, _ = build_model(facts["model"], *sizes, init, stem=facts.get("stem"), given=self.given)
        return model

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 images (N, C, H, W) normalized by mean and standard deviation of the training set."""
        shape = self.model_facts()
        mean, std = (torch.tensor(shape[key], device=images.device).view(1, -1, 1, 1) for key in ("mean", "std"))
        return (images - mean) / std

    def model_facts(self) -> dict[str, Any]:
        """Return model.json: arguments of the model's builder, mean and deviation of its images.

        Raises:
            UsageError: the file is missing or damaged.
        """
        problems: list[str] = []
        facts = read_object(self.folder / MODEL, problems)
        if fault := next(iter(problems), None) or _fault_of(facts, self.config):
            raise UsageError(f"{self.folder}: {fault}; the model cannot be built without it")
        return facts


def _fault_of(facts: dict[str, Any], config: TrainConfig | None) -> str | None:
    """Return the first fault of a model.json, None if there is none."""
    if missing := [name for name in MODEL_FACTS if name not in facts]:
        return f"model.json lacks {', '.join(missing)}"
    free = has_code(str(facts["model"])) or str(facts["model"]).startswith(GIVEN)  # the user's builder sees to it
    good = {
        name: type(facts[name]) is int and 1 <= facts[name] <= (2**20 if free else most) for name, most in MOST.items()
    }
    for name, (low, high) in {"mean": (0, 255), "std": (1, 256)}.items():  # of each channel
        values = facts[name]
        sized = isinstance(values, list) and len(values) == facts["channels"]
        good[name] = sized and all(type(value) in (int, float) and low <= value <= high for value in values)
    names = facts["class_names"]
    good["class_names"] = isinstance(names, list) and len(names) in (0, facts["classes"])
    if not all(good.values()) or not all(isinstance(text, str) for text in (facts["model"], facts["data"], *names)):
        return "model.json holds values of the wrong kind"
    try:
        check_model_name(facts["model"])
        known = spelled_model(facts["model"]) == facts["model"]  # a file from the root
    except UsageError:
        known = False
    if not known:
        return f"model.json names an unknown model, {facts['model'][:60]!r}"
    if facts.get("stem") not in (None, *STEMS):
        return "model.json names an unknown stem"
    if DIGEST in facts and facts[DIGEST] != digest_of(facts):
        return "model.json does not match its checksum"
    if config is not None and config.model != facts["model"]:
        return f"model.json is of {facts['model']}, config.json of {config.model}"
    if config is not None and config.image_size not in (None, facts["image_size"]):
        return f"model.json is of images of {facts['image_size']} pixels, config.json of {config.image_size}"
    return None


def read_correct(folder: Path, images: int, accuracy: float) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Return True for each of ``images`` test images that a run has right; None if the file is missing or contradicts
    ``accuracy``."""
    size = -(-images // 8)
    try:
        packed = read_bytes(folder / CORRECT, folder, max(size, 0))
    except OSError:
        return None
    if images < 1 or len(packed) != size:
        return None
    correct = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=images).astype(bool)
    return correct if abs(float(correct.mean()) - accuracy) < 1e-6 else None


def load_run(folder: Path | str, model: Model | None = None) -> LoadedRun:
    """Read a run folder.

    Args:
        folder: the folder.
        model: the module or builder that ``train`` was called with; None (default): the run's model has a name.

    Raises:
        UsageError: it is no run folder, since it has neither config.json nor epochs.csv nor steps.csv.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"run must be an existing folder, got {str(folder)!r}")
    if is_regular(folder / "comparison.json", folder):
        raise UsageError(f"{folder} is no run folder: it is a comparison, its runs are the folders in it")
    if is_regular(folder / "tune.json", folder):
        raise UsageError(f"{folder} is no run folder: it is a tuning, its reported runs are in {folder / 'final'}")
    if is_regular(folder / "sweep.json", folder):
        raise UsageError(f"{folder} is no run folder: it is a sweep, its runs are the folders in it")
    if not any(os.path.lexists(folder / name) for name in ("config.json", "epochs.csv", "steps.csv")):
        raise UsageError(f"{folder} is no run folder: it has no config.json, epochs.csv or steps.csv")
    problems: list[str] = []
    config = _read_config(read_object(folder / "config.json", problems), problems)
    summary: dict[str, Any] = {}
    if os.path.lexists(folder / "summary.json"):
        summary = read_object(folder / "summary.json", problems)
    else:
        problems.append("summary.json is missing: the run is being written, or was cut off")
    return LoadedRun(
        folder,
        config,
        _status(summary, problems),
        _with_metrics(read_rows(folder / "epochs.csv", EpochRow, problems), folder, problems),
        read_rows(folder / "steps.csv", StepRow, problems),
        _completed(read_rows(folder / SHARPNESS, SharpnessRow, problems, optional=True)),
        read_rows(folder / "noise.csv", NoiseRow, problems, optional=True),
        read_rows(folder / "representation.csv", RepresentationRow, problems, optional=True),
        _read_evaluations(folder / "evaluations.json", problems),
        plan=read_object(folder / "plan.json", problems),
        environment=read_object(folder / "environment.json", problems),
        summary=summary,
        problems=tuple(problems),
        given=model,
    )


def _completed(sharpness: pd.DataFrame) -> pd.DataFrame:
    """Return rows of sharpness with the texts that an earlier version did not write."""
    statistics, at = (sharpness[name].astype(object) for name in ("statistics", "at"))
    said = ("epoch " + sharpness["epoch"].astype(str)).astype(object)
    at = at.where(at.notna() & (at != ""), said)
    return sharpness.assign(statistics=statistics.where(statistics.notna(), RUNNING), at=at)


def _with_metrics(epochs: pd.DataFrame, folder: Path, problems: list[str]) -> pd.DataFrame:
    """Return the rows of epochs with further columns for the metrics."""
    metrics = read_rows(folder / METRICS, MetricsRow, problems, optional=True)
    names = [name for name in metrics if name not in columns(EpochRow)]
    return epochs.merge(metrics[["epoch", *names]], how="left", on="epoch") if names and len(epochs) else epochs


def _read_evaluations(file: Path, problems: list[str]) -> dict[str, Evaluated]:
    if not os.path.lexists(file):
        return {}
    found = {}
    for name, values in read_object(file, problems).items():
        try:
            one = Evaluated(float(values["accuracy"]), int(values["labels"]), float(values["seconds"]))
            if not 0 <= one.accuracy <= 1:
                raise ValueError("no fraction")
            found[name] = one
        except (TypeError, KeyError, ValueError, OverflowError):
            problems.append(f"{file.name} holds no result for {name}")
    return found


def _status(summary: dict[str, Any], problems: list[str]) -> Status:
    try:
        return Status(summary.get("status", Status.UNFINISHED))
    except ValueError:
        problems.append("summary.json does not say how the run ended")
        return Status.UNFINISHED


def _read_config(values: dict[str, Any], problems: list[str]) -> TrainConfig | None:
    if not values:
        return None
    known = [f.name for f in fields(TrainConfig)]
    if needed := [name for name in ("optimizer", "batch_size", "data", "epochs") if name not in values]:
        problems.append(f"config.json is not that of a run, it lacks {', '.join(needed)}")
        return None
    if missing := [name for name in known if name not in values]:
        more = f" and {len(missing) - 3} more options" if len(missing) > 3 else ""
        problems.append(f"config.json is of an older version, defaults are taken for {', '.join(missing[:3])}{more}")
    if extra := [name for name in values if name not in known]:
        problems.append(f"config.json is of another version, {', '.join(extra)} is not understood")
    try:
        return TrainConfig(**{name: value for name, value in values.items() if name in known})
    except UsageError as error:
        problems.append(f"config.json is not valid: {error}")
        return None
