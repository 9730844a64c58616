"""Import paths of users' objects, and tracebacks of users' code."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import (
    is_import_path,
    is_theirs,
    load_object,
    said_path,
    short_name,
    source_digest,
    spelled_path,
    their_traceback,
    where_raised,
)
from tvlars.lab.models.timm_models import build_timm


@pytest.mark.parametrize("text", ["torch.optim.NAdam", "torch.optim:NAdam", "./mine.py:f", "~/a b/mine.py:f", "pkg:f"])
def test_import_paths_are_told_apart_from_names(text: str) -> None:
    assert is_import_path(text)


@pytest.mark.parametrize(
    "text", ["lars", "", "a..b", "./mine.py", "mine.py:", "mine.py:1", "imagefolder:/x", "a:b:c", 3, None]
)
def test_other_texts_are_no_import_paths(text: object) -> None:
    assert not is_import_path(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("torch.optim.NAdam", torch.optim.NAdam),
        ("torch.optim:NAdam", torch.optim.NAdam),
        ("torch.optim.lr_scheduler.OneCycleLR", torch.optim.lr_scheduler.OneCycleLR),
        ("torch.nn.Linear.forward", torch.nn.Linear.forward),
    ],
)
def test_installed_objects_are_found(text: str, wanted: object) -> None:
    assert load_object(text, "optimizer") is wanted


@pytest.mark.parametrize("text", ["mine.py", "./mine.py", "/a b/mine.py"])
@pytest.mark.parametrize("option", ["model", "data", "optimizer", "schedule", "task"])
def test_a_file_alone_is_asked_for_the_name_of_an_object(option: str, text: str) -> None:
    said = f"^{option} must name an object in the file too, as {text}:name, got '{text}'$"
    with pytest.raises(UsageError, match=said):
        TrainConfig(**{option: text})


def test_modules_that_a_file_imports_are_not_offered(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import math\ndef build(): pass")
    with pytest.raises(UsageError, match=r"did you mean 'build'\? Known: build\.$"):
        load_object(f"{tmp_path}/mine.py:buidl", "model")


def test_a_file_is_run_once_and_finds_modules_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_it.py").write_text("VALUE = 7")
    (tmp_path / "mine.py").write_text("from beside_it import VALUE\nclass Net: pass\ndef build(): return VALUE")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    build = load_object("./mine.py:build", "model")
    assert build() == 7
    assert load_object(f"{tmp_path}/mine.py:build", "model") is build
    net = load_object("./mine.py:Net", "model")
    assert sys.modules[net.__module__].Net is net  # so that it can be pickled


def test_modules_of_the_working_directory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack_of_theirs").mkdir()
    (tmp_path / "pack_of_theirs" / "__init__.py").touch()
    (tmp_path / "pack_of_theirs" / "part.py").write_text("def f(): return 3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_object("pack_of_theirs.part:f", "model")() == 3
    assert load_object("pack_of_theirs.part.f", "model")() == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lars", "optimizer must be an import path, as package.module.Name, .* got 'lars'"),
        ("torch.optim.NAdm", "unknown optimizer in torch.optim 'NAdm': did you mean 'NAdam'"),
        ("torch.optm.NAdam", "no module 'torch.optm'|unknown optimizer in torch 'optm': did you mean 'optim'"),
        ("not_there_at_all.Lion", "there is no module 'not_there_at_all' here"),
        ("torch.optim", "must name an object in a module, .* got the module 'torch.optim'"),
        ("./not_there.py:f", "optimizer must name a file that exists, got './not_there.py:f'"),
    ],
)
def test_a_path_to_nothing_is_said_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load_object(text, "optimizer")
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"Python files there: mine\.py"):
        load_object("./mien.py:f", "model")


def test_a_missing_name_names_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build_net(): ...")
    with pytest.raises(UsageError, match=r"unknown model in mine\.py 'build': did you mean 'build_net'"):
        load_object(f"{tmp_path}/mine.py:build", "model")


def test_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spelled_path("./mine.py:f") == f"{tmp_path}/mine.py:f"
    assert spelled_path("torch.optim.NAdam") == "torch.optim.NAdam"
    assert [short_name(text) for text in ("torch.optim.NAdam", "a.b:f", "/x/mine.py:f")] == ["NAdam", "f", "f"]
    assert [said_path(text) for text in ("torch.optim.NAdam", "/x/mine.py:f")] == ["torch.optim.NAdam", "mine.py:f"]


def test_a_changed_file_has_another_digest(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = 1")
    before = source_digest(f"{file}:x")
    assert before == source_digest(f"{file}:y") != ""
    file.write_text("x = 2")
    assert source_digest(f"{file}:x") != before
    assert source_digest("torch.optim.NAdam") == source_digest(f"{tmp_path}/gone.py:x") == ""


def test_an_error_of_the_users_code_keeps_their_frames_alone(tmp_path: Path) -> None:
    file = tmp_path / "raises.py"
    file.write_text("import torch\ndef f(): return torch.zeros(2) + torch.zeros(3)")
    with pytest.raises(RuntimeError) as caught:
        load_object(f"{file}:f", "model")()
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # that of this test is theirs as well
    assert is_theirs(error)
    assert where_raised(error) == f"{file}, line 2"
    text = their_traceback(error)
    assert text.startswith("Traceback (most recent call last):\n")
    assert "raises.py" in text
    assert "imported.py" not in text
    with pytest.raises(UsageError) as sentence:
        load_object("torch.optim.NAdm", "optimizer")
    assert not is_theirs(sentence.value.with_traceback(sentence.value.__traceback__.tb_next))


def test_a_file_of_theirs_that_is_no_python_is_their_error(tmp_path: Path) -> None:
    file = tmp_path / "no_python.py"
    file.write_text("import os\ndef f(:\n    pass\n")
    for _ in range(2):
        with pytest.raises(SyntaxError) as caught:
            load_object(f"{file}:f", "optimizer")
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    assert is_theirs(error)
    assert where_raised(error) == f"{file}, line 2"
    text = their_traceback(error)
    assert text.splitlines()[-1] == "SyntaxError: invalid syntax"
    assert "importlib" not in text


def test_an_error_while_their_file_is_run_ends_the_command_with_their_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import json\nSETTINGS = json.loads('{')\n")
    program = (
        "import sys; sys.argv[0] = 'tvlars'\n"
        "from tvlars.cli import _commands, _train\n"
        "from tvlars.lab.imported import load_object\n"
        "_train._evaluate = lambda parsed: load_object('./broken.py:SETTINGS', 'model')\n"
        "sys.exit(_commands.run(['evaluate', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'broken.py", line 2' in done.stderr
    assert "src/tvlars" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tvlars: JSONDecodeError: ")
    assert done.stderr.splitlines()[-1].endswith("broken.py, line 2")


def test_a_library_that_tvlars_imports_is_no_code_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    names: dict[str, Any] = {"build": partial(build_timm, "convnext_atto", 1, 8, 2)}
    # In no file: the first frame would be that of this one, which is the user's.
    exec("def attempt():\n try: build()\n except RuntimeError as error: return error", names)
    assert str(error := names["attempt"]()) == "broken"
    assert not is_theirs(error)
