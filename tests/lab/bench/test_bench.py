"""Measurements: contestants in turn, what they do in their turns, and what is printed and saved of them.

No time is asserted: everything runs in tiny form, and what is checked is structure.
"""

from __future__ import annotations

import json
import math
import mmap
import multiprocessing
import os
import re
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_speed
import pytest
import scaling
import switches
import throughput
import torch
from apart import Apart, _serve, tree_memory
from switches import Switches, TrainingSteps
from workloads import BARLOW_TWINS, LabTurn, OtherLoop, TwinsLoop, Workload

from tvlars._machine import cores, free_memory, this_machine
from tvlars.cli import main
from tvlars.lab import UsageError
from tvlars.lab.bench import BenchConfig, BenchResult, Row, bench, loops, measure
from tvlars.lab.bench.measure import BESIDE, OPTIMIZERS, parameters
from tvlars.lab.bench.result import Spread, Turn, interleave, ratio, row_of, timed
from tvlars.lab.training.run import Run

CPU = torch.device("cpu")
TINY = Workload("small_resnet", images=8, batch_size=4, size=16, padding=1)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where other tests run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Here:
    """Stands in for ``Apart``: the contestant in this process."""

    def __init__(self, make: Any, *arguments: Any) -> None:
        self.turn: Turn = make(*arguments)
        self.memory, self.device_memory, self.said = 2**21, 0, getattr(self.turn, "said", "")
        folder_speed.decoded.SHARE = 0.5  # what a contestant before has set in what would be its own process

    def __call__(self) -> float:
        return self.turn()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        pass


# -- turns -------------------------------------------------------------------------------------------------


def test_contestants_take_turns_there_and_back_again() -> None:
    taken = ""

    def turn(name: str) -> float:
        nonlocal taken
        taken += name
        return float(len(taken))

    turns = {name: lambda name=name: turn(name) for name in "abc"}
    times = interleave(turns, 3, warm_up=1)
    assert taken == "abccbaabccba"
    assert times == {"a": [6.0, 7.0, 12.0], "b": [5.0, 8.0, 11.0], "c": [4.0, 9.0, 10.0]}


def test_a_round_that_would_end_too_late_is_left_out() -> None:
    def turn() -> float:
        time.sleep(0.001)
        return 1.0

    assert interleave({"a": turn}, 9, until=time.perf_counter()) == {"a": [1.0]}
    assert interleave({"a": turn}, 9, until=math.inf) == {"a": [1.0] * 9}


def test_medians_quartiles_and_slopes() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread(1.5, 1.25, 12345.0).text(",.2f") == "1.50 (1.25 to 12,345.00)"
    assert ratio([2.0, 6.0, 8.0], [1.0, 2.0, 4.0]).median == 2.0
    assert scaling.slope([1, 10, 100], [5, 50, 500]) == pytest.approx(1.0)
    assert scaling.slope([1, 4, 16], [7, 14, 28]) == pytest.approx(0.5)


def test_the_machine_is_named() -> None:
    machine = this_machine(CPU)
    assert machine.cpu
    assert 1 <= machine.cores == cores()
    for part in (machine.cpu, f"{machine.cores} cores", torch.__version__):
        assert part in str(machine)


