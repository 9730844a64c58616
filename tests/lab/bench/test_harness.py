"""Harness of the benchmarks, and the pages that are made of its files. Turns are numbers: nothing is measured."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import memory
import model_speed
import pages
import pytest
import stats_overhead
import step_parts
import step_time
import torch
import views
from harness import Results, Table, cell, markdown, ratios, rounds, spread

Counting = Callable[[str], float]


@pytest.fixture
def turns() -> tuple[dict[str, Callable[[], float]], list[str]]:
    """Four contestants, and the names of those that took their turns; a turn returns its number."""
    taken: list[str] = []

    def turn(name: str) -> float:
        taken.append(name)
        return float(len(taken))

    return {name: lambda name=name: turn(name) for name in "abcd"}, taken  # type: ignore[misc]


# -- rounds ------------------------------------------------------------------------------------------------


def test_each_round_has_each_contestant_in_an_order_of_its_own(turns: Any) -> None:
    made, taken = turns
    times = rounds(made, 20, warmup=2)
    assert taken[:8] == list("abcd") * 2
    orders = ["".join(taken[i : i + 4]) for i in range(8, len(taken), 4)]
    assert len(orders) == 20
    assert {"".join(sorted(order)) for order in orders} == {"abcd"}
    assert len(set(orders)) > 8
    for name in "abcd":  # numbers of the turns after those that warm up
        assert times[name] == [9 + 4 * i + order.index(name) for i, order in enumerate(orders)]


def test_a_measurement_that_goes_on_has_the_orders_and_rounds_of_one_that_was_never_ended(turns: Any) -> None:
    made, taken = turns
    rounds(made, 6, warmup=0)
    whole, taken[:] = list(taken), []
    times = rounds(made, 2, warmup=0)
    assert rounds(made, 6, times, warmup=0) is times
    assert taken == whole
    assert all(len(each) == 6 for each in times.values())
    taken.clear()
    rounds(made, 6, times)
    assert taken == []


def test_a_round_that_would_end_too_late_is_left_out(turns: Any) -> None:
    saved: list[int] = []
    times = rounds(turns[0], 9, until=time.perf_counter(), save=lambda: saved.append(1))
    assert {len(each) for each in times.values()} == {1} == set(saved)
    assert len(rounds(turns[0], 9, until=math.inf)["a"]) == 9


def test_a_round_that_fails_leaves_whole_rounds(turns: Any) -> None:
    made, _ = turns
    times = rounds(made, 2, warmup=0)

    def fails() -> float:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        rounds({**made, "b": fails}, 4, times)
    assert {len(each) for each in times.values()} == {2}


def test_cells_have_medians_quartiles_and_ratios_of_the_same_round() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == [3.0, 2.0, 4.0]
    assert ratios([2.0, 6.0, 8.0], [1.0, 2.0, 4.0]) == [2.0, 2.0, 2.5]
    assert cell([12345.6, 12000, 13000.4]) == "12,346 (12,000 to 13,000)"
    assert cell([9.876, 9.5, 10.25]) == "9.88 (9.50 to 10.25)"
    assert [cell(one) for one in (77754, 28.99, 0.05, 4e-6, 0.0, "text", None)] == [
        *("77,754", "29.0", "0.05", "4e-06", "0", "text", "-")
    ]


# -- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["benchmarks/loops.py", "--rounds", "3"])
    return tmp_path / "loops.json"


def test_a_file_has_machine_command_rounds_and_rows(file: Path, turns: Any) -> None:
    results = Results(file, count=3)
    table = results.table("small", images=8)
    times = results.measure(table, turns[0])
    results.row(table, "a", **{"images/s": spread([8 / s for s in times["a"]])})
    found = json.loads(file.read_text())
    assert (found["script"], found["made_by"]) == ("loops", "python benchmarks/loops.py --rounds 3")
    assert found["machine"] == harness.machine(torch.device("cpu"))
    assert found["machine"]["torch"] == torch.__version__
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-\d+-cores", found["machine"]["class"])
    assert {"cpu", "cores", "threads", "flags"} < set(found["machine"])
    small = found["tables"]["small"]
    assert small["settings"] == {"images": 8}
    assert small["rounds"][""] == times
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", small["date"])
    assert small["load"] >= 0
    assert not list(file.parent.glob("*.part"))


def test_a_folder_gets_a_file_named_by_script_and_machine(file: Path) -> None:
    results = Results(file.parent)
    results.row(results.table("small"), "a", n=1)
    (written,) = file.parent.iterdir()
    assert written.name == f"loops-{results.machine['class']}.json"


def test_the_same_command_goes_on_where_it_ended(file: Path, turns: Any) -> None:
    made, taken = turns
    first = Results(file, count=5, seconds=0.0)
    first.measure(first.table("small"), made)
    assert first.late
    assert first.missing(first.table("small"))
    taken.clear()
    second = Results(file, count=5)
    times = second.measure(second.table("small"), made, warmup=0)
    assert len(taken) == 4 * 4
    assert {len(each) for each in times.values()} == {5}
    assert not Results(file, count=5).missing(second.table("small"))
    assert second.missing(second.table("small"), "another group")


def test_files_of_others_are_refused_in_one_sentence(file: Path, turns: Any) -> None:
    results = Results(file, count=1)
    results.measure(results.table("small", images=8), turns[0])
    again = Results(file, count=2)
    with pytest.raises(SystemExit, match=r"was measured with \{'images': 8\}, not with \{'images': 9\}: give another"):
        again.table("small", images=9)
    with pytest.raises(SystemExit, match="has rounds of a, b, c, d, not of a: give another file by --json"):
        again.measure(again.table("small", images=8), {"a": turns[0]["a"]})
    content = json.loads(file.read_text())
    content["machine"]["cpu"] = "Another"
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"--json must name a new file or one of this machine, but .* is of Another"):
        Results(file)


# -- pages -------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of pages with files of two machines."""
    monkeypatch.setattr(pages, "PAGES", tmp_path)
    monkeypatch.setattr(pages, "RESULTS", tmp_path / "speed")
    (tmp_path / "speed").mkdir()
    for kind, speed, more in (("one", 10.0, {"memory": 3}), ("two", 20.0, {})):
        table = {
            "settings": {"images": 2048},
            "rounds": {"": {"ours": [1.0, 2.0, 3.0]}},
            "rows": {"ours": {"images/s": [speed, speed - 1, speed + 2], **more}, kind: {"images/s": 4}},
            **dict(date="2026-11-30", load=0.25, note=""),
        }
        machine = {"class": kind, "device": "cpu", "cpu": kind.title(), "cores": 2, "flags": ["amx"], "torch": "2.14"}
        content = {"script": "loops", "made_by": "python benchmarks/loops.py", "machine": machine}
        (tmp_path / "speed" / f"loops-{kind}.json").write_text(json.dumps({**content, "tables": {"small": table}}))
    return tmp_path


