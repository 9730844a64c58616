"""Files that anybody may have made: regular ones alone are opened, and nothing is waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tvlars._reading import is_regular, open_regular, parse_json, parse_number, read_bytes, read_json, read_text, reason
from tvlars.stats import read_layer_stats
from tvlars.stats._files import open_folder


@pytest.fixture(params=["pipe", "device", "link to a device", "folder", "socket", "loop", "link that leaves", "huge"])
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file in a folder that is not to be read, and what is said of it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "file"
    if request.param == "pipe":
        os.mkfifo(file)
        yield file, "it is a named pipe, not a regular file"
    elif request.param == "device":
        file.symlink_to("/dev/zero")
        yield file, "it is a link that leaves"
    elif request.param == "link to a device":
        file.symlink_to("/dev/stdin")
        yield file, "it is a link that leaves"
    elif request.param == "folder":
        file.mkdir()
        yield file, "it is a folder, not a regular file"
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            here = os.getcwd()
            os.chdir(folder)  # a socket's path has room for a hundred characters
            listening.bind("file")
            os.chdir(here)
            yield file, "it is a socket, not a regular file"
    elif request.param == "loop":
        file.symlink_to("file")
        yield file, "symbolic links"
    elif request.param == "link that leaves":
        (tmp_path / "secret").write_text("secret")
        file.symlink_to(tmp_path / "secret")
        yield file, "it is a link that leaves"
    else:
        with open(file, "wb") as out:
            out.truncate(2**40)
        yield file, "it has 1,099,511,627,776 bytes, more than"


def test_what_is_no_file_is_not_read(bad: tuple[Path, str]) -> None:
    file, said = bad
    for read in (read_bytes, read_text, read_json):
        with pytest.raises(OSError, match=said) as caught:
            read(file, file.parent)
        assert caught.value.filename == str(file)
        assert said in reason(caught.value)
    assert is_regular(file, file.parent) == ("bytes" in said)


def test_a_device_is_not_read_wherever_it_lies() -> None:
    with pytest.raises(OSError, match="it is a device, not a regular file"):
        open_regular("/dev/zero")
    with pytest.raises(OSError, match="null byte"):
        open_regular("a\0b")
    assert not is_regular("a\0b")


def test_links_inside_a_folder_and_with_it_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("text")
    (folder / "link").symlink_to("file")
    (tmp_path / "elsewhere").symlink_to(folder)
    assert read_text(folder / "link", folder) == "text"
    assert read_text(tmp_path / "elsewhere" / "link", tmp_path / "elsewhere") == "text"
    assert is_regular(folder / "link", folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ("[" * 100 + "]" * 100, "it is nested too deeply"),
        ("1" * 5000, "it has an integer of 5000 digits"),
        ("1" * 30, "it has an integer of 30 digits"),
        ('{"lr": 1, "lr": 2}', "'lr' appears twice"),
        ("", "Expecting value"),
    ],
)
def test_json_that_no_program_writes(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_json_that_programs_write(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, {"b": -9223372036854775808}]}')  # an editor has put a mark before it
    assert read_json(file) == {"a": [1, {"b": -(2**63)}]}
    file.write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="can't decode"):
        read_json(file)


def test_numbers_are_what_their_digits_say() -> None:
    for text, value in (("7", 7), ("-7", -7), ("1_024", 1024), ("100", 100)):
        assert parse_number(int, text) == value
    for text, number in (("1e-3", 1e-3), ("1_000.5", 1000.5), (" 4", 4.0)):
        assert parse_number(float, text) == number
    for kind in (int, float):
        for text in ("1_0", "1__000", "1_", "\u0663", "x", "", "--", "1,5", "1_0e3"):
            with pytest.raises(ValueError, match=r"number|invalid literal|could not convert"):
                parse_number(kind, text)


# -- layer statistics ---------------------------------------------------------------------------------------------

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
GOOD = {"step": [1, 2], "layer": ["a", "b"], "quantity": ["LWN", "LGN"], "value": [1.0, 2.0]}


def test_a_plain_file_of_layer_statistics(tmp_path: Path) -> None:
    pd.DataFrame(GOOD).to_parquet(tmp_path / "1.parquet")
    pd.DataFrame({**GOOD, "layer": pd.Categorical(["a", "b"])}).to_parquet(tmp_path / "2.parquet")
    found = read_layer_stats(tmp_path)
    assert list(found) == ["step", "layer", "quantity", "value"]
    assert found["step"].tolist() == [1, 2, 1, 2]
    assert found["layer"].tolist() == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({**GOOD, "more": [1, 2]}, "its columns must be step, layer, quantity, value"),
        ({"step": [1]}, "its columns must be"),
        ({**GOOD, "step": ["1", "2"]}, "step must be an integer"),
        ({**GOOD, "step": pa.array([1, 2**63 + 5], pa.uint64())}, "step must be an integer"),
        ({**GOOD, "step": [-5, 1]}, "step must be >= 1, got -5"),
        ({**GOOD, "value": ["x", "y"]}, "value a number"),
        ({**GOOD, "layer": [["a"], ["b"]]}, "layer must be text"),
        ({**GOOD, "quantity": [b"a", b"b"]}, "quantity must be text"),
        ({**GOOD, "layer": ["a", None]}, "rows that are not whole"),
    ],
)
def test_hostile_layer_statistics(tmp_path: Path, columns: dict[str, object], said: str) -> None:
    from pyarrow import parquet

    file = tmp_path / "000000001-000000002.parquet"
    parquet.write_table(pa.table(columns), file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=rf"000000001-000000002\.parquet must hold layer statistics.*{said}"):
        read_layer_stats(tmp_path)
    with pytest.raises(ValueError, match=said):
        open_folder(tmp_path, 1)
    assert file.read_bytes() == before


def test_what_a_parquet_file_says_of_itself_is_not_believed(tmp_path: Path) -> None:
    """An index, attributes and types that pandas would make of its metadata."""
    from pyarrow import parquet

    table = pa.table(GOOD).replace_schema_metadata(
        {"pandas": '{"index_columns": ["step"], "columns": 7, "attributes": {"a": 1}}', "PANDAS_ATTRS": "{"}
    )
    parquet.write_table(table, tmp_path / "1.parquet")
    assert list(read_layer_stats(tmp_path)) == ["step", "layer", "quantity", "value"]


def test_pipes_and_links_among_layer_statistics(tmp_path: Path) -> None:
    folder = tmp_path / "layer-stats"
    folder.mkdir()
    os.mkfifo(folder / "1.parquet")
    with pytest.raises(OSError, match="it is a named pipe"):
        read_layer_stats(folder)
    (folder / "1.parquet").unlink()
    pd.DataFrame(GOOD).to_parquet(tmp_path / "mine.parquet")
    (folder / "1.parquet").symlink_to(tmp_path / "mine.parquet")
    for use in (read_layer_stats, lambda path: open_folder(path, 1)):
        with pytest.raises(OSError, match="it is a link that leaves"):
            use(folder)
    (folder / "1.parquet").unlink()
    (folder / "1.part").symlink_to(tmp_path / "mine.parquet")
    before = (tmp_path / "mine.parquet").read_bytes()
    pd.DataFrame(GOOD).to_parquet(folder / "1.parquet")
    open_folder(folder, 1)  # takes step 2 out
    assert read_layer_stats(folder)["step"].tolist() == [1]
    assert (tmp_path / "mine.parquet").read_bytes() == before


def test_a_damaged_file_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    pd.DataFrame(GOOD).to_parquet(tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes(b"PAR1 nothing PAR1")
    before = (tmp_path / "1.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"2\.parquet must hold layer statistics"):
        open_folder(tmp_path, 1)
    assert (tmp_path / "1.parquet").read_bytes() == before
