"""The code blocks of a Markdown page, with what an invisible comment right before each says of it.

``<!-- run -->``                 an sh block whose ``tvlars`` lines are run; else they are only parsed
``<!-- run with: OPTIONS -->``   the same with these options added, so that it is short
``<!-- not run: REASON -->``     a python block that is compiled only
``<!-- output -->``              a text block: what the python block before it prints
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"(?:^<!-- (?P<said>[^>]*?) -->\n)?^```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    text: str
    said: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def source(self) -> str:
        """Python with as many empty lines before it that a traceback names the line of the page."""
        return "\n" * (self.line - 1) + self.text

    def commands(self) -> list[list[str]]:
        """The words of each command of an sh block."""
        joined = self.text.replace("\\\n", " ")
        return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, m.start("text")) + 1, m["kind"], m["text"], m["said"] or "")
        for m in BLOCK.finditer(text)
    ]


def all_blocks(*kinds: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.kind in kinds]