TABLE = """| loop | one: images/s | one: memory | two: images/s |
|---|---|---|---|
| ours | 10.0 (9.0 to 12.0) | 3 | 20.0 (19.0 to 22.0) |
| one | 4 | - | - |
| two | - | - | 4 |

(one: images 2,048, 3 rounds, load of the machine before 0.2, 2026-11-30; two: images 2,048, 3 rounds, load of the \
machine before 0.2, 2026-11-30.)"""
PAGE = """# Page

<!-- made by python benchmarks/pages.py table loops small --title loop -->

{}

<!-- end -->

It is <!-- made by python benchmarks/pages.py value loops small ours "images/s" -->{}<!-- end -->, more than 5.
<!-- made by python benchmarks/studies/run.py a1 -->
kept
<!-- end -->
"""


def test_a_page_is_made_of_files(measured: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = measured / "page.md"
    page.write_text(PAGE.format("old\n\nlines", ""))
    monkeypatch.setattr(sys, "argv", ["pages.py", "--check"])
    with pytest.raises(SystemExit, match=r"not up to date, run python benchmarks/pages\.py: .*page\.md"):
        pages.main()
    monkeypatch.setattr(sys, "argv", ["pages.py"])
    pages.main()
    assert page.read_text() == PAGE.format(TABLE, "10.0 to 20.0")
    pages.main()
    assert page.read_text() == PAGE.format(TABLE, "10.0 to 20.0")
    monkeypatch.setattr(sys, "argv", ["pages.py", *["table", "loops", "small", "--title", "loop"]])
    pages.main()
    assert capsys.readouterr().out == f"{TABLE}\n"


def test_values_tables_and_machines(measured: Path) -> None:
    assert pages.made(["value", "loops", "small", "ours", "memory"]) == "3"
    (measured / "speed" / "loops-two.json").unlink()
    assert pages.made(["value", "loops", "small", "ours", "images/s"]) == "10.0 (9.0 to 12.0)"
    assert pages.made(["value", "loops", "small", "ours", "images/s", "--short"]) == "10.0"
    with pytest.raises(SystemExit, match=r"no file of loops in .* has the cell 'ms' of row 'ours' in table 'small'"):
        pages.made(["value", "loops", "small", "ours", "ms"])
    assert pages.made(["table", "loops", "large"]) == "Not measured yet: `python benchmarks/loops.py --rows large`."
    said = "- `one`: One with amx, 2 cores, torch 2.14. `python benchmarks/loops.py`\n- Not yet measured on a GPU."
    assert pages.made(["machines", "loops", "others"]) == said


def test_columns_and_rows_are_chosen() -> None:
    table = Table(rows={"a": {"x": 1, "y": 2}, "b": {"y": 3}})
    assert markdown("t", {"": table}, ["y", "z"], ["b"]).splitlines() == ["| t | y |", "|---|---|", "| b | 3 |"]


def test_the_pages_of_the_repository_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pages.py", "--check"])
    pages.main()
    text = "".join(page.read_text(encoding="utf-8") for page in pages.PAGES.glob("*.md"))
    named = {found[2].split()[1] for found in pages.BLOCK.finditer(text) if not found[2].startswith("machines")}
    for script in named:
        assert (Path(pages.__file__).parent / f"{script}.py").is_file()


# -- scripts -----------------------------------------------------------------------------------------------


def main_of(module: Any, file: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["script.py", "--json", str(file), *words.split()])
    module.main()
    return json.loads(file.read_text())["tables"]


def tiny() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 80), torch.nn.Linear(80, 2))


