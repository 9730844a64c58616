"""Many processes: what they compute is what one computes, and what becomes of one is said by the others."""

from __future__ import annotations

import os
import resource
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.lab.first import first
from tests.lab.processes.processes import in_processes
from tests.lab.stops import StopAt
from tvlars.lab import TrainConfig, load_run, train
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.models import MODELS
from tvlars.lab.run_folder.checkpoints import tensors
from tvlars.lab.training.description import describe_batch
from tvlars.lab.training.progress import Reporter
from tvlars.plan import Plan

CPU: dict[str, Any] = dict(precision="32-true", accelerator="cpu")
# Small steps, so that rounding is not blown up by the training itself.
CALM: dict[str, Any] = dict(epochs=2, schedule="constant", lr=0.1, batch_size=128, **CPU)


class Plain(nn.Module):
    """No batch statistics, so that accumulation is exact too."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, classes))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def two_optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return optimizers for matrices and for the rest."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    return [torch.optim.AdamW(matrices, lr=1e-4), torch.optim.SGD(others, lr=plan.lr / 100)]


def odd_digits() -> ImageData:
    """Five batches per epoch, and a number of test images that no number of processes divides."""
    return first(load_data("digits"), 700, 359)


RUNS: dict[str, dict[str, Any]] = {
    "lars": dict(optimizer="lars", **CALM),
    "tvlars": dict(optimizer="tvlars", **{**CALM, "schedule": "auto"}),
    "lamb": dict(optimizer="lamb", **{**CALM, "lr": 1e-4}),
    # 126 samples over four processes in parts of at most 20: pieces of different lengths.
    "parts": dict(optimizer="sgd", model="plain", micro_batch_size=20, **{**CALM, "batch_size": 126}),
    "recipe": dict(
        optimizer="sgd", model="plain", micro_batch_size=20, label_smoothing=0.1, clip_grad_norm=0.05,
        crop="random-resized", auto_augment="randaugment", mixup=0.2, cutmix=1.0,
        **{**CALM, "batch_size": 126},
    ),
    "average": dict(optimizer="lars", ema=0.8, **CALM),
    "schedule-free": dict(optimizer="schedulefree.SGDScheduleFree", **{**CALM, "lr": 1e-3}),
    "two-optimizers": dict(optimizer=f"{__file__}:two_optimizers", **CALM),
    "barlow-twins": dict(
        task="barlow-twins", optimizer="lars", projector="32-32", evaluations="linear",
        **{**CALM, "lr": 0.02},
    ),
    "simclr-parts": dict(
        task="simclr", optimizer="lars", model="plain-features", projector="32", micro_batch_size=50,
        evaluations="none", **{**CALM, "epochs": 1},
    ),
}  # fmt: skip


def add_models() -> None:
    """Models of these tests, in whatever process they run."""
    MODELS["plain"] = lambda channels, _, classes: (Plain(channels, classes), "plain")

    def features(channels: int, _: int, classes: int) -> tuple[nn.Module, str]:
        model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, classes))
        return model, "plain"

    MODELS["plain-features"] = features


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvlars.lab.models.MODELS", MODELS)
    for name in ("plain", "plain-features"):
        monkeypatch.setitem(MODELS, name, MODELS.get(name, MODELS["small_resnet"]))
    add_models()


def train_all(folder: Path, names: list[str], more: dict[str, Any]) -> None:
    add_models()
    for name in names:
        config = TrainConfig(**RUNS[name], **more, out=folder / name)
        train(config, data=odd_digits(), reporter=Reporter())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plain", "plain-features"):
            patch.setitem(MODELS, name, MODELS["small_resnet"])
        train_all(folder, list(RUNS), {})
    torch.set_num_threads(threads)
    return folder


def assert_equal_runs(a: Path, b: Path) -> None:
    """Losses of 10 steps to 1e-5, everything else to what that allows."""
    first, second = load_run(a), load_run(b)
    assert second.complete
    assert second.steps["loss"].tolist() == pytest.approx(first.steps["loss"].tolist(), rel=1e-5), a.name
    assert second.steps["train_accuracy"].tolist() == pytest.approx(first.steps["train_accuracy"].tolist(), abs=0.009)
    assert second.epochs["test_loss"].tolist() == pytest.approx(first.epochs["test_loss"].tolist(), rel=1e-4)
    assert second.epochs["test_accuracy"].tolist() == pytest.approx(first.epochs["test_accuracy"].tolist(), abs=0.006)
    if first.accuracy_name == "test accuracy":  # which images are right, each in its place
        there, here = first.test_correct(), second.test_correct()
        assert there is not None
        assert here is not None
        assert (there != here).mean() <= 0.006
    # Features are evaluated by one of several processes, and a checkpoint is saved before.
    assert {f.name for f in a.iterdir()} == {f.name for f in b.iterdir()} - {"checkpoints"}
    one, other = (torch.load(folder / "weights.pt", weights_only=True) for folder in (a, b))
    assert list(one) == list(other)
    for key, value in one.items():
        torch.testing.assert_close(
            other[key], value, rtol=1e-2, atol=1e-3, msg=lambda m, key=key: f"{a.name} {key}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_as_one(tmp_path: Path, alone: Path, count: int) -> None:
    names = list(RUNS) if count == 2 else ["tvlars", "parts"]
    in_processes(count, train_all, tmp_path, names, {}, log=tmp_path / "log")
    for name in names:
        assert_equal_runs(alone / name, tmp_path / name)


@pytest.mark.slow
def test_shards_train_as_one_process(tmp_path: Path, alone: Path) -> None:
    names = ["lars", "tvlars", "lamb", "parts", "recipe", "two-optimizers"]
    in_processes(2, train_all, tmp_path, names, {"shard": True}, log=tmp_path / "log")
    for name in names:
        assert_equal_runs(alone / name, tmp_path / name)


def cut_off(folder: Path, more: dict[str, Any], name: str = "tvlars") -> None:
    """Train until the middle of the second epoch; checkpoints of steps 6 and 8 stay."""
    options = {**RUNS[name], "checkpoint_every": "2-steps", **more}
    reporter = StopAt(step=9, error=partial(os._exit, 0))  # as a machine that is switched off

    from tvlars.lab.training import train as engine

    engine.Reporter = lambda: reporter  # type: ignore[assignment, misc]
    train(TrainConfig(**options, out=folder), data=odd_digits(), reporter=reporter)


def go_on(folder: Path, more: dict[str, Any], name: str = "tvlars") -> None:
    options = {**RUNS[name], "checkpoint_every": "2-steps", **more}
    train(TrainConfig(**options, out=folder, resume=True), data=odd_digits(), reporter=Reporter())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        *(((2, True), (1, False), "tvlars"), ((1, False), (2, True), "tvlars"), ((2, True), (2, False), "tvlars")),
        *(((2, False), (1, False), "tvlars"), ((2, True), (1, False), "two-optimizers")),
    ],
)
def test_a_checkpoint_is_read_by_another_number_of_processes(
    tmp_path: Path, alone: Path, before: tuple[int, bool], after: tuple[int, bool], name: str
) -> None:
    """Number of processes, and whether parameters are spread over them."""
    in_processes(before[0], cut_off, tmp_path / name, {"shard": before[1]}, name, log=tmp_path / "log")
    assert (tmp_path / name / "checkpoints" / "000000008").is_dir()
    in_processes(after[0], go_on, tmp_path / name, {"shard": after[1]}, name, log=tmp_path / "log")
    run = load_run(tmp_path / name)
    assert run.complete
    assert run.steps["loss"].tolist() == pytest.approx(load_run(alone / name).steps["loss"].tolist(), rel=1e-5)
    (resumed,) = run.environment["resumed"]
    assert resumed["step"] == 8


@pytest.mark.slow
def test_statistics_of_each_process_go_on(tmp_path: Path) -> None:
    """Without synchronized batch norm each process has running statistics of its own within an epoch."""
    own = {"sync_batch_norm": False, "ema": 0.8}
    in_processes(2, cut_off, tmp_path / "cut", own, log=tmp_path / "log")
    in_processes(2, go_on, tmp_path / "cut", own, log=tmp_path / "log")
    in_processes(2, go_on, tmp_path / "whole", own, log=tmp_path / "log")  # where there is nothing, it begins
    assert "resumed" in load_run(tmp_path / "cut").environment
    whole, cut = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "cut"))
    for key, value in whole.items():
        assert torch.equal(value, cut[key]), key


def on_a_full_disk(folder: Path, how: str) -> None:
    """Limit files to 20,000 bytes, or fill the second process's disk, until the end of the first epoch."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = tensors.write
    notes: list[str] = []

    def no_room(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    class Full(Reporter):
        def start(self, *_: Any) -> None:
            if how == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, free[1]))
            elif dist.get_rank() == 1:
                tensors.write = no_room

        def epoch(self, row: Any) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, free)
            tensors.write = write

        def note(self, text: str) -> None:
            notes.append(text)

    from tvlars.lab.training import train as engine

    engine.Reporter = Full  # type: ignore[misc]
    config = TrainConfig(**RUNS["tvlars"], checkpoint_every="3-steps", out=folder)
    train(config, data=odd_digits(), reporter=Full())
    if dist.get_rank() == 0:
        why = {"limit": "File too large", "one": "No space left on device"}[how]
        assert notes == [f"checkpoint of step 3 could not be saved ({why}); earlier ones are kept"]
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000000009", "000000010"]


@pytest.mark.parametrize("how", ["limit", "one"])
def test_a_full_disk_costs_several_processes_the_new_checkpoint_alone(tmp_path: Path, how: str) -> None:
    in_processes(2, on_a_full_disk, tmp_path / "run", how, log=tmp_path / "log")


def test_a_batch_is_described_over_processes() -> None:
    assert describe_batch(TrainConfig(batch_size=4096, micro_batch_size=512), 4) == (
        "512 x 2 accumulation x 4 processes = 4,096 samples per optimizer step"
    )
    assert describe_batch(TrainConfig(batch_size=250), 4).startswith("62 or 63 x 1 accumulation x 4 processes = 250")
