"""A checkpoint whose checksums fit and whose state no run can have written: one sentence, and a folder as it was."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab.stops import StopAt
from tvlars import ScheduleLR, SigmoidSchedule
from tvlars.cli import main
from tvlars.lab import DivergedError, TrainConfig, UsageError, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.run_folder.checkpoints import checkpoint, state_check
from tvlars.lab.run_folder.checkpoints.state_check import ENTRIES, Checked, check_precision, check_scheduler
from tvlars.lab.run_folder.checkpoints.values import encode
from tvlars.lab.run_folder.rows import StepRow
from tvlars.lab.training.progress import Reporter

from .strangers import as_format_1, seal

QUICK: dict[str, Any] = dict(epochs=3, precision="32-true", accelerator="cpu", checkpoint_every="2-steps")
KINDS: dict[str, dict[str, Any]] = {
    "lars": dict(optimizer="lars", layer_stats=1),
    "lamb": dict(optimizer="lamb"),
    "tvlars": dict(optimizer="tvlars"),
    "adamw": dict(optimizer="adamw"),
    "byol": dict(task="byol", projector="32-32", evaluations="none"),
}
"""Runs whose checkpoints have a schedule and statistics of layers, counts in their state, a clock in their groups, a
state of torch's own, and a probe."""


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> Callable[[str], Path]:
    """A run of a kind that was cut off in step 9, in its second epoch of five steps, with a checkpoint of step 8."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "run"
            with pytest.raises(SystemExit):
                train(
                    TrainConfig(out=folder, checkpoint_keep=1, **QUICK, **KINDS[kind]),
                    data=digits,
                    reporter=StopAt(step=9),
                )
            (folder / "summary.json").unlink()
            made[kind] = folder
        return made[kind]

    return make


@pytest.fixture
def copied(tmp_path: Path, cut: Callable[[str], Path]) -> Callable[[str], Path]:
    def copy(kind: str) -> Path:
        return Path(shutil.copytree(cut(kind), tmp_path / "run"))

    return copy


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Every name in a folder with its size and digest."""
    return {
        str(file.relative_to(folder)): (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
        if file.is_file()
        else (0, "")
        for file in sorted(folder.rglob("*"))
    }


def resume(folder: Path, kind: str, digits: ImageData) -> None:
    train(TrainConfig(out=folder, resume=True, **QUICK, **KINDS[kind]), data=digits, reporter=StopAt(step=9))


def refused(folder: Path, kind: str, digits: ImageData, *words: str) -> str:
    """Return the sentence that refuses a resume; it holds ``words``, and nothing in the folder is touched."""
    before = contents(folder)
    with pytest.raises(UsageError) as caught:
        resume(folder, kind, digits)
    said = str(caught.value)
    assert contents(folder) == before
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said
    return said


def change(folder: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """Alter what the checkpoint says, and make its checksums fit."""
    path = folder / "checkpoints" / "000000008"
    progress = checkpoint.read_progress(path, checkpoint.check(path))
    alter(progress)
    for name, content in zip(checkpoint.PROGRESS, encode(progress), strict=True):
        (path / name).write_bytes(content)
    seal(path)


NAN = math.nan
PLACES: list[tuple[str, Any, str]] = [
    *(("step", value, "step must be an integer from 1 to 15") for value in (-7, 0, 16, 10**9, 8.0, True, "8", None)),
    ("step", 9, "step must be 8, got 9"),
    *(("epoch", value, "epoch must be an integer from 1 to 4") for value in (10**9, 0, -1, 2.0, None)),
    ("epoch", 1, "position must be 8, got 3"),
    ("epoch", 4, "position must be 0, got 3"),
    *(("position", value, "position must be an integer from 0 to 5") for value in (10**9, -1, 6, 3.0, [])),
    ("position", 2, "position must be 3, got 2"),
    *(("seconds", value, "seconds must be a finite number >= 0") for value in (NAN, math.inf, -1.0, "1", None)),
]


@pytest.mark.parametrize(("entry", "value", "sentence"), PLACES, ids=lambda value: str(value)[:12])
def test_where_the_run_is(
    copied: Callable[[str], Path], digits: ImageData, entry: str, value: Any, sentence: str
) -> None:
    folder = copied("tvlars")
    change(folder, lambda progress: progress.update({entry: value}))
    refused(folder, "tvlars", digits, "000000008/progress.json: ", sentence)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_is_there_and_no_other(copied: Callable[[str], Path], digits: ImageData, entry: str) -> None:
    folder = copied("tvlars")
    change(folder, lambda progress: progress.pop(entry))
    refused(folder, "tvlars", digits, f"progress.json: it must hold {entry}")
    change(folder, lambda progress: progress.update({entry: None, "more": 1}))
    refused(folder, "tvlars", digits, "progress.json: it must not hold more")
    change(folder, lambda progress: progress.pop("more"))
    refused(folder, "tvlars", digits, "progress.json: ")


STATES: list[tuple[str, Any]] = [
    ("order", torch.zeros(3, dtype=torch.uint8)),
    ("order", torch.zeros(5056)),
    ("order", torch.full((5056,), 255, dtype=torch.uint8)),
    ("draws", torch.zeros(16, dtype=torch.uint8)),
    ("draws", torch.full((5056,), 255, dtype=torch.uint8)),
    ("draws", "state"),
    ("random", []),
    ("random", {}),
    ("random", [[]]),
    ("random", [[torch.get_rng_state()], [torch.get_rng_state()]]),
    ("random", [[torch.get_rng_state()[:-1]]]),
    ("random", [[torch.full((5056,), 255, dtype=torch.uint8)]]),
    ("random", [torch.get_rng_state()]),
    ("random", [[torch.get_rng_state(), "state"]]),
    ("random", [[torch.get_rng_state(), torch.zeros(0, dtype=torch.uint8)]]),
    ("random", [[torch.get_rng_state(), torch.zeros(16)]]),
]


@pytest.mark.parametrize(("entry", "value"), STATES, ids=lambda value: str(type(value).__name__))
def test_random_states(copied: Callable[[str], Path], digits: ImageData, entry: str, value: Any) -> None:
    folder = copied("tvlars")
    change(folder, lambda progress: progress.update({entry: value}))
    refused(folder, "tvlars", digits, f"progress.json: {entry}", " must be a ")


ROWS: list[tuple[str, str, float, str]] = [
    ("epochs", "epoch", 2.0, "epochs[0].epoch must be 1, got 2"),
    ("epochs", "epoch", 1.5, "epochs[0].epoch must be an integer"),
    ("epochs", "epoch", NAN, "epochs[0].epoch must be an integer"),
    ("epochs", "step", 4.0, "epochs[0].step must be 5, got 4"),
    ("epochs", "train_loss", NAN, "epochs[0].train_loss must be a finite number"),
    ("epochs", "test_loss", math.inf, "epochs[0].test_loss must be a finite number"),
    ("epochs", "test_loss", -1.0, "epochs[0].test_loss must be a finite number >= 0, got -1.0"),
    ("epochs", "train_accuracy", -0.1, "epochs[0].train_accuracy must be a finite number from 0 to 1"),
    ("epochs", "test_accuracy", 1.5, "epochs[0].test_accuracy must be a finite number from 0 to 1"),
    ("epochs", "test_accuracy", NAN, "epochs[0].test_accuracy must be a finite number from 0 to 1"),
    ("epochs", "images_per_second", -1.0, "epochs[0].images_per_second must be a finite number >= 0"),
    ("epochs", "seconds", math.inf, "epochs[0].seconds must be a finite number >= 0"),
    ("epoch_steps", "step", 7.0, "epoch_steps[0].step must be 6, got 7"),
    ("epoch_steps", "epoch", 3.0, "epoch_steps[0].epoch must be 1.2, got 3.0"),
    ("epoch_steps", "loss", NAN, "epoch_steps[0].loss must be a finite number"),
    ("epoch_steps", "train_accuracy", 2.0, "epoch_steps[0].train_accuracy must be a finite number from 0 to 1"),
    ("epoch_steps", "lr", 5.0, "epoch_steps[0].lr must be "),
    ("epoch_steps", "phi", NAN, "epoch_steps[0].phi must be "),
]


@pytest.mark.parametrize(("entry", "column", "value", "sentence"), ROWS, ids=lambda value: str(value)[:20])
def test_rows(
    copied: Callable[[str], Path], digits: ImageData, entry: str, column: str, value: float, sentence: str
) -> None:
    from dataclasses import fields

    from tvlars.lab.run_folder.rows import EpochRow

    folder = copied("tvlars")
    columns = [field.name for field in fields(EpochRow if entry == "epochs" else StepRow)]

    def alter(progress: dict[str, Any]) -> None:
        progress[entry][0, columns.index(column)] = value

    change(folder, alter)
    refused(folder, "tvlars", digits, f"progress.json: {sentence}")


@pytest.mark.parametrize("entry", ["epochs", "epoch_steps"])
@pytest.mark.parametrize("how", [lambda t: t[:-1], lambda t: t.float(), lambda t: t[:, :-1], lambda t: t.tolist()])
def test_tables(copied: Callable[[str], Path], digits: ImageData, entry: str, how: Callable[[Any], Any]) -> None:
    folder = copied("tvlars")
    change(folder, lambda progress: progress.update({entry: how(progress[entry])}))
    refused(folder, "tvlars", digits, f"progress.json: {entry} must be a float64 tensor of shape (")


GROUPS: list[tuple[str, str, Any]] = [
    *(("lars", "lr", value) for value in (NAN, 5.0, -1.0, "0.1", None, math.inf)),
    *(("lars", "momentum", value) for value in (NAN, 5.0, 0.8, -0.9, "x")),
    *(("lars", "weight_decay", value) for value in (NAN, -1.0, 7.0)),
    *(("lars", "trust_coefficient", value) for value in (NAN, 5.0)),
    *(("lars", "initial_lr", value) for value in (NAN, 5.0)),
    *(("lars", name, 1) for name in ("nesterov", "layer_adaptation", "maximize", "differentiable")),
    ("lars", "norm_clip", 3.0),
    ("lars", "params", [1, 0]),
    ("lars", "params", "all"),
    *(("lamb", "betas", value) for value in ((0.9, NAN), (0.9, 5.0), 0.9, (0.9,))),
    ("lamb", "eps", NAN),
    *(("tvlars", name, NAN) for name in ("delay", "delay_factor", "alpha", "gamma_min")),
    *(("tvlars", "phi_scope", value) for value in ("ratio", None, 3)),
    *(("adamw", name, True) for name in ("amsgrad", "maximize")),
    ("adamw", "lr", NAN),
]


@pytest.mark.parametrize(("kind", "option", "value"), GROUPS, ids=lambda value: str(value)[:16])
def test_options_of_groups(
    copied: Callable[[str], Path], digits: ImageData, kind: str, option: str, value: Any
) -> None:
    folder = copied(kind)

    def alter(progress: dict[str, Any]) -> None:
        assert option in progress["optimizer"]["param_groups"][1]
        progress["optimizer"]["param_groups"][1][option] = value

    change(folder, alter)
    refused(folder, kind, digits, f"progress.json: optimizer.param_groups[1].{option}", " must be ")


def test_groups_lack_nothing(copied: Callable[[str], Path], digits: ImageData) -> None:
    folder = copied("lars")
    for name in ("lr", "momentum", "weight_decay", "params"):
        kept: dict[str, Any] = {}
        change(folder, lambda p, n=name, k=kept: k.update(value=p["optimizer"]["param_groups"][0].pop(n)))
        refused(folder, "lars", digits, f"optimizer.param_groups[0] must hold {name}")
        change(folder, lambda p, n=name, k=kept: p["optimizer"]["param_groups"][0].update({n: k["value"]}))
    for value in ([], [{}], {}, None, [1, 2]):
        change(folder, lambda p, v=value: p["optimizer"].update(param_groups=v))
        refused(folder, "lars", digits, "optimizer.param_groups")


@pytest.mark.parametrize("value", [-7.0, 9.0, 0.0, NAN, math.inf, 10**9, "8"], ids=str)
def test_the_clock_of_phi(copied: Callable[[str], Path], digits: ImageData, value: Any) -> None:
    from tvlars.lab.optimizers import CLASSES
    from tvlars.lab.run_folder.checkpoints.state_check import _clocks

    folder = copied("tvlars")
    model = torch.nn.Linear(2, 2)
    (clock,) = _clocks(CLASSES["tvlars"](model.parameters(), lr=0.1, total_steps=100))  # type: ignore[call-arg]

    def alter(progress: dict[str, Any]) -> None:
        for group in progress["optimizer"]["param_groups"]:
            tensor = isinstance(group[clock], torch.Tensor) and not isinstance(value, str)
            group[clock] = torch.tensor(float(value)) if tensor else value

    change(folder, alter)
    refused(folder, "tvlars", digits)


def overwrite(folder: Path, name: str, value: float) -> None:
    """Fill a tensor of the checkpoint."""
    path = folder / "checkpoints" / "000000008"
    table = json.loads((path / "tensors.json").read_text())["tensors"]
    (chunk,) = table[name]["chunks"]
    dtype = getattr(torch, table[name]["dtype"])
    content = bytearray((path / chunk["file"]).read_bytes())
    filled = torch.full(chunk["sizes"], value).to(dtype).reshape(-1).view(torch.uint8).numpy().tobytes()
    content[chunk["start"] : chunk["start"] + len(filled)] = filled
    (path / chunk["file"]).write_bytes(content)
    seal(path)


@pytest.mark.parametrize(
    ("kind", "name", "value", "sentence"),
    [
        ("lars", "model.head.bias", NAN, "model.head.bias must be finite"),
        ("lars", "model.bn.running_mean", math.inf, "model.bn.running_mean must be finite"),
        ("lars", "model.bn.running_var", -1.0, "model.bn.running_var must be >= 0"),
        ("lars", "model.bn.num_batches_tracked", -5, "model.bn.num_batches_tracked must be >= 0"),
        ("lars", "optimizer.0.momentum_buffer", NAN, "momentum_buffer must be finite"),
        ("adamw", "optimizer.0.exp_avg_sq", -1.0, "exp_avg_sq must be >= 0"),
        ("adamw", "optimizer.0.exp_avg", math.inf, "exp_avg must be finite"),
        ("adamw", "optimizer.0.step", 3.0, "step must be 8 steps, got 3.0"),
        ("adamw", "optimizer.0.step", NAN, "step must be 8 steps, got nan"),
        ("adamw", "optimizer.0.step", -8.0, "step must be 8 steps, got -8.0"),
    ],
)
def test_weights_and_moments(
    copied: Callable[[str], Path], digits: ImageData, kind: str, name: str, value: float, sentence: str
) -> None:
    folder = copied(kind)
    overwrite(folder, name, value)
    refused(folder, kind, digits, sentence)


def test_the_state_of_the_optimizer_is_that_of_all_its_parameters(
    copied: Callable[[str], Path], digits: ImageData
) -> None:
    folder = copied("lars")
    path = folder / "checkpoints" / "000000008"
    table = json.loads((path / "tensors.json").read_text())
    for old, new, sentence in (
        ("optimizer.0.momentum_buffer", None, "must hold momentum_buffer"),
        ("optimizer.0.momentum_buffer", "optimizer.0.velocity", "must hold momentum_buffer"),
        ("optimizer.0.momentum_buffer", "optimizer.999.momentum_buffer", "a tensor of the optimizer must be one of "),
        ("optimizer.0.momentum_buffer", "optimizer.-1.momentum_buffer", "a tensor of the optimizer must be one of "),
        ("optimizer.0.momentum_buffer", "optimizer.x", "a tensor of the optimizer must be one of "),
    ):
        tensors = dict(table["tensors"])
        entry = tensors.pop(old)
        if new:
            tensors[new] = entry
        (path / "tensors.json").write_text(json.dumps({**table, "tensors": tensors}))
        seal(path)
        described = {
            name.removeprefix("optimizer."): [one["shape"], f"torch.{one['dtype']}"]
            for name, one in tensors.items()
            if name.startswith("optimizer.")
        }
        change(folder, lambda progress, d=described: progress.update(optimizer_tensors=d))
        refused(folder, "lars", digits, sentence)
    (path / "tensors.json").write_text(json.dumps(table))
    seal(path)
    for value in ({}, [], {"0.momentum_buffer": 3}):
        change(folder, lambda progress, v=value: progress.update(optimizer_tensors=v))
        refused(folder, "lars", digits, "optimizer_tensors")


def test_other_state_of_the_optimizer(copied: Callable[[str], Path], digits: ImageData) -> None:
    folder = copied("lars")
    for value, sentence in (
        ([], "optimizer.state must be a mapping"),
        ({99: {}}, "a key of optimizer.state must be an integer from 0 to"),
        ({"0": {}}, "a key of optimizer.state must be an integer from 0 to"),
        ({0: 3}, "optimizer.state[0] must be a mapping"),
        ({0: {"more": 1.0}}, "must not hold more"),
    ):
        change(folder, lambda progress, v=value: progress["optimizer"].update(state=v))
        refused(folder, "lars", digits, sentence)


SCHEDULES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda s: s.clear(), "scheduler must hold "),
    (lambda s: s.pop("last_epoch"), "scheduler must hold last_epoch"),
    (lambda s: s.pop("base_lrs"), "scheduler must hold base_lrs"),
    (lambda s: s.pop("total_steps"), "scheduler must hold total_steps"),
    (lambda s: s.update(last_epoch=3), "scheduler.last_epoch must be 8, got 3"),
    (lambda s: s.update(last_epoch=-1), "scheduler.last_epoch must be 8, got -1"),
    (lambda s: s.update(_step_count=0), "scheduler._step_count must be 9, got 0"),
    (lambda s: s.update(base_lrs=[NAN, 1.0]), "scheduler.base_lrs[0] must be "),
    (lambda s: s.update(base_lrs=[1.0]), "scheduler.base_lrs must be 2 values"),
    (lambda s: s.update(_last_lr=[5.0, 5.0]), "scheduler._last_lr[0] must be "),
    (lambda s: s.update(total_steps=10**9), "scheduler.total_steps must be 15"),
    (lambda s: s.update(warmup_steps=-1), "scheduler.warmup_steps must be "),
    (lambda s: s.update(final_factor=NAN), "scheduler.final_factor must be 0.001, got nan"),
    (lambda s: s.update(get_lr="x"), "scheduler must not hold get_lr"),
    (lambda s: s.update(optimizer=None), "scheduler must not hold optimizer"),
]


