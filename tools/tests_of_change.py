"""Print the tests that mirror the files changed since a commit: ``python tools/tests_of_change.py [COMMIT]``.

``src/tvlars/lab/data/walk.py`` is tested by ``tests/lab/data/test_walk.py``, or else by all files of that folder.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def changed(commit: str) -> list[Path]:
    """Files that differ from ``commit``, and those that git does not know yet."""
    known = ["git", "diff", "--name-only", "--diff-filter=d", commit]
    new = ["git", "ls-files", "--others", "--exclude-standard"]
    return [
        Path(name)
        for command in (known, new)
        for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    ]


def mirrors(file: Path) -> list[Path]:
    """The tests of ``file``, relative to the repository: its own, or else those in the folder that mirrors its."""
    if file.suffix != ".py" or file.stem.startswith("__"):
        return []
    if file.parts[0] == "tests":
        return [file] if file.name.startswith("test_") else []
    if file.parts[:2] != ("src", "tvlars"):
        return []
    mirror = Path("tests", *file.parts[2:-1])
    own = mirror / f"test_{file.stem.strip('_')}.py"
    if mirror == Path("tests") and not (ROOT / own).is_file():
        return []
    return [own] if (ROOT / own).is_file() else [path.relative_to(ROOT) for path in (ROOT / mirror).glob("test_*.py")]


if __name__ == "__main__":
    commit = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    print(*sorted({str(path) for file in changed(commit) for path in mirrors(file)}))
