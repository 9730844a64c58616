"""Comparisons: the table, the page, and runs that fail."""

from __future__ import annotations

import html
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.command import Command, slow_disk
from tvlars.cli import main
from tvlars.lab import CompareConfig, Comparison, LockedError, TrainConfig, UsageError, compare, load_run
from tvlars.lab.comparison.comparison import RunRow
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.comparison.table import table_rows
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.compare import _few_seeds
from tvlars.lab.experiments.workers import in_process
from tvlars.lab.files.lock import locked
from tvlars.lab.report import report, write_report
from tvlars.lab.run_folder.rows import epochs_done
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.train import train
from tvlars.plan import Plan


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Eight short runs on digits, two of which diverge."""
    return compare(
        CompareConfig(
            base=TrainConfig(epochs=3),
            optimizers=("tvlars", "sgd"),
            batch_sizes=(128, 256),
            seeds=(0, 1),
            overrides=(("sgd", "lr", 1e18), ("sgd", "schedule", "constant")),
            out=tmp_path_factory.mktemp("compare") / "out",
        )
    )


def test_a_comparison_in_python_prints_its_table_unless_it_is_told_otherwise(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CompareConfig.from_mapping(json.loads((comparison.folder / "config.json").read_text()))
    again = compare(replace(config, out=comparison.folder))
    said = capsys.readouterr().out
    assert said.endswith(f"{again}\npage: {comparison.folder / 'report.html'}\n")
    lines: list[str] = []
    compare(replace(config, out=comparison.folder), announce=lines.append, reporter=Reporter())
    assert capsys.readouterr().out == ""
    assert lines
    assert said.startswith("\n".join(lines))


def test_a_comparison_shows_itself_in_a_notebook(comparison: Comparison) -> None:
    assert repr(comparison) == f"Comparison(tvlars, sgd: 8 runs, folder {str(comparison.folder)!r})"
    shown = comparison._repr_html_()
    assert shown.count("<svg") == 1
    assert "batch size, log scale</text>" in shown
    assert all(html.escape(sentence) in shown for sentence in comparison.answers())
    one_size = replace(comparison, runs=[run for run in comparison.runs if run.batch_size == 128])
    assert "epoch</text>" in one_size._repr_html_()
    run = load_run(comparison.folder / "tvlars-b128-s0")
    last = run.epochs["test_accuracy"].iloc[-1]
    label = "digits-tvlars-b128-s0, finished, test accuracy"
    assert repr(run) == f"LoadedRun({label} {last:.2%}, 3 epochs, folder {str(run.folder)!r})".replace("%", " %")
    assert run.over_epochs() == (
        "test accuracy, %",
        dict(zip([1, 2, 3], 100 * run.epochs["test_accuracy"], strict=True)),
    )
    assert run._repr_html_().count("<svg") == 2


def test_what_has_no_runs_or_no_files_shows_itself_too(tmp_path: Path) -> None:
    (tmp_path / "epochs.csv").touch()
    run = load_run(tmp_path)
    assert repr(run) == f"LoadedRun(unfinished, 0 epochs, folder {str(tmp_path)!r})"
    assert run.problems[0].replace("'", "&#x27;") in run._repr_html_()
    row = RunRow("<b>", 8, 0, 0.1, "finished", 0.5, folder="gone")
    for none in (Comparison(tmp_path, ""), Comparison(tmp_path, "", [row])):
        assert "<b>" not in none._repr_html_()


def test_mean_and_interval_by_hand() -> None:
    mean, half = mean_and_interval([0.90, 0.92, 0.94])
    assert mean == pytest.approx(0.92)
    assert half == pytest.approx(4.302653 * 0.02 / math.sqrt(3))  # t(0.975, 2 degrees of freedom)
    assert mean_and_interval([0.5])[0] == 0.5
    assert math.isnan(mean_and_interval([0.5])[1])
    assert math.isnan(mean_and_interval([])[0])


def test_the_table_is_what_the_runs_recorded(comparison: Comparison) -> None:
    table = comparison.table()
    assert list(zip(table["optimizer"], table["batch_size"], strict=True)) == [
        *(("tvlars", 128), ("sgd", 128)),
        *(("tvlars", 256), ("sgd", 256)),
    ]
    recorded = [
        pd.read_csv(comparison.folder / f"tvlars-b256-s{seed}" / "epochs.csv")["test_accuracy"].iloc[-1]
        for seed in (0, 1)
    ]
    row = table.iloc[2]
    assert row["accuracies"] == pytest.approx(recorded, rel=1e-6)
    assert row["accuracy"] == pytest.approx(np.mean(recorded), rel=1e-6)
    assert pd.read_csv(comparison.folder / "results.csv")["test_accuracy"].notna().sum() == 4


def test_diverged_runs_are_said_and_the_others_go_on(comparison: Comparison) -> None:
    assert {(run.optimizer, run.seed) for run in comparison.diverged} == {("sgd", 0), ("sgd", 1)}
    assert all(re.match(r"loss not finite at step \d+, lr 1e\+18", run.note) for run in comparison.diverged)
    row = table_rows(comparison)[1]
    assert (row["test accuracy"], row["runs"]) == ("-", "0 of 2, 2 diverged")
    assert "no run of sgd (2 diverged) has a result" in comparison.answers()[0]
    page = (comparison.folder / "report.html").read_text()
    assert page.count(": diverged, loss not finite") == len(comparison.diverged) == 4


def test_it_is_read_back(comparison: Comparison) -> None:
    again = Comparison.load(comparison.folder)
    assert again.runs == comparison.runs
    assert table_rows(again) == table_rows(comparison)


def test_markdown(comparison: Comparison, tmp_path: Path) -> None:
    text = report([comparison.folder], tmp_path / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| optimizer | batch size | lr | test accuracy, % | n |")
    assert len(lines) == 2 + 4


def test_the_page_needs_no_network_and_has_the_numbers(comparison: Comparison) -> None:
    page = (comparison.folder / "report.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", own)
    for row in table_rows(comparison):
        assert f">{row['test accuracy']}</td>" in own
        assert f">{row['each seed']}</td>" in own
    assert html.escape(comparison.command).replace("&#x27;", "&#39;") in own
    assert len(page) < 5_000_000


@pytest.mark.parametrize(
    ("optimizers", "sizes", "seeds", "family", "said"),
    [
        (
            ("tvlars", "lars"),
            (32,),
            5,
            "all",
            "note: 5 seeds cannot show a difference at 5 % in 1 comparison; 6 seeds can",
        ),
        (("tvlars", "lars"), (32,), 6, "all", None),
        (("tvlars", "lars", "lamb"), (32, 64), 7, "all", "in 6 comparisons; 8 seeds can"),
        (("tvlars", "lars", "lamb"), (32, 64), 8, "tvlars", None),
        (("tvlars",), (32,), 1, "all", None),
    ],
)
def test_too_few_seeds_for_a_verdict_are_said_before_the_first_run(
    optimizers: tuple[str, ...], sizes: tuple[int, ...], seeds: int, family: str, said: str | None
) -> None:
    config = CompareConfig(optimizers=optimizers, batch_sizes=sizes, seeds=tuple(range(seeds)), family=family)
    notes = _few_seeds(config, list(optimizers))
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


def test_a_dry_run_describes_all_runs_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--optimizers", "lars", "sgd", "--arm", "slow=lars,lr=2", "--batch-size", "64", "128", "--seeds", "0", "1"]
    assert main(["compare", *words, "--set", "sgd.lr=0.5", "--epochs", "10", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("12 runs: lars, sgd, slow; batch sizes 64, 128; seeds 0, 1\n")
    # 22 steps of 64 images per epoch, or 11 of 128, for 3 arms and 2 seeds
    assert said.endswith("in all: 12 runs, 1,980 steps, 168,960 images; nothing was trained or written\n")
    rates = re.findall(r"^(slow|lars|sgd)\b.*\n.*\n.*\n  lr +(\S+)$", said, re.MULTILINE)
    assert rates == [
        ("lars", "8"),
        ("sgd", "0.5"),
        ("slow", "2"),
        ("lars", "11.3137"),
        ("sgd", "0.5"),
        ("slow", "2"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    row = RunRow(evil, 8, 0, 1.0, "diverged", note=evil, folder="none")
    write_report(Comparison(tmp_path, evil, [row]))
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_an_interrupted_comparison_keeps_what_was_measured(tmp_path: Path) -> None:
    said: list[str] = []

    def announce(line: str) -> None:
        said.append(line)
        if line.startswith("run 2 of"):
            raise KeyboardInterrupt

    config = CompareConfig(base=TrainConfig(epochs=1), seeds=(0,), out=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt, match="1 of 3 runs are done; what was measured is kept in"):
        compare(config, announce=announce)
    assert "note: 1 seed cannot show a difference at 5 % in 3 comparisons; 7 seeds can" in said
    kept = Comparison.load(tmp_path / "out")
    assert [run.optimizer for run in kept.runs] == ["tvlars"]
    assert ">tvlars</td>" in (tmp_path / "out" / "report.html").read_text()


def test_a_page_without_room_does_not_hide_why_a_comparison_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def announce(line: str) -> None:
        said.append(line)
        if line.startswith("run 1 of"):
            raise KeyboardInterrupt

    def no_room(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr("tvlars.lab.comparison.comparison.write_whole", no_room)
    with pytest.raises(KeyboardInterrupt):
        compare(CompareConfig(base=TrainConfig(epochs=1), seeds=(0,), out=tmp_path / "out"), announce=announce)
    assert said[-1].startswith("results could not be written: [Errno 28] No space left on device")


# -- the queue ---------------------------------------------------------------------------------------------

SMALL = ["--optimizers", "tvlars", "lars", "--seeds", "0", "--epochs", "3", "--accelerator", "cpu"]
TIMES = ["images_per_second", "seconds"]


def small(out: Path, **options: Any) -> CompareConfig:
    base = TrainConfig(epochs=3, accelerator="cpu", **options)
    return CompareConfig(base=base, optimizers=("tvlars", "lars"), seeds=(0,), out=out)


def quietly(config: CompareConfig, **options: Any) -> Comparison:
    return compare(config, reporter=Reporter, announce=lambda line: None, board=Board(), **options)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two runs, one after the other in this process."""
    return quietly(small(tmp_path_factory.mktemp("undisturbed") / "out"))