@LINUX
def test_memory_is_that_of_a_whole_tree() -> None:
    before = tree_memory(os.getpid())
    held = mmap.mmap(-1, 2**25)  # new pages, where torch might use again what it has
    held.write(b"1" * len(held))
    after = tree_memory(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before > 0.9 * len(held)
    assert (free_memory() or 0) > 0
    assert tree_memory(2**30) is None


# -- contestants -------------------------------------------------------------------------------------------


def make_turn(size: int) -> Turn:
    """A turn that takes memory, for a process of its own."""
    if size < 0:
        raise ValueError("no such size")
    held = []

    def turn() -> float:
        held.append(torch.ones(size))
        time.sleep(0.5)
        if len(held) > 1:
            os._exit(7)
        return 0.25

    return turn


@pytest.mark.slow
@LINUX
def test_a_contestant_apart_tells_its_memory_and_its_end() -> None:
    with Apart(make_turn, 2**23) as apart:
        assert apart() == 0.25
        assert apart.memory is not None
        assert apart.memory > 0.9 * 2**25
        with pytest.raises(RuntimeError, match="process ended with code 7"):
            apart()


def test_a_contestant_apart_tells_why_it_failed() -> None:
    ours, theirs = multiprocessing.Pipe()
    method = multiprocessing.get_start_method(allow_none=True)
    _serve(theirs, make_turn, (-1,))
    multiprocessing.set_start_method(method, force=True)
    answers = [ours.recv(), ours.recv()]
    assert answers[0][0] is True
    assert answers[1][0] is False
    assert "ValueError: no such size" in answers[1][1]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_training_is_measured(native: bool, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "native_bf16", lambda device: native)
    monkeypatch.setattr(loops, "faster_in_bf16", lambda device: native and fast)
    monkeypatch.setattr(loops, "fit", lambda seconds, each, largest: (8, 4))
    found = loops.training("small_resnet", 0, CPU, time.perf_counter())
    own = "tvlars, bf16" if native and fast else "tvlars, float32"
    pairs = [(own, "DataLoader, 0 workers, float32")]
    assert [(row.what, row.beside) for row in found] == pairs + [("tvlars, bf16", "tvlars, float32")] * native
    for row in found:
        assert (row.part, row.rounds) == ("training small_resnet, batch size 4", 1)
        assert min(row.value.median, row.ratio.median) > 0


@pytest.mark.parametrize("rotation", [0.0, 15.0])
@pytest.mark.parametrize("workers", [None, 0, 1])
def test_loops_train_the_same_model_on_the_same_images(workers: int | None, rotation: float) -> None:
    workload = Workload("small_resnet", 8, 4, 16, 1, rotation)
    loop = workload.lab_loop(precision="32-true") if workers is None else OtherLoop(workload, workers)
    model = loop.learner.bare_model if isinstance(loop, Run) else loop.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert before.keys() == workload.build_model().state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in workload.build_model().state_dict().items())
    assert min(timed(loop.run_epoch), timed(loop.run_epoch)) > 0
    state = model.state_dict()
    assert state["bn.num_batches_tracked"] == 4  # two batches an epoch, and no test counts
    assert not torch.equal(state["stem.weight"], before["stem.weight"])
    if isinstance(loop, Run):
        assert (loop.epoch, loop.step, loop.config.rotation) == (3, 4, rotation)
    else:
        labels = [label for _, label in loop.loader.dataset]
        assert labels == workload.data().train_labels.tolist()
        assert ("RandomRotation" in str(workload.pictures().transform)) == bool(rotation)


def test_an_optimizer_of_ones_own_takes_the_steps() -> None:
    loop = OtherLoop(TINY, 0, bf16=True, channels_last=True, make_optimizer=lambda m: torch.optim.SGD(m.parameters()))
    total, correct = loop.run_epoch()
    assert math.isfinite(total)
    assert 0 <= correct <= 8
    assert isinstance(loop.optimizer, torch.optim.SGD)


