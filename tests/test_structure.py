"""The house: which folder may import which, no import circles, and how large the laboratory may be.

``FLOORS`` is the order of the rooms of ``tvlars.lab``; docs/extending.md shows it. Every import counts, also one inside
a function or under TYPE_CHECKING, since a reader has to follow them all. Files are parsed, never run.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("errors", "console"),
    ("memory", "options", "presets", "files", "imported", "arguments"),
    ("data", "models", "optimizers", "metrics"),
    ("ssl", "tasks"),
    ("config",),
    ("processes", "given"),
    ("run_folder",),
    ("measure", "registered"),
    ("training",),
    ("comparison",),
    ("report", "history", "bench"),
    ("experiments",),
    ("protocol",),
)
"""Rooms of the laboratory, folders and files, from the ground up. A room imports from the floors below it alone."""
ABOVE_CORE = ("lab", "cli", "__main__")
"""Parts of the package outside of the core, which must not use them."""
MOST_FILES = 14
"""Python files in a folder of the laboratory."""
MOST_LINES = {"": 30_920, "bench": 350}
"""Lines of the laboratory ("") and of rooms of it."""
Graph = dict[str, set[str]]


@pytest.fixture(scope="module")
def imports() -> Graph:
    return read_imports(ROOT / "src" / "tvlars")


def test_modules_import_each_other_in_no_circle(imports: Graph) -> None:
    assert circle(imports) == []


def test_rooms_of_the_laboratory_import_from_the_floors_below_alone(imports: Graph) -> None:
    assert climbing(imports, "tvlars.lab", FLOORS) == []


def test_the_docs_show_the_floors() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = re.findall(r"^(\d+) +(\w+)  ", text.partition("floor  room")[2].partition("```")[0], re.MULTILINE)
    assert sorted(shown) == sorted((str(i), room) for i, rooms in enumerate(FLOORS, 1) for room in rooms)


def test_the_steps_in_the_docs_name_what_is_there() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    steps = re.findall(r"`([\w/]+\.py): ([\w.]+)`", text.partition("From `tvlars compare`")[2].partition("\n## ")[0])
    assert len(steps) >= 10
    for file, name in steps:
        body = ast.parse((ROOT / "src" / "tvlars" / file).read_text(encoding="utf-8")).body
        for part in name.split("."):
            named = {one.name: one.body for one in body if isinstance(one, (ast.FunctionDef, ast.ClassDef))}
            assert part in named, f"docs/extending.md names {name} of {file}, which is not there"
            body = named[part]


def test_floors_hold_all_rooms_and_no_others() -> None:
    lab = ROOT / "src" / "tvlars" / "lab"
    there = {one.stem for one in lab.iterdir() if one.suffix == ".py" or (one / "__init__.py").exists()}
    assert sorted(there - {"__init__"}) == sorted(room for rooms in FLOORS for room in rooms)


def test_the_core_knows_nothing_of_laboratory_and_command_line(imports: Graph) -> None:
    assert layers(imports) == []


def test_no_folder_of_the_laboratory_is_crowded() -> None:
    assert crowded(ROOT / "src" / "tvlars" / "lab", MOST_FILES) == []


def test_the_laboratory_is_small() -> None:
    assert long(ROOT / "src" / "tvlars" / "lab", MOST_LINES) == []


def package(folder: Path, files: dict[str, str]) -> Path:
    """Write a package "house" with these modules; a file ``__init__.py`` for each folder."""
    for name, text in files.items():
        file = folder / "house" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        for parent in (folder / "house", file.parent):
            (parent / "__init__.py").touch()
    return folder / "house"


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    text = """
from __future__ import annotations
import os, house.a
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .b import B
def f():
    from ..c import d
    from house import e as other
    from house.face import something
