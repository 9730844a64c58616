"""A run that goes on, or is tested, on data that have changed since it began: what changed is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.lab.first import first
from tests.lab.stops import StopAt
from tvlars.lab import ImageData, TrainConfig, UsageError, evaluate, load_data, load_run, train
from tvlars.lab.data.fingerprint import Fingerprint, digest_files
from tvlars.lab.files.disk import digest_of
from tvlars.lab.measure.probe_run import probe_run
from tvlars.lab.measure.sharpness import run_sharpness
from tvlars.lab.training.progress import Reporter

QUICK: dict[str, Any] = dict(
    epochs=3, batch_size=4, precision="32-true", accelerator="cpu", checkpoint_every="1-steps", layer_stats=1
)


def write_pictures(folder: Path) -> None:
    """BMP: another picture of the same size has as many bytes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("cat", "dog", "owl"):
            (folder / split / label).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                    folder / split / label / f"{i}.bmp"
                )


def cut_off(config: TrainConfig, data: ImageData | None = None) -> None:
    with pytest.raises(SystemExit):
        train(config, data=data, reporter=StopAt(4))
    assert config.out is not None
    (config.out / "summary.json").unlink()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run on them that was killed."""
    place = tmp_path_factory.mktemp("begun")
    write_pictures(place / "data")
    cut_off(TrainConfig(data="imagefolder:data", data_dir=place, out=place / "run", **QUICK))
    return place


def rename(data: Path) -> None:
    for split in ("train", "val"):
        (data / split / "cat").rename(data / split / "zebra")


def add_a_file(data: Path) -> None:
    shutil.copy(data / "train" / "dog" / "0.bmp", data / "train" / "dog" / "9.bmp")


def move_a_file(data: Path) -> None:
    (data / "train" / "dog" / "0.bmp").rename(data / "train" / "owl" / "9.bmp")


def replace_a_file(data: Path) -> None:
    file = data / "train" / "dog" / "0.bmp"
    before = file.stat()
    Image.new("RGB", (8, 8), "white").save(file)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_a_file(data: Path) -> None:
    (data / "val" / "dog" / "0.bmp").rename(data / "val" / "dog" / "9.bmp")


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (rename, r"class 'cat' is gone, class 'zebra' is new$"),
    (add_a_file, r"class 'dog' had 4 training images, and has 5 now$"),
    (move_a_file, r"class 'dog' had 4 training images, and has 3 now, and 1 more classes have other counts$"),
    (replace_a_file, r"training images have other pixels$"),
    (rename_a_file, r"test files have other names or sizes$"),
]


@pytest.mark.parametrize("kept_by", ["folder", "checkpoint"])
@pytest.mark.parametrize(("change", "said"), CHANGES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_folder_that_has_changed_is_not_gone_on_with(
    tmp_path: Path, begun: Path, change: Callable[[Path], None], said: str, kept_by: str
) -> None:
    shutil.copytree(begun, tmp_path / "here")
    place = tmp_path / "here"
    change(place / "data")
    if kept_by == "checkpoint":
        (place / "run" / "model.json").unlink()
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file() and file.name != ".lock"}
    config = TrainConfig(data="imagefolder:data", data_dir=place, out=place / "run", resume=True, **QUICK)
    with pytest.raises(
        UsageError, match=f"data must be as they were when the run of .* began, but have changed: {said}"
    ):
        train(config, reporter=Reporter())
    assert {file: file.read_bytes() for file in before} == before


def test_a_folder_that_was_copied_elsewhere_is_the_same(tmp_path: Path, begun: Path) -> None:
    shutil.copytree(begun, tmp_path / "here", copy_function=shutil.copyfile)  # without times
    place = tmp_path / "here"
    config = TrainConfig(data="imagefolder:data", data_dir=place, out=place / "run", resume=True, **QUICK)
    listens = StopAt()
    train(config, reporter=listens)
    assert not [line for line in listens.lines if line.startswith("warning") and "compared" in line]
    rename_a_file(place / "data")
    with pytest.raises(UsageError, match="data must be as they were"):  # one that has finished is no other
        train(config, reporter=Reporter())


def test_what_macos_leaves_beside_every_file_changes_nothing(tmp_path: Path, begun: Path) -> None:
    shutil.copytree(begun, tmp_path / "here")
    place = tmp_path / "here"
    for path in list(place.rglob("*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    config = TrainConfig(data="imagefolder:data", data_dir=place, out=place / "run", resume=True, **QUICK)
    train(config, reporter=Reporter())
    run = load_run(place / "run")
    assert run.complete
    assert run.problems == ()
    assert sorted(set(run.layer_stats()["step"])) == list(range(1, 10))


def test_a_run_is_tested_and_measured_on_what_it_was_trained_on(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_pictures(data)
    options = {**QUICK, "epochs": 1, "checkpoint_every": None, "layer_stats": None}
    train(TrainConfig(data=f"imagefolder:{data}", out=run, **options), reporter=Reporter())
    assert evaluate(run).note == ""
    add_a_file(data)
    assert evaluate(run).note == ""  # training images are not used
    with pytest.raises(
        UsageError, match=r"data must be given to measure .*: class 'dog' had 4 training images, and has 5"
    ):
        probe_run(run, "knn")
    assert set(probe_run(run, "knn", data=f"imagefolder:{data}", device="cpu")) == {"knn"}
    said = r"must be measured on its training images, but .*: class 'dog' had 4 training images, and has 5"
    with pytest.raises(UsageError, match=said):
        run_sharpness(run, samples=4)
    rename_a_file(data)
    assert evaluate(run).note == "the data have changed since the run started: test files have other names or sizes"
    rename(data)
    with pytest.raises(UsageError, match=r"must have the 3 classes of .*: class 'cat' is gone, class 'zebra' is new"):
        evaluate(run)


def test_a_sweep_takes_no_run_on_other_data_for_its_own(tmp_path: Path, digits: ImageData) -> None:
    from tvlars.lab.experiments.sweep import FILE, at_home, make_agenda, run_name

    config = TrainConfig(seed=1)
    run = tmp_path / run_name(at_home(config))
    run.mkdir()
    (tmp_path / FILE).write_text("{}")
    facts = {"fingerprint": load_data("digits").fingerprint.as_json()}
    (run / "model.json").write_text(json.dumps(facts))
    assert len(make_agenda([config], tmp_path).jobs) == 1
    (run / "model.json").write_text(json.dumps({"fingerprint": digits.fingerprint.as_json()}))
    with pytest.raises(
        UsageError, match=r"data must be as they were when the run of .* began, but have changed: class"
    ):
        make_agenda([config], tmp_path)


def test_what_earlier_versions_wrote_goes_on_with_a_note(tmp_path: Path, begun: Path) -> None:
    shutil.copytree(begun, tmp_path / "here")
    place = tmp_path / "here"
    facts = json.loads((place / "run" / "model.json").read_text())
    del facts["fingerprint"]
    (place / "run" / "model.json").write_text(json.dumps(facts))
    for path in (place / "run" / "checkpoints").iterdir():
        manifest = json.loads((path / "manifest.json").read_text())
        del manifest["run"]["fingerprint"]
        manifest["digest"] = digest_of(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))
    config = TrainConfig(data="imagefolder:data", data_dir=place, out=place / "run", resume=True, **QUICK)
    rename(place / "data")
    with pytest.raises(UsageError, match=r"class 'cat' is gone, class 'zebra' is new$"):  # names were kept before, too
        train(config, reporter=Reporter())
    for split in ("train", "val"):
        (place / "data" / split / "zebra").rename(place / "data" / split / "cat")
    listens = StopAt()
    train(config, reporter=listens)
    assert any("does not say which data it is of, so that they could not be compared" in line for line in listens.lines)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return first(load_data("digits"), 16, 8)


def changed_tensors(data: ImageData, kind: str) -> ImageData:
    if kind == "labels":
        labels = data.train_labels.clone()
        labels[[0, 1]] = labels[[1, 0]]
        assert not torch.equal(labels, data.train_labels)
        return replace(data, train_labels=labels)
    if kind == "names":
        return replace(data, class_names=(*data.class_names[:-2], *data.class_names[:-3:-1]))
    images = (data.train_images if kind == "training pixels" else data.test_images).clone()
    images[3, 0, 2, 2] += 1
    return replace(data, **{"train_images" if kind == "training pixels" else "test_images": images})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("labels", "training images have other labels, or another order"),
        ("names", "classes are in another order"),
        ("training pixels", "training images have other pixels"),
        ("test pixels", "test images have other pixels"),
    ],
)
def test_data_of_a_callers_own_are_compared(tmp_path: Path, digits: ImageData, kind: str, said: str) -> None:
    config = TrainConfig(out=tmp_path / "run", **QUICK)
    cut_off(config, digits)
    with pytest.raises(UsageError, match=f"but have changed: {said}$"):
        train(replace(config, resume=True), data=changed_tensors(digits, kind), reporter=Reporter())
    train(replace(config, resume=True), data=replace(digits), reporter=Reporter())


def test_classes_without_names_are_counted(digits: ImageData) -> None:
    here = replace(digits, class_names=())
    assert here.fingerprint.difference(replace(here, classes=12).fingerprint) == "there were 10 classes, and are 12 now"
    first = int(here.test_labels.min())
    moved = replace(here, test_labels=here.test_labels.clamp(min=9))
    assert here.fingerprint.difference(moved.fingerprint).startswith(f"class '{first}' had ")


def test_pixels_of_another_decoder_are_not_compared(digits: ImageData) -> None:
    there = replace(digits, decoder="Pillow 9").fingerprint
    here = replace(changed_tensors(digits, "training pixels"), decoder="Pillow 10").fingerprint
    assert there.difference(here) == ""
    assert there.uncompared(here) == "pixels could not be compared: Pillow 9 decoded them there, Pillow 10 here"
    assert there.uncompared(there) == ""


@pytest.mark.parametrize("damage", [None, [], {"train": 1}, {"class_names": [1]}, "counts", "pixels", "too few"])
def test_a_fingerprint_that_is_none_is_not_believed(digits: ImageData, damage: Any) -> None:
    stored = json.loads(json.dumps(digits.fingerprint.as_json()))
    assert Fingerprint.from_json(stored) == digits.fingerprint
    if isinstance(damage, str):
        stored["train"].update({"counts": [16]} if damage == "too few" else {damage: [None]})
        damage = stored
    assert Fingerprint.from_json(damage) is None


def test_large_data_are_digested_in_part(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digits.fingerprint
    monkeypatch.setattr("tvlars.lab.data.fingerprint.DIGESTED", digits.train_images[:4].nbytes)
    part = replace(digits).fingerprint
    assert part.train.pixels != whole.train.pixels
    assert part == replace(changed_tensors(digits, "training pixels")).fingerprint  # image 3 is not among them
    assert part.train.labels == whole.train.labels
    every = -(-digits.train_images.nbytes // digits.train_images[:4].nbytes)
    other = digits.train_images.clone()
    other[every] = 255 - other[every]  # the second of those that are
    assert replace(digits, train_images=other).fingerprint.train.pixels != part.train.pixels


def test_files_are_known_by_names_sizes_and_order() -> None:
    files = [(b"cat/1.png", 10), (b"dog/1.png", 20)]
    assert digest_files(files) == digest_files(list(files))
    others = [
        [(b"cat/1.png", 11), (b"dog/1.png", 20)],
        [(b"cat/2.png", 10), (b"dog/1.png", 20)],
        files[::-1],
        files[:1],
        [(b"cat/1.png9 20 dog/1.png", 10)],
        [],
    ]
    assert len({digest_files(some) for some in [files, *others]}) == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(train_images=torch.zeros(4, 1, 8, 8)), "train_images is torch.float32 of shape"),
        (dict(test_images=torch.zeros(4, 8, 8, dtype=torch.uint8)), r"test_images is torch.uint8 of shape \(4, 8, 8\)"),
        (
            dict(train_images=torch.zeros(16, 1, 8, 9, dtype=torch.uint8)),
            r"must have square images .*, got \(1, 8, 9\)",
        ),
        (dict(train_images=torch.zeros(16, 1, 0, 0, dtype=torch.uint8)), r"of at least one pixel, got \(1, 0, 0\)"),
        (dict(train_labels=torch.zeros(16)), "train_labels is torch.float32"),
        (dict(test_labels=[0, 1]), "test_labels is of type list"),
        (
            dict(test_images=torch.zeros(8, 1, 9, 9, dtype=torch.uint8)),
            r"must have training and test images of one shape \(C, H, W\), got \(1, 8, 8\) and \(1, 9, 9\)",
        ),
    ],
)
def test_tensors_of_another_kind_are_refused(digits: ImageData, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(digits, **change)
