"""Folders that a stranger has made: nothing hangs, nothing of the reader is shown, and nothing of his is written."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tests.lab.stops import StopAt
from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, UsageError, load_run, train
from tvlars.lab.comparison.comparison import Comparison
from tvlars.lab.files.disk import append_whole, digest_of, write_whole
from tvlars.lab.files.lock import LOCK, locked
from tvlars.lab.report import forms, report, write_report
from tvlars.lab.report.picture import picture_uri
from tvlars.lab.run_folder.record import read_object
from tvlars.lab.run_folder.rows import epochs_done

TABLES = ("epochs.csv", "steps.csv", "sharpness.csv", "noise.csv", "representation.csv")
OBJECTS = ("config.json", "plan.json", "environment.json", "summary.json", "evaluations.json")
SHOWN = (*TABLES, *OBJECTS, "landscape.csv", "line.csv", "views.png", "layer-stats/000000001-000000002.parquet")
SECRET = "the reader's own words"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(epochs=1, batch_size=512, precision="32-true", accelerator="cpu", layer_stats=1, out=folder)
    train(config, reporter=Reporter())
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _link(file: Path) -> None:
    secret = file.parents[3] / "secret" if "layer-stats" in str(file) else file.parents[1] / "secret"
    secret.write_text(SECRET)
    file.symlink_to(secret)


def _deep(file: Path) -> None:
    file.write_text('{"a":' * 100_000)


def _huge(file: Path) -> None:
    with open(file, "wb") as out:
        out.truncate(2**40)


BAD = (_pipe, _endless, _link, _deep, _huge, Path.mkdir)


def spoil(file: Path, how: Callable[[Path], None]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    how(file)


def said_by(*words: object) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([str(word) for word in words])
    return code, out.getvalue()


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("name", [*TABLES, *OBJECTS])
def test_each_file_is_read_or_is_a_problem(folder: Path, name: str, how: Callable[[Path], None]) -> None:
    spoil(folder / name, how)
    run = load_run(folder)
    assert any(name in problem for problem in run.problems)
    assert SECRET not in str(run.problems)
    if name.endswith("json"):
        assert read_object(folder / name) == {}
    if name == "epochs.csv":
        assert epochs_done(folder) == 0 or how is _deep


@pytest.mark.parametrize("how", BAD)
def test_a_page_goes_on_without_them(
    folder: Path, tmp_path: Path, how: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "_plotly", lambda: "")
    for name in SHOWN:
        if name != "config.json":  # without which there is nothing to show
            spoil(folder / name, how)
    code, _ = said_by("report", folder, "-o", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert code == 0
    assert SECRET not in text
    assert base64.b64encode(SECRET.encode()).decode() not in text
    for name in ("epochs.csv", "plan.json", "landscape.csv", "views.png"):
        assert name in text


@pytest.mark.parametrize("how", BAD)
def test_layer_statistics_of_a_page(
    folder: Path, tmp_path: Path, how: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "_plotly", lambda: "")
    spoil(folder / SHOWN[-1], how)
    code, _ = said_by("report", folder, "-o", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert code == 0
    assert "must hold layer statistics" in text
    shutil.rmtree(folder / "layer-stats")
    (tmp_path / "elsewhere").mkdir()
    (folder / "layer-stats").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link that leaves the run folder"):
        load_run(folder).layer_stats()


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("name", ["weights.pt", "model.json"])
def test_commands_say_what_is_no_file(folder: Path, name: str, how: Callable[[Path], None]) -> None:
    spoil(folder / name, how)
    for command in ("evaluate", "sharpness", "landscape", "probe"):
        code, said = said_by(command, folder)
        assert code == 2, said
        assert name in said
        assert "Traceback" not in said


@pytest.mark.parametrize("how", BAD)
def test_configs_that_are_no_files(tmp_path: Path, how: Callable[[Path], None]) -> None:
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "config.json"
    how(file)
    for words in (("train", "--config", file), ("train", "--resume", file.parent), ("tune", "--config", file)):
        code, said = said_by(*words)
        assert code == 2, said
        assert said.count("\n") == 1
        assert "config.json" in said


@pytest.mark.parametrize("how", BAD)
def test_a_comparison_is_read_back_or_refused(tmp_path: Path, how: Callable[[Path], None]) -> None:
    (tmp_path / "c").mkdir()
    how(tmp_path / "c" / "comparison.json")
    with pytest.raises(UsageError, match=r"comparison\.json'? must be the file of a comparison, but cannot be read"):
        Comparison.load(tmp_path / "c")


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"command": "", "runs": 7}', '{"command": "", "runs": [{"lr": 1}]}', '{"command": "", "runs": [3]}',
     '{"command": "", "runs": [{"optimizer": 1, "batch_size": 1, "seed": 1, "lr": 1, "status": ""}]}'],
)  # fmt: skip
def test_comparisons_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(UsageError, match="must be the file of a comparison"):
        Comparison.load(tmp_path)


def test_a_run_that_a_comparison_links_to_is_left_out(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "_plotly", lambda: "")
    both = tmp_path / "both"
    shutil.copytree(finished, both / "mine")
    (both / "theirs").symlink_to(finished)
    (both / "inside").symlink_to("mine")
    text = report([both], tmp_path / "page.html").read_text()
    assert "theirs is left out: it is a link that leaves" in text
    assert "1 of" not in text


def test_runs_of_a_comparison_lie_in_it(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_plotly", lambda: "")
    row = {"optimizer": "tvlars", "batch_size": 512, "seed": 0, "lr": 1.0, "status": "finished", "test_accuracy": 0.5}
    row |= dict.fromkeys(("test_loss", "train_loss", "images_per_second", "seconds"), 1.0)
    rows = [{**row, "folder": str(finished)}, {**row, "seed": 1, "folder": "mine"}]
    shutil.copytree(finished, tmp_path / "mine")
    (tmp_path / "comparison.json").write_text(json.dumps({"command": "", "runs": rows}))
    text = write_report(Comparison.load(tmp_path)).read_text()
    assert "run is left out: it is not in" in text
    assert '<th scope="row">mine</th>' in text
    assert '<th scope="row">run</th>' not in text


# -- pictures -----------------------------------------------------------------------------------------------------


def test_a_picture_is_encoded_anew(tmp_path: Path) -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("Comment", SECRET)
    Image.new("RGB", (7, 5), (1, 2, 3)).save(tmp_path / "views.png", pnginfo=said)
    with open(tmp_path / "views.png", "ab") as file:
        file.write(b"<script>")
    content = base64.b64decode(picture_uri(tmp_path / "views.png", tmp_path).partition(",")[2])
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.size == (7, 5)
        assert opened.convert("RGB").getpixel((3, 3)) == (1, 2, 3)
    assert SECRET.encode() not in content
    assert b"script" not in content


def _svg(file: Path) -> None:
    file.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")


def _jpeg(file: Path) -> None:
    Image.new("RGB", (8, 8)).save(file, "JPEG")


def _bomb(file: Path) -> None:
    """A few bytes that claim to be 20,000 x 20,000 pixels."""
    Image.new("1", (8, 8)).save(file, "PNG")
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)


def _cut(file: Path) -> None:
    Image.new("RGB", (80, 80), (1, 2, 3)).save(file, "PNG")
    os.truncate(file, 60)


@pytest.mark.parametrize("how", [_svg, _jpeg, _bomb, _cut, *BAD])
def test_what_is_no_picture(tmp_path: Path, how: Callable[[Path], None]) -> None:
    (tmp_path / "run").mkdir()
    how(tmp_path / "run" / "views.png")
    with pytest.raises((OSError, ValueError)):
        picture_uri(tmp_path / "run" / "views.png", tmp_path / "run")


# -- writing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A file of the reader, which is to stay as it is."""
    file = tmp_path / "mine"
    file.write_text(SECRET)
    yield file
    assert file.read_text() == SECRET


