"""Environment variables of torchrun and srun: what makes no sense is one sentence that names the variable."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tvlars._environment import VariableError, check_started
from tvlars.cli import main

TORCHRUN = dict(TORCHELASTIC_RUN_ID="x", RANK="1", LOCAL_RANK="1", WORLD_SIZE="4", LOCAL_WORLD_SIZE="2")
SRUN = dict(
    SLURM_NTASKS="4", SLURM_NNODES="2", SLURM_NTASKS_PER_NODE="2", SLURM_PROCID="3", SLURM_LOCALID="1", SLURM_NODEID="1"
)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        TORCHRUN,
        SRUN,
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"},
    ],
)
def test_what_torchrun_and_srun_set_is_taken(variables: dict[str, str]) -> None:
    check_started(variables)
    check_started({**variables, "MASTER_PORT": "29500"})


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE must be an integer >= 1, .* got '0'"),
        ({**TORCHRUN, "RANK": "abc"}, "RANK must be an integer >= 0, .* got 'abc'"),
        ({**TORCHRUN, "RANK": ""}, "RANK must be an integer >= 0, .* got ''"),
        ({**TORCHRUN, "LOCAL_RANK": "-1"}, "LOCAL_RANK must be an integer >= 0, .* got '-1'"),
        ({**TORCHRUN, "WORLD_SIZE": "4.0"}, "WORLD_SIZE must be an integer >= 1"),
        ({**TORCHRUN, "RANK": "4"}, "RANK must be < WORLD_SIZE, which is 4, got 4"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "LOCAL_RANK must be < LOCAL_WORLD_SIZE, which is 2, got 2"),
        ({**TORCHRUN, "WORLD_SIZE": "5"}, "WORLD_SIZE must be a multiple of LOCAL_WORLD_SIZE, .* got 5 and 2"),
        ({**TORCHRUN, "MASTER_PORT": "abc"}, "MASTER_PORT must be an integer >= 1, .* got 'abc'"),
        ({**TORCHRUN, "MASTER_PORT": "0"}, "MASTER_PORT must be an integer >= 1, .* got '0'"),
        ({**TORCHRUN, "MASTER_PORT": "65536"}, "MASTER_PORT must be a port from 1 to 65535, got '65536'"),
        ({"RANK": "2", "WORLD_SIZE": "4"}, "WORLD_SIZE must be 1 or unset in a process that neither torchrun nor srun"),
        ({**SRUN, "SLURM_PROCID": "4"}, "SLURM_PROCID must be < SLURM_NTASKS, which is 4, got 4"),
        ({**SRUN, "SLURM_NTASKS": "3", "SLURM_PROCID": "1"}, "SLURM_NTASKS must be a multiple of SLURM_NNODES"),
        ({"SLURM_NTASKS": "many"}, "SLURM_NTASKS must be an integer >= 1"),
        *(
            ({name: value for name, value in TORCHRUN.items() if name != missing}, f"{missing} must be set with")
            for missing in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        ),
        *(
            ({name: value for name, value in SRUN.items() if name != missing}, f"{missing} must be set where SLURM_NT")
            for missing in ("SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
        ),
    ],
)
def test_what_makes_no_sense_is_named(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VariableError, match=f"^{sentence}"):
        check_started(variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--epochs", "1", "--out", "/dev/null/run"]) == 2
    assert sentence.split(" ")[0] in capsys.readouterr().err


def test_a_rank_that_is_no_number_is_named_before_anything_reads_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tvlars", "report", "here"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "RANK": "abc"}, capture_output=True, text=True)
    said = "tvlars: RANK must be an integer >= 0, as torchrun and srun set it, got 'abc' in the environment\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_port_that_is_taken_and_a_machine_that_nobody_knows_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 0)  # and back to it: later tests are of the first process
    first = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}
    words = ["train", "--epochs", "1", "--accelerator", "cpu", "--timeout", "2", "--out", str(tmp_path / "run")]
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in {**first, "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        assert main(words) == 2
        said = f"MASTER_PORT must be a free port of the first machine, but another program listens at {port} there\n"
        assert capsys.readouterr().err.endswith(f"tvlars: {said}")
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(words) == 2
    assert "MASTER_ADDR must be the first machine's name or address, but 'no-such" in capsys.readouterr().err
