"""Loading what a stranger made: nothing of it is ever executed, and what does not fit is refused in one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.command import python
from tvlars.lab import TrainConfig, UsageError
from tvlars.lab.files.disk import digest_of
from tvlars.lab.processes.fabric import make_fabric
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints import checkpoint
from tvlars.lab.run_folder.checkpoints.pickles import read_torch_file
from tvlars.lab.run_folder.checkpoints.values import decode, encode

from .strangers import as_format_1, seal, small_checkpoint


@pytest.fixture(scope="module")
def processes() -> Processes:
    return Processes(make_fabric(TrainConfig(accelerator="cpu"), "32-true"))


@pytest.fixture
def path(tmp_path: Path, processes: Processes) -> Path:
    return small_checkpoint(tmp_path, processes)


def load(path: Path, processes: Processes) -> torch.Tensor:
    """Everything that a resume reads of a checkpoint; the tensor that it holds."""
    found = checkpoint.newest(path.parent.parent, lambda text: None)
    assert found is not None
    _, manifest = found
    assert checkpoint.read_progress(path, manifest) == {"step": 4, "pair": (0.5, None)}
    room = {"model": {"w": torch.zeros(2, 3)}}
    checkpoint.load_tensors(path, checkpoint.read_tensor_table(path, manifest), room)
    return room["model"]["w"]


@pytest.mark.parametrize("old", [False, True], ids=["format 2", "format 1"])
def test_what_was_saved_is_read(path: Path, processes: Processes, old: bool) -> None:
    if old:
        as_format_1(path)
        assert sorted(file.name for file in path.iterdir()) == [
            ".metadata",
            "__0_0.distcp",
            "manifest.json",
            "progress.pt",
        ]
    assert torch.equal(load(path, processes), torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool", "complex64"])
def test_tensors_of_every_kind(tmp_path: Path, processes: Processes, dtype: str) -> None:
    """Scalars, empty ones, slices and other memory formats too."""
    kind = getattr(torch, dtype)
    some = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).to(kind)
    values = {
        "scalar": some[1, 2, 3, 4],
        "empty": torch.empty(0, 3, dtype=kind),
        "slice": some[:, 1],
        "channels_last": some.to(memory_format=torch.channels_last),
    }
    path = small_checkpoint(tmp_path, processes, {"model": values})
    room = {"model": {name: torch.zeros_like(value) for name, value in values.items()}}
    manifest = checkpoint.check(path)
    checkpoint.load_tensors(path, checkpoint.read_tensor_table(path, manifest), room)
    again = decode(*encode(values))
    content = io.BytesIO()
    torch.save(values, content)
    saved = read_torch_file(content)
    for name, value in values.items():
        for found in (room["model"][name], again[name], saved[name]):
            assert found.dtype == kind
            assert torch.equal(found, value)


def test_values_of_every_kind() -> None:
    value = {"a": [1, -2.5, None, True, "text"], 3: (0.9, {"b": ()}), "big": 2**60, "nan": [float("inf")], "no": {}}
    assert decode(*encode(value)) == value
    content = io.BytesIO()
    torch.save(value, content)
    assert read_torch_file(content) == value
    with pytest.raises(TypeError, match="Path is no value that can be kept"):
        encode({"a": Path()})


def test_a_state_dict_of_torch_save() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    content = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], content)
    weights, state = read_torch_file(content)
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value)
        assert weights[name].stride() == value.stride()
    assert state["param_groups"] == optimizer.state_dict()["param_groups"]
    assert torch.equal(state["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


TABLES: list[tuple[str, Any, str]] = [
    ("dtype", "object", "dtype must be one of"),
    ("dtype", ["float32"], "dtype must be one of"),
    ("shape", [2, 4], "its chunks are not the whole tensor"),
    ("shape", [2, -3], "shape must be integers >= 0"),
    ("shape", [2, True], "shape must be integers >= 0"),
    ("shape", [2.0, 3], "shape must be integers >= 0"),
    ("shape", "23", "shape must be integers >= 0"),
    ("shape", [2**62, 2**62], "its shape is too large"),
    ("chunks", [], "its chunks are not the whole tensor"),
    ("chunks", {}, "and chunks a list"),
    ("offsets", [1, 0], "is not within its shape"),
    ("offsets", [0], "offsets must be as many as its dimensions, 2"),
    ("sizes", [2, 2], "its chunks are not the whole tensor"),
    ("sizes", [3, 2], "is not within its shape"),
    ("sizes", ["2", 3], "sizes must be integers >= 0"),
    ("file", "../tensors-0.bin", "file must be one that the manifest names"),
    ("file", "/etc/passwd", "file must be one that the manifest names"),
    ("file", "manifest.json", "file must be one that the manifest names"),
    ("file", "progress.bin", "file must be one that the manifest names"),
    ("file", None, "file must be one that the manifest names"),
    ("start", 1, "start [+] length must be <= 24"),
    ("start", -4, "start and length must be integers >= 0"),
    ("start", 2**63, "start and length must be integers >= 0"),
    ("start", None, "start and length must be integers >= 0"),
    ("more", 1, "an object must have offsets, sizes, file, start"),
]


@pytest.mark.parametrize(("entry", "value", "sentence"), TABLES, ids=lambda value: str(value)[:20])
def test_a_table_is_checked_in_all_that_it_says(
    path: Path, processes: Processes, entry: str, value: Any, sentence: str
) -> None:
    table = json.loads((path / "tensors.json").read_text())
    tensor = table["tensors"]["model.w"]
    (tensor if entry in tensor else tensor["chunks"][0])[entry] = value
    (path / "tensors.json").write_text(json.dumps(table))
    seal(path)
    with pytest.raises(UsageError, match=f"tensors.json must describe tensors alone, but does not: .*{sentence}"):
        load(path, processes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[]", "an object must have byteorder, tensors"),
        ('{"byteorder": "big", "tensors": {}}', "byteorder must be 'little', that of this machine, got 'big'"),
        ('{"byteorder": "little", "tensors": []}', "tensors must be an object"),
        ('{"byteorder": "little", "tensors": {"model.w": 3}}', "an object must have dtype, shape, chunks"),
        ("\x00", ""),
    ],
)
def test_a_table_that_is_none(path: Path, processes: Processes, content: str, sentence: str) -> None:
    (path / "tensors.json").write_text(content)
    seal(path)
    with pytest.raises(UsageError, match=f"must describe tensors alone, but does not: .*{sentence}"):
        load(path, processes)


def chunk(start: int, offsets: list[int], sizes: list[int]) -> dict[str, Any]:
    return {"offsets": offsets, "sizes": sizes, "file": "tensors-0.bin", "start": start}


@pytest.mark.parametrize(
    ("chunks", "sentence"),
    [
        ([chunk(0, [0, 0], [1, 3]), chunk(0, [0, 0], [1, 3])], "its chunks overlap"),
        ([chunk(0, [0, 0], [2, 2]), chunk(0, [0, 1], [1, 2])], "its chunks overlap"),
        ([chunk(0, [0, 0], [1, 3]), chunk(12, [1, 0], [1, 2])], "its chunks are not the whole tensor"),
        ([chunk(0, [0, 0], [1, 3]), chunk(12, [1, 0], [1, 3])], None),
        ([chunk(0, [0, 1], [2, 2]), chunk(16, [0, 0], [2, 1]), chunk(24, [1, 1], [0, 2])], None),
    ],
)
def test_chunks_are_the_tensor_each_once(
    path: Path, processes: Processes, chunks: list[dict[str, Any]], sentence: str | None
) -> None:
    table = json.loads((path / "tensors.json").read_text())
    table["tensors"]["model.w"]["chunks"] = chunks
    (path / "tensors.json").write_text(json.dumps(table))
    seal(path)
    if sentence is None:
        assert load(path, processes).sum() == 15
    else:
        with pytest.raises(UsageError, match=sentence):
            load(path, processes)


@pytest.mark.parametrize(
    "entry", ["../x", "x.bin", "tensors-0.bin/..", "weights.pt", "tensors-0.bin\x00", "__0_0.distcp"]
)
def test_a_manifest_names_no_other_files(path: Path, processes: Processes, entry: str) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][entry] = "0" * 64
    manifest["digest"] = digest_of(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="which is no part of a checkpoint"):
        load(path, processes)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"step": 5}, "manifest.json is of step 5"),
        ({"step": "4"}, "entries of the wrong kind"),
        ({"step": True}, "entries of the wrong kind"),
        ({"processes": 0}, "and 0 processes"),
        ({"processes": None}, "entries of the wrong kind"),
        ({"run": []}, "entries of the wrong kind"),
        ({"format": 3}, "must be a checkpoint of format 2 or 1"),
        ({"format": [[1]]}, "must be a checkpoint of format 2 or 1"),
        ({"format": 1}, "lacks .metadata, progress.pt"),
    ],
    ids=str,
)
def test_a_manifest_is_checked(path: Path, processes: Processes, entries: dict[str, Any], sentence: str) -> None:
    seal(path, **entries)
    with pytest.raises(UsageError, match=sentence):
        load(path, processes)


VALUES = [
    ("[" * 100_000, "nested too deeply"),
    ('{"dict": [[' * 40 + "1" + "]]}" * 40, "nested too deeply"),
    ("[" * 40 + "]" * 40, "nested too deeply"),
    ('{"tuple": 3}', "an object must be"),
    ('{"dict": [[[], 3]]}', "an object must be"),
    ('{"dict": [[1, 2, 3]]}', "an object must be"),
    ('{"unheard": []}', "an object must be"),
    ('{"dict": [], "tuple": []}', "an object must be"),
    ("{}", "an object must be"),
    ('{"tensor": ["float32", [3], 0]}', "must lie within its file of 4 bytes"),
    ('{"tensor": ["float32", [-1], 0]}', "a tensor must be a dtype"),
    ('{"tensor": ["float32", [1], -4]}', "a tensor must be a dtype"),
    ('{"tensor": ["float32", [4611686018427387904, 4611686018427387904], 0]}', "must lie within its file"),
    ('{"tensor": ["qint8", [1], 0]}', "a tensor must be a dtype"),
    ('{"tensor": ["float32", 1, 0]}', "a tensor must be a dtype"),
    ('{"tensor": []}', "a tensor must be a dtype"),
    ('{"tensor": ["float32", [true], 0]}', "a tensor must be a dtype"),
    ("3", "must hold a mapping"),
    ("nonsense", "must hold numbers and tensors alone"),
]


@pytest.mark.parametrize(("text", "sentence"), VALUES, ids=lambda value: str(value)[:24])
def test_values_that_are_none(path: Path, processes: Processes, text: str, sentence: str) -> None:
    (path / "progress.json").write_text(text)
    (path / "progress.bin").write_bytes(b"\x00" * 4)
    seal(path)
    with pytest.raises(UsageError, match=sentence):
        load(path, processes)


def torch_file(content: bytes, **storages: bytes) -> io.BytesIO:
    """A file as torch.save writes it, of any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for key, stored in storages.items():
            archive.writestr(f"archive/data/{key}", stored)
    return file


