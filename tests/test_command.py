"""The command before its own code runs: what ends it while torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "import sys\nfrom tvlars.cli import main\nsys.exit(main())\n"
"""Script that an installer writes for the command."""
OUT_OF_MEMORY = "tvlars: memory has ended while libraries were imported: this process needs more, see ulimit -v\n"


@pytest.mark.parametrize("how", ["-m", "script"])
@pytest.mark.parametrize(
    ("torch", "code", "said"),
    [
        ("import signal; signal.raise_signal(signal.SIGINT)", 130, "tvlars: interrupted\n"),
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