def test_nothing_is_written_through_a_link(mine: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "summary.json.part").symlink_to(mine)
    (run / "summary.json").symlink_to(mine)
    write_whole(run / "summary.json", b"{}")
    assert (run / "summary.json").read_text() == "{}"
    assert not (run / "summary.json").is_symlink()
    (run / "steps.csv").symlink_to(mine)
    with pytest.raises(OSError, match="it is a link, not a regular file"):
        append_whole(run / "steps.csv", b"1,2\n")
    (run / LOCK).symlink_to(mine)
    with pytest.raises(UsageError, match=r"\.lock must be the lock of a folder, but it is a link"), locked(run):
        pass


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "steps.csv")
    with pytest.raises(OSError, match="it is a named pipe"):
        append_whole(tmp_path / "steps.csv", b"1,2\n")
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(UsageError, match="it is a named pipe"), locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["sharpness.csv.part", "sharpness.csv", "landscape.png", "landscape.csv"])
def test_commands_write_in_the_run_folder_alone(folder: Path, mine: Path, name: str) -> None:
    if name != "sharpness.csv":  # which is read before
        (folder / name).symlink_to(mine)
        command = name.partition(".")[0]
        more = ["--points", "2"] if command == "landscape" else []
        code, said = said_by(command, folder, "--samples", "16", *more)
        assert code == 0, said
        assert (folder / name).is_file() == (not name.endswith(".part"))
        return
    (folder / name).symlink_to(mine)
    code, said = said_by("sharpness", folder, "--samples", "16")
    assert code == 2
    assert "sharpness.csv cannot be read: it is a link that leaves" in said


