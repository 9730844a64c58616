"""Language of docs, docstrings and messages: patterns that are hard to read, and must not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(
    file for folder in ("src", "tests", "benchmarks", "docs", "tools") for file in (ROOT / folder).rglob("*.py")
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FIRST = re.compile(r"(What|Who|Those|Whether|Which|How|Where)\b")
"""Words that no first sentence of a docstring starts with: a verb or a plain noun says what is there."""
PARAGRAPH = re.compile(r"(?:^|\n\n)((?:What|Who|Those|Whether)\b[^\n]*)")
"""Paragraphs that begin with a clause in place of a subject."""
RIDDLES = (
    "whichever it is",
    "does not feel",
    "those that are over aside",
    "not told apart",
    "take it raw",
    "a row an epoch",
    "a row a step",
    "steps an epoch",
    "images an epoch",
    "ms a step",
    "a row a run",
    "a folder a class",
    "plays no part",
    "play no part",
    "there twice",
    "gone on with",
    "runs are over",
    "run is over",
    "that are over",
    "as they are used",
    "taken as they are",
    "below the line",
    "but for rounding",
    "with commas between",
    "does not say what was run",
    "to be such as",
    "are no part of",
)
"""Phrases that a reader who sees the line alone does not understand."""


def docstrings(text: str) -> Iterator[str]:
    """Yield the docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(text)):
        for statement in getattr(node, "body", []) if not isinstance(node, (ast.Lambda, ast.IfExp)) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value.strip()


def questions(text: str) -> list[str]:
    return [said.splitlines()[0] for said in docstrings(text) if FIRST.match(said)]


def riddles(text: str) -> list[str]:
    """Return the riddles in a text, however its lines are broken."""
    plain = " ".join(text.split())
    return [phrase for phrase in RIDDLES if phrase in plain]


def test_patterns_are_found() -> None:
    assert questions('"""What a file holds."""\nx = 1\n"""Those of a run."""\ndef f():\n    """Return x."""\n') == [
        "What a file holds.",
        "Those of a run.",
    ]
    assert PARAGRAPH.findall("# What is new\n\nWhat bounds it: sums.\n\nA sum.\nWhat\n") == ["What bounds it: sums."]
    assert riddles("a row an\nepoch") == ["a row an epoch"]


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_docstrings_start_with_a_verb_or_a_noun(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert questions(text) == []
    assert file == Path(__file__) or riddles(text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paragraphs_have_a_subject(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert PARAGRAPH.findall(text) == []
    assert riddles(text) == []
