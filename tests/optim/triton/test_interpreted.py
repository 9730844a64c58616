"""The Triton kernels: in the interpreter, in a process of its own, since Triton is told of that when it is imported."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FOLDER = Path(__file__).parent / "interpreted"
TESTS = [
    f"{file.name}::{name}"
    for file in sorted(FOLDER.glob("test_*.py"))
    for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
]


@pytest.fixture(scope="module")
def ends(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    """Failures and skips of each test of this session, with reasons; all were run in one process."""
    chosen = [item.callspec.params["test"] for item in request.session.items if item.path == request.path]
    report = tmp_path_factory.mktemp("interpreted") / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        + [str(FOLDER / test) for test in chosen],
        cwd=FOLDER.parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        test = f"{case.get('classname', '').rpartition('.')[2]}.py::{case.get('name', '').partition('[')[0]}"
        said = {x.tag: x.get("message", "") if x.tag == "skipped" else f"{case.get('name')}:\n{x.text}" for x in case}
        found.setdefault(test, []).extend((tag, said[tag]) for tag in ("failure", "error", "skipped") if tag in said)
    return {test: found.get(test, [("error", f"it was not run:\n{done.stdout}\n{done.stderr}")]) for test in chosen}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="Triton's interpreter needs numpy")
@pytest.mark.parametrize("test", TESTS)
def test_in_the_interpreter(test: str, ends: dict[str, list[tuple[str, str]]]) -> None:
    if troubles := [text for tag, text in ends[test] if tag != "skipped"]:
        pytest.fail("\n\n".join(troubles), pytrace=False)
    if ends[test]:
        pytest.skip(ends[test][0][1])