class Call:
    """Pickled as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("size", [(4,), (2**62,), (1, 2**40), (-1,), (3, 2)], ids=str)
@pytest.mark.parametrize("step", [1, 0])
def test_a_tensor_of_torch_save_stays_within_its_storage(size: tuple[int, ...], step: int) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 3) if value is storage else None

    content, storage = io.BytesIO(), object()
    stride = tuple(step for _ in size)
    call = Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, OrderedDict())
    Pickler(content, 2).dump(call)
    with pytest.raises(ValueError, match=r"reaches beyond its storage|not described as torch does it"):
        read_torch_file(torch_file(content.getvalue(), **{"0": b"\x00" * 12}))


def rewritten(file: io.BytesIO, kind: int, changes: dict[str, bytes]) -> io.BytesIO:
    """An archive with other content under some names."""
    found = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(found, "w", kind) as written:
        for info in archive.infolist():
            written.writestr(info.filename, changes.get(info.filename.rpartition("/")[2], archive.read(info)))
    return found


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (zipfile.ZIP_STORED, {"0": b"\x00" * 16}, "a storage must have 12 bytes, got 16"),
        (zipfile.ZIP_STORED, {"0": b"\x00" * 8}, "a storage must have 12 bytes, got 8"),
        (zipfile.ZIP_STORED, {"0": b""}, "a storage must have 12 bytes, got 0"),
        (zipfile.ZIP_STORED, {"byteorder": b"big"}, "its byte order must be little, got 'big'"),
        (zipfile.ZIP_DEFLATED, {}, "torch did not write it: compressed"),
    ],
    ids=["longer", "shorter", "empty", "byte order", "compressed"],
)
def test_an_archive_that_torch_does_not_write(kind: int, changes: dict[str, bytes], sentence: str) -> None:
    """A few bytes of a compressed one may be as many as there is memory."""
    content = io.BytesIO()
    torch.save(torch.arange(3.0), content)
    assert read_torch_file(rewritten(content, zipfile.ZIP_STORED, {})).tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=sentence):
        read_torch_file(rewritten(content, kind, changes))


def test_names_of_checkpoints_are_text(path: Path) -> None:
    path.rename(path.with_name("9\n\x1b[31m\u202e"))
    said: list[str] = []
    with pytest.raises(UsageError, match=r"all are damaged: 9\\n\\x1b\[31m\\u202e \(") as error:
        checkpoint.newest(path.parent.parent, said.append)
    assert said[0].startswith(r"checkpoint 9\n\x1b[31m\u202e is damaged")
    assert all(one.isprintable() for one in (str(error.value), *said))


def laughs(of: bytes, levels: int) -> bytes:
    """A pickle with a list of ten times the same list, of ten times the same list, and so on, around ``of``."""
    lists = b"".join(b"](" + b"h%c" % level * 10 + b"eq%c" % (level + 1) for level in range(levels))
    return b"\x80\x02](" + of + b"q\x00" + lists + b"e."


@pytest.mark.parametrize("of", [b"]", b"}", b")", b"(K\x01K\x02t"], ids=["list", "dict", "tuple", "pair"])
def test_a_small_pickle_has_few_values(of: bytes) -> None:
    with pytest.raises(ValueError, match="the same values are in it too many times"):
        read_torch_file(torch_file(laughs(of, 30)))


def test_a_pickle_without_an_end() -> None:
    with pytest.raises(ValueError, match="a value holds itself"):
        read_torch_file(torch_file(b"\x80\x02]q\x00h\x00a."))


@pytest.mark.parametrize("made", [b"ccollections\nOrderedDict\n)R", b"}"], ids=["ordered", "plain"])
def test_nothing_but_versions_is_set_on_what_a_pickle_makes(made: bytes) -> None:
    versions, other = (b"}X%c\x00\x00\x00%b}s" % (len(name), name) for name in (b"_metadata", b"keys"))
    assert read_torch_file(torch_file(b"\x80\x02" + made + versions + b"b.")) == {}
    with pytest.raises(ValueError, match="torch did not write it: BUILD"):
        read_torch_file(torch_file(b"\x80\x02" + made + other + b"b."))


def test_values_in_many_places_of_metadata(path: Path, processes: Processes) -> None:
    """The excerpt of a bad shape is made in reasonable time."""
    as_format_1(path)
    (path / ".metadata").write_bytes(laughs(b"]", 30))
    seal(path)
    with pytest.raises(UsageError, match="but does not: the same values are in it too many times"):
        load(path, processes)


def test_a_foreign_name_is_refused_where_nobody_looks(path: Path, processes: Processes) -> None:
    """In the arguments of a tensor that are of no use, and in an entry of the metadata that is not read."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 3) if value is storage else None

    for hooks, refused in ((OrderedDict(), False), (print, True), (torch.load, True)):
        content, storage = io.BytesIO(), object()
        Pickler(content, 2).dump(Call(torch._utils._rebuild_tensor_v2, storage, 0, (3,), (1,), False, hooks))
        file = torch_file(content.getvalue(), **{"0": b"\x00" * 12})
        if refused:
            with pytest.raises(ValueError, match="is not allowed in it"):
                read_torch_file(file)
        else:
            assert read_torch_file(file).tolist() == [0.0] * 3
    as_format_1(path)
    honest = pickle.loads((path / ".metadata").read_bytes())
    for planner_data in (torch.load, OrderedDict()):
        (path / ".metadata").write_bytes(pickle.dumps(replace(honest, planner_data=planner_data)))
        seal(path)
        with pytest.raises(UsageError, match="is not allowed in it"):
            load(path, processes)


