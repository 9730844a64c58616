"""Many processes: what they compute is what one computes, and what becomes of one is said by the others."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.command import Command, tvlars
from tests.lab.processes.processes import in_processes
from tests.lab.stops import StopAt
from tvlars.lab import TrainConfig, UsageError, load_run, train
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import DivergedError, LostProcessError, SaidElsewhereError
from tvlars.lab.models import MODELS
from tvlars.lab.processes.fabric import layout, make_fabric
from tvlars.lab.processes.launcher import ERROR_FILE, LAUNCHED, _wait_for_first_machine, launch, report
from tvlars.lab.processes.launcher import _first as first_failure
from tvlars.lab.processes.processes import Processes, is_lost
from tvlars.lab.processes.sync_batch_norm import plain_batch_norm, synchronize_batch_norm
from tvlars.lab.run_folder.checkpoints import tensors
from tvlars.lab.training.description import describe_batch
from tvlars.lab.training.progress import Reporter

CPU: dict[str, Any] = dict(precision="32-true", accelerator="cpu")
# Small steps, so that rounding is not blown up by the training itself.
CALM: dict[str, Any] = dict(epochs=4, schedule="constant", lr=0.1, batch_size=256, **CPU)


class Plain(nn.Module):
    """No batch statistics, so that accumulation is exact too."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, classes))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def odd_digits() -> ImageData:
    """A number of test images that no number of processes divides."""
    data = load_data("digits")
    return replace(data, test_images=data.test_images[:359], test_labels=data.test_labels[:359])


RUNS: dict[str, dict[str, Any]] = {
    "lars": dict(optimizer="lars", **CALM),
    "tvlars": dict(optimizer="tvlars", **{**CALM, "schedule": "auto"}),
    "lamb": dict(optimizer="lamb", **{**CALM, "lr": 1e-4}),
    # 250 samples over four processes in parts of at most 20: pieces of different lengths.
    "parts": dict(optimizer="sgd", model="plain", micro_batch_size=20, **{**CALM, "batch_size": 250}),
    "barlow-twins": dict(
        task="barlow-twins", optimizer="lars", projector="32-32", evaluations="linear",
        **{**CALM, "epochs": 2, "lr": 0.02},
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
    """Losses of 20 steps to 1e-5, everything else to what that allows."""
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
    names = ["lars", "tvlars", "lamb", "parts"]
    in_processes(2, train_all, tmp_path, names, {"shard": True}, log=tmp_path / "log")
    for name in names:
        assert_equal_runs(alone / name, tmp_path / name)


def cut_off(folder: Path, more: dict[str, Any]) -> None:
    """Train until the middle of the second epoch; checkpoints of steps 6 and 8 stay."""
    options = {**RUNS["tvlars"], "checkpoint_every": "2-steps", **more}
    reporter = StopAt(step=9, error=partial(os._exit, 0))  # as a machine that is switched off

    from tvlars.lab.training import train as engine

    engine.Reporter = lambda: reporter  # type: ignore[assignment, misc]
    train(TrainConfig(**options, out=folder), data=odd_digits(), reporter=reporter)


def go_on(folder: Path, more: dict[str, Any]) -> None:
    options = {**RUNS["tvlars"], "checkpoint_every": "2-steps", **more}
    train(TrainConfig(**options, out=folder, resume=True), data=odd_digits(), reporter=Reporter())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [((2, True), (1, False)), ((1, False), (2, True)), ((2, True), (2, False)), ((2, False), (1, False))],
)
def test_a_checkpoint_is_read_by_another_number_of_processes(
    tmp_path: Path, alone: Path, before: tuple[int, bool], after: tuple[int, bool]
) -> None:
    """Number of processes, and whether parameters are spread over them."""
    in_processes(before[0], cut_off, tmp_path / "tvlars", {"shard": before[1]}, log=tmp_path / "log")
    assert (tmp_path / "tvlars" / "checkpoints" / "000000008").is_dir()
    in_processes(after[0], go_on, tmp_path / "tvlars", {"shard": after[1]}, log=tmp_path / "log")
    run = load_run(tmp_path / "tvlars")
    assert run.complete
    assert run.steps["loss"].tolist() == pytest.approx(load_run(alone / "tvlars").steps["loss"].tolist(), rel=1e-5)
    (resumed,) = run.environment["resumed"]
    assert resumed["step"] == 8


@pytest.mark.slow
def test_statistics_of_each_process_go_on(tmp_path: Path) -> None:
    """Without synchronized batch norm each process has running statistics of its own within an epoch."""
    own = {"sync_batch_norm": False}
    in_processes(2, cut_off, tmp_path / "cut", own, log=tmp_path / "log")
    in_processes(2, go_on, tmp_path / "cut", own, log=tmp_path / "log")
    in_processes(2, go_on, tmp_path / "whole", own, log=tmp_path / "log")  # where there is nothing, it begins
    assert "resumed" in load_run(tmp_path / "cut").environment
    whole, cut = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "cut"))
    for key, value in whole.items():
        assert torch.equal(value, cut[key]), key


