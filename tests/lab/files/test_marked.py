"""Files that a user names for a command's output: new ones, or such as the same command has written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tvlars._machine import Machine
from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, train
from tvlars.lab.bench import BenchResult
from tvlars.lab.report import forms

WORDS = {"report": ("report", "run", "-o"), "views": ("views", "digits", "--count", "1", "-o")}
SUFFIX = {"report": ".html", "views": ".png"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(epochs=1, batch_size=512, precision="32-true", accelerator="cpu", out=folder)
    train(config, reporter=Reporter())
    return folder


@pytest.fixture(autouse=True)
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forms, "_plotly", lambda: "")
    return tmp_path


def said_by(*words: object) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([str(word) for word in words])
    return code, out.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("command", WORDS)
def test_what_a_command_wrote_it_writes_again(command: str) -> None:
    file = Path(f"out/here{SUFFIX[command]}")
    for _ in range(2):
        code, said = said_by(*WORDS[command], file)
        assert code == 0, said
    other = next(name for name in WORDS if name != command)
    before = content(Path())
    code, said = said_by(*WORDS[other], file)
    assert code == 2
    assert said.startswith(f"tvlars: out must end in {SUFFIX[other]}")
    assert content(Path()) == before


@pytest.mark.parametrize("suffix", [".md", ".tex", ".csv"])
def test_tables_are_written_again(suffix: str) -> None:
    for _ in range(2):
        code, said = said_by("report", "run", "-o", f"table{suffix}")
        assert code == 0, said
    text = Path(f"table{suffix}").read_text()
    assert "tvlars" in text
    assert "<html" not in text


def test_the_forms_of_a_table() -> None:
    for suffix in ("md", "tex", "csv"):
        assert said_by("report", "run", "-o", f"t.{suffix}")[0] == 0
    lines = Path("t.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0].startswith("| optimizer | lr | test accuracy, % | n |")
    assert rows[2].startswith("| tvlars | ")
    assert len({line.count("|") for line in rows}) == 1
    tex = Path("t.tex").read_text()
    assert r"\begin{tabular}{lrr" in tex
    assert "tvlars & " in tex
    assert r"\%" in tex
    frame = pd.read_csv("t.csv")
    assert frame.loc[0, "optimizer"] == "tvlars"
    run_accuracy = pd.read_csv("run/epochs.csv")["test_accuracy"].iloc[-1]
    assert frame.loc[0, "accuracy"] == pytest.approx(run_accuracy)


def _text(file: Path) -> None:
    file.write_text("somebody's own\n")


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _link(file: Path) -> None:
    Path("mine.html").write_text("mine")
    file.symlink_to("mine.html")


def _link_to_ours(file: Path) -> None:
    said_by("report", "run", "-o", "ours.html")
    file.symlink_to("ours.html")


def _dangling(file: Path) -> None:
    file.symlink_to("nowhere")


def _null(file: Path) -> None:
    file.symlink_to("/dev/null")


def _page(file: Path) -> None:
    file.write_text("<!doctype html><html><head><title>tvlars report</title></head></html>")


@pytest.mark.parametrize("how", [_text, _pipe, _link, _link_to_ours, _dangling, _null, _page, Path.mkdir])
@pytest.mark.parametrize("name", ["x.html", "x.htm", "x.HTML", "x.md", "x.tex", "x.csv", "x.png"])
def test_what_somebody_else_wrote_stays(name: str, how: Callable[[Path], None]) -> None:
    file = Path(name)
    how(file)
    before, kind = content(Path()), os.lstat(file)
    code, said = said_by(*WORDS["views" if name == "x.png" else "report"], name)
    assert code == 2
    assert said.startswith("tvlars: out must be a new file, or one that this command wrote, but")
    assert said.count("\n") == 1
    assert content(Path()) == before
    now = os.lstat(file)  # reading may change the time of the last access
    assert (now.st_mode, now.st_ino, now.st_mtime_ns) == (kind.st_mode, kind.st_ino, kind.st_mtime_ns)


@pytest.mark.parametrize(
    "name",
    ["run/weights.pt", "run/steps.csv", "run/noise.csv", "run/config.json", "run/sharpness.csv", "/dev/null", "-", "x",
     "x.htmlx", "run/checkpoints", "a\0.html"],
)  # fmt: skip
@pytest.mark.parametrize("command", WORDS)
def test_no_file_of_a_run_and_no_device(command: str, name: str) -> None:
    before = content(Path())
    code, said = said_by(*WORDS[command], name)
    assert code == 2
    assert said.startswith("tvlars: out must ")
    assert content(Path()) == before
    assert Path("/dev/null").is_char_device()


def test_views_of_a_run_are_its_own() -> None:
    code, said = said_by("views", "digits", "-o", "run/views.png")
    assert code == 2
    assert "a reserved name of run folders" in said


def test_a_page_of_an_earlier_version_is_known() -> None:
    said_by("report", "run")
    file = Path("run/report.html")
    file.write_text(file.read_text().replace('<meta name="generator" content="tvlars report">\n', ""))
    assert said_by("report", "run")[0] == 0
    assert "generator" in file.read_text()


def test_only_a_page_is_watched() -> None:
    code, said = said_by("report", "run", "-o", "x.csv", "--watch", "5")
    assert code == 2
    assert "out must end in .html with watch" in said


@pytest.mark.parametrize("name", ["x.json", "run/config.json", "run/steps.csv", "/dev/null", "run"])
def test_numbers_of_bench(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = BenchResult(Machine(*[None] * len(Machine.__dataclass_fields__)), "1")  # type: ignore[arg-type]
    monkeypatch.setattr("tvlars.cli._bench.bench", lambda config, announce: result)
    monkeypatch.setattr(BenchResult, "__str__", lambda self: "")
    before = content(Path("run"))
    codes = [said_by("bench", "--json", name)[0] for _ in range(2)]
    assert codes == ([0, 0] if name == "x.json" else [2, 2])
    assert content(Path("run")) == before
    if name == "x.json":
        assert json.loads(Path(name).read_text())["version"] == "1"