def test_stems_of_resnet18() -> None:
    names = ("resnet18", "resnet18-standard-stem")
    kernels = {name: throughput.workload_of(name, 2, 2).build_model().conv1.kernel_size for name in names}
    assert kernels == {"resnet18": (3, 3), "resnet18-standard-stem": (7, 7)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_take_their_steps(name: str) -> None:
    params = parameters([(3, 4), (5,)], CPU)
    optimizer = OPTIMIZERS[name](params)
    assert timed(optimizer.step, times=2) > 0
    moved = [next(x for x in optimizer.state[p].values() if getattr(x, "shape", None) == p.shape) for p in params]
    assert all(x.abs().sum() > 0 for x in moved)


def test_switches_change_gradients_by_rounding() -> None:
    plain = TrainingSteps(TINY, Switches())
    last, narrow = (TrainingSteps(TINY, s, 2) for s in (Switches(channels_last=True), Switches(bf16=True)))
    assert plain.differs_from(plain) == (0.0, 0.0)
    assert last.differs_from(plain)[0] < 1e-4  # of gradients less can be said: a ReLU may take the other side
    assert all(0 < far < 0.5 for far in narrow.differs_from(plain))
    assert all(steps() > 0 for steps in (plain, last, narrow))
    assert str(Switches(True, True, True)) == "bf16, channels_last, compiled"


def test_the_first_step_is_timed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5])
    monkeypatch.setattr("switches.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert TrainingSteps(TINY, Switches()).first_seconds == 2.5


# -- tvlars bench ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> tuple[BenchResult, list[str]]:
    said: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = BenchConfig(seconds=5, accelerator="cpu", workers=0, shapes="squeezenet1_1", models=("small_resnet",))
    result = bench(config, said.append)
    torch.set_num_threads(threads)
    return result, said


def test_bench_measures_every_part(measured: tuple[BenchResult, list[str]]) -> None:
    result, said = measured
    config = BenchConfig(shapes="squeezenet1_1", models=("small_resnet",))
    names = [name for name, _, _ in measure.parts_of(config, CPU)]
    assert names == ["optimizer step, squeezenet1_1", "training small_resnet"]
    for name in names:  # on a busy machine time may be too short for one
        assert any(row.part.startswith(name) for row in result.rows) or any(n.startswith(name) for n in result.notes)
    assert names[: len(said)] == [text.partition(" (")[0] for text in said]
    steps = [(row.what, row.beside) for row in result.rows if row.unit == "ms"]
    of_statistics = [(f"TVLARS, statistics of every {which}", "TVLARS") for which in ("step", "10th")]
    assert steps == [*BESIDE.items(), *of_statistics]
    for row in result.rows:
        for spread in (row.value, row.ratio):
            assert 0 < spread.low <= spread.median <= spread.high < math.inf
        assert row.rounds >= 1


def test_time_is_divided_by_weight_and_what_a_part_leaves_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ends = [100.0], []

    def taking(seconds: float) -> Any:
        def measure(until: float) -> list[Row]:
            ends.append(until)
            clock[0] += seconds
            return []

        return measure

    made = [("short", 1.0, taking(1.0)), ("long", 1.0, taking(9.5)), ("late", 2.0, taking(1.0))]
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(measure, "parts_of", lambda config, device: made)
    result = bench(BenchConfig(seconds=10, accelerator="cpu"))
    assert ends == [102.5, 104.0]
    assert result.notes == ["late could not be measured: no time was left: increase --seconds"]
    assert result.seconds == 10.5


def test_a_result_is_saved_and_shown(measured: tuple[BenchResult, list[str]]) -> None:
    result, _ = measured
    stored = json.loads(result.to_json())
    assert stored.pop("made_by") == "tvlars bench"
    assert stored == asdict(result)
    result.notes.append("something: was left out")
    printed, shown = str(result), result._repr_html_()
    result.notes.pop()
    assert "".join(ET.fromstring(shown).itertext()) == printed
    assert str(result.machine) in printed
    assert "note: something: was left out" in printed
    for row in result.rows:
        assert f"\n  {row}\n" in printed
        assert f"\n{row.part}\n" in printed


def test_rows_say_which_way_a_ratio_goes() -> None:
    times = {"ours": [1.0, 1.0], "theirs": [2.0, 4.0]}
    slow = row_of("part", "theirs", "ours", times)
    fast = row_of("part", "ours", "theirs", times, 1200)
    assert re.sub(" {2,}", "|", str(slow)) == "theirs|3,000.00 ms|3.00 (2.50 to 3.50) x as long as ours"
    assert re.sub(" {2,}", "|", str(fast)) == "ours|1,200 images/s|3.00 (2.50 to 3.50) x as fast as theirs"
    assert fast == Row("part", "ours", "theirs", "images/s", Spread(1200, 1200, 1200), Spread(3, 2.5, 3.5), 2)


def test_what_cannot_be_measured_is_said_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(until: float) -> list[Row]:
        raise RuntimeError("DataLoader worker is killed\nand more")

    config = BenchConfig(seconds=60, accelerator="cpu", workers=0, shapes="squeezenet1_1", models=("small_resnet",))
    steps, training = measure.parts_of(config, CPU)
    monkeypatch.setattr(measure, "parts_of", lambda config, device: [steps, ("broken", 1.0, broken), training])
    monkeypatch.setattr(measure, "free_memory", lambda device: 10**6)
    monkeypatch.setattr(loops, "fit", lambda seconds, each, largest: (4, 2))
    result = bench(config)
    assert {row.part for row in result.rows} == {"training small_resnet, batch size 2"}
    assert result.notes == [
        "optimizer step, squeezenet1_1 could not be measured: it takes 0.1 GiB of memory, of which 0.0 are free",
        "broken could not be measured: DataLoader worker is killed",
    ]


@pytest.mark.parametrize(("seconds", "each"), [(1.0, 1e-6), (1.0, 1e-3), (1.0, 0.1), (1.0, 0.5)])
@pytest.mark.parametrize("largest", [256, 512])
def test_work_is_made_to_fit_the_time(seconds: float, each: float, largest: int) -> None:
    images, batch_size = loops.fit(seconds, each, largest)
    assert 2 <= batch_size <= min(images, largest)
    assert batch_size & (batch_size - 1) == 0
    assert images % batch_size == 0
    assert images // batch_size >= 2 or batch_size == 2
    assert images * each <= seconds
    assert images <= 50_000


def test_no_image_fits() -> None:
    with pytest.raises(RuntimeError, match=r"an image takes 0\.6 s here"):
        loops.fit(1.0, 0.6, 256)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--seconds 4", "seconds must be >= 5 and <= 3600, got 4"),
        ("--seconds nan", "seconds must be >= 5 and <= 3600, got nan"),
        ("--seconds soon", "argument --seconds: must be a number, got 'soon'"),
        ("--accelerator gpu", "unknown accelerator 'gpu': did you mean 'cpu'? Known: auto, cpu, cuda"),
        ("--workers -1", "workers must be an integer >= 0, got -1"),
        ("--workers 1.5", "argument --workers: must be an integer, got '1.5'"),
        ("--json nowhere/x.json", "json must be a file in a folder that exists, got 'nowhere/x.json'"),
        ("--jsn x", "unknown argument '--jsn' of bench: did you mean --json?"),
        ("now", "unknown argument 'now' of bench"),
    ],
)
def test_bad_options_are_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="torch finds no CUDA device"):
        BenchConfig(accelerator="cuda")


