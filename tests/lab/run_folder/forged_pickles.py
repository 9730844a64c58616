"""Reads forged pickles in a process that ends at the first event that reading data does not need.

    python -m tests.lab.run_folder.forged_pickles RUN COUNT

RUN is a run folder with weights and a checkpoint of format 1. Pickles that call, set or import what an attacker wants
are put in every place of it where a pickle may lie, with checksums that fit, and read as ``--resume`` and ``evaluate``
read them. The last line says how many were refused in one sentence.
"""

from __future__ import annotations

import copyreg
import io
import os
import pathlib
import pickle
import random
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as torch_metadata

from tvlars.lab import TrainConfig, UsageError, load_run
from tvlars.lab.processes.fabric import make_fabric
from tvlars.lab.processes.processes import Processes
from tvlars.lab.run_folder.checkpoints import checkpoint

from .strangers import seal

HARMLESS = {
    "os.listdir",
    "os.scandir",
    "glob.glob",
    "builtins.id",
    "pathlib.Path.glob",
    "object.__getattr__",
    "sys._getframe",
    "cpython.PyInterpreterState_New",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
armed = False
seen: list[str] | None = None
"""List of events that are kept instead, to see that the hook sees them."""


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not armed or event in HARMLESS or (event == "open" and not int(arguments[2] or 0) & WRITES):
        return
    if event == "compile" and arguments[1] == "<unknown>":  # torch prints a traceback, which parses its lines
        return
    if seen is not None:
        seen.append(event)
        return
    os.write(2, f"{event} {arguments!r:.200}\n".encode())
    os._exit(66)


# -- opcodes ------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def name_of(chosen: random.Random, target: str) -> bytes:
    module, _, name = target.partition(":")
    if chosen.random() < 0.5:
        return f"c{module}\n{name}\n".encode()
    return text(module) + text(name) + b"\x93"


CALLS = [
    ("os:system", ["touch {}"]),
    ("posix:system", ["touch {}"]),
    ("builtins:exec", ["open('{}', 'w')"]),
    ("builtins:eval", ["open('{}', 'w')"]),
    ("builtins:open", ["{}", "w"]),
    ("builtins:__import__", ["this"]),
    ("importlib:import_module", ["this"]),
    ("subprocess:Popen", ["touch {}"]),
    ("os:remove", ["{}"]),
    ("os:mkdir", ["{}"]),
    ("os:rename", ["{}", "{}x"]),
    ("shutil:rmtree", ["{}"]),
    ("torch:load", ["{}"]),
    ("torch.hub:load", ["{}"]),
    ("torch:save", ["{}", "{}"]),
    ("tvlars.lab.files.disk:write_whole", ["{}", "x"]),
    ("builtins:getattr", ["{}", "__class__"]),
    ("pathlib:PosixPath", ["{}"]),
    ("torch.serialization:_get_layout", ["{}"]),
]
SET = [
    *(("pathlib:PosixPath", "__fspath__"), ("pathlib:PurePath", "_str"), ("pathlib:PurePath", "__truediv__")),
    *(("torch.serialization:_get_layout", "cache"), ("torch.serialization:_get_layout", "__code__")),
    *(("torch:Size", "__len__"), ("collections:OrderedDict", "__init__"), ("torch:float32", "itemsize")),
    *((f"torch.distributed.checkpoint.metadata:{name}", "__setstate__") for name in ("Metadata", "MetadataIndex")),
    *(
        ("torch.distributed.checkpoint.filesystem:_StorageInfo", "offset"),
        ("torch._utils:_rebuild_tensor_v2", "__defaults__"),
    ),
    *(
        ("tvlars.lab.run_folder.checkpoints.checkpoint:check", "__code__"),
        ("builtins:print", "__self__"),
        ("torch:Tensor", "copy_"),
    ),
]


def gadget(chosen: random.Random, marker: str) -> bytes:
    """Opcodes that leave one value, and do harm in an unpickler."""
    target, words = chosen.choice(CALLS)
    function = name_of(chosen, target)
    arguments = [text(word.format(marker)) for word in words]
    in_tuple = b"(" + b"".join(arguments) + b"t"
    module, _, name = target.partition(":")
    victim, attribute = chosen.choice(SET)
    new = chosen.choice([function, text(marker), b"}", name_of(chosen, "os:system")])
    state = b"}" + text(attribute) + new + b"s"
    kinds = [
        function + in_tuple + b"R",
        b"(" + b"".join(arguments) + f"i{module}\n{name}\n".encode(),
        b"(" + function + b"".join(arguments) + b"o",
        function + in_tuple + b"\x81",
        function + in_tuple + b"}" + b"\x92",
        name_of(chosen, victim) + b"N" + state + b"\x86" + b"b",  # slots: setattr
        name_of(chosen, victim) + state + b"b",
        name_of(chosen, victim) + b")" + b"R" + state + b"b",
        name_of(chosen, victim) + b")" + b"\x81" + b"N" + state + b"\x86" + b"b",
        b"\x82\xf1" + in_tuple + b"R",
        b"\x83\xf1\x00" + in_tuple + b"R",
        b"\x84\xf1\x00\x00\x00" + in_tuple + b"R",
        b"P" + marker.encode() + b"\n",
        function + b"Q",
        in_tuple + b"Q",
        b"\x8a\xff" + b"\xff" * 255,
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x8e" + struct.pack("<Q", 2**62),
        b"\x96" + struct.pack("<Q", 2**62),
        b"r" + struct.pack("<I", 2**32 - 1),
        b"(" * 5_000,
        b"]" + b"]a" * 5_000,
        b"I" + b"9" * 5_000 + b"\n",
        b"\x97",
        function,
    ]
    return chosen.choice(kinds)


def forged(chosen: random.Random, marker: str, honest: bytes) -> bytes:
    """A gadget alone, before the honest content, after it, in place of a part, or as a key or value of it."""
    body = honest[2:] if honest[2:3] != b"\x95" else honest[11:]  # without PROTO and FRAME
    begin, harm = b"\x80" + bytes([chosen.choice([2, 3, 4, 5])]), gadget(chosen, marker)
    how = chosen.randrange(6)
    if how == 0:
        return begin + harm + b"."
    if how == 1:
        return begin + harm + b"0" + body
    if how == 2:
        return begin + body[:-1] + harm + b"0."
    if how == 3:
        return begin + body[:-1] + b"}" + text("planner_data") + harm + b"sb."
    if how == 4:
        return begin + b"}" + harm + b"Ns" + b"0" + body
    return begin + body[:-1] + harm + b"b."


def in_archive(content: bytes, like: Path | bytes) -> bytes:
    """A file of torch.save with another pickle in it."""
    file, source = io.BytesIO(), like if isinstance(like, Path) else io.BytesIO(like)
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(file, "w") as written:
        for info in archive.infolist():
            pickled = info.filename.endswith("/data.pkl")
            written.writestr(info.filename, content if pickled else archive.read(info))
    return file.getvalue()


def pickle_in(file: Path | bytes) -> bytes:
    with zipfile.ZipFile(file if isinstance(file, Path) else io.BytesIO(file)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


# -- reading ------------------------------------------------------------------------------------------


class Reading:
    """The four places of a pickle, put in order again after each."""

    def __init__(self, run: Path) -> None:
        self.run = run
        (self.path,) = (run / "checkpoints").iterdir()
        self.files = {name: self.path / name for name in (".metadata", "progress.pt", "__0_0.distcp")}
        self.files["weights.pt"] = run / "weights.pt"
        self.honest = {name: file.read_bytes() for name, file in self.files.items()}
        self.pickles = {name: pickle_in(self.honest[name]) for name in ("progress.pt", "__0_0.distcp", "weights.pt")}
        self.pickles[".metadata"] = self.honest[".metadata"]
        self.processes = Processes(make_fabric(TrainConfig(accelerator="cpu"), "32-true"))

    def put(self, place: str, content: bytes) -> None:
        if place != ".metadata" and content[:1] == b"\x80" and len(content) % 3:  # else the pickle lies there bare
            content = in_archive(content, self.honest[place])
        if place == "__0_0.distcp":
            described = pickle.loads(self.honest[".metadata"])
            for info in described.storage_data.values():
                info.offset, info.length = 0, len(content)
            self.files[".metadata"].write_bytes(pickle.dumps(described))
        self.files[place].write_bytes(content)
        seal(self.path)

    def restore(self) -> None:
        for name, content in self.honest.items():
            self.files[name].write_bytes(content)
        seal(self.path)

    def read(self, weights: bool) -> None:
        if weights:
            load_run(self.run).model()
            return
        found = checkpoint.newest(self.run, lambda said: None)
        assert found is not None
        path, manifest = found
        checkpoint.read_progress(path, manifest)
        table = checkpoint.read_tensor_table(path, manifest)
        checkpoint.load_tensors(path, table, {"model": {"w": torch.zeros(2, 3)}})


def looks() -> dict[str, dict[str, Any]]:
    """Original content of the files that attackers change."""
    things = [pathlib.PurePath, pathlib.PosixPath, torch.serialization._get_layout, checkpoint.check, torch.Tensor]
    things += [torch_metadata.Metadata, torch_metadata.MetadataIndex, torch_metadata.TensorProperties]
    own = "__slotnames__"  # kept there by the pickling that is done here
    return {str(thing): {name: value for name, value in vars(thing).items() if name != own} for thing in things}


def main(run: Path, count: int) -> None:
    global armed, seen
    chosen, marker = random.Random(0), str(run.parent / "executed")
    copyreg.add_extension("os", "system", 0xF1)
    reading, refused = Reading(run), 0
    sys.addaudithook(hook)
    for weights in (False, True):
        reading.read(weights)  # whatever is imported late
    seen, armed = [], True
    pickle.loads(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.")
    armed = False
    assert {"pickle.find_class", "os.system"} <= set(seen), seen
    seen = None
    before = looks()
    for number in range(count):
        place = chosen.choice([".metadata", ".metadata", "progress.pt", "__0_0.distcp", "weights.pt"])
        content = forged(chosen, marker, reading.pickles[place])
        reading.put(place, content)
        armed = True
        try:
            reading.read(place == "weights.pt")
            said = ""
        except UsageError as error:
            said = str(error)
        armed = False
        assert said, (number, place, content[:400])
        assert len(said) < 1000, said
        assert said.isprintable(), said
        refused += 1
        reading.restore()
    for thing, attributes in looks().items():
        assert attributes.keys() == before[thing].keys(), thing
        assert all(value is before[thing][name] for name, value in attributes.items()), thing
    assert not os.path.lexists(marker)
    print(f"{refused} refused")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
