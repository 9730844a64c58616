"""The mapped file of decoded images: races, kills and full disks."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command
from tests.lab.data.folders import read, write, write_classes
from tvlars.lab import ImageData, UsageError
from tvlars.lab.data import decoded

PROCESS = """
import sys, time
from pathlib import Path
from tvlars.lab.data import decoded, load_data
decoded.SHARE = 0.0
one, here = decoded.read_picture, Path(sys.argv[2])
def slow(file, size):
    (here / sys.argv[3]).touch()
    time.sleep(0.02)
    return one(file, size)
decoded.read_picture = slow
data = load_data(f"imagefolder:{sys.argv[1]}", image_size=8)
print(data.fingerprint.train.pixels, data.fingerprint.test.pixels)
"""


@pytest.mark.slow
def test_two_processes_decode_a_folder_once(tmp_path: Path) -> None:
    write_classes(tmp_path / "data", count=20)
    expected = read(tmp_path / "data", image_size=8).fingerprint
    environment = {**os.environ, "TVLARS_CACHE": str(tmp_path / "cache")}
    (tmp_path / "process.py").write_text(PROCESS)
    command = [tmp_path / "process.py", tmp_path / "data", tmp_path]
    both = [Command([*command, name], tmp_path, environment, program="python") for name in ("first", "second")]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert out.split() == [expected.train.pixels, expected.test.pixels], err
    assert (tmp_path / "first").exists() + (tmp_path / "second").exists() == 1
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 1
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.fixture
def mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that everything goes to."""
    monkeypatch.setattr(decoded, "SHARE", 0.0)
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_threads_wait_for_each_other(tmp_path: Path, mapping: Path) -> None:
    write_classes(tmp_path / "data", count=20)
    found: list[ImageData] = []
    threads = [threading.Thread(target=lambda: found.append(read(tmp_path / "data"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({data.fingerprint for data in found}) == 1
    assert len(list(mapping.glob("*.u8"))) == 1


def test_a_file_system_without_locks(tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    write_classes(tmp_path / "data", count=4)
    monkeypatch.setattr(decoded.FileLock, "acquire", none)
    data = read(tmp_path / "data")
    assert data.mapped
    (file,) = mapping.glob("*.u8")
    other = file.with_name(f"{file.stem}.12345678.part")  # of another process, which may be at work
    file.unlink()
    other.touch()
    assert read(tmp_path / "data").fingerprint == data.fingerprint
    assert other.exists()


def test_without_locks_each_process_writes_a_file_of_its_own(
    tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one begins, and ends, while this one is at its first image."""
    write_classes(tmp_path / "data", count=4)
    one, begun = decoded.read_picture, threading.Lock()
    found = []

    def none(*_: object, **__: object) -> None:
        raise NotImplementedError

    def meanwhile(*arguments: Any) -> Any:
        if begun.acquire(blocking=False):
            found.append(read(tmp_path / "data", image_size=8).fingerprint)
        return one(*arguments)

    monkeypatch.setattr(decoded.FileLock, "acquire", none)
    monkeypatch.setattr(decoded, "read_picture", meanwhile)
    found.append(read(tmp_path / "data", image_size=8).fingerprint)
    assert len(found) == 2
    assert len(set(found)) == 1
    assert len(list(mapping.iterdir())) == 1


def test_what_a_killed_process_leaves_is_not_believed(
    tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "data", count=6)
    expected = read(tmp_path / "data").fingerprint
    (file,) = mapping.glob("*.u8")
    whole = file.read_bytes()
    for left in (b"", b"\0" * len(whole), whole[:-1], whole[:-40], whole[40:], whole + b"\0", b"\0" + whole):
        file.write_bytes(left)
        file.with_name(f"{file.stem}.12345678.part").write_bytes(b"\0" * 100)
        data = read(tmp_path / "data")
        assert data.mapped
        assert data.fingerprint == expected
        assert not list(mapping.glob("*.part"))
    for stem in ("free", "held"):
        (mapping / f"{stem}.12345678.part").touch()
    file.unlink()
    with decoded.FileLock(mapping / "held.lock", is_singleton=False):
        read(tmp_path / "data")
    assert [path.name for path in mapping.glob("*.part")] == ["held.12345678.part"]
    (mapping / "held.12345678.part").unlink()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    file.unlink()
    monkeypatch.setattr(decoded, "read_picture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "data", image_size=8)
    assert not list(mapping.glob("*.u8"))
    assert not list(mapping.glob("*.part"))


@pytest.mark.parametrize("change", ["contents", "name", "another folder", "size"])
def test_another_folder_is_another_file(tmp_path: Path, mapping: Path, change: str) -> None:
    folder, size = tmp_path / "a" / "data", 8
    for i in range(4):
        for label in ("cat", "dog"):
            write(folder / label / f"{i}.bmp")
    read(folder, image_size=8)
    file = folder / "cat" / "0.bmp"
    before = file.stat()
    if change == "contents":
        write(file, seed=9)
    elif change == "name":
        file.rename(folder / "cat" / "9.bmp")
    elif change == "another folder":
        folder = folder.rename(tmp_path / "data")
    else:
        size = 16
    if file.exists():
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size
    data = read(folder, image_size=size)
    assert len(list(mapping.glob("*.u8"))) == 2
    decoded.SHARE = 0.5
    assert data.fingerprint == read(folder, image_size=size).fingerprint


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "data")
    mapping.write_text("a file")
    with pytest.raises(UsageError, match=r"TVLARS_CACHE must be a writable folder, but .*cache is not"):
        read(tmp_path / "data")
    mapping.unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match=r"TVLARS_CACHE must be a folder with room for .*: No space left on device$"):
        read(tmp_path / "data")
    assert not list(mapping.glob("*.part"))
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"TVLARS_CACHE must be a folder with room for .*: No space left on device$"):
        read(tmp_path / "data")
    assert not list(mapping.glob("*.part"))