def test_folders_in_a_run_folder_are_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "000000009-000000009.parquet").write_text(SECRET)
    run = tmp_path / "run"
    options = {"epochs": 1, "batch_size": 512, "precision": "32-true", "accelerator": "cpu", "layer_stats": 1}
    config = TrainConfig(**options, checkpoint_every="2-steps", out=run)

    with pytest.raises(KeyboardInterrupt):
        train(config, reporter=StopAt(step=1, error=KeyboardInterrupt))
    shutil.rmtree(run / "layer-stats")
    (run / "layer-stats").symlink_to(mine)
    code, said = said_by("train", "--resume", run)
    assert code == 2
    assert "layer_stats must continue in" in said
    assert "which is a link that leaves the run folder" in said
    assert os.listdir(mine) == ["000000009-000000009.parquet"]
    assert json.loads((run / "config.json").read_text())["layer_stats"] == 1


def test_checkpoints_of_a_run_folder_are_its_own(finished: Path, tmp_path: Path) -> None:
    """A run that goes on writes checkpoints and takes older ones away, by the names of their folders."""
    mine = tmp_path / "mine"
    for name in ("2019", "000000001", "letters.part"):
        (mine / name).mkdir(parents=True)
        (mine / name / "photo").write_text(SECRET)
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    (run / "checkpoints").symlink_to(mine)
    before = sorted(os.listdir(run))
    code, said = said_by("train", "--resume", run)
    assert code == 2
    assert f"{run / 'checkpoints'} must be a folder of checkpoints, but is a link" in said
    assert sorted(os.listdir(mine)) == ["000000001", "2019", "letters.part"]
    assert sorted({*os.listdir(run), LOCK}) == sorted({*before, LOCK})


# -- model.json ---------------------------------------------------------------------------------------------------

CHANGES = [
    ("image_size", 64),
    ("image_size", 16),
    ("mean", [0.0]),
    ("mean", [200.0]),
    ("std", [1.0]),
    ("std", [100.0]),
    ("channels", 3),
    ("classes", 11),
    ("class_names", list("9876543210")),
    ("class_names", ["a"]),
    ("model", "resnet18"),
    ("data", "cifar10"),
]


@pytest.mark.parametrize(
    ("config", "model", "said"),
    [
        ({"model": "resnet18"}, {}, "model.json is of [^,]*, config.json of resnet18"),
        ({"data": "imagefolder:x", "image_size": 16}, {}, "model.json is of images of 8 pixels, config.json of 16"),
        ({}, {"std": [0.0]}, "model.json holds values of the wrong kind"),
        ({}, {"mean": [256.0]}, "model.json holds values of the wrong kind"),
    ],
    ids=["model", "size", "deviation", "mean"],
)
def test_what_does_not_fit_in_model_json_is_said(
    folder: Path, config: dict[str, Any], model: dict[str, Any], said: str
) -> None:
    for name, changes in (("config.json", config), ("model.json", model)):
        facts = {**json.loads((folder / name).read_text()), **changes}
        if name == "model.json":
            facts["digest"] = digest_of(facts)
        (folder / name).write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=said):
        load_run(folder).model_facts()


@pytest.mark.parametrize("signed", ["with its digest", "with another digest", "of an earlier version"])
@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_no_accuracy_of_another_model(finished: Path, folder: Path, signed: str, name: str, value: Any) -> None:
    """Whatever is changed in model.json, no command tells a result that is not the run's."""
    facts = json.loads((folder / "model.json").read_text())
    assert facts[name] != value
    facts[name] = value
    if signed == "with another digest":
        facts["digest"] = digest_of(facts)
    elif signed == "of an earlier version":
        del facts["digest"], facts["fingerprint"]
    (folder / "model.json").write_text(json.dumps(facts))
    commands = {
        "evaluate": ["evaluate"],
        "sharpness": ["sharpness", "--samples", "8"],
        "landscape": ["landscape", "--samples", "8", "--points", "2"],
        "probe": ["probe", "--evaluations", "knn"],
        "evaluate on the same": ["evaluate", "--data", "digits"],
    }
    if signed != "with its digest":
        if name == "class_names":  # which features know nothing of
            del commands["probe"]
        if name == "data":  # which is then what the user says
            del commands["evaluate on the same"]
    for command, *more in commands.values():
        code, said = said_by(command, folder, *more)
        assert code == 2, (command, said)
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_size", True), ("image_size", 0), ("image_size", 10**9), ("channels", 10**9), ("classes", 10**12),
     ("classes", 10.0), ("mean", [float("nan")]), ("std", [0.0]), ("std", [float("inf")]), ("std", [-70.0]),
     ("mean", [[1]]), ("mean", "9"), ("model", "nothing"), ("model", 7), ("class_names", [1] * 10), ("data", 7)],
)  # fmt: skip
def test_values_that_no_run_writes(folder: Path, name: str, value: Any) -> None:
    facts = json.loads((folder / "model.json").read_text())
    facts[name] = value
    facts["digest"] = digest_of(facts)
    (folder / "model.json").write_text(json.dumps(facts))
    for command in ("evaluate", "landscape", "probe"):
        code, said = said_by(command, folder)
        assert code == 2, said
        assert "model.json" in said