@pytest.mark.parametrize(
    ("value", "descriptors", "sentence"),
    [
        (torch.arange(6.0).reshape(2, 3), None, None),
        (torch.arange(6.0).reshape(2, 3), ["zstd"], "a chunk must be stored as it is"),
        (torch.arange(6).reshape(2, 3), None, "but they cannot be read"),
        (torch.arange(6.0), None, "but they cannot be read"),
        (torch.arange(12.0).reshape(4, 3), None, "but they cannot be read"),
        ([0.0] * 6, None, "but they cannot be read"),
    ],
    ids=["as it was", "transformed", "dtype", "shape", "larger", "list"],
)
def test_a_chunk_of_format_1_is_what_its_table_says(
    path: Path, processes: Processes, value: Any, descriptors: Any, sentence: str | None
) -> None:
    as_format_1(path)
    torch.save(value, path / "__0_0.distcp")
    table = pickle.loads((path / ".metadata").read_bytes())
    (place,) = table.storage_data.values()
    place.offset, place.length, place.transform_descriptors = 0, (path / "__0_0.distcp").stat().st_size, descriptors
    (path / ".metadata").write_bytes(pickle.dumps(table))
    seal(path)
    if sentence is None:
        assert torch.equal(load(path, processes), value)
    else:
        with pytest.raises(UsageError, match=sentence):
            load(path, processes)


def test_the_same_tensor_in_many_places() -> None:
    shared = torch.arange(6.0)
    content = io.BytesIO()
    torch.save({f"layer{i}": shared for i in range(1000)}, content)
    content.seek(0)
    found = read_torch_file(content)
    assert len(found) == 1000
    assert all(torch.equal(one, shared) for one in found.values())


@pytest.mark.slow
def test_nothing_of_a_forged_file_is_executed(tmp_path: Path, processes: Processes) -> None:
    """Pickles in each of the places where one may lie, in a process that ends at once where it does more than read; see
    ``forged_pickles``."""
    from tvlars.lab import train
    from tvlars.lab.training.progress import Reporter

    run = tmp_path / "run"
    train(TrainConfig(out=run, epochs=1, precision="32-true", accelerator="cpu"), reporter=Reporter())
    path = small_checkpoint(run, processes)
    as_format_1(path)
    count = os.environ.get("TVLARS_FUZZ", "500")
    done = python("-m", "tests.lab.run_folder.forged_pickles", run, count, cwd=Path(__file__).parents[3], timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{count} refused"
