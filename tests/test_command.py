"""The command before its own code runs: what ends it while torch is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command

SCRIPT = "import sys\nfrom tvlars.cli import main\nsys.exit(main())\n"
"""Script that an installer writes for the command."""
NOTHING_YET = "tvlars: interrupted before anything was measured; run the same command to start again\n"
OUT_OF_MEMORY = "tvlars: memory ran out while libraries were imported: this process needs more, see ulimit -v\n"


@pytest.mark.parametrize("how", ["-m", "script"])
@pytest.mark.parametrize(
    ("torch", "code", "said"),
    [
        ("import signal; signal.raise_signal(signal.SIGINT)", 130, NOTHING_YET),
        (
            "raise ImportError('libcudart.so.12: cannot open shared object file\\nmore')",
            2,
            "tvlars: tvlars cannot be imported: ImportError: libcudart.so.12: cannot open shared object file\n",
        ),
        ("raise OSError('libtorch.so')", 2, "tvlars: tvlars cannot be imported: OSError: libtorch.so\n"),
        ("import no_such_module", 2, "tvlars: tvlars needs 'no_such_module' to be installed\n"),
        ("raise MemoryError", 2, OUT_OF_MEMORY),
        ("raise ImportError('libx.so: failed to map segment from shared object')", 2, OUT_OF_MEMORY),
    ],
)
def test_a_torch_that_cannot_be_imported_is_one_sentence(
    how: str, torch: str, code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(torch)
    (tmp_path / "tvlars").write_text(SCRIPT)
    source = Path(__file__).parents[1] / "src"
    path = os.pathsep.join([str(tmp_path), str(source)])
    words = ["-m", "tvlars"] if how == "-m" else [str(tmp_path / "tvlars")]
    done = subprocess.run(
        [sys.executable, *words, "train"],
        cwd="/",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_other_programs_keep_their_excepthook() -> None:
    code = "import sys, tvlars; assert sys.excepthook is sys.__excepthook__"
    subprocess.run([sys.executable, "-c", code], check=True)


IMPORTS = """
import signal, sys
sys.argv[0] = "tvlars"
import tvlars
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                print("lost")
sys.meta_path.insert(0, Pressed())
from tvlars.cli import main
sys.exit(main(["compare", "--epochs", "1"]))
"""


FIRST = """
import os, sys
sys.argv[0] = "tvlars"
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Pressed())
import tvlars
"""


@pytest.mark.parametrize("name", ["enum", "typing", "tvlars._lazy"])  # modules that Python does not import at its start
def test_ctrl_c_during_the_first_imports_is_one_sentence(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST.format(name=name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", NOTHING_YET)


@pytest.mark.parametrize("name", ["torch.nn", "tvlars.cli._commands", "tvlars.lab.config"])
def test_ctrl_c_during_imports_is_one_sentence_whoever_ignores_errors_of_imports(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(name=name)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", NOTHING_YET)
    assert list(tmp_path.iterdir()) == []


UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}


def pressed(child: Any, after: str) -> tuple[int | None, str]:
    """Press Ctrl-C after a line that a command writes; returns its exit code and errors."""
    with child:
        assert any(after in line for line in child.stdout)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
    assert "Traceback" not in out + err
    return child.returncode, err


@pytest.mark.slow
def test_ctrl_c_during_training_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    """In an interpreter of its own, as users start it."""
    words = [sys.executable, "-m", "tvlars", "train", "--epochs", "100000"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(words, cwd=tmp_path, env=UNBUFFERED, text=True, stdout=pipe, stderr=pipe)
    code, err = pressed(child, " 2/100000 ")
    (folder,) = (tmp_path / "runs").iterdir()
    place = f"runs/{folder.name}"
    said = f"tvlars: interrupted; what was measured is kept in {place}, and tvlars train --resume {place} continues\n"
    assert (code, err) == (130, said)


@pytest.mark.slow
def test_ctrl_c_during_a_comparison_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    words = ["compare", "--epochs", "100000", "--optimizers", "lars", "sgd", "--seeds", "0", "--out", "here"]
    code, err = pressed(Command(words, tmp_path, UNBUFFERED), " 2/100000 ")
    kept = "0 of 2 runs are done; what was measured is kept in here"
    assert (code, err) == (130, f"tvlars: interrupted; {kept}, and the same command with --out here continues\n")
    assert (tmp_path / "here" / "report.html").is_file()