def assert_same(one: Comparison, other: Comparison) -> None:
    for run in one.runs:
        for name in ("steps.csv", "test-correct.bits"):
            assert (one.folder / run.folder / name).read_bytes() == (other.folder / run.folder / name).read_bytes()
    results = [pd.read_csv(folder / "results.csv").drop(columns=TIMES) for folder in (one.folder, other.folder)]
    pd.testing.assert_frame_equal(*results, check_exact=True)


def test_a_killed_comparison_goes_on_with_what_is_left(undisturbed: Comparison, tmp_path: Path) -> None:
    """SIGKILL in the second run: the first is not done again, the second goes on from its checkpoint, bit for bit."""
    out = tmp_path / "out"
    words = ["compare", *SMALL, "--checkpoint-every", "1-epochs", "--out", str(out)]
    first, second = out / "tvlars-b256-s0", out / "lars-b256-s0"
    with Command(words, tmp_path, before=slow_disk) as killed:
        end = time.monotonic() + 300
        while epochs_done(second) < 2:  # the first one has been saved
            assert killed.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        killed.kill()
    assert not (second / "summary.json").exists()
    done = (first / "summary.json").stat().st_mtime_ns
    said: list[str] = []
    again = compare(
        small(out, checkpoint_every="1-epochs"), reporter=lambda: Telling(said), announce=said.append, board=Board()
    )
    assert (first / "summary.json").stat().st_mtime_ns == done
    assert [line for line in said if line.startswith(("run ", "1 of"))] == [
        "1 of 2 runs are already done",
        "run 2 of 2: digits-lars-b256-s0",
    ]
    assert any(line.startswith("resumed  after step ") for line in said)
    assert_same(undisturbed, again)
    told = len(said)
    assert_same(undisturbed, compare(small(out), reporter=lambda: Telling(said), announce=said.append))
    assert "2 of 2 runs are already done" in said[told:]
    assert not any(line.startswith("run ") for line in said[told:])


