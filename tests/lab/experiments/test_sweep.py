"""Sweeps: what a grid means, that each run is done once whatever dies, and that every kind of worker gives the same."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.command import Command
from tests.lab.experiments.forked import fork_runs
from tests.lab.run_folder.disk import room
from tvlars.cli import main
from tvlars.cli._options import add_all, add_resume, train_config
from tvlars.lab import Grid, LockedError, PreemptedError, SweepResult, TrainConfig, UsageError, load_run, sweep
from tvlars.lab.console import duration
from tvlars.lab.experiments import queue
from tvlars.lab.experiments.board import BarBoard, Board, LineBoard
from tvlars.lab.experiments.job import Halt, Job, Outcome, Workers
from tvlars.lab.experiments.run_name import arguments, run_name
from tvlars.lab.experiments.workers import process
from tvlars.lab.experiments.workers.process import run_one
from tvlars.lab.experiments.workers.ray_cluster import RayWorkers, _room
from tvlars.lab.files.lock import locked

sweeping = importlib.import_module("tvlars.lab.experiments.sweep")
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "digits.yaml"
SAME = ["run", "optimizer", "batch_size", "lr", "seed", "status", "epochs", "test_accuracy", "test_loss", "train_loss"]
"""Columns of results.csv that say nothing of time."""


# -- grids -------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_that_makes_sense() -> None:
    grid = Grid.from_mapping(
        {
            "base": {"epochs": 2, "warmup-epochs": 1},
            "grid": {
                "optimizer": ["tvlars", "lars", "lamb"],
                "lr": {"tvlars": [4, "8e0"], "lamb": 1e-2},
                "delay_factor": [0.1, 0.2],
                "seed": [3, 1],
            },
        }
    )
    made = [(run.seed, run.optimizer, run.lr, run.delay_factor, run.warmup_epochs) for run in grid.runs]
    once = [
        *[("tvlars", lr, factor, None) for lr in (4.0, 8.0) for factor in (0.1, 0.2)],
        ("lars", None, None, 1.0),
        ("lamb", 0.01, None, 1.0),
    ]
    assert made == [(seed, *one) for seed in (3, 1) for one in once]
    assert sorted(grid.notes) == [
        "delay_factor has no effect in runs of lars and lamb, which are not repeated for its values",
        "warmup_epochs has no effect in runs of tvlars",
    ]


def test_schedules_of_one_optimizer_do_not_multiply_another() -> None:
    grid = Grid.from_mapping(
        {"grid": {"optimizer": ["tvlars", "lars"], "schedule": ["cosine", "sigmoid"], "delay": [9, 11]}}
    )
    made = [(run.optimizer, run.schedule, run.delay) for run in grid.runs]
    assert made == [
        *(("tvlars", "auto", 9.0), ("tvlars", "auto", 11.0), ("lars", "cosine", None)),
        *(("lars", "sigmoid", 9.0), ("lars", "sigmoid", 11.0)),
    ]
    assert "delay has no effect in runs of lars with schedule cosine" in " ".join(grid.notes)


def test_a_list_of_grids_is_taken_together() -> None:
    parts = [{"optimizer": ["lars"], "lr": [1, 2]}, {"optimizer": ["sgd"], "batch_size": [64, 128]}]
    grid = Grid.from_mapping({"grid": parts})
    assert [(run.optimizer, run.lr, run.batch_size) for run in grid.runs] == [
        *(("lars", 1.0, 256), ("lars", 2.0, 256)),
        *(("sgd", None, 64), ("sgd", None, 128)),
    ]


rates = st.lists(st.floats(1e-4, 64).map(lambda x: float(f"{x:.3g}")), min_size=1, max_size=3, unique=True)
grids = st.fixed_dictionaries(
    {"optimizer": st.lists(st.sampled_from(["tvlars", "lars", "lamb", "sgd"]), min_size=1, max_size=4, unique=True)},
    optional={
        "batch_size": st.lists(st.integers(2, 999), min_size=1, max_size=3, unique=True),
        "lr": rates,
        "delay_factor": st.fixed_dictionaries({}, optional={"tvlars": rates}),
        "seed": st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
        "augment": st.just([True, False]),
    },
)


@settings(deadline=None, max_examples=60)
@given(grids)
def test_grids_multiply_and_names_do_not_depend_on_the_rest(values: dict[str, Any]) -> None:
    own = values.get("delay_factor", {}).get("tvlars", [])
    if "tvlars" not in values["optimizer"]:
        own = values.get("delay_factor", {}).pop("tvlars", []) and []
    grid = Grid.from_mapping({"grid": values})
    for_each = 1
    for name in ("batch_size", "lr", "seed", "augment"):
        for_each *= len(values.get(name, [0]))
    assert len(grid.runs) == for_each * (len(values["optimizer"]) - bool(own) + len(own))
    names = [run_name(run) for run in grid.runs]
    assert len(set(names)) == len(names)
    seeds = [run.seed for run in grid.runs]
    assert list(dict.fromkeys(seeds)) == values.get("seed", [0])
    assert sum(a != b for a, b in itertools.pairwise(seeds)) == len(set(seeds)) - 1
    turned = Grid.from_mapping({"grid": dict(reversed(values.items()))})
    assert {run_name(run) for run in turned.runs} == set(names)
    for run in grid.runs[:3]:
        assert (
            run_name(replace(run, checkpoint_every="5m", data_dir=Path("elsewhere"), resume=True, out=Path("x")))
            in names
        )


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["tvlars", "lars", "adamw"]),
    st.one_of(st.none(), st.floats(1e-9, 1e9)),
    st.booleans(),
    st.sampled_from(["digits", "imagefolder:/tmp"]),
    st.integers(2, 10**6),
)
def test_the_command_line_of_a_run_is_the_run(
    optimizer: str, lr: float | None, augment: bool, data: str, batch_size: int
) -> None:
    config = TrainConfig(
        optimizer=optimizer, lr=lr, augment=augment, data=data, batch_size=batch_size, data_dir=Path("/a b/-c")
    )
    parser = argparse.ArgumentParser()
    add_all(parser, without=("resume",))
    add_resume(parser)
    words = arguments(config, Path("/runs/- one"))
    assert train_config(parser.parse_args(words[1:])) == replace(config, out=Path("/runs/- one"), resume=True)


def test_the_example_is_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(EXAMPLE), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith(f"42 runs, 42 to do, in {tmp_path / 'out'}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("grid: {optimzer: [lars]}", "unknown option of grid 'optimzer': did you mean 'optimizer'"),
        ("grid: {optimizer: [lasr]}", "unknown optimizer 'lasr': did you mean 'lars'"),
        ("gird: {lr: [1]}", "unknown part of a grid 'gird': did you mean 'grid'?"),
        ("base: {learning_rate: 3}", "unknown option of base 'learning_rate'"),
        ("grid: {lr: [1, -1]}", "lr must be > 0 and <= 1e+30, got -1.0"),
        ("grid: {batch_size: [many]}", "batch_size must be an integer >= 2, got 'many'"),
        ("grid: {batch_size: [4096]}", "digits-tvlars-b4096-s0: batch_size must be <= dataset_size (1,437 samples)"),
        ("grid: {seed: [1, 1]}", "seed of grid must not repeat, got 1, 1"),
        ("grid: {lr: [4, 4.0]}", "lr of grid must not repeat"),
        ("grid: {lr: []}", "lr of grid must have at least one value, got none"),
        ("grid: {lr: [[4]]}", "lr of grid must be a list of values, or of values for each optimizer, got [4]"),
        ("grid: {seed: [0], seed: [1]}", "line 1: seed appears twice"),
        ("grid: {batch-size: [32], batch_size: [64]}", "batch_size appears twice in grid"),
        ("{base: {lr: 4}, grid: {lr: [8]}}", "lr must be in base or in grid, but is in both"),
        ("{base: {lr: [4, 8]}}", "lr of base must be one value, got [4, 8]: put several values into grid"),
        ("grid: [{lr: [4]}, {lr: [4]}]", "but digits-tvlars-b256-s0 appears twice with equal options"),
        ("grid: {lr: {lamb: [1]}}", "unknown optimizer of lr 'lamb': "),
        ("grid: {optimizer: [lamb], delay: [1]}", "delay of grid must be an option of some run, but is none of lamb"),
        ("grid: {out: [here]}", "out must not be given in grid: every run has its own folder"),
        ("grid: {data: [mnist]}", "unknown data set 'mnist': did you mean 'fashion-mnist'"),
        ("grid: [", "cannot be read: line 1: "),
        ("- 3", "a grid must be a mapping with base and grid"),
        ("", "a grid must be a mapping with base and grid"),
        (
            "grid: !!python/object/apply:os.system ['true']",
            "cannot be read: line 1: the tag 'tag:yaml.org,2002:python/object",
        ),
        (
            f"grid: {{seed: [{', '.join(map(str, range(200)))}], lr: [{', '.join(map(str, range(1, 99)))}]}}",
            "10,000 runs",
        ),
    ],
)
def test_bad_grids_are_one_sentence(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(text)
    assert main(["sweep", "grid.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tvlars: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nowhere.yaml", "grid must be a YAML file, but 'nowhere.yaml' cannot be read: No such file"),
        ("grid.yaml --workers 0", "workers must be an integer from 1 to 10000, got 0"),
        ("grid.yaml --retries -1", "retries must be an integer from 0 to 10000, got -1"),
        ("grid.yaml --dry-run --workers 0", "workers must be an integer from 1 to 10000, got 0"),
        ("grid.yaml --dry-run --retries -1", "retries must be an integer from 0 to 10000, got -1"),
        ("grid.yaml --out full", "out must be a new or empty folder, or one of a sweep, got 'full'"),
        pytest.param(
            "grid.yaml --ray nowhere:1",
            "ray must be 'local', 'auto' or the address of a running Ray, got 'nowhere:1': ",
            marks=pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="the extra 'ray' is not installed"),
        ),
        ("grid.yaml --worker 1", "unknown argument '--worker' of sweep: did you mean --workers"),
    ],
)
def test_bad_arguments_are_one_sentence(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text("grid: {seed: [0]}")
    Path("full").mkdir()
    Path("full/mine").touch()
    assert main(["sweep", *words.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "grid.yaml"]


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("precision: [32-true, 16-mixed]", "s0: precision must be bf16-mixed or 32-true without a CUDA device, got"),
        ("accelerator: [cuda]", "s0: accelerator must be auto or cpu on this machine, which has no such device, got"),
        ("shard: [true]", "s0: shard must not be given for one process, since there are no others to shard over"),
        ("{shard: [true], devices: [1]}", "s0: shard must not be given for one process, since there are no others"),
    ],
)
def test_what_this_machine_cannot_do_is_said_before_anything_is_written(
    text: str,
    sentence: str,
    dry: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "grid.yaml").write_text(f"grid: {text if text[0] == '{' else '{' + text + '}'}")
    words = ["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"] if dry else words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_machines_of_ray_may_have_what_this_one_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "grid.yaml").write_text("grid: {accelerator: [cuda], precision: [16-mixed]}")
    words = ["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main([*words, "--ray", "auto"]) == 0
    assert "1 run, 1 to do" in capsys.readouterr().out


def test_runs_that_are_over_ask_nothing_of_this_machine(
    pretend: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvlars.lab.experiments.workers import this_machine as local

    runs = [replace(run, precision="16-mixed") for run in seeds(1)]
    out = pretend("")
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        patch.setattr(local, "cuda_devices", lambda: [])
        assert by_seed(sweep(runs, out, board=Board())) == [("finished", 1)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert by_seed(sweep(runs, out, board=Board())) == [("finished", 0)]


def test_without_ray_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[ray\]'"):
        sweep([TrainConfig()], tmp_path / "out", ray="local", board=Board())
    assert not (tmp_path / "out").exists()


# -- the queue, with runs that only look like runs ----------------------------------------------------------

PRETENDER = """
    import json, os, pathlib, signal, sys, time
    words = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[3:] if "=" in word)
    out, seed = pathlib.Path(words["out"]), int(words.get("seed", 0))
    out.mkdir(exist_ok=True)
    (out / "config.json").write_text("{}")
    with open(out / "begun", "a") as file:
        file.write("x")
    attempt = (out / "begun").stat().st_size
    def end(status, code):
        (out / "summary.json").write_text(json.dumps({"status": status}))
        if code != 0:
            print("tvlars: seed", seed, "says", status)
        sys.exit(code)
    BEHAVIOUR
    (out / "epochs.csv").write_text("epoch,step\\n1,8\\n")
    end("finished", 0)
