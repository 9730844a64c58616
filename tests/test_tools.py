"""Tools of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.tests_of_change import mirrors


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("src/tvlars/lab/data/image_folder.py", ["tests/lab/data/test_image_folder.py"]),
        ("src/tvlars/optim/_paths.py", ["tests/optim/test_paths.py"]),
        ("src/tvlars/stats.py", ["tests/test_stats.py"]),
        ("src/tvlars/__main__.py", []),
        ("tests/test_plan.py", ["tests/test_plan.py"]),
        ("tests/conftest.py", []),
        ("src/tvlars/lab/__init__.py", []),
        ("README.md", []),
    ],
)
def test_a_changed_file_names_its_tests(changed: str, expected: list[str]) -> None:
    assert [str(path) for path in mirrors(Path(changed))] == expected


def test_a_file_without_tests_of_its_own_names_those_of_its_folder() -> None:
    found = {path.name for path in mirrors(Path("src/tvlars/lab/models.py").with_name("errors.py"))}
    assert {"test_config.py", "test_models.py"} <= found