def test_the_command(
    measured: tuple[BenchResult, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, _ = measured
    asked: list[BenchConfig] = []

    def instead(config: BenchConfig, announce: Any) -> BenchResult:
        asked.append(config)
        announce("this and that (3 s)")
        return result

    monkeypatch.setattr("tvlars.cli._bench.bench", instead)
    file = tmp_path / "found.json"
    words = ["bench", "--seconds", "50", "--accelerator", "cpu", "--workers", "3", "--json", str(file)]
    assert main(words) == 0
    assert asked == [BenchConfig(seconds=50.0, accelerator="cpu", workers=3)]
    assert file.read_text() == result.to_json()
    printed = capsys.readouterr().out
    assert "measuring this and that (3 s)" in printed
    assert "x as long as" in printed
    assert f"numbers: {file}" in printed


# -- the scripts -------------------------------------------------------------------------------------------


def run_script(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str) -> Any:
    """Return the tables in the JSON that a script of benchmarks/ writes."""
    if hasattr(module, "Apart"):
        monkeypatch.setattr(module, "Apart", Here)
    file = tmp_path / "out.json"
    device = ["--device", "cpu"] if hasattr(module, "Workload") else []
    monkeypatch.setattr(sys, "argv", ["script.py", *device, "--json", str(file), *words.split()])
    module.main()
    return json.loads(file.read_text())["tables"]


def test_throughput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(throughput, "native_bf16", lambda device: True)
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "tvlars.py").write_text(PUBLISHED)
    words = f"--rows small_resnet --rounds 2 --images 8 --batch-size 4 --workers 0 --published {tmp_path}"
    found = run_script(throughput, monkeypatch, tmp_path, words)["small_resnet"]
    assert found["settings"] == {"batch_size": 4, "images": 8, "workers": 0}
    assert list(found["rows"]) == [
        "tvlars, as it comes",
        "tvlars, float32",
        "tvlars, bf16",
        "DataLoader, 0 workers, bf16, channels_last",
        "DataLoader, 0 workers, channels_last",
        "DataLoader, 0 workers",
        "DataLoader, no workers",
        "DataLoader, 0 workers, published TVLARS",
    ]
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found["rounds"][""].values())
    assert found["rows"]["tvlars, as it comes"]["ours / it"] == [1.0, 1.0, 1.0]
    assert found["rows"]["tvlars, bf16"]["computes in"] == "bf16"
    assert {row["memory, MiB"] for row in found["rows"].values()} == {2}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 8
    assert len({line.count("|") for line in lines}) == 1


