"""Declared families of comparisons: the pairs that are tested, in frames, folders, pages, sweeps and commands."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.lab.comparison.test_paper import comparison
from tests.lab.comparison.test_verdict import another, runs_of
from tvlars.cli import main
from tvlars.lab import (
    CompareConfig,
    Comparison,
    Reporter,
    TrainConfig,
    UsageError,
    load_data,
    load_run,
    report,
    sweep,
    train,
)
from tvlars.lab.comparison.family import check_family, pairs_of
from tvlars.lab.comparison.paired import seeds_needed
from tvlars.lab.comparison.statistics import differences, table
from tvlars.lab.comparison.verdict import answers
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.tuning.config import TuneConfig

ARMS = ["tvlars", "lars", "lars (lr 4)", "own.py:build", "lamb (lr 4)", "lamb (lr 8, alpha 0.1)"]


@pytest.mark.parametrize(
    ("family", "pairs"),
    [
        ("all", 15),
        ("tvlars", 5),
        ("lamb", 8),  # each of its arms with the four others
        ("tvlars:lars", 1),
        ("lars:lars (lr 4), own.py:build:tvlars", 2),
        ("tvlars:lamb (lr 8, alpha 0.1),tvlars:lamb (lr 4)", 2),
        ("tvlars:lamb", 2),
        ("tvlars:sgd", 0),  # no run of it is there yet
        ("sgd", 0),
    ],
)
def test_pairs(family: str, pairs: int) -> None:
    assert len(pairs_of(family, ARMS)) == pairs
    if pairs:
        check_family(family, ARMS)
    assert pairs_of("own.py:build:tvlars", ARMS) == {frozenset(("own.py:build", "tvlars"))}


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("lasr", "unknown arm of family 'lasr': did you mean 'lars'"),
        ("tvlars:lasr", "unknown arm of family 'lasr': did you mean 'lars'"),
        ("tvlars:lars,tvlars:lmab", "unknown arm of family 'lmab'"),
        ("tvlars:tvlars", "family must be all, an arm, or pairs of two arms as in tvlars:lars, got 'tvlars:tvlars'"),
        ("", "unknown arm of family ''"),
        ("a:b:c", "family must be all, an arm, or pairs of two arms"),
    ],
)
def test_what_is_no_family_is_said(family: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        check_family(family, ARMS)


def three(seeds: int = 9) -> pd.DataFrame:
    """Arms with means of 95, 94 and 94.04 %, whose seeds differ by a tenth of a point."""
    noise = 0.001 * np.resize([[1, -1, 0], [0, 1, -1], [-1, 0, 1]], (3, 3)).repeat(seeds // 3, axis=1)
    return runs_of(*(list(mean + noise[i]) for i, mean in enumerate((0.95, 0.94, 0.9404))), images=1e6)


def test_a_smaller_family_has_smaller_p_values() -> None:
    every, one = differences(three()), differences(three(), "arm 0:arm 1")
    assert every["comparisons"].tolist() == [3] * 3
    first = one.iloc[0]
    assert first["p_adjusted"] == first["p_value"] == every["p_adjusted"][0] / 3
    assert first["comparisons"] == 1
    outside = one.iloc[1:]
    assert set(outside["verdict"]) == {"outside the family"}
    assert outside[["p_value", "p_adjusted", "equivalence_p_value", "seeds_needed"]].isna().all(axis=None)
    assert not outside[["significant", "equivalent"]].any(axis=None)
    assert outside["interval"].tolist() == every["interval"].tolist()[1:]


def test_an_arm_whose_runs_all_diverged_stays_in_the_family() -> None:
    """Its pairs have no test, but were declared: Holm's method counts them."""
    runs = three()
    every = differences(runs)
    runs.loc[runs["arm"] == "arm 2", ["status", "test_accuracy"]] = "diverged", math.nan
    (left,) = differences(runs).to_dict("records")
    assert (left["comparisons"], left["p_adjusted"]) == (3, 3 * left["p_value"])
    assert left["p_adjusted"] == every["p_adjusted"][0]
    assert left["seeds_needed"] == every["seeds_needed"][0]
    assert differences(runs, "arm 0")["comparisons"].tolist() == [2]
    assert differences(runs, "arm 0:arm 1")["comparisons"].tolist() == [1]
    runs.loc[runs["arm"] == "arm 2", "status"] = "failed"  # which is no result
    assert differences(runs)["comparisons"].tolist() == [1]


