"""Imports of a command and of the packages: nothing that takes long before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tvlars.lab
from tests.lab.history.folders import write_run
from tvlars.cli._commands import make_parser
from tvlars.cli._names import help_of_all

LATE = {
    *("jinja2", "lightly", "lightning_fabric", "matplotlib", "optuna", "pandas", "plotly", "pyarrow", "ray", "scipy"),
    *("sklearn", "tensorboard", "torch._dynamo", "torchmetrics", "torchvision"),
}
"""Modules that take long to import, and that a command needs where its work begins or later."""
WATCHED = """
import sys
from contextlib import suppress
from importlib import import_module
from tvlars.cli import main

def loaded(*_, **__):
    found.append(words[0])
    found.extend(f"{{words[0]}}:{{one}}" for one in {late} & set(sys.modules))
    sys.exit()

found = []
for module, name, words in {commands}:
    setattr(import_module(module), name, loaded)
    with suppress(SystemExit):
        main(words)
print(*found)
"""
COMMANDS = [
    ("tvlars.lab.training.prepare", "load_data", ["train"]),
    ("tvlars.lab.training.prepare", "load_data", ["ssl"]),
    ("tvlars.lab.experiments.compare", "data_of", ["compare"]),
    ("tvlars.lab.experiments.sweep", "make_agenda", ["sweep", "grid.yaml"]),
    ("tvlars.lab.experiments.tuning.tune", "data_of", ["tune"]),
]
"""Module and name of the function with which the work of a command begins."""


HELP = """
import sys
from contextlib import suppress
from tvlars.cli import main
with suppress(SystemExit):
    assert main(sys.argv[1:]) == 0
print(*sys.modules)
"""


def imported(code: str, folder: Path) -> set[str]:
    """Return the words that a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()) if done.stdout else set()


@pytest.mark.parametrize("package", ["tvlars", "tvlars.lab, tvlars.cli._commands"])
def test_a_package_imports_nothing_that_takes_long(package: str, tmp_path: Path) -> None:
    assert imported(f"import sys, {package}\nprint(*sorted({LATE} & set(sys.modules)))", tmp_path) == set()


@pytest.mark.parametrize("words", [["--version"], ["--help"]], ids=lambda words: words[0])
def test_version_and_help_import_neither_torch_nor_what_the_laboratory_needs(words: list[str], tmp_path: Path) -> None:
    found = imported(HELP.replace("sys.argv[1:]", repr(words)), tmp_path)
    assert "tvlars.cli" in found
    assert {*LATE, "torch", "numpy", "rich", "tvlars.lab.config", "tvlars.cli._commands"} & found == set()


def test_runs_are_listed_without_torch_and_pandas(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    found = imported(HELP.replace("sys.argv[1:]", repr(["runs", "--where", "seed=0"])), tmp_path)
    assert "tvlars.lab.history.listing" in found
    assert {*LATE, "torch", "numpy", "tvlars.lab.config", "tvlars.cli._commands"} & found == set()


def test_the_help_of_all_commands_is_that_of_the_parser() -> None:
    assert help_of_all() == make_parser().format_help()


def test_a_command_begins_its_work_without_what_it_needs_later(tmp_path: Path) -> None:
    """One command after the other, in one process: none of them loads what a later one must not."""
    (tmp_path / "grid.yaml").write_text("grid: {seed: [0, 1]}")
    begun = imported(WATCHED.format(commands=COMMANDS, late=LATE), tmp_path)
    assert begun == {words[0] for _, _, words in COMMANDS}


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_command_imports_neither_the_others_nor_what_takes_long_for_its_help(command: str, tmp_path: Path) -> None:
    found = imported(HELP.replace("sys.argv[1:]", f"[{command!r}, '--help']"), tmp_path)
    assert {"torch", "tvlars.cli._train"} <= found
    others = {"tvlars.cli._study", "tvlars.cli._look", "tvlars.lab.training.train", "tvlars.lab.experiments.compare"}
    assert {*LATE, "rich", *others} & found == set()


@pytest.mark.parametrize("package", [".", "lab"])
def test_names_are_imported_lazily_and_for_type_checkers_alike(package: str) -> None:
    """``__all__``, the imports under TYPE_CHECKING and the table of a lazy package name the same things."""
    tree = ast.parse((Path(__file__).parents[1] / "src" / "tvlars" / package / "__init__.py").read_text("utf-8"))
    (under,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {one.module: [alias.name for alias in one.names] for one in under.body if isinstance(one, ast.ImportFrom)}
    (call,) = (node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert ast.literal_eval(call.args[1]) == checked
    assert sorted(names) == sorted(name for some in checked.values() for name in some)


DIR = """
import sys, tvlars, tvlars.lab
for package in (tvlars, tvlars.lab):
    print(package.__name__, *(name for name in dir(package) if not name.startswith("__")))
print(*sys.modules)
"""


def test_dir_lists_what_is_public_and_imports_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIR], cwd=tmp_path, capture_output=True, text=True, check=True)
    core, lab, loaded = (line.split() for line in done.stdout.splitlines())
    modules = {"lab", "noise_scale", "optim", "schedule", "sharpness", "stats"}
    assert set(core[1:]) == {*tvlars.__all__, *modules}
    assert set(lab[1:]) == {*tvlars.lab.__all__, "bench", "models", "ssl"}
    assert not {*LATE, "torch", "numpy", "tvlars.stats", "tvlars.sharpness"} & set(loaded)


NO_RICH = """
import sys, tvlars.lab
from tvlars.noise_scale import noise_scale
assert tvlars.noise_scale.noise_scale is noise_scale
sys.modules["rich.progress"] = sys.modules["rich"] = None
try:
    tvlars.lab.compare
except ModuleNotFoundError as error:
    print(error)
"""


def test_a_name_whose_extra_is_missing_says_which_it_is(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NO_RICH], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "tvlars.lab needs 'rich.progress': pip install '.[lab]' in the source folder\n"


def test_public_modules_are_attributes_of_their_package(tmp_path: Path) -> None:
    code = """
import tvlars.lab
modules = tvlars.sharpness, tvlars.noise_scale, tvlars.lab.ssl, tvlars.lab.models
assert callable(tvlars.plan) and callable(tvlars.lab.report)
assert not hasattr(tvlars, "nothing")
print(*(module.__name__ for module in modules))
"""
    names = {"tvlars.sharpness", "tvlars.noise_scale", "tvlars.lab.ssl", "tvlars.lab.models"}
    assert imported(code, tmp_path) == names


NO_PLOTLY = """
import sys
sys.modules["plotly"] = None
from tvlars.cli import main
from tvlars.lab import CompareConfig, compare

for words in (["compare"], ["ssl"], ["sweep", "grid.yaml"], ["tune"]):
    assert main([*words, "--out", "out"]) == 2, words
try:
    compare(CompareConfig(out="out"))
except ModuleNotFoundError as error:
    print(error.name, error, sep="\\n")
"""


def test_commands_and_a_comparison_in_python_need_the_packages_of_their_page_before_any_run(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("grid: {seed: [0, 1]}")
    done = subprocess.run([sys.executable, "-c", NO_PLOTLY], cwd=tmp_path, capture_output=True, text=True, check=False)
    sentence = "the laboratory needs 'plotly': pip install '.[lab]' in the source folder\n"
    assert (done.returncode, done.stdout) == (0, f"plotly\n{sentence}"), done.stderr
    assert done.stderr == 4 * f"tvlars: {sentence}"
    assert not (tmp_path / "out").exists()
