"""Every example as a user runs it: to the end, and again from the middle, which has to end in the same bits."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.command import Command, python

FOLDER = Path(__file__).parents[1] / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@dataclass(frozen=True)
class Example:
    needs: str
    middle: str  # a checkpoint, as the example names it below --out
    last: str
    optimizer: str  # the file below ``last`` with the optimizer's state, and where in it
    steps: int
    launcher: tuple[str, ...] = ()
    resume_launcher: tuple[str, ...] | None = None  # another one for the run from the middle; None is the same


EXAMPLES = {
    "plain_torchrun": Example("sklearn", "epoch-10.pt", "epoch-15.pt", ":optimizer", 75, (*TORCHRUN, "2")),
    "lightning_trainer": Example("lightning", "epoch=9.ckpt", "epoch=14.ckpt", ":optimizer_states:0", 75),
    "accelerate_loop": Example(
        "accelerate", "epoch-10", "epoch-15", "optimizer.bin", 75, ("-m", "accelerate.commands.launch", "--cpu"), ()
    ),
    "transformers_trainer": Example("transformers", "checkpoint-50", "checkpoint-75", "optimizer.pt", 75),
    "timm_factory": Example("timm", "checkpoint-9.pth.tar", "checkpoint-14.pth.tar", ":optimizer", 75),
    "lightly_barlow_twins": Example("lightly", "epoch-8.pt", "epoch-10.pt", ":optimizer", 50),
    "deepspeed_engine": Example(
        "deepspeed", "epoch-10", "epoch-15", "mp_rank_00_model_states.pt:optimizer", 75, (*TORCHRUN, "1")
    ),
}


def command(name: str, out: Path, resume: Path | None = None) -> list[str]:
    example = EXAMPLES[name]
    launcher = example.launcher if resume is None or example.resume_launcher is None else example.resume_launcher
    rest = [] if resume is None else ["--resume", str(resume)]
    return [*launcher, str(FOLDER / f"{name}.py"), "--out", str(out), *rest]


def environment() -> dict[str, str]:
    """One thread, so that two runs sum in one order, and no accelerator, whichever there is."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def run(command: list[str], folder: Path) -> float:
    """Run the example and return the accuracy that it prints, between 0 and 1."""
    done = python(*command, cwd=folder, env=environment())
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    printed = re.search(r"test accuracy\D+([\d.]+)\s*(%?)", done.stdout)
    assert printed, said
    return float(printed[1]) / (100 if printed[2] else 1)


def tensors(held: Any) -> Iterator[Tensor]:
    """All tensors of a checkpoint, in its order."""
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        yield from tensors(list(held.values()))
    elif isinstance(held, (list, tuple)):
        for item in held:
            yield from tensors(item)


def load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, weights_only=False)


def assert_same_checkpoints(a: Path, b: Path) -> None:
    """The same tensors, weights and optimizer's state among them, bit for bit."""
    kinds = (".pt", ".bin", ".ckpt", ".tar", ".safetensors")
    files = [a] if a.is_file() else [f for f in sorted(a.iterdir()) if f.suffix in kinds and f.stem != "training_args"]
    for file in files:
        other = b if b.is_file() else b / file.name
        ours, theirs = list(tensors(load(file))), list(tensors(load(other)))
        assert len(ours) == len(theirs)
        for x, y in zip(ours, theirs, strict=True):
            assert torch.equal(x, y), file.name


def clock(example: Example, checkpoint: Path) -> list[float]:
    """The step counts in the optimizer's state."""
    file, *way = example.optimizer.split(":")
    state = load(checkpoint / file if file else checkpoint)
    for key in way:
        state = state[int(key) if key.isdecimal() else key]
    return [float(group["clock"]) for group in state["param_groups"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, float]]:
    """Where the example left what it saved, and its accuracy; each is run once."""

    @functools.cache
    def of(name: str) -> tuple[Path, float]:
        if importlib.util.find_spec(EXAMPLES[name].needs) is None:
            pytest.skip(f"{EXAMPLES[name].needs} is not installed")
        folder = tmp_path_factory.mktemp(name)
        return folder / "whole", run(command(name, folder / "whole"), folder)

    return of


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_from_the_middle_an_example_ends_where_the_whole_run_does(
    name: str, whole: Callable[[str], tuple[Path, float]], tmp_path: Path
) -> None:
    example = EXAMPLES[name]
    folder, accuracy = whole(name)
    assert accuracy > 0.88
    assert clock(example, folder / example.last) == [example.steps] * 2
    middle = tmp_path / example.middle  # alone in its folder, so that nothing else can be found
    (shutil.copy if (folder / example.middle).is_file() else shutil.copytree)(folder / example.middle, middle)
    resumed = tmp_path / "resumed"
    assert run(command(name, resumed, middle), tmp_path) == accuracy
    assert not (resumed / example.middle).exists()  # it did not begin anew
    assert_same_checkpoints(folder / example.last, resumed / example.last)


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_enough(whole: Callable[[str], tuple[Path, float]], tmp_path: Path) -> None:
    folder, accuracy = whole("accelerate_loop")
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    process = Command(command("accelerate_loop", killed, folder / "epoch-1"), tmp_path, environment(), program="python")
    deadline = time.monotonic() + 120
    while not (killed / "epoch-4").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert run(command("accelerate_loop", resumed, killed / "epoch-3"), tmp_path) == accuracy
    assert_same_checkpoints(folder / "epoch-15", resumed / "epoch-15")


def test_two_processes_end_where_one_does(whole: Callable[[str], tuple[Path, float]], tmp_path: Path) -> None:
    """But for the order in which gradients are summed: the batch and its plan are those of all processes."""
    folder, _ = whole("plain_torchrun")
    two = command("plain_torchrun", tmp_path)
    run([*two[:4], "1", *two[5:]], tmp_path)
    for x, y in zip(tensors(load(folder / "epoch-15.pt")), tensors(load(tmp_path / "epoch-15.pt")), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_examples_are_short_and_all_are_listed_and_tested() -> None:
    files = {file.stem: file.read_text() for file in FOLDER.glob("*.py")}
    assert files.keys() == EXAMPLES.keys()
    listed = (FOLDER / "README.md").read_text()
    for name, text in files.items():
        assert text.count("\n") < 60, name
        assert f"examples/{name}.py" in text.split('"""')[1], f"{name} does not say how to run it"
        assert f"{name}.py" in listed, name