"""
    files = {"room/x.py": text, "a.py": "", "room/b.py": "", "c/d.py": "", "e.py": "", "face/y.py": ""}
    found = read_imports(package(tmp_path, files))
    assert found["house.room.x"] == {"house.a", "house.room.b", "house.c.d", "house.e", "house.face"}
    assert found["house.room"] == set()


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "import house.b", "b.py": "from house import c", "c.py": "from house.a import x"},
        {"a.py": "def f():\n    import house.c", "b.py": "from .a import x", "c.py": "from . import b"},
        {"a.py": "from house.c import x", "c/__init__.py": "from house.c.b import x", "c/b.py": "from house import a"},
    ],
    ids=["of three", "inside a function", "through the face of a folder"],
)
def test_a_circle_is_found(files: dict[str, str], tmp_path: Path) -> None:
    graph = read_imports(package(tmp_path, files))
    (sentence,) = circle(graph)
    assert re.fullmatch(r"these modules import each other in a circle: house\.\w+( -> house\.[\w.]+){3}", sentence)
    assert circle({**graph, "house.a": set()}) == []


def test_an_import_of_a_floor_above_is_found(tmp_path: Path) -> None:
    files = {"low/a.py": "from house.high import b", "high/b.py": "from house import ground", "ground.py": ""}
    graph = read_imports(package(tmp_path, files))
    floors = (("ground",), ("low",), ("high",))
    assert climbing(graph, "house", floors) == ["house.low.a must not import house.high.b: high is not below low"]
    assert climbing({**graph, "house.low.a": set()}, "house", floors) == []
    assert len(climbing(graph, "house", (("ground",), ("low", "high")))) == 1  # nor do rooms of one floor
    assert (
        climbing(graph, "house", (("high",), ("low",)))[0]
        == "ground must stand on one of the floors of house, since house.high.b imports house.ground"
    )


def test_an_import_of_the_command_line_from_below_is_found(tmp_path: Path) -> None:
    files = {"core.py": "import house.lab.x", "lab/x.py": "import house.cli.y", "cli/y.py": "from house import core"}
    graph = read_imports(package(tmp_path, files))
    assert layers(graph, "house") == [
        "house.core must not import house.lab.x: imports go from cli to lab to core",
        "house.lab.x must not import house.cli.y: imports go from cli to lab to core",
    ]


def test_a_crowded_folder_is_found(tmp_path: Path) -> None:
    house = package(tmp_path, {f"room/{name}.py": "" for name in "abc"})
    assert crowded(house, 4) == []
    assert crowded(house, 3) == ["house/room must not hold more than 3 files, but it holds 4: split it"]


def test_a_folder_that_is_too_long_is_found(tmp_path: Path) -> None:
    house = package(tmp_path, {"room/a.py": "x = 1\n" * 30, "b.py": "\n" * 1000})
    assert long(house, {"": 1030, "room": 30}) == []
    assert long(house, {"": 1029, "room": 29}) == [
        "house must not have more than 1,029 lines, but it has 1,030",
        "house/room must not have more than 29 lines, but it has 30",
    ]


def read_imports(package: Path) -> Graph:
    """Return for each module of a package the modules of it that it imports."""
    files = {}
    for file in sorted(package.rglob("*.py")):
        parts = (package.name, *file.relative_to(package).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return {name: set(_imported(name, file, files)) - {name} for name, file in files.items()}


def _imported(name: str, file: Path, known: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*folder[: len(folder) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield from [one for one in (f"{base}.{alias.name}", base) if one in known][:1]


def circle(graph: Graph) -> list[str]:
    """Return a sentence on an import circle; none if there is no circle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return ["these modules import each other in a circle: " + " -> ".join(reversed(error.args[1]))]
    return []


def climbing(graph: Graph, package: str, floors: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return a sentence for each import between rooms of a package that does not go to a floor below."""
    height = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    found = []
    for name, imports in graph.items():
        for other in sorted(imports):
            here, there = (one.removeprefix(f"{package}.").partition(".")[0] for one in (name, other))
            inside = name.startswith(f"{package}.") and other.startswith(f"{package}.")
            if not inside or here == there:
                continue
            if missing := [room for room in (here, there) if room not in height]:
                found.append(f"{missing[0]} must stand on one of the floors of {package}, since {name} imports {other}")
            elif height[there] >= height[here]:
                found.append(f"{name} must not import {other}: {there} is not below {here}")
    return found


def layers(graph: Graph, package: str = "tvlars") -> list[str]:
    """Return a sentence for each import of the laboratory or the command line by what is below it."""
    found = []
    for name, imports in graph.items():
        part = name.removeprefix(package).strip(".").partition(".")[0]
        above = {"lab": ABOVE_CORE[1:]}.get(part, () if part in ABOVE_CORE else ABOVE_CORE)
        for other in sorted(imports):
            if other.removeprefix(package).strip(".").partition(".")[0] in above:
                found.append(f"{name} must not import {other}: imports go from cli to lab to core")
    return found


def crowded(folder: Path, most: int) -> list[str]:
    """Return a sentence for each folder with more than ``most`` Python files."""
    counts = {one: len(list(one.glob("*.py"))) for one in (folder, *folder.rglob("*")) if one.is_dir()}
    return [
        f"{one.relative_to(folder.parent)} must not hold more than {most} files, but it holds {count}: split it"
        for one, count in sorted(counts.items())
        if count > most
    ]


def long(folder: Path, most: dict[str, int]) -> list[str]:
    """Return a sentence for the folder ("") and each folder in it that has more lines than ``most`` says."""
    counts = {
        room: sum(len(file.read_text(encoding="utf-8").splitlines()) for file in (folder / room).rglob("*.py"))
        for room in most
    }
    return [
        f"{(folder / room).relative_to(folder.parent)} must not have more than {most[room]:,} lines, "
        f"but it has {count:,}"
        for room, count in counts.items()
        if count > most[room]
    ]
