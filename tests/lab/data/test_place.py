"""However a path to data is written, a run says from anywhere which folder it was."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.lab.data.test_data import write_folders
from tests.lab.stops import StopAt
from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, UsageError, evaluate, load_data, train
from tvlars.lab.data.where import found
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.tuning.folder import check_same

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "precision": "32-true", "accelerator": "cpu"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_folders(tmp_path / "data", ("train", "val"))
    (tmp_path / "link").symlink_to("data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


SPELLINGS = [
    ("imagefolder:data", None),
    ("imagefolder:data/", None),
    ("imagefolder:./data", None),
    ("imagefolder:.//data/./", None),
    ("imagefolder:~/data", None),
    ("imagefolder:{home}/data/", None),
    ("imagefolder:runs/../data", None),
    ("imagefolder:data", "."),
    ("imagefolder:data/", "{home}/"),
    ("imagefolder:./data", "~"),
    ("imagefolder:{home}/data", "runs"),
]


@pytest.mark.parametrize(("data", "data_dir"), SPELLINGS)
def test_every_command_finds_the_data_again_from_anywhere(
    home: Path, data: str, data_dir: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "runs").mkdir()
    config = TrainConfig(
        data=data.format(home=home), data_dir=data_dir and data_dir.format(home=home), out=home / "runs" / "r", **QUICK
    )
    assert config.data in (f"imagefolder:{home / 'data'}", "imagefolder:data")
    result = train(config, reporter=Reporter())
    stored = json.loads((home / "runs" / "r" / "config.json").read_text())
    assert TrainConfig(**stored) == config
    monkeypatch.chdir("/")
    assert evaluate(home / "runs" / "r").accuracy == pytest.approx(result.test_accuracy)


def test_runs_of_earlier_versions_say_it_as_it_was_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = home / "run"
    result = train(TrainConfig(data="imagefolder:data", out=run, **QUICK), reporter=Reporter())
    config, model = (json.loads((run / name).read_text()) for name in ("config.json", "model.json"))
    del model["digest"]  # which they did not write
    for written, named, data_dir in (
        ("imagefolder:data/", "imagefolder:data", None),
        ("imagefolder:~/data", f"imagefolder:{home}/data", None),
        ("imagefolder:./data", "imagefolder:data", None),
        ("imagefolder:data", "imagefolder:./data", "."),
    ):
        (run / "config.json").write_text(json.dumps({**config, "data": written, "data_dir": data_dir}))
        (run / "model.json").write_text(json.dumps({**model, "data": named}))
        assert evaluate(run).accuracy == pytest.approx(result.test_accuracy)
    (run / "model.json").write_text(json.dumps({**model, "data": "mine"}))
    with pytest.raises(UsageError, match="does not say where mine lies"):
        evaluate(run)


def test_the_other_commands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(TrainConfig(data="imagefolder:./data/", out=home / "run", **QUICK), reporter=Reporter())
    monkeypatch.chdir("/")
    for words in ("landscape RUN --points 2 --samples 4", "probe RUN --evaluations knn", "evaluate RUN"):
        code, said = said_by(*words.replace("RUN", str(home / "run")).split())
        assert code == 0, said
    # Data that have moved are said to lie elsewhere.
    (home / "elsewhere").mkdir()
    shutil.move(home / "data", home / "elsewhere" / "data")
    code, said = said_by("evaluate", str(home / "run"))
    assert code == 2
    assert f"imagefolder must be an existing folder, got '{home}/data'" in said
    for command in ("evaluate", "probe"):
        code, said = said_by(command, str(home / "run"), "--data-dir", str(home / "elsewhere"))
        assert code == 0, said


def test_a_run_goes_on_however_the_folder_is_written(home: Path) -> None:
    run = home / "run"
    config = TrainConfig(data="imagefolder:data/", out=run, checkpoint_every="1-steps", **QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(config, reporter=StopAt(step=1, error=KeyboardInterrupt))
    assert list((run / "checkpoints").iterdir())
    shutil.move(home / "data", home / "moved")
    for data, data_dir in (("imagefolder:./moved", None), ("imagefolder:moved", home), ("imagefolder:~/moved/", None)):
        again = TrainConfig(
            data=data, data_dir=data_dir, out=shutil.copytree(run, home / f"again{len(data)}{data_dir is None}"),
            checkpoint_every="1-steps", resume=True, **QUICK,
        )  # fmt: skip
        assert train(again, reporter=Reporter()).epochs[-1].epoch == 1
    with pytest.raises(UsageError, match=r"imagefolder:.*there, 'digits' here"):
        train(TrainConfig(data="digits", out=run, resume=True, **QUICK), reporter=Reporter())


def test_sweeps_look_below_data_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "below").mkdir()
    shutil.move(home / "data", home / "below" / "data")
    config = at_home(TrainConfig(data="imagefolder:data", data_dir=Path("below")))
    assert config.data == f"imagefolder:{home}/below/data"
    names = {
        run_name(at_home(TrainConfig(data=text))) for text in ("imagefolder:below/data", "imagefolder:./below/data/")
    }
    assert names == {run_name(config)}


def test_a_tuning_goes_on_however_the_folder_is_written() -> None:
    here = {"base": {"data": "imagefolder:/new/data", "epochs": 1}}
    for written in ("imagefolder:data", "imagefolder:data/", "imagefolder:./data", "imagefolder:/old/data"):
        check_same({"base": {"data": written, "epochs": 1}}, here)
    for base in ({"data": "imagefolder:other", "epochs": 1}, {"data": "digits", "epochs": 1}, {"data": 7}):
        with pytest.raises(UsageError, match="out must be a folder of the same tuning, but has base"):
            check_same({"base": base}, here)


@pytest.mark.parametrize(
    "words",
    ["train --data imagefolder:~nouser/x", "train --data-dir ~nouser/x", "train --data-dir=~nouser/x --data digits",
     "train --out ~nouser/x", "views imagefolder:~nouser/x", "views digits --data-dir ~nouser/x",
     "compare --out ~nouser/x", "tune --out ~nouser/x", "ssl --out ~nouser/x",
     "train --config ~nouser/x", "evaluate ~nouser/x", "report ~nouser/x"],
)  # fmt: skip
def test_a_home_of_nobody(home: Path, words: str) -> None:
    code, said = said_by(*words.split())
    assert code == 2
    assert "~nouser/x" in said
    assert said.count("\n") == 1


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(self: Path) -> Path:
        if str(self).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return self

    monkeypatch.setattr(Path, "expanduser", nobody)
    assert found()["cifar10"] is None
    with pytest.raises(UsageError, match=r"data_dir must be a path, got '~/\.cache/tvlars/data', in a home"):
        load_data("cifar10")
    with pytest.raises(UsageError, match=r"data must be imagefolder:PATH, got 'imagefolder:a\\x00b'"):
        load_data("imagefolder:a\0b")


def said_by(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(words))
    return code, out.getvalue()