def test_weights_of_another_type(folder: Path) -> None:
    import torch

    weights = torch.load(folder / "weights.pt", weights_only=True)
    for change in (
        lambda x: x.to(torch.complex64) if x.is_floating_point() else x,
        lambda x: x.half() if x.is_floating_point() else x,
        lambda x: x.tolist(),
    ):
        torch.save({name: change(x) for name, x in weights.items()}, folder / "weights.pt")
        code, said = said_by("evaluate", folder)
        assert code == 2
        assert "must hold the weights of small_resnet" in said


def test_a_run_that_goes_on_knows_its_model_best(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options: dict[str, Any] = {"epochs": 1, "batch_size": 512, "precision": "32-true", "accelerator": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        train(
            TrainConfig(**options, checkpoint_every="2-steps", out=run),
            reporter=StopAt(step=1, error=KeyboardInterrupt),
        )
    good = (run / "model.json").read_text()
    (run / "model.json").write_text(json.dumps({**json.loads(good), "image_size": 64, "mean": [0.0]}))
    train(TrainConfig(**options, out=run, resume=True), reporter=Reporter())
    assert (run / "model.json").read_text() == good
    assert said_by("evaluate", run)[0] == 0


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("epochs.csv", lambda lines: [*lines, lines[-1]], "epochs.csv is being written at line 3: 1 rows are read"),
        ("steps.csv", lambda lines: [*lines[:3], *lines[1:]], "steps.csv is damaged at line 4: 2 rows are read"),
        ("steps.csv", lambda lines: [lines[0], lines[1].replace("1,", "1e300,", 1), *lines[2:]], "damaged at line 2"),
        ("steps.csv", lambda lines: [lines[0], lines[1].replace("1,", "-1,", 1), *lines[2:]], "damaged at line 2"),
        (
            "epochs.csv",
            lambda lines: ["step," + lines[0], "1," + lines[1]],
            "epochs.csv cannot be read: it has a column",
        ),
        ("epochs.csv", lambda lines: [line.partition(",")[2] for line in lines], "it has no column epoch"),
    ],
)
def test_rows_that_no_run_writes(
    folder: Path, tmp_path: Path, name: str, change: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "_plotly", lambda: "")
    lines = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join(change(lines)) + "\n")
    assert any(said in problem for problem in load_run(folder).problems)
    assert said_by("report", folder, "-o", tmp_path / "page.html")[0] == 0


def test_an_option_may_be_two_dashes(tmp_path: Path) -> None:
    for words, said in (
        (["views", "digits", "--seed=--"], "argument --seed: must be an integer, got '--'"),
        (["views", "digits", "--count=--"], "argument --count: must be an integer, got '--'"),
        (["views", "digits", "--out=--"], "out must end in .png, got '--'"),
        (["train", "--out="], "argument --out: must be a path, got ''"),
        (["train", "--config", ""], "argument --config: must be a path, got ''"),
        (["report", ""], "argument RUN: must be a path, got ''"),
        (["views", "digits", "--data-dir", ""], "argument --data-dir: must be a path, got ''"),
        (["train", "--lr=--"], "argument --lr: must be a number, got '--'"),
        (["train", "--data=--"], "unknown data set '--'"),
        (["train", "--resume=--"], "resume must be a run folder, but '--' cannot be read"),
        (["train", "--config=--"], "config must be a run folder, a JSON or a YAML file, but '--' cannot be read"),
        (["compare", "--seeds=--"], "argument --seeds: must be an integer, got '--'"),
        (["compare", "--optimizers=--"], "unknown optimizer '--'"),
        (["bench", "--seconds=--"], "argument --seconds: must be a number, got '--'"),
        (["landscape", "run", "--points=--"], "argument --points: must be an integer, got '--'"),
    ):
        code, told = said_by(*words)
        assert code == 2, told
        assert said in told
        assert told.count("\n") == 1
