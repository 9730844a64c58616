"""Protocols: read, checked, run under, and recorded in the folder of their runs."""

from __future__ import annotations

import json
import random
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tvlars.cli import main
from tvlars.lab import Protocol, UsageError, seeds_needed
from tvlars.lab.registered.record import digest_of

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
PLAIN: dict[str, Any] = {
    "name": "small",
    "question": "Does LARS need warm-up on digits?",
    "command": "compare",
    "options": {"data": "digits", "epochs": 1, "batch_size": 512, "validation": 0.1},
    "arms": {"warm": "lars", "cold": "lars,warmup-epochs=0"},
    "seeds": [1],
    "family": [["warm", "cold"]],
    "margin": 0.3,
    "stopping": {"runs": 2},
}
TUNING: dict[str, Any] = {
    **PLAIN,
    "name": "tuned",
    "command": "tune",
    "tuning": {"seeds": [1000, 1001], "trials": 2, "sampler": "grid", "rerun": 1},
    "space": {"lr": "8:16:x2"},
    "family": "all",
}
SWEPT: dict[str, Any] = {
    **{name: value for name, value in PLAIN.items() if name not in ("family", "margin")},
    "command": "sweep",
    "space": {"lr": [8, 16]},
    "stopping": "all runs",
}

scalars = st.one_of(st.booleans(), st.none(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text())
contents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def write(folder: Path, content: dict[str, Any] = PLAIN, /, **changes: Any) -> Path:
    """Write a protocol; a part that is None is left out."""
    made = {name: value for name, value in {**content, **changes}.items() if value is not None}
    file = folder / "protocol.yaml"
    file.write_text(yaml.safe_dump(made, sort_keys=False))
    return file


def reordered(value: Any, order: random.Random) -> Any:
    """Return an equal value with keys in another order, and whole numbers as floats now and then."""
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {key: reordered(one, order) for key, one in items}
    if isinstance(value, list):
        return [reordered(one, order) for one in value]
    if type(value) is int and float(value) == value and order.random() < 0.5:
        return float(value)
    return value


@settings(max_examples=60, deadline=None)
@given(contents, st.randoms(use_true_random=False))
def test_order_of_keys_and_spelling_of_numbers_play_no_part_in_the_digest(content: Any, order: random.Random) -> None:
    assert digest_of(content) == digest_of(reordered(content, order))


@settings(max_examples=60, deadline=None)
@given(contents, contents)
def test_different_contents_have_different_digests(content: Any, other: Any) -> None:
    assert (digest_of(content) == digest_of(other)) == (typed(content) == typed(other))


def typed(value: Any) -> Any:
    """Return a value in which true and 1 differ, and 1 and 1.0 do not."""
    if isinstance(value, dict):
        return {key: typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [typed(one) for one in value]
    return isinstance(value, bool), value


def test_comments_and_layout_play_no_part_in_the_digest(tmp_path: Path) -> None:
    plain = Protocol.read(write(tmp_path))
    other = tmp_path / "other.yaml"
    other.write_text("# a comment\n" + json.dumps(dict(reversed(PLAIN.items()))))
    assert Protocol.read(other).digest == plain.digest
    assert Protocol.read(write(tmp_path, margin=0.4)).digest != plain.digest
    assert all(run.protocol == plain.digest for run in plain.config.runs())


def test_a_protocol_shows_its_digest_and_its_file_in_a_notebook(tmp_path: Path) -> None:
    protocol = Protocol.read(write(tmp_path, question="Is 1 < 2?"))
    text = "".join(ET.fromstring(protocol._repr_html_()).itertext())
    assert text == f"protocol small, digest {protocol.digest}{(tmp_path / 'protocol.yaml').read_text()}"


@pytest.mark.parametrize(
    ("content", "changes", "sentence"),
    [
        (PLAIN, {"qestion": "x"}, r"unknown part of a protocol 'qestion': did you mean 'question'"),
        (PLAIN, {"question": None}, "a protocol must have question"),
        (PLAIN, {"stopping": None}, "a protocol must have stopping"),
        (PLAIN, {"command": "train"}, "unknown command of a protocol 'train'"),
        (PLAIN, {"family": None}, "a protocol of compare must have family"),
        (PLAIN, {"margin": 0}, r"margin must be > 0\.?0?, got 0"),
        (PLAIN, {"family": "warm:hot"}, "unknown arm of family 'hot'"),
        (PLAIN, {"seeds": [1, 1]}, "seeds must be a list of different integers"),
        (PLAIN, {"tuning": {"seeds": [1]}}, "seeds must be fresh ones, none of which is a tuning seed, got 1 in both"),
        (PLAIN, {"options": {"epochz": 1}}, "unknown option of options 'epochz': did you mean 'epochs'"),
        (PLAIN, {"options": {"seed": 1}}, "unknown option of options 'seed'"),
        (PLAIN, {"options": {"epochs": 0}}, "epochs must be an integer >= 1, got 0"),
        (PLAIN, {"space": {"lr": [4]}}, "space must not be given for compare"),
        (PLAIN, {"power": {"difference": 0.5}}, "power must have difference and deviation"),
        (PLAIN, {"stopping": {"run": 3}}, "unknown option of stopping 'run': did you mean 'runs'"),
        (PLAIN, {"name": "a/b"}, "name must be letters, digits"),
        (TUNING, {"space": {"lr": {"mild": "8:16:x2"}}}, "unknown arm among those tuned 'mild'"),
        (TUNING, {"tuning": {"trails": 2}}, "unknown option of tuning 'trails': did you mean 'trials'"),
        (TUNING, {"tuning": {"trials": 3, "sampler": "grid"}}, "grid"),
        (PLAIN, {"options": {"data": "digits"}}, "validation must hold out images"),
        (SWEPT, {"space": {"lr": {"warm": [8, 16], "cold": [8]}}}, "arms must have equal budgets"),
        (SWEPT, {"budgets": "some"}, "budgets must be equal .default. or unequal, got 'some'"),
        (PLAIN, {"budgets": "unequal"}, "budgets must be equal for compare"),
    ],
)
def test_a_bad_protocol_is_one_sentence(
    content: dict[str, Any], changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    file = write(tmp_path, content, **changes)
    with pytest.raises(UsageError, match=sentence):
        Protocol.read(file).check()


def test_a_sweep_may_declare_unequal_budgets(tmp_path: Path) -> None:
    file = write(tmp_path, SWEPT, budgets="unequal", space={"lr": {"warm": [8, 16], "cold": [8]}})
    made = Protocol.read(file).check()
    assert made.notes == ("budgets are unequal, as declared: warm 2 and cold 1 runs",)


def test_check_counts_runs_and_images_and_the_seeds_that_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, power={"difference": 0.5, "deviation": 0.41}, seeds=[1, 2, 3])
    assert main(["protocol", "check", str(file), "--speed", "1000"]) == 0
    said = capsys.readouterr().out
    assert Protocol.read(file).digest in said
    assert "in all   6 runs, 6,144 images, 0.0017 hours at 1,000 images/s" in said  # 2 steps of 512 each
    needed = seeds_needed(0.5, 0.41)
    assert (
        f"power    {needed} seeds find a difference of 0.5 points at a deviation of 0.41 with 80%; there are 3" in said
    )
    assert f"note: 3 seeds are fewer than the {needed}" in said
    assert "note: stopping after 2 runs leaves out some of the 6" in said
    assert main(["protocol", "check", str(write(tmp_path, margin=-1))]) == 2
    assert "margin must be > 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "changes", "comparisons"),
    [
        (PLAIN, {"options": {**PLAIN["options"], "batch_size": [256, 512]}}, 2),
        (SWEPT, {"family": "all", "margin": 0.3}, 6),  # of two arms with two rates each
        (SWEPT, {"family": "warm:cold", "margin": 0.3}, 4),
    ],
)
def test_check_counts_the_comparisons_that_pages_make(
    content: dict[str, Any], changes: dict[str, Any], comparisons: int, tmp_path: Path
) -> None:
    file = write(tmp_path, content, **changes, power={"difference": 0.5, "deviation": 0.41})
    found = Protocol.read(file).check()
    assert found.comparisons == comparisons
    assert found.seeds_needed() == seeds_needed(0.5, 0.41, comparisons=comparisons)


def test_settings_of_arms_and_trials_made_before_are_part_of_a_tuning(tmp_path: Path) -> None:
    declared = Protocol.read(write(tmp_path, TUNING)).check().planned.declared
    assert declared["arms"]["cold"] == {"optimizer": "lars", "options": {"warmup_epochs": 0.0}}
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef mine(model, lr):\n    return torch.optim.SGD(model.parameters(), lr=lr)\n")
    options = {**PLAIN["options"], "optimizers": [f"{file}:mine"]}
    tuning = {**TUNING["tuning"], "spent": [f"{file}:mine=5"]}
    with pytest.raises(UsageError, match=r"arms must have equal budgets, but most have 3 trials, and .*mine has 8"):
        Protocol.read(write(tmp_path, TUNING, options=options, tuning=tuning)).check()


def test_check_counts_trials_reruns_and_final_runs_of_a_tuning(tmp_path: Path) -> None:
    found = Protocol.read(write(tmp_path, TUNING)).check()
    assert [(arm.arm, arm.trials, arm.runs) for arm in found.arms] == [("warm", 3, 1), ("cold", 3, 1)]
    assert found.runs == 8
    assert found.arms[0].space.startswith("lr 8")


def test_a_protocol_is_run_recorded_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    protocol = Protocol.read(file)
    assert main(["protocol", "run", str(file), "--out", str(out)]) == 0
    assert (out / "protocol.yaml").read_bytes() == file.read_bytes()
    for run in ("warm-b512-s1", "cold-b512-s1"):
        assert json.loads((out / run / "config.json").read_text())["protocol"] == protocol.digest
    assert json.loads((out / "comparison.json").read_text())["protocol_digest"] == protocol.digest
    assert protocol.deviations(out) == []
    page = (out / "report.html").read_text()
    assert f"Protocol small, digest {protocol.digest[:12]}. Deviations: none." in page

    # One more seed, typed beside the protocol, is a deviation; the runs that are there stay.
    words = ["compare", "--protocol", str(file), "--out", str(out), "--seeds", "1", "2"]
    assert main(words) == 0
    found = ["not planned: cold, batch size 512, seed 2", "not planned: warm, batch size 512, seed 2"]
    assert protocol.deviations(out) == found
    assert f"Deviations: {'; '.join(found)}." in (out / "report.html").read_text()

    # A protocol that was changed is refused with both digests, or recorded.
    changed = Protocol.read(write(tmp_path, margin=0.5))
    capsys.readouterr()
    assert main(["protocol", "run", str(file), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert protocol.digest[:12] in said
    assert changed.digest[:12] in said
    assert json.loads((out / "protocol.json").read_text())["digest"] == protocol.digest
    shutil.rmtree(out / "warm-b512-s2")
    shutil.rmtree(out / "cold-b512-s2")
    assert main(["protocol", "run", str(file), "--out", str(out), "--allow-deviation"]) == 0
    first, second, third = changed.deviations(out)
    assert first.startswith("the protocol was changed on ")
    assert first.endswith(f"from digest {protocol.digest[:12]} to {changed.digest[:12]}")
    under = f"done under another protocol, digest {protocol.digest[:12]}"
    assert second == f"2 runs (cold-b512-s1, warm-b512-s1) were {under}"
    assert third == "2 runs (cold-b512-s1, warm-b512-s1) started before the protocol was recorded"
    assert (out / f"protocol-{protocol.digest[:12]}.yaml").is_file()


@pytest.mark.parametrize(("name", "runs"), [("warmup", 24), ("rates", 36)])
def test_examples_of_the_docs_are_protocols(name: str, runs: int) -> None:
    found = Protocol.read(EXAMPLES / f"{name}.yaml").check()
    assert found.runs == runs
    assert found.notes == ()


def test_studies_run_under_protocols(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = {"command": "robustness", "options": {**PLAIN["options"], "within": 1}, "space": {"lr": [8, 16]}}
    file = write(tmp_path, PLAIN, **study, family=None, margin=None, arms={"cold": "lars,warmup-epochs=0"})
    out = tmp_path / "out"
    assert main(["protocol", "run", str(file), "--out", str(out)]) == 0
    protocol = Protocol.read(file)
    assert protocol.deviations(out) == []
    said = f"Protocol small, digest {protocol.digest[:12]}. Deviations: none."
    assert said in capsys.readouterr().out
    assert said in (out / "robustness.html").read_text()
    # An option of reading the results that is typed and differs is recorded, since no run shows it.
    assert main(["robustness", "--protocol", str(file), "--out", str(out), "--within", "2"]) == 0
    assert protocol.deviations(out) == ["within is 2.0 instead of 1.0"]
    assert "Deviations: within is 2.0 instead of 1.0." in (out / "robustness.html").read_text()


def test_lengths_and_batch_sizes_of_a_study_of_scaling_are_counted(tmp_path: Path) -> None:
    options = {"data": "digits", "validation": 0.1, "batch_sizes": [128, 256], "target": 0.5, "horizons": [4, 8]}
    file = write(tmp_path, PLAIN, command="scaling", options=options, space=None)
    found = Protocol.read(file).check()
    assert (found.runs, found.images) == (8, 2 * (4 + 8) * (128 + 256))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    file = write(tmp_path)
    assert main(["protocol", "run", str(file), "--out", str(tmp_path / "thesis")]) == 2
    assert "out must be a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    assert main(["tune", "--protocol", str(file)]) == 2
    assert "protocol must be one of tune" in capsys.readouterr().err
    assert main(["compare", "--allow-deviation"]) == 2
    assert "allow_deviation must be given with protocol" in capsys.readouterr().err
