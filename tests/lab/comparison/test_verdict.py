"""Verdicts: false alarms, power, floors, and what may stand in one table."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tvlars.lab import CompareConfig, Comparison, Reporter, TrainConfig, UsageError, load_run, report, train
from tvlars.lab.comparison.comparison import RunRow
from tvlars.lab.comparison.paired import holm
from tvlars.lab.comparison.paper import paper_table
from tvlars.lab.comparison.statistics import differences, table
from tvlars.lab.comparison.table import Cell, pair_cells, table_cells, table_rows
from tvlars.lab.comparison.verdict import answers, remarks, untuned, with_verdicts
from tvlars.lab.experiments.results import SweepResult, SweepRun
from tvlars.lab.report.parts import parts_of, version_notes
from tvlars.lab.tasks import Measure

IMAGES = 360


def drawn(
    seed: int,
    seeds: int,
    *,
    gains: tuple[float, ...] = (0.0, 0.0),
    sizes: int = 1,
    images: int = IMAGES,
    keep: bool = True,
) -> pd.DataFrame:
    """Runs whose test images are right by chance, some images more often than others; arms differ by ``gains``."""
    generator = np.random.default_rng(seed)
    ease, rows = generator.beta(3.0, 0.12, images), []
    for size in range(sizes):
        for arm, gain in enumerate(gains):
            for number in range(seeds):
                right = generator.random(images) < ease + gain * (1 - ease)
                one = {"arm": f"arm {arm}", "batch_size": 128 * (size + 1), "seed": number, "status": "finished"}
                rows.append({**one, "test_accuracy": right.mean(), "correct": right if keep else None})
    return pd.DataFrame(rows).assign(test_images=images, lr=1.0, **dict.fromkeys(MEANS, 1.0))


MEANS = ("train_loss", "test_loss", "images_per_second", "seconds")


def runs_of(*arms: list[float], images: float | None = 10_000) -> pd.DataFrame:
    rows = [
        {"arm": f"arm {arm}", "batch_size": 512, "seed": seed, "status": "finished", "test_accuracy": accuracy}
        for arm, values in enumerate(arms)
        for seed, accuracy in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(test_images=images, lr=1.0, **dict.fromkeys(MEANS, 1.0))


def cells_of(runs: pd.DataFrame) -> list[dict[str, Cell]]:
    return table_cells(table(runs), differences(runs), Measure())


# -- false alarms, and what is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False], ids=["paired", "binomial"])
@pytest.mark.parametrize("seeds", [3, 9])
def test_identical_arms_are_rarely_told_apart(seeds: int, keep: bool) -> None:
    """Three arms at two batch sizes, so six comparisons; 5 % of 40 pages are 2, and more than 5 (1.4 %) a defect."""
    pages = [differences(drawn(seed, seeds, gains=(0, 0, 0), sizes=2, keep=keep)) for seed in range(40)]
    assert all(len(page) == 6 for page in pages)
    alarms = sum(bool(page["significant"].any()) for page in pages)
    assert alarms <= (0 if seeds == 3 else 5)


@pytest.mark.parametrize("keep", [True, False])
def test_a_large_difference_is_found(keep: bool) -> None:
    pages = [differences(drawn(seed, 6, gains=(0.95, 0.0), keep=keep)) for seed in range(20)]
    assert sum(bool(page["significant"].all()) and page["better"][0] == "arm 0" for page in pages) >= 16


def test_few_seeds_and_one_seed_twice_get_no_verdict() -> None:
    five = differences(runs_of([0.9] * 5, [0.5] * 5)).iloc[0]
    assert (five["significant"], five["verdict"], five["seeds"]) == (False, "fewer than 6 seeds", 5)
    assert math.isnan(five["p_value"])
    assert math.isnan(five["equivalence_p_value"])
    again = runs_of([0.9] * 6, [0.5] * 6).assign(seed=[0, 1, 2, 3, 4, 4] * 2)
    assert differences(again).iloc[0]["verdict"] == "fewer than 6 seeds"
    assert differences(runs_of([0.9] * 6, [0.5] * 6)).iloc[0]["verdict"] == "significant"


def test_a_larger_family_needs_more_seeds() -> None:
    """Three pairs of 6 seeds have p = 2/64 each, and 3 x 2/64 is more than 5 %; 7 seeds have 2/128."""
    for seeds, verdict in ((6, "fewer than 7 seeds"), (7, "significant")):
        found = differences(runs_of([0.9] * seeds, [0.8] * seeds, [0.7] * seeds))
        assert found["verdict"].tolist() == [verdict] * 3
        assert found["p_value"].tolist() == [2 / 2**seeds] * 3
    # Where others have more seeds, Holm's method leaves room for a pair of six.
    some = runs_of([0.9] * 9, [0.8] * 9, [0.7] * 6)
    assert differences(some)["verdict"].tolist() == ["significant", "fewer than 7 seeds", "fewer than 7 seeds"]
    pair = differences(some, "arm 0:arm 1,arm 0:arm 2")
    assert pair["verdict"].tolist() == ["significant", "significant", "outside the family"]


@pytest.mark.parametrize("seeds", [6, 9])
def test_seeds_that_differ_alike_are_no_certainty(seeds: int) -> None:
    """Two of 360 images more, for every seed: the interval of the seeds is 0, that of the images is not."""
    low = 330 / IMAGES
    found = differences(runs_of([low + 2 / IMAGES] * seeds, [low] * seeds, images=IMAGES)).iloc[0]
    assert found["interval"] > 0.03
    assert found["p_adjusted"] > 0.5
    assert found["verdict"] == "inconclusive"
    much = differences(runs_of([low + 0.08] * seeds, [low] * seeds, images=IMAGES)).iloc[0]
    assert much["significant"]


def test_the_floor_is_mcnemars_where_predictions_are_kept() -> None:
    right = np.arange(1000) < 900
    other = right.copy()
    other[:8], other[990:992] = False, True  # 8 lost, 2 won: the same for every seed
    rows = runs_of([0.9] * 6, [other.mean()] * 6, images=1000).assign(correct=[right] * 6 + [other] * 6)
    found = differences(rows).iloc[0]
    assert found["difference"] == pytest.approx(0.006)
    assert found["interval"] == pytest.approx(1.9623 * math.sqrt(10) / 1000, rel=1e-3)
    assert found["p_value"] == pytest.approx(0.0581, abs=1e-3)  # t = 6 / √10
    binomial = differences(rows.drop(columns="correct")).iloc[0]
    assert binomial["interval"] == pytest.approx(1.9623 * math.sqrt(2 * 0.9 * 0.1 / 1000), rel=0.02)
    partly = rows.assign(correct=[None, *rows["correct"][1:]])
    assert differences(partly).iloc[0]["interval"] == pytest.approx(binomial["interval"])


@pytest.mark.parametrize("images", [None, math.nan, 1])
def test_no_verdict_without_the_number_of_test_images(images: float | None) -> None:
    found = differences(runs_of([0.9, 0.91, 0.9] * 2, [0.1, 0.1, 0.12] * 2, images=images)).iloc[0]
    assert not found["significant"]
    assert "test image" in found["verdict"]
    assert found["interval"] > 0
    mixed = runs_of([0.9, 0.91, 0.9] * 2, [0.1, 0.1, 0.12] * 2).assign(test_images=[10] * 6 + [20] * 6)
    assert differences(mixed).iloc[0]["verdict"] == "unknown number of test images"


@pytest.mark.parametrize("accuracies", [([1.0] * 6, [1.0] * 6), ([0.0] * 6, [0.0] * 6)])
def test_accuracies_of_0_and_1_are_no_certainty(accuracies: tuple[list[float], list[float]]) -> None:
    found = differences(runs_of(*accuracies, images=10)).iloc[0]
    assert (found["p_value"], found["verdict"]) == (1.0, "inconclusive")
    few = differences(runs_of([1.0] * 6, [0.0] * 6, images=2)).iloc[0]
    assert not few["significant"]


def test_accuracies_that_are_not_there_do_not_count() -> None:
    found = differences(runs_of([0.9, math.nan, 0.9, 0.9], [0.8, 0.8, math.nan, 0.8]))
    assert found["seeds"].tolist() == [2]
    assert differences(runs_of([math.nan] * 3, [0.8] * 3)).empty


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, math.nan])[0] == pytest.approx(0.04)
    assert holm([]) == []


def test_the_family_is_all_pairs_of_the_page() -> None:
    pair = [0.95, 0.951, 0.949] * 3, [0.9, 0.902, 0.898] * 3
    rows = pd.concat([runs_of(*pair).assign(batch_size=size) for size in (1, 2, 3)])
    found = differences(pd.concat([rows.assign(part=part) for part in (0, 1)]))
    assert found["comparisons"].tolist() == [6] * 6
    assert found["p_adjusted"].iloc[0] > found["p_value"].iloc[0]
    assert differences(rows[rows["batch_size"] == 1])["p_adjusted"][0] < found["p_adjusted"].iloc[0]


# -- words ------------------------------------------------------------------------------------------------------------


def test_unequal_seeds_and_means_of_survivors_are_said() -> None:
    rows = runs_of([0.95, 0.95, 0.95, 0.6], [0.90, 0.90, 0.90], images=1_000_000)
    rows.loc[(rows["arm"] == "arm 1") & (rows["seed"] == 2), "status"] = "diverged"
    rows.loc[rows["status"] == "diverged", "test_accuracy"] = None
    (sentence,) = answers(table(rows), differences(rows))
    assert sentence == (
        "Batch size 512: no verdict; arm 1 has the highest mean test accuracy, 90.00 % (2 of 3 runs, 1 diverged); "
        "2 seeds cannot show a difference from arm 0 at 5 %, 6 can."
    )
    whole = runs_of([*[0.95, 0.951, 0.949] * 3, 0.1], [0.90, 0.902, 0.898] * 3, images=1_000_000)
    (sentence,) = answers(table(whole), differences(whole))
    assert sentence == (
        "Batch size 512: arm 1 has the highest mean test accuracy, 90.00 %; significantly below arm 0 on the seeds "
        "that both have (9 seeds, one comparison)."
    )
    assert with_verdicts(table(whole), differences(whole))["against_best"][0] == pytest.approx(0.05)
    assert cells_of(whole)[0]["against the highest mean"].text.startswith("+5.00 ± ")


def without(runs: pd.DataFrame, arm: str, *seeds: int, status: str = "diverged") -> pd.DataFrame:
    """Runs of which these seeds of an arm have no result."""
    lost = (runs["arm"] == arm) & runs["seed"].isin(seeds)
    return runs.assign(
        status=runs["status"].mask(lost, status), test_accuracy=runs["test_accuracy"].mask(lost, math.nan)
    )


def test_an_arm_that_diverged_leads_in_no_sentence_that_hides_it() -> None:
    arms = [0.95, 0.951, 0.949] * 3, [0.9, 0.902, 0.898] * 3, [0.8, 0.801, 0.799] * 3
    runs = without(without(runs_of(*arms, images=1_000_000), "arm 0", 1, 4), "arm 1", 8, status="failed")
    rows, pairs = table(runs), differences(runs)
    assert rows["left_out"].tolist() == ["2 diverged", "1 failed", ""]
    assert pairs[["seeds", "of"]].to_numpy().tolist() == [[6, 9], [7, 9], [8, 9]]
    (sentence,) = answers(rows, pairs)
    assert sentence == (
        "Batch size 512: arm 0 has the highest mean test accuracy, 94.97 % (7 of 9 runs, 2 diverged); "
        "significantly above arm 1 (8 of 9 runs, 1 failed) and arm 2 (6 to 7 seeds, Holm over 3 comparisons)."
    )
    (other,) = answers(rows, differences(runs, "arm 0:arm 2,arm 1:arm 2"))
    assert "(7 of 9 runs, 2 diverged)" in other
    assert "arm 1 (8 of 9 runs, 1 failed)" in other
    assert remarks(rows, runs) == [
        "Means and differences leave out seeds without a result, and may look too good: arm 0 at batch size 512 "
        "(7 of 9 runs, 2 diverged) and arm 1 at batch size 512 (8 of 9 runs, 1 failed)."
    ]
    cells = cells_of(runs)
    assert list(cells[0])[3:5] == ["test accuracy", "runs"]
    assert [row["runs"].text for row in cells] == ["7 of 9, 2 diverged", "8 of 9, 1 failed", "9"]
    assert [row["seeds"].text for row in pair_cells(pairs, Measure())] == ["6 of 9", "7 of 9", "8 of 9"]
    paper = paper_table(with_verdicts(rows, pairs), Measure(), [], pairs)
    assert [row[-1] for row in paper.rows] == ["7 of 9, 2 diverged", "8 of 9, 1 failed", "9"]


def test_an_arm_without_any_result_is_named() -> None:
    runs = without(runs_of([0.9, 0.9], [0.8, 0.8]), "arm 0", 0, 1)
    assert answers(table(runs), differences(runs)) == [
        "Batch size 512: arm 1 has 80.00 % test accuracy (mean of 2 seeds); no run of arm 0 (2 diverged) has a result."
    ]
    none = without(runs, "arm 1", 0, 1, status="failed")
    assert answers(table(none), differences(none)) == [
        "Batch size 512: no run of arm 0 (2 diverged) and arm 1 (2 failed) has a result."
    ]


@pytest.mark.parametrize(
    ("classes", "learned"), [(10, (0.191, 0.1)), (100, (0.021, 0.01)), (2, (0.56, 0.5)), (None, (0.02, 0.01))]
)
def test_arms_near_chance_level_have_not_learned(classes: int | None, learned: tuple[float, float]) -> None:
    def said(*arms: float, measure: Measure | None = None) -> str:
        runs = runs_of(*([one] * 3 for one in arms))
        if measure is not None:
            runs = runs.assign(value=runs["test_accuracy"], better="max")
        (sentence,) = answers(table(runs), differences(runs), measure, classes)
        return sentence.removeprefix("Batch size 512: ")

    assert said(*learned).startswith("no verdict; arm 0 has the highest mean")
    if classes is not None:
        guess, of = 1 / classes, f"well above chance level, {100 / classes:g} %; "
        assert said(guess, guess).startswith(f"no arm learned: none is {of}arm 0 and arm 1 share the highest mean")
        assert said(1.05 * guess, guess).startswith(f"no arm learned: none is {of}arm 0 has the highest mean")
        assert said(guess).startswith(f"arm 0 did not learn: it is not {of}arm 0 has ")
        assert "learn" not in said(guess, guess, measure=Measure("test r2", "max"))


def test_equal_means_are_all_named() -> None:
    def said(*arms: list[float]) -> str:
        runs = runs_of(*arms)
        (sentence,) = answers(table(runs), differences(runs))
        return sentence

    equal, other, low = [0.9, 0.8, 0.85] * 3, [0.8, 0.85, 0.9] * 3, [0.1] * 9
    assert said(equal, other) == (
        "Batch size 512: no significant difference; arm 0 and arm 1 share the highest mean test accuracy, 85.00 %; "
        "inconclusive (9 seeds, one comparison). A difference of 0.3 points would need more test images."
    )
    assert said(low, equal, other) == (
        "Batch size 512: arm 1 and arm 2 share the highest mean test accuracy, 85.00 %; "
        "arm 1: significantly above arm 0, and inconclusive against arm 2; arm 2: significantly above arm 0 "
        "(9 seeds, Holm over 3 comparisons). A difference of 0.3 points would need more test images."
    )
    assert said([0.9], [0.9]) == (
        "Batch size 512: no verdict; arm 0 and arm 1 share the highest mean test accuracy, 90.00 %; "
        "1 seed cannot show a difference at 5 %, 6 can."
    )
    assert said([0.9] * 3, [0.9] * 3, [0.8] * 3) == (  # nothing is said once per leader
        "Batch size 512: no verdict; arm 0 and arm 1 share the highest mean test accuracy, 90.00 %; "
        "3 seeds cannot show a difference at 5 %, 7 can. A difference of 0.3 points would need more test images."
    )
    assert said([0.9001], [0.9]).startswith("Batch size 512: no verdict; arm 0 has the highest mean test accuracy, 90.")


def test_two_seeds_have_no_interval_and_few_images_are_said() -> None:
    two = runs_of([0.1, 0.9], [0.5, 0.7])
    assert [row["test accuracy"].text for row in cells_of(two)] == ["50.00 %", "60.00 %"]
    assert cells_of(two)[0]["against the highest mean"].text == "−10.00, fewer than 6 seeds"
    assert differences(two)["interval"].isna().all()
    assert remarks(table(two), two) == ["2 seeds: no interval, which needs 3 seeds."]
    three = runs_of([0.9, 0.8, 0.7], images=24)
    assert remarks(table(three), three) == ["24 test images: one image is 4.2 points."]
    assert remarks(table(three), three, Measure("validation accuracy")) == [
        "24 validation images: one image is 4.2 points."
    ]
    assert remarks(table(three), three, Measure("test error", "min")) == []
    for images in (200, None):
        runs = runs_of([0.9, 0.8, 0.7], images=images)
        assert remarks(table(runs), runs) == []


def test_an_arm_is_ahead_where_it_is_significantly_above_all() -> None:
    rows = runs_of([0.95, 0.951, 0.949] * 3, [0.9, 0.902, 0.898] * 3, [0.8, 0.802, 0.799] * 3)
    assert [row["test accuracy"].strong for row in cells_of(rows)] == [True, False, False]
    near = runs_of([0.95, 0.951, 0.949] * 3, [0.949, 0.952, 0.948] * 3)
    assert not cells_of(near)[0]["test accuracy"].strong
    alone = runs_of([0.95, 0.951, 0.949] * 3)
    assert not cells_of(alone)[0]["test accuracy"].strong
    words = with_verdicts(table(rows), differences(rows))
    assert words["verdict"].tolist() == ["highest mean", "significant", "significant"]
    assert words["p_adjusted"].isna().tolist() == [True, False, False]
    assert words["against_best"].tolist() == pytest.approx([math.nan, -0.05, -0.1497], abs=1e-3, nan_ok=True)
    assert cells_of(rows)[1]["against the highest mean"].text == "−5.00 ± 0.73, significant, p 0.012"
    assert cells_of(near)[1]["against the highest mean"].text == "−0.03 ± 0.61, inconclusive, p 0.91"


# -- what is kept in run folders, and what may stand in one table ---------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    train(TrainConfig(epochs=1, batch_size=256, precision="32-true", out=folder), reporter=Reporter())
    return folder


def another(one: Path, folder: Path, **options: Any) -> Path:
    shutil.copytree(one, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    return folder


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_run_keeps_which_test_images_it_has_right(one: Path, tmp_path: Path) -> None:
    run = load_run(one)
    correct = run.test_correct()
    assert run.test_images() == IMAGES
    assert correct is not None
    assert correct.shape == (IMAGES,)
    assert correct.mean() == pytest.approx(run.test_accuracy, abs=1e-6)
    assert (one / "test-correct.bits").stat().st_size == 45
    for name, content in (("short", b"\0" * 44), ("long", b"\0" * 46), ("others", b"\xff" * 45)):
        damaged = another(one, tmp_path / name)
        (damaged / "test-correct.bits").write_bytes(content)
        assert load_run(damaged).test_correct() is None, name


def test_run_folders_of_versions_that_kept_none_have_the_number_in_words(one: Path, tmp_path: Path) -> None:
    old = another(one, tmp_path / "old")
    (old / "test-correct.bits").unlink()
    facts = json.loads((old / "model.json").read_text())
    facts.pop("fingerprint")
    (old / "model.json").write_text(json.dumps(facts))
    run = load_run(old)
    assert (run.test_images(), run.test_correct()) == (IMAGES, None)
    assert len(parts_of([load_run(one), run])) == 1
    edit(old / "environment.json", data="digits")
    assert load_run(old).test_images() is None
    assert len(parts_of([load_run(one), load_run(old)])) == 1
    edit(old / "environment.json", data="1,437 training and 359 test images")
    assert load_run(old).test_images() == 359
    assert len(parts_of([load_run(one), load_run(old)])) == 2


def other_content(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    facts["fingerprint"]["test"]["pixels"] = "0" * 32
    (folder / "model.json").write_text(json.dumps(facts))


def other_count(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    facts["fingerprint"]["test"]["counts"][0] += 1
    (folder / "model.json").write_text(json.dumps(facts))


def test_pixels_of_another_decoder_do_not_tell_data_apart_and_sizes_do(one: Path, tmp_path: Path) -> None:
    other = another(one, tmp_path / "other")
    facts = json.loads((other / "model.json").read_text())
    facts["fingerprint"]["decoder"] = "another"
    facts["fingerprint"]["test"]["pixels"] = "0" * 32
    for size, titles in ((8, [""]), (16, ["8 x 8 pixels", "16 x 16 pixels"])):
        (other / "model.json").write_text(json.dumps({**facts, "image_size": size}))
        assert [part.title for part in parts_of([load_run(one), load_run(other)])] == titles


@pytest.mark.parametrize(
    ("options", "change", "titles"),
    [
        ({"epochs": 7}, None, ["1 epoch", "7 epochs"]),
        ({}, other_content, ["digits, data of content 1", "digits, data of content 2"]),
        ({}, other_count, ["360 test images", "361 test images"]),
        ({"task": "barlow-twins"}, None, ["classification, test accuracy", "barlow-twins, linear-probe accuracy"]),
        ({"optimizer": "lars", "model": "resnet18", "seed": 4, "batch_size": 64}, None, [""]),
        ({"data": "imagefolder:other/name/of/it"}, None, [""]),
    ],
    ids=["epochs", "pixels", "count", "task", "the same", "a name"],
)
def test_runs_that_cannot_be_compared_stand_apart(
    one: Path, tmp_path: Path, options: dict[str, Any], change: Any, titles: list[str]
) -> None:
    other = another(one, tmp_path / "other", **options)
    if change is not None:
        change(other)
    parts = parts_of([load_run(one), load_run(other)])
    assert [part.title for part in parts] == titles
    assert [len(part.runs) for part in parts] == ([1, 1] if len(titles) > 1 else [2])
    page = report([one, other], tmp_path / "page.html").read_text()
    assert ("results are not compared between them" in page) == (len(titles) > 1)
    text = report([one, other], tmp_path / "page.md").read_text()
    assert text.count("| optimizer |") == len(titles)
    if len(titles) > 1:
        with pytest.raises(UsageError, match=r"out must be a page, \.md or \.tex for runs that cannot be"):
            report([one, other], tmp_path / "page.csv")
    else:
        assert "seeds_needed,verdict" in report([one, other], tmp_path / "page.csv").read_text()
    assert "against_best" in report([one], tmp_path / "one.csv").read_text()


def test_runs_without_labels_and_other_probes_stand_apart(one: Path, tmp_path: Path) -> None:
    linear = another(one, tmp_path / "linear", task="barlow-twins")
    (linear / "evaluations.json").write_text('{"linear": {"accuracy": 0.9, "labels": 9, "seconds": 1}}')
    online = another(one, tmp_path / "online", task="barlow-twins", evaluations="none")
    parts = parts_of([load_run(linear), load_run(online)])
    assert [part.measure.name for part in parts] == ["linear-probe accuracy", "online-probe accuracy"]


def test_several_versions_are_said(one: Path, tmp_path: Path) -> None:
    other = another(one, tmp_path / "other", seed=1)
    versions = json.loads((one / "environment.json").read_text())["versions"]
    edit(other / "environment.json", versions={**versions, "tvlars": "0.0.1"})
    (note,) = version_notes([load_run(one), load_run(other)])
    assert note.startswith("The runs were made by several versions of tvlars: ")
    assert "0.0.1 (1 run)" in note
    assert note in report([one, other], tmp_path / "page.html").read_text()


def test_a_sweep_over_several_lengths_has_a_table_for_each(one: Path, tmp_path: Path) -> None:
    runs = []
    for epochs in (1, 2):
        for seed in range(3):
            another(one, tmp_path / f"e{epochs}-{seed}", epochs=epochs, seed=seed)
            config = load_run(tmp_path / f"e{epochs}-{seed}").config
            assert config is not None
            runs.append(SweepRun(f"e{epochs}-{seed}", config, "finished"))
    result = SweepResult(tmp_path, runs)
    found = result.comparisons()
    assert list(found) == ["1 epoch", "2 epochs"]
    assert [len(comparison.runs) for comparison in found.values()] == [3, 3]
    with pytest.raises(UsageError, match="runs that are compared must have the same data set, task and length"):
        result.comparison()
    same = SweepResult(tmp_path, runs[:3]).comparison()
    assert same.table()["seeds"].tolist() == [3]


def test_a_comparison_has_differences_and_p_values(one: Path, tmp_path: Path) -> None:
    accuracy = load_run(one).test_accuracy
    rows = []
    for optimizer in ("tvlars", "lars"):
        for seed in range(6):
            name = another(one, tmp_path / f"{optimizer}-{seed}", optimizer=optimizer, seed=seed).name
            rows.append(RunRow(optimizer, 256, seed, 1.0, "finished", accuracy, 1, 1, 1, 1, "", name, IMAGES))
    comparison = Comparison(tmp_path, "", rows)
    comparison.save()
    again = Comparison.load(tmp_path)
    (pair,) = again.differences().to_dict("records")
    assert (pair["p_value"], pair["verdict"]) == (1.0, "inconclusive")
    assert pair["interval"] == pytest.approx(1.9666 / IMAGES, rel=1e-3)  # the same predictions, and still one image
    assert again.table()["verdict"].tolist() == ["highest mean", "inconclusive"]
    assert [row["p (Holm)"] for row in table_rows(again)] == ["-", "1"]
    assert again.answers() == [
        "Batch size 256: no arm learned: none is well above chance level, 10 %; tvlars and lars share the highest mean "
        f"test accuracy, {100 * accuracy:.2f} %; inconclusive (6 seeds, one comparison). A difference of 0.3 points "
        "would need more test images."
    ]


@pytest.mark.parametrize(
    "values", [{"test_accuracy": 93.1}, {"test_accuracy": -0.1}, {"test_accuracy": None}, {"test_images": 0}]
)
def test_a_comparison_that_was_changed_by_hand_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    Comparison(tmp_path, "", [RunRow("tvlars", 256, 0, 1.0, "finished", 0.5, test_images=9)]).save()
    stored = json.loads((tmp_path / "comparison.json").read_text())
    stored["runs"][0].update(values)
    (tmp_path / "comparison.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="must be the file of a comparison, but cannot be read"):
        Comparison.load(tmp_path)


def test_optimizers_of_a_comparison_have_as_many_epochs() -> None:
    with pytest.raises(UsageError, match="epochs must be the same for all optimizers, but is set only for lars"):
        CompareConfig(overrides=(("lars", "epochs", 9),))


def test_rates_that_nobody_tuned_are_said() -> None:
    planned, given = {"optimizer": "lars", "lr": None}, {"optimizer": "adamw", "lr": 0.001}
    end = "is the plan's, not tuned; with tuned rates (tvlars tune) the order may change."
    assert untuned({"lars": planned, "adamw": {**given, "lr": None}}) == [f"The learning rate of all arms {end}"]
    assert untuned({"lars": planned, "adamw": given}) == [f"The learning rate of lars {end}"]
    for name in ("./mine.py:build", "torch.optim.NAdam"):  # they have rates of their own
        assert untuned({"mine": {"optimizer": name, "lr": None}, "adamw": given}) == []
    assert untuned({"lars": planned}) == []
    assert untuned({"lars": {}, "adamw": given}) == []  # a folder that no longer exists
