"""``tvlars doctor``, for people and machines, and where packages are missing or broken; ``tvlars --version``."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.command import tvlars
from tvlars import __version__
from tvlars.cli import main
from tvlars.optim import available
from tvlars.optim.triton import availability


class Broken(MetaPathFinder, Loader):
    """Finds one package, and raises an error where it is imported."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name, self.error = name, error

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        raise self.error


def break_import(name: str, error: Exception | None) -> None:
    """Have ``import name`` raise ``error``, or fail as if it were not installed; ours are imported anew."""
    for module in list(sys.modules):
        if module.partition(".")[0] in ("tvlars", name):
            del sys.modules[module]
    if error is None:
        sys.modules[name] = None  # type: ignore[assignment]
    else:
        sys.meta_path.insert(0, Broken(name, error))
    importlib.import_module("tvlars.optim.available").why_not_compiled = lambda device: "not tried"


def without(name: str, error: Exception | None, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process where importing ``name`` raises ``error``; None: where it is not installed."""
    return tvlars(*arguments, cwd=folder, before=partial(break_import, name, error))


@pytest.fixture(autouse=True)
def _no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes seconds, and one test of it is enough."""
    monkeypatch.setattr(available, "why_not_compiled", lambda device: "not tried")


def test_what_it_says(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")][:3] == ["versions", "devices", "paths on cpu"]
    said = {line[2:26].strip(): line[26:].strip() for line in lines}
    assert said["tvlars"].startswith(__version__)
    assert said["torch"].startswith(torch.__version__)
    assert "cores" in said["cpu"]
    assert said["for-loop (foreach=False)"] == said["foreach=True"] == "works"
    assert said["fused=True, torch's"] == "works, the default for float32"
    assert said["fused=True, Triton's"] == "no: there are no Triton kernels for cpu"
    assert said["torch.compile"] == "no: not tried"
    assert said["digits"] == "ships with scikit-learn"
    assert said["laboratory"] == "can be imported"
    assert not [line for line in lines if line != line.rstrip()]
    assert list(tmp_path.iterdir()) == []


def test_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {
        *("versions", "system", "cores", "threads", "devices", "no_cuda"),
        *("laboratory", "extras", "data", "paths", "usual_paths"),
    }
    assert facts["devices"][0]["name"] == "cpu"
    assert (facts["no_cuda"] is None) == torch.cuda.is_available()
    assert set(facts["paths"]["cpu"]) == {*available.PATHS, "compile"}
    assert facts["usual_paths"]["cpu"] == "fused"
    assert facts["laboratory"] is None
    assert set(facts["data"]) >= {"digits", "fashion-mnist", "cifar10", "cifar100"}


def test_reasons_are_the_librarys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose kernels cannot run: the doctor says what the warning of ``fused=True`` would."""
    monkeypatch.setattr(availability, "why_not", lambda device: "Triton is not installed (pip install triton)")
    assert available.why_not("triton", torch.device("cpu")) == "Triton is not installed (pip install triton)"
    assert available.why_not("fused", torch.device("meta")) == "these are torch's kernels for a CPU"
    meta = available.why_not("triton", torch.device("meta"))
    assert meta == "Triton is not installed (pip install triton)"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_paths_on_a_cuda_device() -> None:
    device = torch.device("cuda", 0)
    for path in ("for-loop", "foreach"):
        assert available.why_not(path, device) is None
    assert available.why_not("triton", device) == availability.why_not(device)
    assert available.usual(device) == ("foreach" if availability.why_not(device) else "triton")


def test_a_compiler_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    assert available.why_not_compiled(torch.device("cpu")) == "RuntimeError: no compiler"


@pytest.mark.parametrize(
    ("name", "error", "laboratory"),
    [
        ("pandas", None, "tvlars.lab needs 'pandas'"),
        ("pandas", RuntimeError("operator torchvision::nms does not exist"), "operator torchvision::nms"),
        ("rich", ImportError("it is damaged"), "ImportError: it is damaged"),
        ("lightly", OSError("libc.so: cannot open shared object file"), "can be imported"),
    ],
)
def test_what_is_broken_is_said(name: str, error: Exception | None, laboratory: str, tmp_path: Path) -> None:
    done = without(name, error, tmp_path, "doctor")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    rows = done.stdout.splitlines()
    assert laboratory in next(line for line in rows if line.startswith("  laboratory"))
    assert any(f"{name} is broken: " in line for line in rows)
    if name == "pandas":
        assert "the laboratory cannot be imported" in next(line for line in rows if line.startswith("  all "))
    assert any("works, the default for float32" in line for line in rows)


def test_other_commands_refer_to_it_where_the_laboratory_is_broken(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("raise RuntimeError('of another numpy\\nso it goes')\n")
    command = [sys.executable, "-m", "tvlars", "report", "here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "tvlars: the laboratory cannot be imported: RuntimeError: of another numpy; "
        "tvlars doctor says what is installed\n"
    )
    done = without("pandas", None, tmp_path, "report", "here")
    assert done.returncode == 2
    assert done.stderr == "tvlars: the laboratory needs 'pandas': pip install '.[lab]' in the source folder\n"


def test_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tvlars {__version__}\n"
    done = without("pandas", None, tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"tvlars {__version__}\n")


@pytest.mark.slow
def test_as_a_command_it_needs_no_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tvlars", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "60"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
