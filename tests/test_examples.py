"""Every example as a user runs it: to the end, and again from the middle, which has to end in the same bits."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.command import Command, Imported, python

FOLDER = Path(__file__).parents[1] / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@dataclass(frozen=True)
class Example:
    needs: str
    middle: str  # a checkpoint, as the example names it below --out
    last: str
    optimizer: str  # the file below ``last`` with the optimizer's state, and where in it
    steps: int
    launcher: tuple[str, ...] = ()  # of the whole run; the run from the middle is started with python
    processes: int = 0  # which the run from the middle is started in, as torchrun would


EXAMPLES = {
    "plain_torchrun": Example("sklearn", "epoch-10.pt", "epoch-15.pt", ":optimizer", 75, (*TORCHRUN, "2"), processes=2),
    "lightning_trainer": Example("lightning", "epoch=9.ckpt", "epoch=14.ckpt", ":optimizer_states:0", 75),
    "accelerate_loop": Example(
        "accelerate", "epoch-10", "epoch-15", "optimizer.bin", 75, ("-m", "accelerate.commands.launch", "--cpu")
    ),
    "transformers_trainer": Example("transformers", "checkpoint-50", "checkpoint-75", "optimizer.pt", 75),
    "timm_factory": Example("timm", "checkpoint-9.pth.tar", "checkpoint-14.pth.tar", ":optimizer", 75),
    "lightly_barlow_twins": Example("lightly", "epoch-8.pt", "epoch-10.pt", ":optimizer", 50),
    "deepspeed_engine": Example(
        "deepspeed", "epoch-10", "epoch-15", "mp_rank_00_model_states.pt:optimizer", 75, (*TORCHRUN, "1"), processes=1
    ),
}


def script(name: str, out: Path, resume: Path | None = None) -> list[str]:
    return [str(FOLDER / f"{name}.py"), "--out", str(out), *([] if resume is None else ["--resume", str(resume)])]


def environment(**more: object) -> dict[str, str]:
    """One thread, so that two runs sum in one order, and no accelerator, whichever there is."""
    fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return {**os.environ, **fixed, **{name: str(value) for name, value in more.items()}}


def accuracy_of(out: str, err: str, code: int | None) -> float:
    """The accuracy that an example printed, between 0 and 1."""
    assert code == 0, out + err
    printed = re.search(r"test accuracy\D+([\d.]+)\s*(%?)", out)
    assert printed, out + err
    return float(printed[1]) / (100 if printed[2] else 1)


def run(words: list[str], folder: Path, imported: Imported | None = None) -> float:
    """Run ``python WORDS`` and return the accuracy that it prints."""
    done = (python if imported is None else imported.python)(*words, cwd=folder, env=environment())
    return accuracy_of(done.stdout, done.stderr, done.returncode)


def run_processes(count: int, words: list[str], folder: Path) -> float:
    """Start as many processes as torchrun would and return the accuracy that the first one prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = dict(WORLD_SIZE=count, LOCAL_WORLD_SIZE=count, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    ranks = [
        Command(words, folder, environment(RANK=rank, LOCAL_RANK=rank, **group), program="python")
        for rank in range(count)
    ]
    ended = [(*rank.communicate(timeout=300), rank.returncode) for rank in ranks]
    assert [code for *_, code in ended] == [0] * count, ended
    return accuracy_of(*ended[0])


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


@dataclass(frozen=True)
class Whole:
    """A run to the end: where it saved, its accuracy, and a process that has imported what it needs."""

    folder: Path
    accuracy: float
    imported: Imported


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Whole]]:
    """Each example is run to its end once."""
    with contextlib.ExitStack() as ended:

        @functools.cache
        def of(name: str) -> Whole:
            example = EXAMPLES[name]
            if importlib.util.find_spec(example.needs) is None:
                pytest.skip(f"{example.needs} is not installed")
            folder, imported = tmp_path_factory.mktemp(name), Imported(FOLDER / f"{name}.py")
            ended.callback(imported.close)
            words = [*example.launcher, *script(name, folder / "whole")]
            return Whole(folder / "whole", run(words, folder, imported), imported)

        yield of


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_from_the_middle_an_example_ends_where_the_whole_run_does(
    name: str, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    example, first = EXAMPLES[name], whole(name)
    assert first.accuracy > 0.88
    assert clock(example, first.folder / example.last) == [example.steps] * 2
    middle = tmp_path / example.middle  # alone in its folder, so that nothing else can be found
    saved = first.folder / example.middle
    (shutil.copy if saved.is_file() else shutil.copytree)(saved, middle)
    resumed = tmp_path / "resumed"
    words = script(name, resumed, middle)
    if example.processes:
        accuracy = run_processes(example.processes, words, tmp_path)
    else:
        accuracy = run(words, tmp_path, first.imported)
    assert accuracy == first.accuracy
    assert not (resumed / example.middle).exists()  # it did not begin anew
    assert_same_checkpoints(first.folder / example.last, resumed / example.last)


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_enough(whole: Callable[[str], Whole], tmp_path: Path) -> None:
    first = whole("accelerate_loop")
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    words = script("accelerate_loop", killed, first.folder / "epoch-1")
    process = Command(words, tmp_path, environment(), program="python")
    deadline = time.monotonic() + 120
    while not (killed / "epoch-4").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    again = script("accelerate_loop", resumed, killed / "epoch-3")
    assert run(again, tmp_path, first.imported) == first.accuracy
    assert_same_checkpoints(first.folder / "epoch-15", resumed / "epoch-15")


def test_two_processes_end_where_one_does(whole: Callable[[str], Whole], tmp_path: Path) -> None:
    """But for the order in which gradients are summed: the batch and its plan are those of all processes."""
    first = whole("plain_torchrun")
    run_processes(1, script("plain_torchrun", tmp_path), tmp_path)
    one, two = (tensors(load(folder / "epoch-15.pt")) for folder in (tmp_path, first.folder))
    for x, y in zip(two, one, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_examples_are_short_and_all_are_listed_and_tested() -> None:
    files = {file.stem: file.read_text() for file in FOLDER.glob("*.py")}
    assert files.keys() == EXAMPLES.keys()
    listed = (FOLDER / "README.md").read_text()
    for name, text in files.items():
        assert text.count("\n") < 60, name
        assert f"examples/{name}.py" in text.split('"""')[1], f"{name} does not say how to run it"
        assert f"{name}.py" in listed, name
