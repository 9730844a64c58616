"""YAML as people read it: a number is what its digits say, or the line is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvlars.lab import Grid, UsageError
from tvlars.lab.experiments.yaml_file import read_yaml


def read(tmp_path: Path, text: str | bytes) -> Any:
    file = tmp_path / "grid.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("100", 100), ("-7", -7), ("+7", 7), ("1_024", 1024), ("12_345_678", 12_345_678),
        ("1e-3", 1e-3), ("1E3", 1e3), ("1e+1", 10.0), ("4.", 4.0), (".5", 0.5), ("-1.5e2", -150.0), ("1_000.5", 1000.5),
        ("08.5", 8.5), ("0.0", 0.0), ("1_000.", 1000.0),
        ("yes", True), ("off", False), ("True", True), ("NO", False), ("y", "y"), ("None", "None"),
        ("~", None), ("null", None), ("", None),
        ("2024-01-01", "2024-01-01"), ("2024-01-01 10:30:00", "2024-01-01 10:30:00"), ("1,024", "1,024"),
        ("0-4", "0-4"), ("5m", "5m"), ("epochs:2", "epochs:2"), ("512-512", "512-512"), ("1.0e+1x", "1.0e+1x"),
        ("v1_0", "v1_0"), ("1.2.3", "1.2.3"), ("=", "="), ("a:1", "a:1"), ("10.0.0.1:29500", "10.0.0.1:29500"),
        ("'0100'", "0100"), ('"1:30"', "1:30"), ("'yes'", "yes"), ("!!str 0100", "0100"), ("!!float 1", 1.0),
    ],
)  # fmt: skip
def test_what_a_text_means(tmp_path: Path, text: str, value: Any) -> None:
    for found in (read(tmp_path, f"a: {text}\n")["a"], read(tmp_path, f"- {text}\n")[0]):
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["0100", "007", "08", "00", "-010", "+07", "0_1", "0o17", "0x1F", "0b11", "0X1f", "-0x1",
     "1:30", "10:30", "190:20:30", "1:30.5", "-1:30", "1_0", "1__000", "1_", "1_00", "10_0000", "1_0.5", "1_0e3",
     "1.5_0", "1_000e1_0", "!!int 0100", "!!int '0100'", "!!int 1:30", "!!float 1:30", "!!float 0x10", "!!int 1_0"],
)  # fmt: skip
def test_numbers_that_programs_read_in_several_ways(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"grid\.yaml' cannot be read: line 2: .*decimal number"):
        read(tmp_path, f"a: 1\nb: {text}\n")
    with pytest.raises(UsageError, match="line 1: "):
        read(tmp_path, f"[{text}]")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text("0123456789_.:+-exobn", min_size=1, max_size=9).filter(lambda text: any(c.isdigit() for c in text)))
def test_no_number_is_another_than_its_digits_say(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            found = read(Path(folder), f"- {text}\n")
        except UsageError:
            return
    if isinstance(found, list) and isinstance(found[0], (int, float)):
        assert found[0] == float(text.replace("_", "")) or text in (".inf", ".nan")
        if isinstance(found[0], int):
            assert str(found[0]) == text.replace("_", "").lstrip("+") or found[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "line 2: a appears twice"),
        ("{lr: 1, 'lr': 2}", "line 1: lr appears twice"),
        ("a: 1\n---\nb: 2\n", "line 2: it must be one document, but a second one starts here"),
        ("a:\n\tb: 1\n", r"line 2: found character '\\t' that cannot start any token; lines are indented with spaces"),
        ("a: &x [*x]\n", "line 1: it contains itself"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            "line 1: the tag .*python/object/apply:os.system' is not allowed",
        ),
        ("a: !!binary aGk=\n", "line 1: the tag .*binary' is not allowed"),
        ("a: !!timestamp 2024-01-01\n", "line 1: the tag .*timestamp' is not allowed"),
        ("a: !mine 1\n", "line 1: the tag '!mine' is not allowed"),
        ("a: !!set {b}\n", "line 1: the tag .*set' is not allowed"),
        ("[" * 50 + "]" * 50, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "9" * 5000, "line 1: an integer has 5000 digits"),
        (b"a: \xff\n", "it is not UTF-8 from byte 4 on"),
        (b"a: \x00\n", "special characters are not allowed"),
        ("[1, 2", "line 1: "),
        ("? [1]\n: 2\n", "line 1: found unhashable key"),
    ],
)
def test_what_is_refused_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_encodings(tmp_path: Path) -> None:
    text = "grid: {optimizer: [lars]}  # φ\r\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        content = text.encode(encoding)
        if encoding == "utf-16-le":
            content = b"\xff\xfe" + content
        assert read(tmp_path, content) == {"grid": {"optimizer": ["lars"]}}


def test_aliases_stand_for_few_values(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &x [1, 2]\nb: *x\nc: {<<: {d: 3}, e: 4}\n") == {
        "a": [1, 2], "b": [1, 2], "c": {"d": 3, "e": 4},
    }  # fmt: skip
    laughs = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    begin = time.process_time()
    with pytest.raises(UsageError, match="it stands for more than 100,000 values"):
        read(tmp_path, laughs)
    assert time.process_time() - begin < 60


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "grid.yaml", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match="more than 1,048,576"):
        read_yaml(tmp_path / "grid.yaml")


def test_grids_have_the_numbers_that_were_written(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("base: {epochs: 1, augment: off}\ngrid: {optimizer: [lars], batch-size: [1_024], lr: [1e-3, 2]}\n")
    assert [(run.batch_size, run.lr, run.augment) for run in Grid.read(file).runs] == [
        (1024, 0.001, False), (1024, 2.0, False),
    ]  # fmt: skip
    for text in ("seed: [001, 010, 100]", "batch-size: [0100, 0200]", "batch-size: [1,024]", "lr: [1:30]"):
        file.write_text(f"base: {{epochs: 1}}\ngrid: {{{text}}}\n")
        with pytest.raises(UsageError, match="line 2: "):
            Grid.read(file)