def test_sentences_tell_the_pairs_of_the_family() -> None:
    rows = table(three())
    (sentence,) = answers(rows, differences(three(), "arm 1", margin=0.2))
    assert sentence == (
        "Batch size 512: arm 0 has the highest mean test accuracy, 95.00 %; arm 0: significantly above arm 1; arm 2: "
        "equivalent to arm 1 within 0.2 points (9 seeds, Holm over 2 comparisons)."
    )
    (sentence,) = answers(rows, differences(three(), "arm 1:arm 2", margin=0.01))
    assert (
        "95.00 %; arm 2: inconclusive against arm 1 (9 seeds, one comparison). A difference of 0.01 points" in sentence
    )
    (sentence,) = answers(rows, differences(three(), "arm 1:arm 2", margin=0.2))
    assert "equivalent to" in sentence
    assert "would need" not in sentence


def test_significant_and_equivalent_are_both_said() -> None:
    runs = three()
    found = differences(runs, margin=2)
    assert found["verdict"][0] == "significant, equivalent within 2 points"
    (sentence,) = answers(table(runs), found)
    assert "significantly above arm 1 and arm 2 but equivalent within 2 points (9 seeds" in sentence


def test_equivalence_is_adjusted_within_the_family() -> None:
    found = differences(three(), margin=0.1)
    raw, adjusted = found["equivalence_p_value"], found["equivalence_p_adjusted"]
    assert adjusted.min() == pytest.approx(3 * raw.min())
    alone = differences(three(), "arm 1:arm 2", margin=0.1).iloc[2]
    assert alone["equivalence_p_adjusted"] == alone["equivalence_p_value"] == raw[2]


def test_seeds_are_needed_by_seeds_and_by_images() -> None:
    """With predictions that differ by chance alone, more seeds are as good as more images."""
    generator = np.random.default_rng(0)
    right = generator.random((2, 4, 1000)) < 0.9
    runs = runs_of(*right.mean(axis=2).tolist(), images=1000).assign(correct=list(right.reshape(8, 1000)))
    found = differences(runs, margin=1.0).iloc[0]
    noise = (right[0].astype(float) - right[1]).var(axis=0, ddof=1).sum()
    total = 1000 * (right[0].mean(axis=0) - right[1].mean(axis=0)).var()
    room = (0.01 * 1000 / (1.959964 + 0.841621)) ** 2 - max(total - noise / 4, 0)
    assert found["seeds_needed"] == max(math.ceil(noise / room), seeds_needed(0.01, found["deviation"]))
    by_images = runs.assign(test_accuracy=[0.9 + 0.001 * seed for seed in range(4)] * 2)  # by seeds all is alike
    assert differences(by_images, margin=1.0).iloc[0]["seeds_needed"] == max(math.ceil(noise / room), 6)
    assert found["verdict"] == "fewer than 6 seeds"
    assert math.isinf(differences(runs, margin=0.2).iloc[0]["seeds_needed"])  # two images of 1,000
    assert math.isinf(differences(runs.drop(columns="correct"), margin=1.0).iloc[0]["seeds_needed"])


# -- folders, pages and commands --------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Comparison:
    values = {"tvlars": [0.951, 0.952, 0.953] * 3, "lars": [0.94, 0.942, 0.943] * 3, "lamb": [0.94, 0.942, 0.944] * 3}
    return comparison(tmp_path, values)  # type: ignore[arg-type]


def test_a_comparison_keeps_family_and_margin(stored: Comparison) -> None:
    declared = stored.with_family("lars", 0.5)
    declared.save()
    again = Comparison.load(stored.folder)
    assert (again.family, again.margin) == ("lars", 0.5)
    pd.testing.assert_frame_equal(again.differences(), declared.differences())
    assert again.differences()["comparisons"].tolist() == [2] * 3
    assert stored.differences()["comparisons"].tolist() == [3] * 3
    with pytest.raises(UsageError, match="unknown arm of family 'lasr'"):
        stored.with_family("lasr")
    for margin in (0.0, -1, math.nan, "a"):
        with pytest.raises(UsageError, match="margin must be"):
            stored.with_family("all", margin)  # type: ignore[arg-type]


def test_folders_of_earlier_versions_are_read(stored: Comparison) -> None:
    stored.save()
    content = json.loads((stored.folder / "comparison.json").read_text())
    assert content.pop("family") == "all"
    assert "margin" not in content
    (stored.folder / "comparison.json").write_text(json.dumps(content))
    assert Comparison.load(stored.folder) == stored
    (stored.folder / "comparison.json").write_text(json.dumps({**content, "margin": "wide"}))
    with pytest.raises(UsageError, match="cannot be read: margin must be"):
        Comparison.load(stored.folder)


