"""The command line, as a user meets it: what it prints, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.command import Command, python, tvlars
from tvlars.cli import main
from tvlars.lab import load_run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("--versio", "unknown argument '--versio': did you mean --version? See tvlars --help."),
        ("--data digits", "unknown argument '--data': a command comes first"),
        ("train --warmup-epochs 5", "warmup_epochs must not be given for tvlars, which has no warm-up, got 5.0"),
        ("trian", "unknown command 'trian': did you mean 'train'?"),
        ("train --optimzer lars", "unknown argument '--optimzer' of train: did you mean --optimizer?"),
        ("train --batch 3", "unknown argument '--batch' of train: did you mean --batch-size"),
        ("train --optimizer lasr", "unknown optimizer 'lasr': did you mean 'lars'"),
        ("train --data mnist", "unknown data set 'mnist': did you mean 'fashion-mnist'?"),
        ("train --model resnet81", "unknown model 'resnet81': did you mean 'resnet18'"),
        ("train --data imagefolder:nowhere", "/nowhere'"),
        (
            "train --config nowhere.json",
            "config must be a run folder, a JSON or a YAML file, but 'nowhere.json' cannot be read: No such",
        ),
        ("train --resume nowhere", "resume must be a run folder, but 'nowhere' cannot be read: No such"),
        (
            "train --precision 16-mixed --accelerator cpu",
            "precision must be bf16-mixed or 32-true without a CUDA",
        ),
        ("train --crop-padding 8", "crop_padding must be < the image size, 8, got 8"),
        ("train --micro-batch-size 1", "micro_batch_size must be an integer >= 2, got 1"),
        (f"train --data imagefolder:{'x' * 300}", "cannot be read: File name too long"),
        ("train --delay 999", "delay must be < 150, the steps of this run, so that φ falls in it, got 999"),
        ("evaluate nowhere", "run must be an existing folder, got 'nowhere'"),
        ("train --batch-size many", "argument --batch-size: must be an integer, got 'many'"),
        ("train --batch-size 5000", "batch_size must be <= dataset_size (1,437 samples), got 5,000"),
        ("train --lr nan", "lr must be > 0 and <= 1e+30, got nan"),
        ("train --lr", "argument --lr: expected one argument"),
        ("train --epochs 0", "epochs must be an integer >= 1, got 0"),
        ("train --data-dir /nowhere", "data_dir must be an existing folder, got '/nowhere'"),
        ("train --optimizer lars --delay 3", "delay must not be given for the linear schedule, got 3.0"),
        ("compare --optimizers tvlars lars lbam", "unknown optimizer 'lbam': did you mean 'lamb'"),
        ("compare --optimizer tvlars", "unknown argument '--optimizer' of compare: did you mean --optimizers"),
        ("compare --seeds 1 1", "seeds must not repeat, got 1, 1"),
        ("compare --batch-size 128 9999", "batch_size must be <= dataset_size (1,437 samples), got 9,999"),
        ("compare --set lars=3", "--set must be OPTIMIZER.OPTION=VALUE, as in lars.lr=16, got 'lars=3'"),
        ("compare --set lars.lrr=3", "unknown option of lars 'lrr': did you mean 'lr'"),
        ("compare --set lars.lr=x", "--set lars.lr must be a number, got 'x'"),
        ("compare --set sgd.lr=1", "unknown optimizer among those compared 'sgd'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tvlars: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing half made is left behind


def test_train_on_a_pipe(tmp_path: Path) -> None:
    words = [
        "-m",
        "tvlars",
        "train",
        "--batch-size",
        "300",
        "--micro-batch-size",
        "128",
        "--epochs",
        "3",
        "--out",
        "run",
    ]
    done = python(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = done.stdout
    assert "100 x 3 accumulation x 1 process = 300 samples per optimizer step" in out
    assert "steps      4 per epoch, 12 in total" in out
    assert "12 optimizer steps are too few for a schedule to act" in out
    assert "3x3 stem with stride 1" in out
    lines = [line for line in out.splitlines() if "epoch" in line and "/3 " in line]
    assert len(lines) == 3
    assert all(word in lines[0] for word in ("loss", "train", "test", "lr", "phi", "images/s", "left"))
    assert out.endswith("run folder: run\n")
    assert "\x1b" not in out
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (
        environment["command"] == "python -m tvlars train --batch-size 300 --micro-batch-size 128 --epochs 3 --out run"
    )


def on_a_terminal() -> None:
    """Go on in a new process whose streams are a terminal; this one copies what appears there, and ends as it does."""
    child, terminal = pty.fork()
    if child:
        with contextlib.suppress(OSError):  # where the other end is closed
            while shown := os.read(terminal, 4096):
                os.write(1, shown)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_train_on_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "160", "TERM": "xterm"}
    done = tvlars("train", "--epochs", 2, "--out", "run", cwd=tmp_path, env=environment, before=on_a_terminal)
    assert done.returncode == 0, done.stdout + done.stderr
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout)
    bars = [line for line in re.split(r"[\r\n]+", plain) if " 10/10 " in line]
    measured = pd.read_csv(tmp_path / "run" / "epochs.csv")["test_accuracy"].iloc[-1]
    for words in ("tvlars b256 s0", "━", "loss", "acc", f"test {measured:.2%}", "lr", "phi", "img/s"):
        assert words in bars[-1]


def test_a_diverged_run_ends_with_3(tmp_path: Path) -> None:
    arguments = ["--optimizer", "sgd", "--lr", "1e18", "--schedule", "constant", "--epochs", "2", "--out", "run"]
    done = tvlars("train", *arguments, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("tvlars: sgd diverged: the loss was not finite at step ")
    assert "with lr 1e+18" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "steps.csv").is_file()


def test_ctrl_c_keeps_what_was_measured_and_ends_with_130(tmp_path: Path) -> None:
    arguments = ["train", "--epochs", "100000", "--out", "run"]
    with Command(arguments, tmp_path, {**os.environ, "PYTHONUNBUFFERED": "1"}) as child:
        for line in child.stdout:
            if "epoch " in line and line.startswith("digits") and "     2/" in line:
                break
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err == "tvlars: interrupted; what was measured is kept in run, and tvlars train --resume run continues\n"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert summary["status"] == "interrupted"
    assert len(epochs) == summary["epochs"] >= 2


def test_a_run_is_evaluated_and_run_again_from_its_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = "train --optimizer lars --epochs 2 --batch-size 200 --no-augment --warmup-epochs 0 --out first"
    assert main(first.split()) == 0
    assert main(["train", "--config", "first", "--seed", "3", "--out", "second"]) == 0
    configs = [json.loads(Path(name, "config.json").read_text()) for name in ("first", "second")]
    assert configs[1] == {**configs[0], "seed": 3, "out": "second"}
    assert main(["train", "--config", "first/config.json", "--out", "again"]) == 0
    assert Path("again/steps.csv").read_text() == Path("first/steps.csv").read_text()
    capsys.readouterr()
    assert main(["evaluate", "first"]) == 0
    out = capsys.readouterr().out
    assert "run      first, finished" in out
    measured = pd.read_csv("first/epochs.csv")["test_accuracy"].iloc[-1]
    assert f"test accuracy {measured:.2%}" in out
    Path("bad.json").write_text('{"learning_rate": 3}')
    assert main(["train", "--config", "bad.json"]) == 2
    assert "unknown option 'learning_rate'" in capsys.readouterr().err


def test_a_comparison_is_run_again_from_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "compare --epochs 1 --optimizers lars sgd --seeds 0 2 --batch-size 300 --set lars.lr=3 --out first"
    assert main(arguments.split()) == 0
    assert main(["compare", "--config", "first", "--seeds", "2", "--out", "second"]) == 0
    first, second = (pd.read_csv(f"{name}/results.csv") for name in ("first", "second"))
    columns = ["optimizer", "batch_size", "seed", "lr", "test_accuracy"]
    expected = first[first["seed"] == 2][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(second[columns], expected)
    assert second["lr"].iloc[0] == 3


def test_a_comparison_is_narrowed_and_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "compare",
                "--epochs",
                "1",
                "--optimizers",
                "lars",
                "sgd",
                "--seeds",
                "0",
                "--set",
                "lars.lr=3",
                "--out",
                "first",
            ]
        )
        == 0
    )
    assert main(["compare", "--config", "first", "--optimizers", "sgd", "--out", "second"]) == 0
    assert pd.read_csv("second/results.csv")["optimizer"].tolist() == ["sgd"]
    capsys.readouterr()
    assert main(["evaluate", "first"]) == 2
    assert "it is a comparison, its runs are the folders in it" in capsys.readouterr().err
    assert main(["train", "--config", "first"]) == 2
    assert "config must be a run's, but it is a comparison's" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_take_the_record_with_it(tmp_path: Path) -> None:
    """The run continues to its end, and says nothing of a reader that has read enough."""
    command = f"set -o pipefail; {sys.executable} -u -m tvlars train --epochs 8 --out run 2>&1 | head -n 2"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    assert load_run(tmp_path / "run").complete
    assert len(pd.read_csv(tmp_path / "run" / "epochs.csv")) == 8


@pytest.mark.slow
def test_closed_standard_streams_are_no_files_of_the_run(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tvlars train --epochs 2 --out run <&- >&- 2>&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False)
    assert done.returncode == 0
    run = load_run(tmp_path / "run")
    assert run.complete
    run.model()
    assert all("digits" not in file.read_text() for file in (tmp_path / "run").glob("*.csv"))


def test_output_that_a_full_disk_does_not_take_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["train", "--epochs", "1", "--out", "run"]) == 2
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert load_run(tmp_path / "run").complete


def test_a_run_goes_on_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--epochs", "1", "--out", "here"]) == 0
    assert main(["train", "--resume", "here", "--out", "./here"]) == 0
    assert "here has finished already" in capsys.readouterr().out
    assert main(["train", "--resume", "here", "--out", "there"]) == 2
    said = "tvlars: out must not be given with --resume here, which is where the run continues, got 'there'\n"
    assert capsys.readouterr().err == said
    assert main(["train", "--resume", "here", "--epochs", "2"]) == 2
    assert "the config differs: epochs 1 there, 2 here" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_a_terminal_without_greek_letters(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = tvlars("train", "--epochs", 1, "--out", "run", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(r"epoch +1/1 .* (phi|\?) [0-9.]+ ", done.stdout)


def test_a_full_disk_is_one_sentence_and_keeps_what_was_written(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the rows fit, the weights do not."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100 * 1024, 100 * 1024))
    done = tvlars("train", "--epochs", 2, "--out", "run", cwd=tmp_path, before=limit)
    assert done.returncode == 2
    assert re.fullmatch(r"tvlars: cannot write.*: File too large; what was written before is kept\n", done.stderr)
    assert len(pd.read_csv(tmp_path / "run" / "epochs.csv")) == 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_compare_ends_with_the_table_and_the_pages_path(tmp_path: Path) -> None:
    arguments = ["--epochs", "2", "--seeds", "0", "1", "--set", "lars.lr=3", "--out", "here"]
    done = tvlars("compare", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "page: here/report.html"
    rows = [line.split() for line in lines if line.startswith("│")]
    assert [row[1] for row in rows] == ["tvlars", "lars", "lamb"]
    assert " ± " not in done.stdout
    assert re.fullmatch(r"device: (cpu, \d+ threads?|.+), (32-true|bf16-mixed)", lines[0])
    assert done.stdout.count("few steps: 10 optimizer steps are too few") == 1  # for all arms
    assert lines[-2].startswith("Nothing was held out")
    assert lines[-3].startswith("The learning rate of tvlars and lamb is the plan's, not tuned; ")
    assert lines[-4] == "2 seeds: no interval, which needs 3 seeds."
    assert lines[-5].startswith("Batch size 256: no arm learned: none is well above chance level, 10 %; ")
    assert "; 2 seeds cannot show a difference from " in lines[-5]
    assert lines[-5].endswith(" at 5 %, 7 can.")
    assert "run 6 of 6" in done.stdout
    assert (tmp_path / "here" / "report.html").is_file()
