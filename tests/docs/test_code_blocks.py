"""Code in README and docs works: python blocks are run, commands are read by the parser, some are run."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import PAGES, ROOT, Block, all_blocks, blocks
from tvlars.cli import main
from tvlars.cli._commands import make_parser
from tvlars.cli._options import train_config
from tvlars.cli._train import compare_config

STARTERS = {"srun", "torchrun"}
"""Commands that start ours in many processes."""
OTHERS = {"mount", "study", "study()", "python3", "accelerate"}
"""Commands in the pages that are checked by bash's grammar alone."""
NOT_RUN = [block for block in all_blocks("python") if block.said.startswith("not run:")]
SHELL = all_blocks("sh", "bash")
RUN = [block for block in SHELL if block.said.startswith("run")]


def of_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_python(page: Path) -> bool:
    return any(block.kind == "python" and block not in NOT_RUN for block in blocks(page))


@pytest.mark.filterwarnings("ignore:.*not adapted:UserWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if with_python(page)], ids=of_page)
def test_python_of_a_page_runs(page: Path, reader: Path, stand_ins: Callable[[], dict[str, Any]]) -> None:
    names, printed = stand_ins(), ""
    for block in blocks(page):
        if block.kind == "python" and block not in NOT_RUN:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.source(), str(page), "exec"), names)
            printed = out.getvalue()
        elif block.said == "output":
            assert printed == block.text, f"{block} is not what the block before it prints"


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_files_that_a_page_includes_are_there(page: Path) -> None:
    """Formatters of Python put blanks into a line that includes a file, and the page then shows that line."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if re.match(r"--8\s*<", line):
            assert (ROOT / line.removeprefix('--8<-- "').removesuffix('"')).is_file(), line


@pytest.mark.parametrize("block", NOT_RUN, ids=str)
def test_python_that_is_not_run_is_python(block: Block) -> None:
    included = [line for line in block.text.splitlines() if line.startswith("--8<--")]
    for line in included:
        compile((ROOT / line.split('"')[1]).read_text(encoding="utf-8"), line, "exec")
    if not included:
        compile(block.source(), str(block.page), "exec")
    pytest.skip(block.said)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_are_understood(block: Block, reader: Path) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    for words in block.commands():
        check_command(words)


@pytest.mark.parametrize("block", RUN, ids=str)
def test_cheap_commands_run(block: Block, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = block.said.removeprefix("run").removeprefix(" with:").split()
    for words in block.commands():
        assert words[0] == "tvlars"
        assert main([*words[1:], *more]) == 0, capsys.readouterr().err


def check_command(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, rest = words[0], [word for word in words[1:] if word != "..."]
    if program in STARTERS and "tvlars" in rest:
        program, rest = "tvlars", rest[rest.index("tvlars") + 1 :]
    if program == "tvlars":
        understood(rest)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.M), rest
    elif program == "pip":
        extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
        for name in re.findall(r"\[([\w,-]+)\]", " ".join(rest)):
            assert set(name.split(",")) <= set(extras), rest
    elif program == "python" and rest[0] != "-m":
        source = (ROOT / rest[0]).read_text(encoding="utf-8")
        if "from harness import" in source:  # which adds the options that all measurements have
            source += (ROOT / "benchmarks" / "harness.py").read_text(encoding="utf-8")
        for flag in (word for word in rest if word.startswith("--")):
            assert f'"{flag}"' in source, f"{rest[0]} has no {flag}"
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in rest if not word.startswith("-")), rest
    else:
        assert program in OTHERS | STARTERS | {"python", "tvlars"}, f"nobody checks {program}"


def understood(words: list[str]) -> None:
    """The real parser takes the words, and what they set is a valid run."""
    parsed, unknown = make_parser(words).parse_known_args(words)
    assert not unknown, f"tvlars {words[0]} has no {unknown[0]}"
    if words[0] == "train":
        train_config(parsed)
    elif words[0] == "compare":
        compare_config(parsed)