@pytest.mark.parametrize(("alter", "sentence"), SCHEDULES, ids=range(len(SCHEDULES)))
def test_schedules(
    copied: Callable[[str], Path], digits: ImageData, alter: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    folder = copied("lars")
    change(folder, lambda progress: alter(progress["scheduler"]))
    refused(folder, "lars", digits, f"progress.json: {sentence}")


def test_a_schedule_where_there_is_none(copied: Callable[[str], Path], digits: ImageData) -> None:
    folder = copied("tvlars")
    change(folder, lambda progress: progress.update(scheduler={"last_epoch": 8}))
    refused(folder, "tvlars", digits, "scheduler must not hold last_epoch")
    change(folder, lambda progress: progress.update(scheduler=None))
    refused(folder, "tvlars", digits, "scheduler must be a mapping")
    change(folder, lambda progress: progress.update(scheduler={}, precision={"scale": 2.0}))
    refused(folder, "tvlars", digits, "precision must not hold scale")


def test_phi_after_a_warm_up_is_newer_than_phi(tmp_path: Path) -> None:
    scheduler = ScheduleLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), SigmoidSchedule(0.1, 5.0))
    saved = scheduler.state_dict()
    rates = saved["_last_lr"]
    del saved["warmup_steps"]
    assert check_scheduler(Checked(tmp_path / "progress.json"), scheduler, saved, 0, rates)["warmup_steps"] == 0