PUBLISHED = """
import torch


class TVLARS(torch.optim.SGD):
    def __init__(self, params, lr, weight_decay, weight_decay_filter, lars_adaptation_filter):
        super().__init__(params, lr)

    def step(self, unit_step_cnt):
        assert unit_step_cnt == 2
        super().step()
"""
"""Called as the published code is."""


def test_loops_of_barlow_twins() -> None:
    workload = Workload("small_resnet", 8, 4, 16, task=BARLOW_TWINS)
    ours = LabTurn(workload, precision="32-true")
    theirs, example = TwinsLoop(workload, 0, channels_last=True), TwinsLoop(workload, 0, whole=True)
    assert ours.said == "float32"
    assert ours() > 0
    shapes = [[p.shape for p in model.parameters()] for model in (ours.loop.learner.bare_model, theirs.model)]
    assert shapes[0] == shapes[1]
    for loop in (theirs, example):
        assert math.isfinite(loop.run_epoch())
    assert isinstance(example.optimizer, torch.optim.SGD)


def test_switches_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setitem(switches.SIZES, "cpu", {"small_resnet": (4, 8)})
    found = run_script(switches, monkeypatch, tmp_path, "--rows small_resnet --rounds 2")["small_resnet"]["rows"]
    assert len(found) == 8
    assert {"float32, contiguous", "bf16, channels_last, compiled"} < set(found)
    plain = found["float32, contiguous"]
    assert (plain["to float32"], plain["gradient differs by"]) == ([1.0, 1.0, 1.0], 0.0)


def test_folder_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(folder_speed, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(folder_speed, "CANVAS", 600)
    monkeypatch.setattr(folder_speed.decoded, "SHARE", 0.5)
    folder = tmp_path / "jpegs"
    words = f"--folder {folder} --count 20 --image-size 16 --batch-size 5 --workers 0 --rounds 2"
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    found = run_script(folder_speed, monkeypatch, tmp_path, f"{words} --rows reading training")
    assert list(found) == ["reading --count 20", "training --count 20"]
    for table in found.values():
        assert list(table["rounds"][""]) == ["DataLoader", "memory", "mapped", "again"]
        assert list(table["rows"]) == list(folder_speed.WAYS.values())
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in table["rounds"][""].values())
        assert all(row["start, s"] > 0 for row in table["rows"].values())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (2 + 4)
    assert len({line.count("|") for line in lines}) == 1
    assert not list(tmp_path.glob("tvlars-decoded-*"))

    images = sorted((folder / "train").rglob("*.jpg"))
    assert len(images) == 20
    content = images[3].read_bytes()
    index = int(images[3].stem)
    images[3].unlink()
    folder_speed.write_image(folder, 20, index)
    assert images[3].read_bytes() == content
    with pytest.raises(SystemExit, match="--folder must be new, empty or one that this script has filled so"):
        folder_speed.generate(folder, 30, 5)