"""


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program in the place of training: ``behaviour`` is Python that sees ``seed``, ``attempt`` and ``end``."""

    def use(behaviour: str) -> Path:
        program = tmp_path / "pretender.py"
        lines = textwrap.dedent(PRETENDER).replace("BEHAVIOUR", behaviour)
        program.write_text(lines)
        monkeypatch.setattr(process, "GUARDIAN", program)
        return tmp_path / "out"

    return use


def seeds(count: int) -> list[TrainConfig]:
    return [TrainConfig(epochs=1, seed=seed) for seed in range(count)]


def by_seed(result: SweepResult) -> list[tuple[str, int]]:
    return [(run.status, run.attempts) for run in result.runs]


def test_each_kind_of_end_is_told_and_only_failures_are_tried_again(
    pretend: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretend(
        "if seed == 1: end('failed', 1)\n"
        "if seed == 2 and attempt == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if seed == 3: end('diverged', 3)\n"
        "if seed == 4: end('failed', 2)\n"
        "if seed == 5: end('interrupted', 0)"
    )
    result = sweep(seeds(6), out, workers=3, retries=2, board=LineBoard())
    assert by_seed(result) == [
        *(("finished", 1), ("failed", 3), ("finished", 2)),
        *(("diverged", 1), ("failed", 1), ("failed", 3)),
    ]
    told = capsys.readouterr().out
    assert "stopped by SIGKILL, as the system does when memory is full, tried again (1 of 2)" in told
    assert "(6/6 runs, 1 diverged, 3 failed)" in told
    failures = "\n".join(result.failures())
    assert "failed (3 attempts): exit code 1; its output is in" in failures
    assert "    tvlars: seed 1 says failed" in failures
    assert "seed 4 says failed; its output" in failures
    assert "its folder has the status interrupted" in failures
    frame = pd.read_csv(out / "results.csv")
    assert frame["status"].tolist() == ["finished", "failed", "finished", "diverged", "failed", "failed"]
    again = sweep(seeds(6), out, retries=0, board=Board())
    assert by_seed(again) == [
        *(("finished", 0), ("failed", 1), ("finished", 0)),
        *(("diverged", 0), ("failed", 1), ("failed", 1)),
    ]


def test_exit_codes_and_what_the_command_prints(
    pretend: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretend("if seed == 1: end('diverged', 3)\nif seed == 2: end('failed', 1)")
    for count, code in ((2, 3), (3, 1)):
        (tmp_path / "grid.yaml").write_text(f"base: {{epochs: 1}}\ngrid: {{seed: {list(range(count))}}}")
        assert main(["sweep", str(tmp_path / "grid.yaml"), "--out", str(out), "--retries", "0"]) == code
    captured = capsys.readouterr()
    assert "1 of 2 runs diverged" in captured.err
    assert "1 of 3 runs failed; the same command tries them again" in captured.err
    assert "    tvlars: seed 2 says failed" in captured.out
    assert f"results: {out / 'results.csv'}" in captured.out
    capsys.readouterr()
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--out", str(out), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["finished", "diverged", "not"]
    assert lines[-1] == f"3 runs, 1 to do, in {out}"


def test_results_that_cannot_be_written_cost_neither_table_nor_exit_code(
    pretend: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretend("if seed == 1: end('failed', 1)\nif seed == 2: end('diverged', 3)")
    out.mkdir()
    (out / "sweep.json").touch()
    (out / "results.csv").mkdir()
    sentence = "tvlars: results.csv could not be written; all runs are kept, and the same command writes it\n"
    for seed, code, told in (
        (0, 2, ""),
        (1, 1, "tvlars: 1 of 1 run failed; the same command tries them again\n"),
        (2, 3, "tvlars: 1 of 1 run diverged, a smaller lr usually helps\n"),
    ):
        (tmp_path / "grid.yaml").write_text(f"base: {{epochs: 1}}\ngrid: {{seed: [{seed}]}}")
        assert main(["sweep", str(tmp_path / "grid.yaml"), "--out", str(out), "--retries", "0"]) == code
        captured = capsys.readouterr()
        assert captured.err == sentence + told
        assert f"cannot write {out / 'results.csv'}: Is a directory\n" in captured.out
        assert "batch size" in captured.out  # the table
        assert ("    tvlars: seed 1 says failed" in captured.out) == (seed == 1)
        assert "results: " not in captured.out
    (out / "results.csv").rmdir()
    assert sweep(seeds(1), out, board=Board()).unwritten == {}
    assert pd.read_csv(out / "results.csv")["status"].tolist() == ["finished"]


def test_a_stopped_sweep_says_so_wherever_results_cannot_be_written(
    pretend: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise PreemptedError("stopped by SIGTERM")

    out = pretend("")
    out.mkdir()
    (out / "sweep.json").touch()
    (out / "results.csv").mkdir()
    monkeypatch.setattr(sweeping, "work", stopped)
    with pytest.raises(PreemptedError):
        sweep(seeds(1), out, board=LineBoard())
    assert capsys.readouterr().out.endswith(f"\ncannot write {out / 'results.csv'}: Is a directory\n")


def test_every_run_is_begun_once_however_many_workers(pretend: Callable[[str], Path]) -> None:
    out = pretend("time.sleep(0.05)")
    result = sweep(seeds(16), out, workers=5, board=Board())
    assert by_seed(result) == [("finished", 1)] * 16
    assert [(out / run.name / "begun").read_text() for run in result.runs] == ["x"] * 16


def test_two_sweeps_do_not_share_a_folder(pretend: Callable[[str], Path]) -> None:
    out = pretend("time.sleep(60 if attempt == 1 else 0)")
    halt, job = Halt(), Job("one", out / "one", TrainConfig(epochs=1), 1)
    out.mkdir()
    (out / "sweep.json").touch()
    with locked(out), pytest.raises(LockedError, match="another sweep works in"):
        sweep(seeds(1), out, board=Board())
    # A run that a dead worker has left behind is waited for.
    (out / "one").mkdir()
    (out / "one" / "config.json").touch()
    found: list[Any] = []
    with locked(out / "one"):
        thread = threading.Thread(target=lambda: found.append(run_one(job, 1, {}, halt)))
        thread.start()
        thread.join(0.5)
        assert not (out / "one" / "begun").exists()
    wait_for(lambda: (out / "one" / "begun").exists())
    halt.asked.set()
    thread.join()
    assert found[0].status == "preempted"


@pytest.mark.parametrize(
    ("number", "error", "again"),
    [
        (signal.SIGTERM, PreemptedError, False),
        (signal.SIGHUP, PreemptedError, False),
        (signal.SIGINT, KeyboardInterrupt, False),
        (signal.SIGINT, KeyboardInterrupt, True),
    ],
)
def test_a_stopped_sweep_lets_runs_save_and_goes_on(
    number: int,
    error: type[BaseException],
    again: bool,
    pretend: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if again else ""
    out = pretend(
        "signal.signal(signal.SIGTERM, lambda *_: end('preempted', 143))\n"
        f"{stubborn}\n"
        "(out / 'ready').touch()\n"
        "if seed in (1, 2) and attempt == 1: time.sleep(60)"
    )

    def interrupt() -> None:
        wait_for(lambda: len(list(out.glob("*/ready"))) == 3)
        wait_for(lambda: len(list(out.glob("*/summary.json"))) == 1)
        os.kill(os.getpid(), number)
        if again:
            time.sleep(0.5)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(error, match="1 of 4 runs are done"):
        sweep(seeds(4), out, workers=2, board=LineBoard())
    thread.join()
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopping: 2 runs save their state")
    saved = [json.loads(file.read_text())["status"] for file in out.glob("*/summary.json")]
    assert sorted(saved) == (["finished"] if again else ["finished", "preempted", "preempted"])
    assert pd.read_csv(out / "results.csv")["status"].tolist() == ["finished", "not done", "not done", "not done"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    result = sweep(seeds(4), out, workers=4, board=Board())
    assert by_seed(result) == [("finished", 0), ("finished", 1), ("finished", 1), ("finished", 1)]


def test_signals_are_noted_until_results_are_written(
    pretend: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(SweepResult, "save", lambda self: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *_: taken.append("by the handler of others"))
    try:
        result = sweep(seeds(1), pretend(""), board=Board())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert by_seed(result) == [("finished", 1)]
    assert taken == []


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def damage(folder: Path, how: str) -> None:
    """Damage that a finished run's folder may suffer."""
    summary, epochs = folder / "summary.json", folder / "epochs.csv"
    if how == "summary cut off":
        summary.write_text('{"status": "fini')
    elif how == "summary of another kind":
        summary.write_text("[]")
    elif how == "summary is a named pipe":
        summary.unlink()
        os.mkfifo(summary)
    elif how == "rows damaged":
        epochs.write_bytes(b"epoch\n\xff\xfe\n")
    elif how == "rows are a folder":
        epochs.unlink()
        epochs.mkdir()
    elif how == "of another run":
        (folder / "config.json").write_text(TrainConfig(epochs=1, seed=0, lr=3.0).to_json())
    elif how == "a file":
        shutil.rmtree(folder)
        folder.touch()


@pytest.mark.parametrize(
    "how",
    [
        *("summary cut off", "summary of another kind", "summary is a named pipe"),
        *("rows damaged", "rows are a folder", "of another run", "a file"),
    ],
)
def test_a_damaged_run_folder_is_not_over_and_costs_no_other_run(how: str, pretend: Callable[[str], Path]) -> None:
    out = pretend("(out / 'summary.json').unlink(missing_ok=True) if attempt > 1 else None")
    sweep(seeds(2), out, board=Board())
    first = out / sweeping.make_agenda(seeds(2), out).runs[0].name
    damage(first, how)
    assert [run.status for run in sweeping.make_agenda(seeds(2), out).runs] == ["not done", "finished"]
    if how in ("rows are a folder", "a file", "of another run"):  # training itself says what is wrong there
        return
    result = sweep(seeds(2), out, retries=0, board=Board())
    assert by_seed(result) == [("finished", 1), ("finished", 0)]


def test_a_log_that_is_no_file_fails_that_run_alone(pretend: Callable[[str], Path]) -> None:
    out = pretend("")
    first = sweeping.make_agenda(seeds(2), out).runs[0].name
    out.mkdir()
    (out / "sweep.json").touch()
    os.mkfifo(out / f"{first}.log")
    result = sweep(seeds(2), out, retries=0, board=Board())
    assert by_seed(result) == [("failed", 1), ("finished", 1)]
    assert "must be a writable file, but is not a file" in result.failed[0].note


def test_a_run_whose_output_alone_was_lost_has_finished(pretend: Callable[[str], Path]) -> None:
    out = pretend("(out / 'epochs.csv').write_text('epoch,step\\n1,8\\n')\nend('finished', 2)")
    assert by_seed(sweep(seeds(1), out, board=Board())) == [("finished", 1)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_hangs_when_it_is_told_to_stop_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    """The keeper between a worker and a run ends the run, also if Ray kills the children of its dead worker."""
    (tmp_path / "tvlars").mkdir()
    (tmp_path / "tvlars" / "__init__.py").touch()
    (tmp_path / "tvlars" / "__main__.py").write_text(
        "import os, signal, time, pathlib\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path('part').write_text(str(os.getpid()))\nos.replace('part', 'ready')\ntime.sleep(600)\n"
    )
    program = tmp_path / "child.py"
    program.write_text(process.GUARDIAN.read_text().replace("STOP_PATIENCE = 300", "STOP_PATIENCE = 1"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, str(program), str(os.getpid())], cwd=tmp_path, env=environment) as child:
        wait_for(lambda: (tmp_path / "ready").exists() or child.poll() is not None)
        run = int((tmp_path / "ready").read_text())
        child.send_signal(number)
        assert child.wait(timeout=60) == (128 + signal.SIGKILL if number == signal.SIGTERM else -signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{run}").exists())


def test_ray_is_not_asked_for_anything_when_it_has_been_shut_down() -> None:
    """It would start another Ray. What ended while runs were told to stop is known."""

    class Ray:
        running = True

        def __init__(self, hangs: bool) -> None:
            self.hangs = hangs

        def cancel(self, future: Future[Outcome], force: bool) -> None:
            assert self.running
            if not self.hangs:
                future.set_result(Outcome(job, "finished"))

        def shutdown(self) -> None:
            self.running = False

    job = Job("one", Path("nowhere"), TrainConfig(), 1)
    for hangs in (True, False):
        crew = RayWorkers.__new__(RayWorkers)
        futures = [Future[Outcome]() for _ in range(2)]
        crew._ray, crew._own, crew._references = Ray(hangs), True, {future: future for future in futures}
        now = threading.Event()
        if hangs:
            now.set()
        crew.stop(now)
        assert not crew._ray.running
        assert [future.done() for future in futures] == [not hangs] * 2


def test_a_run_without_progress_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    job = Job("one", tmp_path / "one", TrainConfig(epochs=5), 10)
    job.folder.mkdir()
    board = LineBoard()
    board.start([job], {}, 0)
    board.update([job])
    for seconds, done in ((400, 1), (400, 1), (1000, 1)):
        now[0] += seconds
        (job.folder / "epochs.csv").write_text("epoch\n" + "1\n" * done)
        board.update([job])
    told = [line.split("running: ")[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["one epoch 1/5", "one epoch 1/5 (no epoch for 7 min)", "one epoch 1/5 (no epoch for 23 min)"]


def test_devices_and_threads_are_divided(pretend: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from tvlars.lab.experiments.workers import this_machine as local

    out = pretend(
        "(out / 'seen').write_text(os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + os.environ['OMP_NUM_THREADS'])\n"
        "time.sleep(0.3)"
    )
    monkeypatch.setattr(local, "cuda_devices", lambda: ["2", "5", "6", "7"])
    monkeypatch.setattr(local, "cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    result = sweep(seeds(8), out, board=Board())
    seen = {(out / run.name / "seen").read_text() for run in result.runs}
    assert seen == {"2 2", "5 2", "6 2", "7 2"}
    pairs = [replace(run, devices=2) for run in seeds(4)]
    out = out.with_name("pairs")  # in the first folder they have finished, since devices do not distinguish runs
    result = sweep(pairs, out, board=Board())
    assert {(out / run.name / "seen").read_text() for run in result.runs} == {"2,5 4", "6,7 4"}
    with pytest.raises(UsageError, match="devices must be <= 4, the number on this machine, got 8"):
        sweep([replace(run, devices=8) for run in seeds(1)], out.with_name("many"), board=Board())


def test_a_folder_that_only_another_machine_sees_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Workers):
        count = 1

        def describe(self) -> str:
            return "elsewhere"

        def submit(self, job: Job) -> Future[Outcome]:
            future = Future[Outcome]()
            future.set_result(Outcome(job, "finished"))
            return future

    monkeypatch.setattr(sweeping, "hire", lambda *_: Elsewhere())
    monkeypatch.setattr(queue, "SHARED_PATIENCE", 0.0)
    result = sweep(seeds(1), tmp_path / "out", board=Board())
    assert "out must be on a file system that all machines share" in result.failed[0].note


def test_ray_shares_the_cores_of_each_machine() -> None:
    def node(cpus: float, gpus: float = 0) -> dict[str, Any]:
        return {"Alive": True, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}

    assert _room([node(8)], 1, None, False) == (1, 0, 8)
    assert _room([node(8), node(16)], 1, 4, False) == (2, 0, 4)
    assert _room([node(8), node(32, 4)], 1, None, False) == (1, 4, 8)
    assert _room([node(32, 4)], 2, None, False) == (1, 4, 16)
    assert _room([node(32, 4)], 1, None, True) == (1, 0, 32)
    with pytest.raises(UsageError, match="ray must have a machine with CPU cores"):
        _room([{"Alive": False, "Resources": {"CPU": 8}}], 1, None, False)


def test_time_left_is_of_the_work_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    jobs = [
        Job(str(i), tmp_path / str(i), TrainConfig(epochs=10), images)
        for i, images in enumerate((1000, 3000, 6000, 500))
    ]
    board = Board()
    board.start(jobs, {"1": 5}, before=2)
    assert board.left() is None
    assert board.numbers() == "2/6 runs"
    now[0] = 10.0
    board.ended(jobs[0], "finished")
    board.ended(jobs[3], "failed")
    assert board.left() == pytest.approx(10 * (1500 + 6000) / 1000)  # half of "1" was done before
    assert board.numbers() == "4/6 runs, 1 failed, 75 s left"
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "epochs.csv").write_text("epoch\n1\n2\n3\n4\n5\n")
    now[0] = 20.0
    board.update([jobs[2]])
    assert board.left() == pytest.approx(20 * (1500 + 3000) / 4000)
    assert board.fraction == pytest.approx((4 + 0.5 + 0.5) / 6)
    assert [duration(x) for x in (5, 300, 7200, 3e5)] == ["5 s", "5 min", "2.0 h", "3.5 days"]


def test_a_bar_shows_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    board = BarBoard()
    jobs = [Job(f"run-{i}", tmp_path / str(i), TrainConfig(epochs=10), 100) for i in range(2)]
    board.start(jobs, {}, before=1)
    board.update(jobs)
    board.ended(jobs[0], "failed", "exit code 1")
    board.end()
    out = capsys.readouterr().out
    assert "run-0: failed: exit code 1" in out
    assert "2/3 runs, 1 failed" in out


# -- real runs ----------------------------------------------------------------------------------------------

RUNS = [TrainConfig(optimizer=optimizer, epochs=20, accelerator="cpu") for optimizer in ("tvlars", "lamb")]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """Two runs by the queue of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        fork_runs(patch)
        return sweep(RUNS, tmp_path_factory.mktemp("sweep") / "local", workers=2, board=Board())


def test_real_runs_are_recorded_and_not_done_again(local: SweepResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_seed(local) == [("finished", 1), ("finished", 1)]
    frame = pd.read_csv(local.folder / "results.csv")
    for run, row in zip(local.runs, frame.to_dict("records"), strict=True):
        recorded = load_run(local.folder / run.name)
        assert recorded.complete
        assert row["test_accuracy"] == pytest.approx(recorded.test_accuracy, rel=1e-9)
        assert recorded.environment["command"].startswith("tvlars train ")
    assert (local.folder / "report.html").is_file()
    times = [file.stat().st_mtime_ns for file in local.folder.glob("*/summary.json")]
    again = sweep(RUNS, local.folder, board=LineBoard())
    assert by_seed(again) == [("finished", 0), ("finished", 0)]
    assert [file.stat().st_mtime_ns for file in local.folder.glob("*/summary.json")] == times
    assert capsys.readouterr().out == "2 runs, 2 already done\n"
    pd.testing.assert_frame_equal(pd.read_csv(local.folder / "results.csv"), frame)


def test_a_page_without_room_leaves_nothing_behind(
    local: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(local.folder, out)
    page = (out / "report.html").read_bytes()
    (out / "results.csv").write_text("old")
    with room(100_000):
        result = sweep(RUNS, out, board=LineBoard())
    assert result.unwritten == {"report.html": f"cannot write {out / 'report.html'}: File too large"}
    assert capsys.readouterr().out.endswith(f"\n{result.unwritten['report.html']}\n")
    assert len(pd.read_csv(out / "results.csv")) == 2
    whole = (out / "results.csv").read_bytes()
    with room(50):
        result.save()
    assert list(result.unwritten) == ["results.csv", "report.html"]
    assert (out / "results.csv").read_bytes() == whole
    assert (out / "report.html").read_bytes() == page
    assert not list(out.rglob("*.part"))


@pytest.mark.usefixtures("forked_runs")
def test_a_run_that_finished_and_lost_rows_has_them_again_from_its_checkpoint(
    local: SweepResult, tmp_path: Path
) -> None:
    name = local.runs[0].name
    shutil.copytree(local.folder / name, tmp_path / name)
    (tmp_path / "sweep.json").touch()
    whole = (tmp_path / name / "epochs.csv").read_bytes()
    (tmp_path / name / "epochs.csv").write_bytes(whole[:300])
    result = sweep(RUNS[:1], tmp_path, board=Board())
    assert result.count("finished") == 1
    assert (tmp_path / name / "epochs.csv").read_bytes() == whole
    (tmp_path / name / "epochs.csv").write_bytes(whole[:300])
    shutil.rmtree(tmp_path / name / "checkpoints")
    result = sweep(RUNS[:1], tmp_path, board=Board())
    assert "has finished, lacks some of its results and has no checkpoint" in result.failed[0].note
    assert (tmp_path / name / "epochs.csv").read_bytes() == whole[:300]


@pytest.mark.slow
def test_a_killed_sweep_loses_nothing(local: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL for the sweep: its run saves what it has and ends, and the next call goes on to the same results.

    The run that is killed starts as users' do.
    """
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: {epochs: 20, accelerator: cpu}\ngrid: {optimizer: tvlars}")
    out = tmp_path / "out"
    with Command(["sweep", grid, "--out", out], tmp_path) as killed:
        folder = out / local.runs[0].name
        wait_for(lambda: rows(folder) >= 2 or killed.poll() is not None)
        pid = training_process(folder)
        killed.kill()
        told = killed.communicate()[0]
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert "1 run; 1 worker on this machine's CPU, 1 thread" in told
    assert json.loads((folder / "summary.json").read_text())["status"] == "preempted"
    fork_runs(monkeypatch)
    result = sweep(Grid.read(grid).runs, out, board=Board())
    assert by_seed(result) == [("finished", 1)]
    assert load_run(folder).environment["command"].startswith("python -m tvlars train ")
    assert "resumed  after step" in (out / f"{folder.name}.log").read_text()
    assert_same_results(local.folder, out)


@pytest.mark.slow
def test_ray_gives_the_same_and_survives_the_death_of_a_worker(
    local: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real Ray on this machine, whose worker is killed by SIGKILL while it does a run."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps a token for the clusters that it starts
    out = tmp_path / "out"
    folders = [out / run.name for run in local.runs]

    def kill() -> None:
        wait_for(lambda: rows(folders[0]) >= 2)
        os.kill(parent_of(parent_of(parent_of(training_process(folders[0])))), signal.SIGKILL)

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=kill)
    thread.start()
    result = sweep(RUNS, out, workers=2, retries=0, ray="local", board=LineBoard())
    thread.join()
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is handler
    with pytest.raises(AssertionError, match="nobody trains"):
        training_process(folders[0])
    assert by_seed(result) == [("finished", 1), ("finished", 1)]
    told = capsys.readouterr().out
    assert f"{folders[0].name}: its Ray worker died (WorkerCrashedError), another worker continues the run" in told
    assert "resumed  after step" in (out / f"{folders[0].name}.log").read_text()
    assert_same_results(local.folder, out)


def rows(folder: Path) -> int:
    file = folder / "epochs.csv"
    return file.read_text().count("\n") - 1 if file.is_file() else 0


def training_process(folder: Path) -> int:
    """The process that trains in a folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"--out={folder}".encode() in words and b"-m" in words:
            return int(entry.name)
    raise AssertionError(f"nobody trains in {folder}")


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("PPid")).split()[1])


def assert_same_results(one: Path, other: Path) -> None:
    first, second = (pd.read_csv(folder / "results.csv")[SAME] for folder in (one, other))
    pd.testing.assert_frame_equal(first.iloc[: len(second)], second)
    for name in second["run"]:
        assert (one / name / "steps.csv").read_bytes() == (other / name / "steps.csv").read_bytes()
