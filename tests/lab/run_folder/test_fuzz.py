"""Files that are not what they should be: one sentence and exit code 2, never a traceback, never a hang.

Hypothesis makes a few of them here; ``TVLARS_FUZZ=2000 pytest tests/lab/run_folder/test_fuzz.py``
makes 2,000 of each kind.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.stops import StopAt
from tvlars.cli import main
from tvlars.lab import TrainConfig, train
from tvlars.lab.files.disk import digest_of
from tvlars.lab.run_folder.checkpoints import checkpoint


def fuzz(examples: int) -> settings:
    """Settings for a number of examples that takes a few seconds, or for the number that is asked for."""
    return settings(
        max_examples=int(os.environ.get("TVLARS_FUZZ", examples)), deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )  # fmt: skip


NAMES = [field.name for field in fields(TrainConfig)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONFIGS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), JSON, max_size=6)


def run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was said; an exception that comes out of it is a failure."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(arguments)
    return code, said.getvalue()


def assert_one_sentence(code: int, said: str) -> None:
    assert code == 2, said
    assert said.startswith("tvlars: ")
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1, said


@fuzz(100)
@given(
    content=CONFIGS.map(json.dumps) | st.text(max_size=60) | st.binary(max_size=60),
    command=st.sampled_from(["train", "ssl"]),
)
def test_config_files(tmp_path: Path, content: str | bytes, command: str) -> None:
    """A batch that no data set holds ends those that are good otherwise."""
    file = tmp_path / "config.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    given_too = [
        "--data",
        "digits",
        "--batch-size",
        "100000",
        "--micro-batch-size",
        "1024",
        "--out",
        str(tmp_path / "x"),
    ]
    assert_one_sentence(*run([command, "--config", str(file), *given_too, "--devices", "1", "--nodes", "1"]))
    assert not (tmp_path / "x").exists()


@fuzz(60)
@given(
    content=st.dictionaries(st.sampled_from(["base", "grid"]) | st.text(max_size=4), CONFIGS).map(json.dumps)
    | st.text(max_size=80)
    | st.binary(max_size=80)
)
def test_grids(tmp_path: Path, content: str | bytes) -> None:
    """A text that is a valid grid is listed, and not run."""
    file = tmp_path / "grid.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    code, said = run(["sweep", str(file), "--dry-run", "--out", str(tmp_path / "x")])
    if code:
        assert_one_sentence(code, said)
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def almost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a checkpoint one step before its end, and no other."""

    folder = tmp_path_factory.mktemp("almost") / "run"
    config = TrainConfig(
        epochs=1, precision="32-true", accelerator="cpu", checkpoint_every="4-steps", checkpoint_keep=1, out=folder
    )
    with pytest.raises(SystemExit):
        train(config, reporter=StopAt(step=5))
    (folder / "summary.json").unlink()
    return folder


@contextlib.contextmanager
def copy_of(folder: Path, to: Path) -> Iterator[Path]:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    yield to / "checkpoints" / "000000004"
    shutil.rmtree(to)


@fuzz(40)
@given(
    name=st.sampled_from(["tensors.json", "progress.json", "progress.bin", "tensors-0.bin", "manifest.json"]),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.floats(0, 1),
    forged=st.booleans(),
)
def test_checkpoints(
    tmp_path: Path, almost: Path, name: str, places: list[tuple[float, int]], cut: float | None, forged: bool
) -> None:
    """Bytes changed and files cut short, with checksums that tell and with such that were made to fit.

    With those that tell, the run is refused, since there is no other checkpoint; a change that is none, or that only
    moves a weight, lets it go on.
    """
    with copy_of(almost, tmp_path / "run") as path:
        content = bytearray((path / name).read_bytes())
        for place, value in places:
            content[int(place * len(content))] = value
        (path / name).write_bytes(content[: int(cut * len(content))] if cut is not None else content)
        if forged and name != "manifest.json":
            manifest = checkpoint.Manifest(**json.loads((path / "manifest.json").read_text()))
            files = {file: hashlib.sha256((path / file).read_bytes()).hexdigest() for file in manifest.files}
            manifest = replace(manifest, files=files)
            manifest = replace(manifest, digest=digest_of(vars(manifest)))
            (path / "manifest.json").write_text(json.dumps(vars(manifest)))
        code, said = run(["train", "--resume", str(tmp_path / "run")])
        if code in (0, 3):  # went on, from a weight that is not finite perhaps
            assert "Traceback" not in said
        else:
            assert_one_sentence(code, said)


@pytest.mark.slow
@fuzz(30)
@given(
    name=st.sampled_from(["config.json", "summary.json", "environment.json", "plan.json", "steps.csv", "epochs.csv"]),
    content=CONFIGS.map(json.dumps) | st.text(max_size=60) | st.binary(max_size=60),
)
def test_run_folders(tmp_path: Path, almost: Path, name: str, content: str | bytes) -> None:
    with copy_of(almost, tmp_path / "run"):
        file = tmp_path / "run" / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        code, said = run(["train", "--resume", str(tmp_path / "run"), "--data", "digits", "--epochs", "1"])
        if code:
            assert_one_sentence(code, said)
        code, said = run(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")])
        if code:
            assert_one_sentence(code, said)