def test_gradient_scalers(tmp_path: Path) -> None:
    here = torch.amp.GradScaler("cpu").state_dict()
    at = Checked(tmp_path / "progress.json")
    check_precision(at, here, {**here, "scale": 1024.0, "_growth_tracker": 7})
    for name, value in (
        *(("scale", NAN), ("scale", -1.0), ("scale", "x"), ("scale", None), ("scale", math.inf)),
        *(("_growth_tracker", -1), ("_growth_tracker", 10**9), ("_growth_tracker", 1.5)),
        *(("growth_factor", NAN), ("backoff_factor", 3.0), ("growth_interval", 0)),
    ):
        with pytest.raises(UsageError, match=rf"progress.json: precision.{name} must be "):
            check_precision(at, here, {**here, name: value})
    with pytest.raises(UsageError, match="precision must hold scale"):
        check_precision(at, here, {name: value for name, value in here.items() if name != "scale"})


def test_probes(copied: Callable[[str], Path], digits: ImageData) -> None:
    folder = copied("byol")

    def bad(alter: Callable[[dict[str, Any]], Any], sentence: str) -> None:
        path = folder / "checkpoints" / "000000008"
        before = {name: (path / name).read_bytes() for name in checkpoint.PROGRESS}
        change(folder, lambda progress: alter(progress["extra"]))
        refused(folder, "byol", digits, f"progress.json: {sentence}")
        for name, content in before.items():
            (path / name).write_bytes(content)
        seal(path)

    bad(lambda e: e.pop("probe"), "extra must hold probe")
    bad(lambda e: e.update(more=3), "extra must not hold more")
    bad(lambda e: e.update(probe=3), "extra.probe must be a mapping")
    bad(lambda e: e["probe"].pop("bias"), "extra.probe must hold bias")
    bad(lambda e: e["probe"].update(bias=torch.zeros(3)), "extra.probe.bias must be a float32 tensor of shape (10,)")
    bad(lambda e: e["probe"]["bias"].fill_(NAN), "extra.probe.bias must be finite")
    bad(lambda e: e["probe_norm"]["running_var"].fill_(-1), "extra.probe_norm.running_var must be >= 0")
    bad(lambda e: e["probe_optimizer"].pop("state"), "extra.probe_optimizer must hold state")
    bad(
        lambda e: e["probe_optimizer"].update(state={}),
        "extra.probe_optimizer.state of parameter 0 of group 0 must hold ",
    )
    bad(
        lambda e: e["probe_optimizer"]["param_groups"][0].update(lr=NAN),
        "extra.probe_optimizer.param_groups[0].lr must be",
    )
    bad(lambda e: e["probe_optimizer"]["state"][0]["step"].fill_(3), "extra.probe_optimizer.state of parameter 0")
    bad(
        lambda e: e["probe_optimizer"]["state"][0].update(exp_avg=torch.zeros(1)),
        "extra.probe_optimizer.state of parameter 0",
    )


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("old", [False, True], ids=["format 2", "format 1"])
def test_what_a_run_has_written_is_taken(
    copied: Callable[[str], Path], digits: ImageData, kind: str, old: bool
) -> None:
    folder = copied(kind)
    if old:
        as_format_1(folder / "checkpoints" / "000000008")
    with pytest.raises(SystemExit):
        resume(folder, kind, digits)
    assert load_run(folder).environment["resumed"][0]["step"] == 8