def test_folder_speed_of_images_that_are_decoded_in_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_speed, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(folder_speed, "CANVAS", 600)
    monkeypatch.setattr(folder_speed, "has_dali", lambda: False)
    folder = tmp_path / "jpegs"
    words = f"--folder {folder} --count 24 --different 20 --image-size 16 --batch-size 6 --workers 0 --rounds 2"
    found = run_script(folder_speed, monkeypatch, tmp_path, f"{words} --rows resized listing --files 30")
    assert list(found) == ["resized --count 24", "listing"]
    resized, listing = found.values()
    assert resized["settings"] == {"images": 24, "batch_size": 6, "size": 16, "workers": 0, "different_images": 20}
    assert list(resized["rows"]) == ["ImageFolder, DataLoader", "tvlars, read on demand"]
    assert listing["settings"] == {"files": 30}
    assert list(listing["rows"]) == ["ImageFolder", "tvlars"]
    for table in found.values():
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in table["rounds"][""].values())
        assert all(row["memory, MiB"] == 2 for row in table["rows"].values())
    copies = [folder / "train" / str(i % 10) / f"{i:06}.jpg" for i in range(24)]
    assert sorted((folder / "train").rglob("*.jpg")) == sorted(copies)
    assert copies[21].read_bytes() == copies[1].read_bytes() != copies[2].read_bytes()
    assert copies[21].stat().st_ino != copies[1].stat().st_ino
    assert not list(tmp_path.glob("tvlars-*"))


def test_folders_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_speed, "CANVAS", 600)
    monkeypatch.setattr(folder_speed, "LISTED_CLASSES", 3)
    monkeypatch.setattr(folder_speed, "MOST_LINKS", 4)
    (tmp_path / "jpegs" / "train" / "0").mkdir(parents=True)
    for i in (0, 10, 20, 30):
        folder_speed.write_image(tmp_path / "jpegs", 40, i)
    with folder_speed.many_files(tmp_path / "jpegs", 10) as folder:
        listed = sorted((folder / "train").rglob("*.JPEG"))
        assert [file.parent.name for file in listed] == ["n00000000"] * 4 + ["n00000001"] * 3 + ["n00000002"] * 3
        assert len({file.stat().st_ino for file in listed}) == 3
        assert len(list((folder / "val").rglob("*.JPEG"))) == 1
    assert not folder.exists()


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "WORK", 1.0)
    monkeypatch.setattr(scaling, "free_memory", lambda device: 10**6)
    words = "--parameters 1e3 1e4 1e6 --tensors 10 100 --batch-sizes 4 8 --micro-batch-size 4 --rounds 2"
    monkeypatch.setattr(scaling, "TENSOR_PARAMETERS", 1000)
    found = run_script(scaling, monkeypatch, tmp_path, words)
    parameters = found["parameters"]["rows"]
    assert list(parameters) == ["1,000", "10,000", "1,000,000", scaling.EXPONENT, scaling.STEEPEST]
    assert all(parameters["10,000"][f"{name}, ms"] > 0 for name in BESIDE)
    assert parameters["1,000,000"] == {f"{name}, ms": SKIPPED for name in BESIDE}
    assert list(found["tensors"]["rows"]) == ["10", "100", scaling.EXPONENT, scaling.STEEPEST]
    batches = found["batch-size"]["rows"]
    assert batches["4"]["to 4"] == [1.0, 1.0, 1.0]
    assert batches[scaling.EXPONENT]["memory, MiB"] == 0.0
    assert math.isfinite(batches[scaling.STEEPEST]["s per epoch"])


SKIPPED = "skipped: takes 0.0 GiB of 0.0 GiB that are free"
