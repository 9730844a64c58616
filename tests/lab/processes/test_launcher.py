"""The launcher: processes start, stop, die and fail together, and one sentence says why."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.command import CONTEXT, Command, python, tvlars
from tests.lab.processes.forked import fork_ranks
from tvlars.lab import TrainConfig, UsageError, load_run
from tvlars.lab.processes.launcher import ERROR_FILE, LAUNCHED, _wait_for_first_machine, launch, report
from tvlars.lab.processes.launcher import _first as first_failure

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(folder: Path, arguments: str, before: Callable[[], object] | None = None) -> Command:
    return Command(arguments.split(), folder, ENVIRONMENT, before)


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has forked to train, by rank."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            name, *lines = status.read_text().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        if f"PPid:\t{pid}" in lines and name.startswith("Name:\trank "):
            found.append((int(name.split()[-1]), int(status.parent.name)))
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
        "tvlars: stopped by SIGTERM; what was measured is kept, and --resume continues\n",
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
    with start(tmp_path, ENDLESS, fork_ranks) as child:
        wait_for_epoch(child, 1)
        os.kill(children(child.pid)[1], signal.SIGKILL)
        _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.splitlines()[0] == (
        "tvlars: process 1 was killed by SIGKILL; the others were stopped, and --resume continues from a checkpoint"
    )


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed_after_the_timeout(tmp_path: Path) -> None:
    with start(tmp_path, f"{ENDLESS} --timeout 3", fork_ranks) as child:
        wait_for_epoch(child, 1)
        waiting, hanging = children(child.pid)
        os.kill(hanging, signal.SIGSTOP)
        while Path(f"/proc/{waiting}").exists():
            time.sleep(0.05)
        os.kill(hanging, signal.SIGCONT)  # so that it can be ended in good order
        _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.startswith(
        "tvlars: process 0 has waited for the others in vain: one of them hangs or has ended (timeout 3 s"
    )
    assert load_run(tmp_path / "run").status == "failed"


@pytest.mark.slow
def test_processes_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    with start(tmp_path, ENDLESS, fork_ranks) as child:
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
    done = tvlars(*ENDLESS.split(), cwd=tmp_path, env=ENVIRONMENT, before=fork_ranks)
    assert done.returncode == 2
    assert done.stderr == "tvlars: out must be a new or empty folder, and 'run' holds something already\n"


@pytest.mark.slow
def test_torchrun_and_a_comparison(tmp_path: Path) -> None:
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m tvlars"
    options = "compare --optimizers tvlars lars --seeds 0 --epochs 2 --accelerator cpu --out comparison"
    done = python(*command.split(), *options.split(), cwd=tmp_path, env=ENVIRONMENT, before=fork_ranks)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run 1 of 2") == 1  # one of them prints
    assert "accumulation x 2 processes = 256 samples" in done.stdout
    results = pd.read_csv(tmp_path / "comparison" / "results.csv")
    assert results["status"].tolist() == ["finished"] * 2
    assert (tmp_path / "comparison" / "report.html").is_file()
    assert all(load_run(tmp_path / "comparison" / name).complete for name in results["folder"])


IN_VAIN = "process 0 has waited for the others in vain: one of them hangs or has ended"
KILLED = "process {} was killed by {}; the others were stopped, and --resume continues from a checkpoint"


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
        ([(2, 0, "")], (2, "process 0 stopped since a process of another machine could not continue")),
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
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from tvlars.cli import main

    monkeypatch.setattr(rank_zero_only, "rank", 0)  # and back to it: later tests are of the first process
    names = {"error": error}
    exec("def fail(_): raise error", names)  # in no file: errors in files outside of packages are the user's
    monkeypatch.setattr(import_module("tvlars.lab.training.train"), "train", names["fail"])
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
        f"2 machines did not all reach {here} within 1.5 s: start the same command on all of them",
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
        ("--shard", "tvlars: shard must not be given for one process, since there are no others to shard over"),
        ("--shard --noise-scale --devices 2", "noise_scale must not be given with shard"),
        ("--timeout 0", "timeout must be"),
        ("--resume", "out must be given with resume: the run folder to continue"),
        ("--resume /nowhere", "resume must be a run folder, but '/nowhere' cannot be read"),
    ],
)
def test_bad_input(options: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tvlars.cli import main

    assert main(["train", *options.split()]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_launcher_leaves_its_process_as_it_was(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=launch_and_compare, args=(tmp_path,))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 0
    assert load_run(tmp_path / "run").environment["processes"].startswith("2 processes (DDP")


def launch_and_compare(folder: Path) -> None:
    """End with an error where environment or signal handlers of this process are not what they were."""
    from tvlars.cli import main

    fork_ranks()
    os.chdir(folder)
    torch.set_num_threads(1)
    numbers = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
    before = dict(os.environ), [signal.getsignal(number) for number in numbers]
    words = ["train", "--devices", "2", "--accelerator", "cpu", "--epochs", "1", "--batch-size", "512", "--out", "run"]
    assert main(words) == 0
    assert (dict(os.environ), [signal.getsignal(number) for number in numbers]) == before
