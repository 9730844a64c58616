"""``tvlars completion``: the scripts complete in real shells."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tvlars.cli import main

pytest.importorskip("shtab", reason="shtab is not installed (extra lab)")

CASES = [
    ("tr", {"train"}),
    ("do", {"doctor"}),
    ("train --opt", {"--opt", "--optimizer", "--optimizer-options"}),
    ("compare --op", {"--opt", "--optimizer-options", "--optimizers"}),
    ("train --help", {"--help", "--help-all"}),
    ("train --optimizer l", {"lars", "lamb"}),
    ("train --epochs 3 --layer-s", {"--layer-stats"}),
    ("compare --optimizers tvlars la", {"lars", "lamb"}),
    ("compare --data fash", {"fashion-mnist"}),
    ("ssl --method sim", {"simclr"}),
    ("completion z", {"zsh"}),
    ("evaluate some-r", {"some-run"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script for each shell."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh", "fish"):
        with pytest.MonkeyPatch.context() as patch, open(folder / shell, "w") as file:
            patch.setattr("sys.stdout", file)
            assert main(["completion", shell]) == 0
    return folder


def need(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_is_a_script_of_that_shell(shell: str, scripts: Path) -> None:
    done = subprocess.run([need(shell), "-n", scripts / shell], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_bash_completes(typed: str, expected: set[str], scripts: Path, tmp_path: Path) -> None:
    """As bash does at a tab: it looks up the function for ``tvlars``, and calls it with what was typed."""
    (tmp_path / "some-run").mkdir()
    words = ["tvlars", *typed.split(" ")]
    program = f"""
        source {shlex.quote(str(scripts / "bash"))}
        [[ $(complete -p tvlars) =~ -F\\ ([^ ]+) ]] || exit 3
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        "${{BASH_REMATCH[1]}}" tvlars {shlex.quote(words[-1])} {shlex.quote(words[-2])}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([need("bash"), "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_fish_completes(typed: str, expected: set[str], scripts: Path, tmp_path: Path) -> None:
    if typed.startswith("compare --optimizers"):
        pytest.skip("shtab's script for fish completes the first value of several alone")
    (tmp_path / "some-run").mkdir()
    program = f"source {shlex.quote(str(scripts / 'fish'))}; complete -C {shlex.quote(f'tvlars {typed}')}"
    done = subprocess.run([need("fish"), "--no-config", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split("\t")[0].rstrip("/") for line in done.stdout.splitlines()} == expected


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "unknown shell 'bsh': did you mean 'bash'" in capsys.readouterr().err


def test_help_says_where_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "--help"])
    out = capsys.readouterr().out
    assert "completions/tvlars.fish" in out
    assert 'eval "$(tvlars completion bash)"' in out