def test_steps_are_measured_beside_both_baselines(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time.torchvision.models, "resnet18", tiny)
    found = main_of(step_time, file, monkeypatch, "--rows resnet18 --rounds 2")["resnet18"]
    assert set(step_time.contestants()) == set(found["rows"]) == set(found["rounds"])
    assert {"tvlars LARS fused", "tvlars TVLARS for-loop", "tvlars LAMB foreach"} < set(found["rows"])
    for times in found["rounds"].values():
        assert {len(each) for each in times.values()} == {2}
        assert set(times) == {"own", step_time.BASELINE, step_time.ADAMW}


def test_parts_of_a_step_are_measured(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_parts.torchvision.models, "resnet50", tiny)
    monkeypatch.setattr(step_parts.cpu, "SMALL", 1000)
    found = main_of(step_parts, file, monkeypatch, "--rows resnet50 --rounds 2")["resnet50"]["rows"]
    assert len(found) == 7
    assert found["torch SGD fused"] == {"to torch SGD fused": [1.0, 1.0, 1.0]}


def test_statistics_are_measured(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_overhead, "models", SimpleNamespace(resnet18=tiny))
    monkeypatch.setattr(stats_overhead, "STEPS", 2)
    words = "--rows resnet18 --rounds 2 --device cpu"
    found = main_of(stats_overhead, file, monkeypatch, words)["resnet18"]["rows"]
    assert list(found) == list(stats_overhead.OPTIMIZERS)
    assert list(found["lars"]) == ["step, ms", "every step", "every 10th"]


def test_views_are_measured(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of(views, file, monkeypatch, "--rounds 2 --batch-size 2")["views"]["rows"]
    assert {"tvlars", "torchvision v2"} <= set(found)
    assert found["tvlars"]["to ours"] == [1.0, 1.0, 1.0]


def test_models_are_measured(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_speed.IMAGES, "small_resnet", 4)
    words = "--models small_resnet --batch-size 2 --rounds 2 --device cpu"
    (row,) = main_of(model_speed, file, monkeypatch, words)["models"]["rows"].values()
    assert row["parameters"] == 77_754 + 2 * 9 * 16
    assert row["images/s"][0] > 0


def test_memory_is_measured_in_rounds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "alone", lambda function, *words: {"plain PyTorch loop": 50.0}.get(words[-1], 100.0))
    monkeypatch.setitem(memory.MODELS, "small_resnet", 2)
    found = main_of(memory, file, monkeypatch, "--rows small_resnet growth --rounds 2")
    assert list(found["small_resnet"]["rows"]) == list(memory.TASKS)
    train, plain = (found["small_resnet"]["rows"][name] for name in ("train", memory.PLAIN))
    assert (train["peak, MiB"], plain["peak, MiB"]) == ([100.0] * 3, [50.0] * 3)
    assert train["peak / need"][0] == pytest.approx(2 * plain["peak / need"][0], rel=1e-4)
    assert list(found["growth"]["rows"]) == list(memory.GROWTH)