def on_a_full_disk(folder: Path, how: str) -> None:
    """Until the first epoch is over no file may grow beyond 20,000 bytes, or the disk of the second process is full."""
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
    config = TrainConfig(**{**RUNS["tvlars"], "epochs": 2}, checkpoint_every="3-steps", out=folder)
    train(config, data=odd_digits(), reporter=Full())
    if dist.get_rank() == 0:
        why = {"limit": "File too large", "one": "No space left on device"}[how]
        assert notes == [f"checkpoint of step 3 could not be saved ({why}); those before are kept"]
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000000009", "000000010"]


@pytest.mark.parametrize("how", ["limit", "one"])
def test_a_full_disk_costs_several_processes_the_new_checkpoint_alone(tmp_path: Path, how: str) -> None:
    in_processes(2, on_a_full_disk, tmp_path / "run", how, log=tmp_path / "log")


def batch_norm() -> None:
    """Uneven shares, affine and not, with four dimensions and with two: as one batch norm over all."""
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    for shape, kind in (((7, 3, 4, 5), nn.BatchNorm2d), ((7, 3), nn.BatchNorm1d)):
        for options in ({}, {"affine": False}, {"momentum": None}):
            x = torch.randn(shape, generator=generator, dtype=torch.float32) * 3 + 2
            weights = torch.randn(shape, generator=generator)
            plain = nn.Sequential(kind(3, **options), nn.Tanh())
            ours = nn.Sequential(kind(3, **options), nn.Tanh())
            if "affine" not in options:
                for model in (plain, ours):
                    nn.init.constant_(model[0].weight, 1.5)  # type: ignore[arg-type]
            kinds = synchronize_batch_norm(ours, on_cpu=True)
            whole, own = x.clone().requires_grad_(), x.tensor_split([2])[rank].clone().requires_grad_()
            for _ in range(2):
                (plain(whole) * weights).sum().backward()
                (ours(own) * weights.tensor_split([2])[rank]).sum().backward()
            close = dict(rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(own.grad, whole.grad.tensor_split([2])[rank], **close)  # type: ignore[union-attr]
            for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
                dist.all_reduce(q.grad)
                torch.testing.assert_close(q.grad, p.grad, **close)
            plain_batch_norm(ours, kinds)
            assert type(ours[0]) is kind
            for (key, a), b in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
                torch.testing.assert_close(b, a, **close, msg=f"{kind} {options} {key}: {b}, {a}")
            torch.testing.assert_close(ours.eval()(x), plain.eval()(x), **close)


def with_group() -> None:
    dist.init_process_group("gloo")
    batch_norm()


def test_batch_norm_over_all_processes(tmp_path: Path) -> None:
    in_processes(2, with_group, log=tmp_path / "log")


# -- work of the first process alone -------------------------------------------------------------------


def processes_with_limit() -> Processes:
    """Processes whose collectives wait for three seconds."""
    return Processes(make_fabric(TrainConfig(timeout=3.0, accelerator="cpu"), "32-true"))


def work_that_outlasts_the_limit(folder: Path) -> None:
    processes = processes_with_limit()

    def work() -> str:
        time.sleep(4.5)
        (folder / "done").touch()
        return "done"

    assert processes.alone(work) == ("done" if processes.first else None)
    assert (folder / "done").is_file()
    assert processes.total(torch.ones(())) == 2
    processes.alone((folder / "done").unlink)  # the others wait again
    assert not (folder / "done").is_file()
    assert processes.total(torch.ones(())) == 2


def test_the_others_wait_for_work_that_takes_longer_than_the_timeout(tmp_path: Path) -> None:
    in_processes(2, work_that_outlasts_the_limit, tmp_path, log=tmp_path / "log")


def work_that_raises(folder: Path) -> None:
    processes = processes_with_limit()

    def diverge() -> None:
        raise DivergedError("lars", 5, 0.1, folder)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(DivergedError, match="lars diverged: the loss was not finite at step 5") as caught:
        processes.alone(diverge)
    assert (caught.value.step, caught.value.lr, caught.value.folder) == (5, 0.1, folder)
    with pytest.raises(ZeroDivisionError if processes.first else SaidElsewhereError):
        processes.alone(fail)
    assert processes.total(torch.ones(())) == 2  # a comparison goes on after a run that diverged


def test_an_error_of_the_first_process_alone_is_heard_by_the_others(tmp_path: Path) -> None:
    in_processes(2, work_that_raises, tmp_path, log=tmp_path / "log")


def work_that_never_ends(folder: Path) -> None:
    processes = processes_with_limit()
    if processes.first:
        for _ in range(300):  # as if it were switched off
            if (folder / "given up").is_file():
                break
            time.sleep(0.1)
    else:
        with pytest.raises(LostProcessError, match=r"process 1 has waited for the others in vain.*timeout 3 s"):
            processes.alone(lambda: None)
        (folder / "given up").touch()
    assert processes.total(torch.ones(())) == 2
    if processes.first:
        processes.alone(lambda: os._exit(0))
    else:
        with pytest.raises(RuntimeError) as caught:
            processes.alone(lambda: None)
        assert is_lost(caught.value), caught.value


def test_a_first_process_that_is_silent_or_dead_is_noticed(tmp_path: Path) -> None:
    in_processes(2, work_that_never_ends, tmp_path, log=tmp_path / "log")


def meeting_of_one() -> None:
    if os.environ["RANK"] == "0":
        with pytest.raises(LostProcessError, match=r"process 0 has waited for the others in vain.*timeout 1 s"):
            make_fabric(TrainConfig(timeout=1.0, accelerator="cpu"), "32-true")


def test_a_process_that_does_not_come_to_the_first_meeting_is_noticed(tmp_path: Path) -> None:
    in_processes(2, meeting_of_one, log=tmp_path / "log")


# -- the command line ---------------------------------------------------------------------------------

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(folder: Path, arguments: str) -> Command:
    return Command(arguments.split(), folder, ENVIRONMENT)


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started and that train, by rank."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nPPid:\t{pid}\n" in status.read_text():
                environment = (status.parent / "environ").read_bytes().split(b"\0")
                ranks = [int(entry[5:]) for entry in environment if entry.startswith(b"RANK=")]
                found += [(rank, int(status.parent.name)) for rank in ranks]
        except OSError:  # it has ended meanwhile
            continue
    return [one for _, one in sorted(found)]


def wait_for_epoch(child: Command, epoch: int) -> None:
    for line in child.stdout:
        if f"epoch {epoch:>6}/" in line:
            return
    raise AssertionError(child.stderr.read())


ENDLESS = "train --devices 2 --epochs 100000 --accelerator cpu --checkpoint-every 1000-steps --out run"


@pytest.mark.slow
def test_devices_starts_processes_and_sigterm_saves_what_one_goes_on_with(tmp_path: Path) -> None:
    with start(tmp_path, ENDLESS) as child:
        wait_for_epoch(child, 2)
        child.send_signal(signal.SIGTERM)
        _, error = child.communicate(timeout=60)
    assert (child.returncode, error) == (
        143,
        "tvlars: stopped by SIGTERM; what was measured is kept, and --resume goes on\n",
    )
    stopped = load_run(tmp_path / "run")
    assert stopped.status == "preempted"
    assert "2 processes (DDP" in stopped.environment["processes"]
    with start(tmp_path, "train --resume run --devices 1") as child:
        wait_for_epoch(child, len(stopped.epochs) + 1)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    assert child.returncode == 130
    run = load_run(tmp_path / "run")
    assert [entry["step"] for entry in run.environment["resumed"]] == [stopped.summary["steps"]]
    assert run.steps["step"].tolist() == list(range(1, run.summary["steps"] + 1))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_is_named(tmp_path: Path) -> None:
    with start(tmp_path, ENDLESS) as child:
        wait_for_epoch(child, 1)
        os.kill(children(child.pid)[1], signal.SIGKILL)
        _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.splitlines()[0] == (
        "tvlars: process 1 was killed by SIGKILL; the others were stopped, and --resume goes on from a checkpoint"
    )


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed_after_the_timeout(tmp_path: Path) -> None:
    with start(tmp_path, f"{ENDLESS} --timeout 3") as child:
        wait_for_epoch(child, 1)
        hanging = children(child.pid)[1]
        os.kill(hanging, signal.SIGSTOP)
        time.sleep(5)
        os.kill(hanging, signal.SIGCONT)  # so that it can be ended in good order
        _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.startswith(
        "tvlars: process 0 has waited for the others in vain: one of them hangs or has ended (timeout 3 s"
    )
    assert load_run(tmp_path / "run").status == "failed"


@pytest.mark.slow
def test_processes_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    with start(tmp_path, ENDLESS) as child:
        wait_for_epoch(child, 1)
        ranks = children(child.pid)
        assert len(ranks) == 2
        child.kill()
        try:
            child.communicate(timeout=60)  # to the end of what they write
        except subprocess.TimeoutExpired:
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
            raise
    assert load_run(tmp_path / "run").status == "preempted"


@pytest.mark.slow
def test_an_error_of_one_process_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    done = tvlars(*ENDLESS.split(), cwd=tmp_path, env=ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr == "tvlars: out must be a new or empty folder, and 'run' holds something already\n"


@pytest.mark.slow
def test_torchrun_and_a_comparison(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tvlars"]
    options = "compare --optimizers tvlars lars --seeds 0 --epochs 2 --accelerator cpu --out comparison"
    done = subprocess.run(
        [*command, *options.split()], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run 1 of 2") == 1  # one of them prints
    assert "accumulation x 2 processes = 256 samples" in done.stdout
    results = pd.read_csv(tmp_path / "comparison" / "results.csv")
    assert results["status"].tolist() == ["finished"] * 2
    assert (tmp_path / "comparison" / "report.html").is_file()
    assert all(load_run(tmp_path / "comparison" / name).complete for name in results["folder"])


IN_VAIN = "process 0 has waited for the others in vain: one of them hangs or has ended"
KILLED = "process {} was killed by {}; the others were stopped, and --resume goes on from a checkpoint"


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ([(-15, 0, ""), (3, 2, "lars diverged")], (3, "lars diverged")),  # stopped since the other one failed
        ([(143, 0, "stopped by SIGTERM"), (3, 2, "lars diverged")], (3, "lars diverged")),
        ([(143, 2, "stopped by SIGTERM"), (143, 1, "stopped by SIGTERM")], (143, "stopped by SIGTERM")),
        ([(-15, 0, ""), (-15, 2, "lars diverged")], (3, "lars diverged")),  # stopped when it had said what was wrong
        ([(1, 0, IN_VAIN), (-9, 1, "")], (1, KILLED.format(1, "SIGKILL"))),
        ([(1, 0, IN_VAIN), (2, 1, "out must be new")], (2, "out must be new")),
        ([(1, 0, IN_VAIN), (7, 1, "")], (7, "process 1 ended with exit code 7")),
        ([(1, 0, IN_VAIN), (-9, 30, "")], (1, IN_VAIN)),  # the launcher's, when it would not stop
        ([(-9, 30, ""), (-9, 0, "")], (1, KILLED.format(1, "SIGKILL"))),
        ([(-15, 0, ""), (-11, 1, "")], (1, KILLED.format(1, "SIGSEGV"))),
        ([(-15, 0, "")], (1, KILLED.format(0, "SIGTERM"))),
        ([(2, 0, ""), (2, 0, "out must be new")], (2, "out must be new")),  # has left it to the other one
        ([(2, 0, ""), (143, 1, "stopped by SIGTERM")], (143, "stopped by SIGTERM")),
        ([(2, 0, "")], (2, "process 0 has stopped since a process of another machine could not go on")),
    ],
)
def test_the_failure_that_others_followed_from_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: list[tuple[int, int, str]],
    first: tuple[int, str],
) -> None:
    """Each process by its exit code, when it ended, and what it said before."""
    failures = {}
    monkeypatch.setenv(LAUNCHED, str(os.getppid()))
    for rank, (code, seconds, words) in enumerate(ends):
        monkeypatch.setattr("time.time", lambda seconds=seconds: 1e9 + seconds)
        monkeypatch.setenv(ERROR_FILE, str(tmp_path / f"{rank}"))
        if words:
            assert report(words, 3 if code == -15 else code)
        failures[rank] = ProcessFailure(rank, 1, code, str(tmp_path / f"{rank}"))
    assert first_failure(failures) == first
    assert "resume" not in first_failure(failures, "compare")[1]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ZeroDivisionError("of a loss\nby zero"), "process 1 ended with ZeroDivisionError: of a loss"),
        (RuntimeError("gloo: closed"), "process 1 has waited for the others in vain: RuntimeError: gloo: closed"),
    ],
)
def test_the_launcher_hears_of_an_error_that_nobody_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    from tvlars.cli import main

    def fail(_: TrainConfig) -> None:
        raise error

    monkeypatch.setattr("tvlars.cli._train.train", fail)
    monkeypatch.setattr("tvlars.cli._commands.die_with_launcher", lambda: None)
    for name, value in {LAUNCHED: str(os.getppid()), ERROR_FILE: str(tmp_path / "error"), "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(type(error)):
        main(["train"])
    assert first_failure({1: ProcessFailure(1, 1, 1, str(tmp_path / "error"))}) == (1, sentence)


def test_machines_that_do_not_meet_say_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in (LAUNCHED, "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")  # and back to what it was
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        here = f"localhost:{free.getsockname()[1]}"
    assert launch(["train"], TrainConfig(nodes=2, rendezvous=here, timeout=1.5)) == (
        1,
        f"waited 1.5 s for 2 machines at {here} in vain: the same command must be started on all of them",
    )
    nowhere = "no-such-host.invalid:29500"
    with pytest.raises(UsageError, match=f"rendezvous must be HOST:PORT .*, but nobody answered at {nowhere} for 1"):
        launch(["train"], TrainConfig(nodes=2, rendezvous=nowhere, timeout=1.0))
    assert capfd.readouterr() == ("", "")


def test_a_first_machine_that_starts_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.elastic.rendezvous.utils._matches_machine_hostname", lambda _: False)
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        later = threading.Timer(0.2, first.listen)
        later.start()
        _wait_for_first_machine(f"127.0.0.1:{first.getsockname()[1]}", timeout=60.0)
        assert later.finished.is_set()
        later.join()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--devices 2 --nodes 2", "rendezvous must be given with nodes 2: HOST:PORT of the first machine"),
        ("--devices 0", "devices must be an integer >= 1, got 0"),
        ("--shard", "tvlars: shard must not be given for one process, there is nothing to spread over"),
        ("--shard --noise-scale --devices 2", "noise_scale must not be given with shard"),
        ("--timeout 0", "timeout must be"),
        ("--resume", "out must be given with resume: the run folder to go on with"),
        ("--resume /nowhere", "resume must be a run folder, but '/nowhere' cannot be read"),
    ],
)
def test_bad_input(options: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tvlars.cli import main

    assert main(["train", *options.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_devices_in_a_process_that_was_started_alone() -> None:
    with pytest.raises(UsageError, match=r"devices must be 1 in a process that was started alone, got 2 on 1 machines"):
        layout(TrainConfig(devices=2))


def test_what_torchrun_started_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    started = dict(TORCHELASTIC_RUN_ID="x", LOCAL_WORLD_SIZE="4", WORLD_SIZE="12", RANK="5", LOCAL_RANK="1")
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert layout(TrainConfig()) == (4, 3)
    assert layout(TrainConfig(devices=4, nodes=3)) == (4, 3)
    with pytest.raises(UsageError, match="devices must be 4, as many as were started, got 8"):
        layout(TrainConfig(devices=8))


def test_a_batch_is_described_over_processes() -> None:
    assert describe_batch(TrainConfig(batch_size=4096, micro_batch_size=512), 4) == (
        "512 x 2 accumulation x 4 processes = 4,096 samples per optimizer step"
    )
    assert describe_batch(TrainConfig(batch_size=250), 4).startswith("62 or 63 x 1 accumulation x 4 processes = 250")