def test_at_the_command_line(copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied("tvlars")
    change(folder, lambda progress: progress.update(step=-7))
    before = contents(folder)
    words = ["--epochs", "3", "--precision", "32-true", "--accelerator", "cpu", "--optimizer", "tvlars"]
    assert main(["train", "--resume", str(folder), *words]) == 2
    assert contents(folder) == before
    said = capsys.readouterr().err
    assert said.startswith("tvlars: ")
    assert said.endswith("000000008/progress.json: step must be an integer from 1 to 15, got -7\n")


BOMB = b"cos\nsystem\n(X\x0e\x00\x00\x00touch executedtR."


@pytest.mark.parametrize("name", [".metadata", "progress.pt", "__0_0.distcp", "weights.pt"])
def test_a_pickle_that_would_run_a_command(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = copied("tvlars")
    monkeypatch.chdir(folder.parent)
    pickle.loads(BOMB)
    Path("executed").unlink()  # it would
    if name == "weights.pt":
        (folder / name).write_bytes(BOMB)
        code = main(["evaluate", str(folder), "--device", "cpu"])
    else:
        path = folder / "checkpoints" / "000000008"
        as_format_1(path)
        (path / name).write_bytes(BOMB)
        seal(path)
        words = ["--epochs", "3", "--precision", "32-true", "--accelerator", "cpu", "--optimizer", "tvlars"]
        code = main(["train", "--resume", str(folder), *words])
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("tvlars: ")
    assert len(said.splitlines()) == 1
    assert not Path("executed").exists()


def damaged_layer_stats(folder: Path) -> None:
    file = max((folder / "layer-stats").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])


def all_damaged(folder: Path) -> None:
    (folder / "checkpoints" / "000000008" / "tensors-0.bin").unlink()


def another_model(folder: Path) -> None:
    path = folder / "checkpoints" / "000000008"
    table = json.loads((path / "tensors.json").read_text())
    table["tensors"]["model.other"] = table["tensors"].pop("model.head.bias")
    (path / "tensors.json").write_text(json.dumps(table))
    seal(path)


def unfinished_rename(folder: Path) -> None:
    """A checkpoint that was cut off between the renames that put it in its place, with a state that is refused."""
    change(folder, lambda progress: progress.update(position=2))
    (folder / "checkpoints" / "000000008").rename(folder / "checkpoints" / "000000008.part")


@pytest.mark.parametrize("spoil", [damaged_layer_stats, all_damaged, another_model, unfinished_rename])
def test_a_refused_resume_touches_nothing(
    copied: Callable[[str], Path], digits: ImageData, spoil: Callable[[Path], None]
) -> None:
    """Layer statistics are of step 9, and those after the checkpoint's step 8 would be cut."""
    folder = copied("lars")
    spoil(folder)
    refused(folder, "lars", digits)


def test_a_run_that_has_diverged_is_not_saved(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are not finite a step before its loss shows it."""
    from tvlars.lab.training.run import Run

    notes: list[str] = []
    updated = Run._update

    class Notes(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)

    def update(run: Run) -> None:
        updated(run)
        if run.step == 4:
            next(run.learner.bare_model.parameters()).data.fill_(math.inf)

    monkeypatch.setattr(Run, "_update", update)
    with pytest.raises(DivergedError):
        train(TrainConfig(out=tmp_path / "run", optimizer="sgd", **QUICK), data=digits, reporter=Notes())
    assert notes == ["checkpoint of step 4 is not saved, since weights are not finite; earlier ones are kept"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000002"]


def test_a_count_that_stood_still_is_one_of_a_long_run_alone() -> None:
    """Counts in float32, as those of earlier versions, end at 2^24."""
    at = state_check.Checked(Path("progress.json"))
    at.count("step", 2.0**24, range(2**25, 2**25 + 1))
    for taken in (range(3, 4), range(10**6)):
        with pytest.raises(UsageError, match=r"step must be .* steps, got 16777216"):
            at.count("step", 2.0**24, taken)
