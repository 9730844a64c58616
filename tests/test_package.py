"""Published files: the built distributions hold what they should, and the wheel's core wants nothing but torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import tvlars

for module in ("build", "hatchling", "twine"):
    pytest.importorskip(module, reason=f"{module} is not installed (extra dev)")

ROOT = Path(__file__).parents[1]
if not (ROOT / "src" / "tvlars").is_dir():
    pytest.skip("there is no source tree to build from", allow_module_level=True)

TORCH = (
    *("torch", "torchgen", "functorch", "triton", "nvidia", "cuda", "filelock", "fsspec", "jinja2", "markupsafe"),
    *("mpmath", "networkx", "setuptools", "sympy", "typing_extensions"),
)
"""Packages that come with torch."""
NOT_BUILT_FROM = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "site", "*.egg-info")


@dataclass
class Built:
    """The two distributions, and the names of the files in each, those of the sdist below its folder."""

    sdist: Path
    wheel: Path
    in_sdist: set[str]
    in_wheel: set[str]
    metadata: Message


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built from a copy, the wheel from the sdist, as ``python -m build`` does for a release."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "tree", ignore=NOT_BUILT_FROM)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "tree")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = (list((folder / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"tvlars-{tvlars.__version__}.dist-info/METADATA").decode())
    return Built(sdist, wheel, in_sdist, in_wheel, metadata)


def test_twine_takes_both(built: Built) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(built.sdist), str(built.wheel)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_holds_the_package_alone(built: Built) -> None:
    info = f"tvlars-{tvlars.__version__}.dist-info/"
    stray = {name for name in built.in_wheel if not name.startswith(("tvlars/", info))}
    assert not stray
    sources = {
        f"tvlars/{file.relative_to(ROOT / 'src' / 'tvlars').as_posix()}"
        for file in (ROOT / "src" / "tvlars").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in built.in_wheel if name.startswith("tvlars/")} == sources
    assert "tvlars/py.typed" in sources
    assert f"{info}licenses/LICENSE" in built.in_wheel


def test_the_sdist_holds_what_tests_and_readers_need(built: Built) -> None:
    tops = {name.partition("/")[0] for name in built.in_sdist}
    assert tops >= {
        *("src", "tests", "docs", "benchmarks", "tools"),
        *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"),
        *("pyproject.toml", "Makefile"),
    }
    assert {"tests/data/published.npz", "docs/versioning.md", "docs/api-signatures.txt"} <= built.in_sdist
    assert not {name for name in built.in_sdist if re.search(r"(^|/)(\.venv|runs|__pycache__|\..*_cache)/", name)}


def test_metadata(built: Built) -> None:
    metadata = built.metadata
    assert metadata["Name"] == "tvlars"
    assert metadata["Version"] == tvlars.__version__
    assert metadata["License-Expression"] == "MIT"
    requirements = metadata.get_all("Requires-Dist", [])
    assert [one for one in requirements if "extra" not in one] == ["torch>=2.9"]


def test_the_wheel_works_where_torch_alone_can_be_imported(built: Built, tmp_path: Path) -> None:
    """In a process for which no package is installed but the wheel's, and what comes with torch."""
    with zipfile.ZipFile(built.wheel) as archive:
        archive.extractall(tmp_path)
    program = f"""
import sys
from importlib.machinery import PathFinder

known = (*sys.stdlib_module_names, "_sysconfigdata", "tvlars", *{TORCH!r})

class TorchAlone:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path, target) if name.partition(".")[0].startswith(known) else None

sys.meta_path = [TorchAlone if finder is PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, {str(tmp_path)!r})

import torch, tvlars, tvlars.noise_scale, tvlars.optim, tvlars.schedule, tvlars.stats
assert tvlars.__file__.startswith({str(tmp_path)!r}), tvlars.__file__
model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
for cls in (tvlars.TVLARS, tvlars.LARS, tvlars.LAMB):
    length = dict(total_steps=10) if cls is tvlars.TVLARS else dict()
    optimizer = cls(tvlars.layer_groups(model, weight_decay=1e-4), lr=0.1, **length)
    model(torch.ones(2, 4)).square().mean().backward()
    optimizer.step()
print(tvlars.plan(1024, 50_000, 10))
from tvlars.cli import main
assert main(["--version"]) == 0
sys.exit(main(["train"]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stdout.endswith(f"tvlars {tvlars.__version__}\n")
    assert re.fullmatch(
        r"tvlars: the laboratory needs '\w+': pip install '\.\[lab\]' in the source folder\n", done.stderr
    ), done.stderr


def test_the_citation_is_of_this_version_and_of_the_papers() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra lab)")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == tvlars.__version__
    assert json.dumps(citation["references"]).count("arXiv:") == 3
    paper = citation["references"][0]
    assert paper["doi"] == "10.1109/TAI.2024.3523252"
    assert " ".join(author["family-names"] for author in paper["authors"]) == "Do Nguyen Nguyen Tran-Thanh Tran Pham"