class Telling(Reporter):
    """Keeps what is said of a run before it starts."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def start(self, config: TrainConfig, plan: Plan, lines: list[str], folder: Path, step: int = 0) -> None:
        self.said += lines


@pytest.mark.usefixtures("forked_runs")
def test_several_workers_give_the_same_numbers(
    undisturbed: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *SMALL, "--out", str(tmp_path / "out"), "--workers", "2"]) == 0
    told = capsys.readouterr().out
    assert "\n2 runs; 2 workers on this machine's CPU, 1 thread each\n" in told
    assert told.endswith(f"page: {tmp_path / 'out' / 'report.html'}\n")
    assert (tmp_path / "out" / "lars-b256-s0.log").is_file()
    assert_same(undisturbed, Comparison.load(tmp_path / "out"))


class Failing:
    """Stands in for training: fails in ``times`` attempts of runs of lars."""

    def __init__(self, times: int) -> None:
        self.times, self.attempts = times, list[str]()

    def __call__(self, config: TrainConfig, **options: Any) -> Any:
        self.attempts.append(config.optimizer)
        if config.optimizer == "lars" and self.attempts.count("lars") <= self.times:
            raise RuntimeError("the device is gone")
        return train(config, **options)


def test_a_run_that_fails_is_tried_again(
    undisturbed: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(2)
    monkeypatch.setattr(in_process, "train", failing)
    assert_same(undisturbed, quietly(small(tmp_path / "out"), retries=2))
    assert failing.attempts == ["tvlars", "lars", "lars", "lars"]


def test_a_run_that_fails_in_vain_costs_no_other_run(
    undisturbed: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Failing(100)
    words = ["compare", *SMALL, "--optimizers", "lars", "tvlars", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(in_process, "train", failing)
        assert main(words) == 1
    captured = capsys.readouterr()
    assert failing.attempts == ["lars", "lars", "tvlars"]
    assert "lars-b256-s0 failed: RuntimeError: the device is gone\n" in captured.out
    assert captured.err.endswith("tvlars: 1 of 2 runs failed; the same command tries them again\n")
    assert pd.read_csv(tmp_path / "out" / "results.csv")["status"].tolist() == ["failed", "finished"]
    assert main(words) == 0
    assert pd.read_csv(tmp_path / "out" / "results.csv")["status"].tolist() == ["finished", "finished"]


def test_a_folder_holds_one_comparison_at_a_time(undisturbed: Comparison, tmp_path: Path) -> None:
    with locked(undisturbed.folder), pytest.raises(LockedError, match="another comparison works in"):
        quietly(small(undisturbed.folder))
    with pytest.raises(UsageError, match=r"tvlars-b256-s0' the config differs: augment True there, False"):
        quietly(small(undisturbed.folder, augment=False))
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match=r"out must be a new or empty folder, and .* holds something already"):
        quietly(small(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workers": 0}, "workers must be an integer from 1 to 10000, got 0"),
        ({"retries": -1}, "retries must be an integer from 0 to 10000, got -1"),
        ({"ray": "nowhere"}, "ray must be .* got 'nowhere'|ray must be installed"),
    ],
)
def test_a_bad_queue_is_said_before_anything_is_written(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        quietly(small(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()
