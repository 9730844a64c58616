"""Training: exact batches, honest records, and every way a run can end."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from tests.lab.stops import StopAt
from tvlars.lab import DivergedError, TrainConfig, UsageError, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.models import MODELS
from tvlars.lab.training.description import describe_batch
from tvlars.lab.training.progress import Reporter

QUICK: dict[str, Any] = dict(epochs=2, batch_size=128, precision="32-true", accelerator="cpu")


class Plain(nn.Module):
    """No batch statistics, so that the gradient of a batch is the mean over its samples."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, classes))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


@pytest.mark.parametrize("micro_batch_size", [250, 100, 64, 7])
def test_micro_batches_give_the_batchs_own_gradient(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch, micro_batch_size: int
) -> None:
    """Split into equal ones and into ones that differ by a sample (250 = 84 + 83 + 83)."""
    monkeypatch.setitem(MODELS, "plain", lambda channels, _, classes: (Plain(channels, classes), "plain"))
    weights, losses = [], []
    for size in (250, micro_batch_size):
        config = TrainConfig(
            model="plain", micro_batch_size=size, augment=False, optimizer="sgd", **{**QUICK, "batch_size": 250}
        )
        folder = tmp_path / str(len(weights))
        folder.mkdir()
        train(config, data=digits, folder=folder)
        weights.append(torch.load(folder / "weights.pt", weights_only=True))
        losses.append(pd.read_csv(folder / "steps.csv")["loss"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6)
    assert losses[1].tolist() == pytest.approx(losses[0].tolist(), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["tvlars", "lars", "lamb"])
def test_learns_real_digits_and_records_what_it_did(tmp_path: Path, digits: ImageData, optimizer: str) -> None:
    config = TrainConfig(optimizer=optimizer, batch_size=128, epochs=15, out=tmp_path / "run")
    result = train(config, data=digits)
    assert result.test_accuracy > 0.9
    folder = tmp_path / "run"
    assert {f.name for f in folder.iterdir()} == {
        *("config.json", "plan.json", "model.json", "environment.json", "summary.json", "test-correct.bits"),
        *("initial-norms.json", "epochs.csv", "steps.csv", "weights.pt", ".lock"),
    }
    epochs, steps = pd.read_csv(folder / "epochs.csv"), pd.read_csv(folder / "steps.csv")
    assert epochs["epoch"].tolist() == list(range(1, 16))
    assert steps["step"].tolist() == list(range(1, 15 * 11 + 1))
    assert epochs["test_accuracy"].iloc[-1] == pytest.approx(result.test_accuracy, rel=1e-6)
    assert epochs["train_loss"].iloc[-1] == pytest.approx(steps["loss"].tail(11).mean(), rel=1e-5)
    for step in (1, 50, 165):
        row = steps.iloc[step - 1]
        assert row["phi"] == pytest.approx(result.plan.factor(step), rel=1e-6)
        assert row["lr"] == pytest.approx(result.plan.lr * result.plan.factor(step), rel=1e-6)
    assert TrainConfig.from_mapping(json.loads((folder / "config.json").read_text())) == config
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    assert json.loads((folder / "environment.json").read_text())["versions"]["torch"] == torch.__version__.split("+")[0]


def test_weights_in_the_folder_are_the_trained_ones(tmp_path: Path, digits: ImageData) -> None:
    result = train(TrainConfig(batch_size=128, epochs=5, out=tmp_path / "run", precision="32-true"), data=digits)
    model, _ = MODELS["small_resnet"](1, 8, 10)
    model.load_state_dict(torch.load(tmp_path / "run" / "weights.pt", weights_only=True))
    model.eval()
    mean, std = digits.mean_and_std()
    with torch.no_grad():
        logits = model((digits.test_images - mean.view(1, 1, 1, 1)) / std.view(1, 1, 1, 1))
    accuracy = (logits.argmax(1) == digits.test_labels).float().mean().item()
    assert accuracy == pytest.approx(result.test_accuracy, abs=0.01)


def test_a_seed_decides_everything(tmp_path: Path, few: ImageData) -> None:
    losses = []
    for i, seed in enumerate((3, 3, 4)):
        train(TrainConfig(seed=seed, out=tmp_path / str(i), **QUICK), data=few)
        losses.append(pd.read_csv(tmp_path / str(i) / "steps.csv")["loss"].tolist())
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_every_optimizer_sees_the_same_samples(tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    def spy(images: Tensor, *arguments: Any) -> Tensor:
        from tvlars.lab.data.augment.batch import crop_and_flip

        out = crop_and_flip(images, *arguments)
        seen[-1].append(out.double().mul(torch.arange(out[0].numel()).view(1, *out.shape[1:])).sum().item())
        return out

    monkeypatch.setattr("tvlars.lab.training.batches.crop_and_flip", spy)
    for optimizer in ("tvlars", "lamb", "adamw"):
        seen.append([])
        train(TrainConfig(optimizer=optimizer, out=tmp_path / optimizer, **QUICK), data=few)
    assert seen[0] == seen[1] == seen[2]


def test_a_diverged_run_stops_says_where_and_keeps_its_record(tmp_path: Path, few: ImageData) -> None:
    config = TrainConfig(optimizer="sgd", lr=1e18, schedule="constant", out=tmp_path / "run", **QUICK)
    with pytest.raises(
        DivergedError, match=r"sgd diverged: the loss was not finite at step \d+ with lr 1e\+18"
    ) as error:
        train(config, data=few)
    steps = pd.read_csv(tmp_path / "run" / "steps.csv")
    assert len(steps) == error.value.step
    assert not math.isfinite(steps["loss"].iloc[-1])
    assert steps["loss"].iloc[:-1].map(math.isfinite).all()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


def test_a_last_step_that_ruins_the_weights_is_no_result(tmp_path: Path, digits: ImageData) -> None:
    config = TrainConfig(
        optimizer="sgd",
        lr=1e20,
        schedule="constant",
        batch_size=1437,
        epochs=1,
        precision="32-true",
        out=tmp_path / "run",
    )
    with pytest.raises(DivergedError, match=r"the test loss was not finite at step 1 with lr 1e\+20"):
        train(config, data=digits)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["test_loss"]) == ("diverged", None)


def test_a_batch_is_split_evenly(tmp_path: Path, digits: ImageData) -> None:
    """A micro-batch of one sample at the end of 17 = 16 + 1 is more than batch norm could take."""
    config = TrainConfig(model="resnet18", batch_size=17, micro_batch_size=16, epochs=1)
    assert describe_batch(config).startswith("(9 x 1 + 8 x 1) accumulation x 1 process = 17 samples")
    assert describe_batch(TrainConfig(batch_size=512, micro_batch_size=128)).startswith("128 x 4 accumulation x 1")
    few = replace(
        digits,
        train_images=digits.train_images[:34],
        train_labels=digits.train_labels[:34],
        test_images=digits.test_images[:8],
        test_labels=digits.test_labels[:8],
    )
    train(replace(config, out=tmp_path / "run"), data=few)


def test_labels_and_images_must_fit(digits: ImageData) -> None:
    with pytest.raises(UsageError, match=r"must have labels from 0 to 4, but the training labels in .* go from 0 to 9"):
        replace(digits, classes=5)
    with pytest.raises(UsageError, match=r"as many test images as labels, and at least one: .* has 0 and 0"):
        replace(digits, test_images=digits.test_images[:0], test_labels=digits.test_labels[:0])


def test_an_interrupted_run_keeps_its_record(tmp_path: Path, few: ImageData) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(out=tmp_path / "run", **QUICK), data=few, reporter=StopAt(step=8, error=KeyboardInterrupt))
    assert pd.read_csv(tmp_path / "run" / "steps.csv")["step"].tolist() == list(range(1, 9))
    assert pd.read_csv(tmp_path / "run" / "epochs.csv")["epoch"].tolist() == [1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run" / "weights.pt").is_file()


def test_tensorboard_has_every_row(tmp_path: Path, few: ImageData) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(TrainConfig(log=("tensorboard",), out=tmp_path / "run", **QUICK), data=few)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    for name, file in (("steps/loss", "steps.csv"), ("epochs/test_accuracy", "epochs.csv")):
        rows = pd.read_csv(tmp_path / "run" / file)
        column = name.split("/")[1]
        assert [step for step, _ in logged[name]] == rows["step"].tolist()
        assert [value for _, value in logged[name]] == pytest.approx(rows[column].tolist(), rel=1e-6)
    assert "steps/phi" in logged
    assert "epochs/images_per_second" in logged


def test_a_compiled_model_trains_and_saves_plain_weights(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler itself is left out: it takes a minute, and is torch's to test."""
    plain = torch.compile
    compiled = []

    def spy(model: nn.Module, **options: Any) -> Any:  # Fabric compiles its wrapper with the options of the first call
        compiled.append(model)
        return plain(model, **{**options, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", spy)
    losses, names = [], []
    for flag in (False, True):
        folder = tmp_path / str(flag)
        train(TrainConfig(compile=flag, out=folder, **QUICK), data=few)
        losses.append(pd.read_csv(folder / "steps.csv")["loss"].tolist())
        names.append(list(torch.load(folder / "weights.pt", weights_only=True)))
    assert compiled
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert names[0] == names[1]


def test_a_compiler_that_does_not_work_is_one_sentence(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.compile

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmore")

    def no_python(model: nn.Module) -> Any:
        raise RuntimeError("Dynamo is not supported on Python 3.99+")

    for kind, reason in (
        (
            lambda model, **options: plain(model, **{**options, "backend": broken}),
            "RuntimeError: No working C\\+\\+ compiler found",
        ),
        (no_python, "Dynamo is not supported on Python 3.99\\+"),
    ):
        torch._dynamo.reset()
        monkeypatch.setattr(torch, "compile", kind)
        with pytest.raises(UsageError, match=f"^compile must be false on this machine, .* does not work: .*{reason}$"):
            train(TrainConfig(compile=True, out=tmp_path / reason[:5], **QUICK), data=few, reporter=Reporter())
    assert load_run(tmp_path / "Runti").status == "failed"


def test_rotation_and_init_change_the_run(tmp_path: Path, few: ImageData) -> None:
    losses = []
    for i, options in enumerate(({}, {"rotation": 10.0}, {"init": "xavier_normal"})):
        train(TrainConfig(out=tmp_path / str(i), **options, **QUICK), data=few)  # type: ignore[arg-type]
        losses.append(pd.read_csv(tmp_path / str(i) / "steps.csv")["loss"].iloc[0])
    assert len(set(losses)) == 3


def test_an_existing_folder_is_never_written_over(tmp_path: Path, few: ImageData) -> None:
    (tmp_path / "precious").write_text("results")
    with pytest.raises(UsageError, match="out must be a new or empty folder"):
        train(TrainConfig(out=tmp_path, **QUICK), data=few)
    assert [f.name for f in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(UsageError, match="out must be a new or empty folder"):
        train(TrainConfig(out=tmp_path / "precious", **QUICK), data=few)


def test_a_device_that_is_missing_is_named(tmp_path: Path, few: ImageData) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device, so that asking for one is no error")
    with pytest.raises(UsageError, match="accelerator must be auto or cpu on this machine, which has no such device"):
        train(TrainConfig(accelerator="cuda", out=tmp_path / "run"), data=few)
    assert not (tmp_path / "run").exists()


def test_an_interrupt_that_something_swallows_acts_at_the_next_step(few: ImageData, tmp_path: Path) -> None:
    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(out=tmp_path / "run", **QUICK), data=few, reporter=StopAt(step=3, error=swallow))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("interrupted", 3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fabric_is_imported_without_what_it_does_not_use() -> None:
    """Fabric would import torchmetrics, and with it torchvision and scipy, for the sake of its version."""
    code = (
        "import importlib.util, sys, tvlars.lab.processes.fabric\n"
        "assert not {'torchmetrics', 'torchvision', 'scipy'} & set(sys.modules)\n"
        "from lightning_fabric.utilities.imports import _TORCHMETRICS_GREATER_EQUAL_1_0_0 as is_there\n"
        "assert is_there == (importlib.util.find_spec('torchmetrics') is not None)\n"
        "if is_there:\n"
        "    from torchmetrics.aggregation import MeanMetric\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("precision", "native"), [("bf16-mixed", False), ("bf16-mixed", True), ("32-true", False)])
def test_bfloat16_that_a_cpu_emulates_is_warned_of(
    precision: str, native: bool, tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "plain", lambda channels, _, classes: (Plain(channels, classes), "plain"))
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    config = TrainConfig(model="plain", **{**QUICK, "epochs": 1, "batch_size": 512, "precision": precision})
    train(config, data=digits, folder=tmp_path, reporter=Reporter())
    said = [text for text in load_run(tmp_path).environment["warnings"] if "bf16-mixed" in text]
    warned = "precision bf16-mixed is emulated on this CPU, which has no bfloat16 of its own: 32-true is faster"
    assert said == [warned] * (precision == "bf16-mixed" and not native)
