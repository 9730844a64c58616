"""Processes that wait for the first one, fail together, and notice those that have gone."""

from __future__ import annotations

import errno
import os
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.lab.processes.processes import in_processes
from tvlars.lab import TrainConfig, UsageError
from tvlars.lab.errors import DivergedError, LockedError, LostProcessError, MovedFolderError, SaidElsewhereError
from tvlars.lab.processes.fabric import make_fabric
from tvlars.lab.processes.processes import Processes, is_lost


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


def errors_of_one_process() -> None:
    """An error in any process ends the work in all of them, with everything the error holds."""
    processes = processes_with_limit()
    second = processes.rank == 1
    full = OSError(errno.ENOSPC, "No space left on device", "run/weights.pt")
    for error in (full, MovedFolderError(Path("run"))):
        with pytest.raises(type(error)) as caught:
            processes.each(partial(raised, error) if second else lambda: None)
        assert str(caught.value) == str(error)
        assert vars(caught.value) == vars(error)
    with pytest.raises(UsageError, match=r"^(the first process reports the error|lr is bad)$") as said:
        processes.each(partial(raised, UsageError("lr is bad")) if second else lambda: None)
    assert (type(said.value) is SaidElsewhereError) == second
    with pytest.raises(LockedError if processes.first else SaidElsewhereError):
        processes.by_first(partial(raised, LockedError("it is locked")))
    assert processes.each(lambda: processes.rank) == [0, 1]
    assert processes.by_first(lambda: f"of {processes.rank}") == "of 0"


def raised(error: Exception) -> None:
    raise error


def test_an_error_of_any_process_is_one_of_all(tmp_path: Path) -> None:
    in_processes(2, errors_of_one_process, log=tmp_path / "log")


def meeting_of_one() -> None:
    if os.environ["RANK"] == "0":
        with pytest.raises(LostProcessError, match=r"process 0 has waited for the others in vain.*timeout 1 s"):
            make_fabric(TrainConfig(timeout=1.0, accelerator="cpu"), "32-true")


def test_a_process_that_does_not_come_to_the_first_meeting_is_noticed(tmp_path: Path) -> None:
    in_processes(2, meeting_of_one, log=tmp_path / "log")