def test_tables_have_the_tests(stored: Comparison) -> None:
    found = stored.with_family("tvlars").table()
    assert found["verdict"].tolist() == ["highest mean", "significant", "significant"]
    assert found["effect_size"].iloc[1] < 0
    assert "seeds_needed" in found
    near = stored.with_family("lars:lamb", 0.5)
    assert near.table()["verdict"].tolist() == ["highest mean", "outside the family", "outside the family"]
    lines = stored.to_markdown(pairs=True).splitlines()
    assert lines[0].startswith(
        r"| pair | difference, points | n | g\_z | p | p of equivalence within 0.3 points | seeds"
    )
    assert lines[2].startswith("| tvlars against lars | 1.03 ± ")
    assert lines[2].endswith("| significant |")
    assert "exact sign-flip test, adjusted by Holm's method for 3 comparisons" in lines[-1]
    assert r"p of equivalence within 0.3 points" in stored.to_latex(pairs=True)
    only = Comparison(stored.folder, "", [run for run in stored.runs if run.optimizer != "tvlars"], margin=0.5)
    assert "94.17 ± 0.10 †" in only.to_markdown()
    assert "†: equivalent to it within 0.5 points (two one-sided t-tests, p ≤ 0.05)." in only.to_markdown()
    assert r"$^{\dagger}$" in only.to_latex()


def test_configs_take_what_is_declared() -> None:
    config = CompareConfig(family="lars", margin=0.5)
    assert CompareConfig.from_mapping(json.loads(config.to_json())) == config
    with pytest.raises(UsageError, match="unknown arm of family 'sgd'"):
        CompareConfig(family="sgd")
    with pytest.raises(UsageError, match="margin must be"):
        CompareConfig(margin=0)
    assert TuneConfig(family="tvlars:lars").family == "tvlars:lars"
    with pytest.raises(UsageError, match="unknown arm of family 'sgd'"):
        TuneConfig(family="sgd")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("family")
    train(TrainConfig(epochs=1, batch_size=256, precision="32-true", out=base / "one"), reporter=Reporter())
    return [
        another(base / "one", base / f"{name}-{seed}", optimizer=name, seed=seed)
        for name in ("tvlars", "lars", "lamb")
        for seed in (0, 1)
    ]


def test_the_page_says_what_is_declared(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "page.html")
    assert main(["report", *map(str, runs), "-o", out, "--family", "lars", "--margin", "0.5"]) == 0
    text = Path(out).read_text()
    assert "within the declared family: lars (2 comparisons)" in text
    assert "All differences, paired over seeds" in text
    assert "p of equivalence within 0.5 points (Holm)" in text
    assert "outside the family" in text
    assert main(["report", *map(str, runs), "-o", out, "--family", "lasr"]) == 2
    assert "unknown arm of family 'lasr': did you mean 'lars'" in capsys.readouterr().err
    assert main(["report", *map(str, runs), "-o", out, "--margin", "0"]) == 2
    assert "margin must be" in capsys.readouterr().err
    for suffix, words in ((".md", "| pair |"), (".tex", r"\label{tab:pairs}"), (".csv", ",seeds_needed,verdict")):
        assert words in report(runs, tmp_path / f"a{suffix}").read_text()


def test_a_page_takes_what_the_folder_declares(runs: list[Path], tmp_path: Path) -> None:
    folder = runs[0].parent
    (folder / "comparison.json").write_text(json.dumps({"runs": [], "family": "lars", "margin": 0.7}))
    try:
        for folders in ([folder], runs):
            text = report(folders, tmp_path / "page.html").read_text()
            assert "declared family: lars (2 comparisons)" in text
            assert "within 0.7 points" in text
        assert "all pairs of arms (3 c" in report(runs, tmp_path / "page.html", family="all").read_text()
        text = report(runs[:2], tmp_path / "page.html").read_text()  # of tvlars alone
        assert "All pairs of arms are tested instead of the declared family: unknown arm" in text
        (folder / "comparison.json").write_text(json.dumps({"runs": [], "margin": -1}))
        assert "comparison.json is damaged: margin must be" in report(runs, tmp_path / "page.html").read_text()
    finally:
        (folder / "comparison.json").unlink()


def test_a_sweep_keeps_what_is_declared(runs: list[Path], tmp_path: Path) -> None:
    configs = [config for run in runs[:4] if (config := load_run(run).config) is not None]
    with pytest.raises(UsageError, match="unknown arm of family 'lamb'"):
        sweep(configs, tmp_path / "out", family="tvlars:lamb")
    assert not (tmp_path / "out").exists()
    data = load_data("digits")  # given in Python, so that runs are done in this process
    done = sweep(configs, tmp_path / "out", data=data, board=Board(), family="tvlars:lars", margin=0.4)
    assert (done.family, done.margin) == ("tvlars:lars", 0.4)
    pair = done.comparison().differences().iloc[0]
    assert (pair["comparisons"], pair["margin"], pair["verdict"]) == (1, 0.004, "fewer than 6 seeds")
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (content["family"], content["margin"]) == ("tvlars:lars", 0.4)
    assert "declared family: tvlars:lars (1 comparison)" in (tmp_path / "out" / "report.html").read_text()
