"""The report: what it says, what it does with runs that are not whole, and how it behaves in a browser."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.lab.run_folder.disk import room
from tvlars.cli import main
from tvlars.lab import Reporter, TrainConfig, UsageError, load_run, report, train
from tvlars.lab.comparison.statistics import best_arms, differences, table
from tvlars.lab.comparison.verdict import answers
from tvlars.lab.report import forms
from tvlars.lab.report.arms import make_arms
from tvlars.lab.report.contents import Report
from tvlars.lab.report.layers import HEAT, color_ranges, heat_map, mean_layer_stats
from tvlars.lab.report.parts import parts_of
from tvlars.lab.run_folder.rows import NoiseRow, SharpnessRow

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with layer statistics, the model of all runs below."""
    folder = tmp_path_factory.mktemp("one") / "run"
    phi = dict(delay=11.0, delay_factor=0.973)  # held long enough to reach a target in 15 steps
    config = TrainConfig(epochs=3, batch_size=256, precision="32-true", layer_stats=3, out=folder, **phi)
    train(config, reporter=Reporter())
    return folder


def another(one: Path, folder: Path, shift: float = 0.0, **options: Any) -> Path:
    """A run like ``one`` under other options, its curves shifted so that runs differ."""
    shutil.copytree(one, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    for name in ("epochs.csv", "steps.csv"):
        rows = pd.read_csv(folder / name)
        for column in rows.columns.intersection(["test_accuracy", "loss", "train_loss", "phi", "lr"]):
            rows[column] *= 1 + shift
        rows.to_csv(folder / name, index=False)
    sharp = [
        SharpnessRow(e, 5 * e, 32, 0.5, 90.0 + 9 * e + 100 * shift, 300.0, 20.0, 0.3 + shift, 0.1, 0.01, 5.0, 1.0)
        for e in (1, 2, 3)
    ]
    pd.DataFrame(map(asdict, sharp)).to_csv(folder / "sharpness.csv", index=False)
    noise = [NoiseRow(e, 5 * e, 50.0 * e, 40.0 * e, math.inf if e == 1 else 70.0 * e, 5.0, 0.1) for e in (1, 2, 3)]
    pd.DataFrame(map(asdict, noise)).to_csv(folder / "noise.csv", index=False)
    x = np.linspace(-1, 1, 5)
    pd.DataFrame({"x": x, "loss": 0.2 + x**2}).to_csv(folder / "landscape.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def twelve(one: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """12 runs: two batch sizes, two arms and three seeds, all that a report can show in them."""
    base = tmp_path_factory.mktemp("twelve")
    return [
        another(
            one,
            base / f"{optimizer}-b{batch_size}-s{seed}",
            shift=0.004 * seed - (0.03 if optimizer == "lars" else 0.0),
            optimizer=optimizer,
            batch_size=batch_size,
            seed=seed,
        )
        for batch_size in (128, 256)
        for optimizer in ("tvlars", "lars")
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def page(twelve: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(twelve, tmp_path_factory.mktemp("page") / "report.html", command="tvlars report")


# -- what it says ---------------------------------------------------------------------------------------------


def frame(
    accuracies: dict[str, list[float | None]], batch_size: int = 512, images: int | None = 100_000
) -> pd.DataFrame:
    """Runs with these accuracies by seed; None is a run that diverged."""
    rows = [
        dict(arm=arm, batch_size=batch_size, seed=seed, lr=1.0, status="finished" if a else "diverged", test_accuracy=a)
        for arm, values in accuracies.items()
        for seed, a in enumerate(values)
    ]
    runs = pd.DataFrame(rows).assign(train_loss=0.1, test_loss=0.2, images_per_second=1e3, seconds=9.0)
    return runs.assign(test_images=images)


def test_differences_are_paired_over_seeds() -> None:
    """Seeds differ a lot, and by the same for both: paired, the difference is clear."""
    some = {"a": [0.80, 0.85, 0.90] * 3, "b": [0.79, 0.84, 0.8895] * 3, "c": [0.80, None, 0.90, *[None] * 6]}
    found = differences(frame(some))
    ab, ac, bc = found.to_dict("records")
    assert (ab["better"], ab["worse"], ab["seeds"], ab["verdict"]) == ("a", "b", 9, "significant")
    assert ab["difference"] == pytest.approx((0.01 + 0.01 + 0.0105) / 3)
    of_images = math.sqrt((0.85 * 0.15 + 0.83983 * 0.16017) / 100_000)  # both arms' binomial errors
    assert ab["interval"] == pytest.approx(1.96 * of_images, rel=1e-3)  # wider than that of the seeds
    assert (ac["seeds"], ac["verdict"], ac["difference"]) == (2, "fewer than 7 seeds", 0.0)
    assert (bc["better"], bc["seeds"]) == ("c", 2)
    assert found["comparisons"].tolist() == [3, 3, 3]


def test_the_answer_says_who_leads_and_whether_it_is_significant() -> None:
    runs = frame({"a": [0.80, 0.85, 0.90] * 3, "b": [0.70, 0.75, 0.801] * 3, "c": [0.79, 0.86, 0.89] * 3})
    rows = table(runs)
    assert best_arms(rows) == {512: "a"}
    assert answers(rows, differences(runs)) == [
        "Batch size 512: a has the highest mean test accuracy, 85.00 %; significantly above b, and inconclusive "
        "against c (9 seeds, Holm over 3 comparisons). A difference of 0.3 points would need more test images."
    ]
    alone = frame({"a": [0.8]})
    assert answers(table(alone), differences(alone)) == ["Batch size 512: a has 80.00 % test accuracy (one seed)."]
    assert best_arms(table(frame({"a": [None]}))) == {}


def test_arms_are_told_apart_by_what_is_set(one: Path, tmp_path: Path) -> None:
    folders = [
        another(one, tmp_path / "1", optimizer="lars"),
        another(one, tmp_path / "2", optimizer="lars", warmup_epochs=0.0),
        another(one, tmp_path / "3", optimizer="lars", seed=5, batch_size=64, lr=3.0),  # alone at its batch size
        another(one, tmp_path / "4", optimizer="tvlars", seed=1),
    ]
    arms = make_arms([load_run(folder) for folder in folders])
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("lars", 2), ("lars (warmup-epochs 0)", 1), ("tvlars", 1)]
    assert len({arm.color for arm in arms}) == 3
    assert arms[2].color == "#D55E00"


def test_runs_of_the_same_options_with_other_defaults_are_arms_of_their_own(one: Path, tmp_path: Path) -> None:
    folders = [another(one, tmp_path / str(seed), optimizer="lars", seed=seed) for seed in range(3)]
    plan = json.loads((folders[2] / "plan.json").read_text())
    earlier = {**plan, "schedule": "cosine" if plan["schedule"] != "cosine" else "linear", "lr": 2 * plan["lr"]}
    (folders[2] / "plan.json").write_text(json.dumps(earlier))
    arms = make_arms([load_run(folder) for folder in folders])
    named = f"lars (plan with lr {earlier['lr']:g}, schedule {earlier['schedule']})"
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("lars", 2), (named, 1)]


def test_the_page_has_the_answer_the_numbers_and_every_runs_command(page: Path, twelve: list[Path]) -> None:
    text = page.read_text()
    assert "<strong>Batch size 256: no verdict</strong>; tvlars has the highest mean test accuracy" in text
    assert "; 3 seeds cannot show a difference from lars at 5 %, 7 can. A difference of 0.3 points" in text
    assert "within the declared family: all pairs of arms (2 comparisons). Differences are significant" in text
    assert 'class="measure strong"' not in text
    for part in ("Curves", "Layers", "Sharpness", "Loss slices", "Gradient noise", "Speed", "Settings"):
        assert f"<h2>{part}</h2>" in text
    for run in twelve:
        assert f'<th scope="row">{run.name}</th>' in text
    assert text.count("<dt>command</dt>") == 1  # one command for all of them
    assert page.stat().st_size < 5_000_000


# -- runs that are not whole ----------------------------------------------------------------------------------


def test_what_is_amiss_with_runs_is_said(one: Path, tmp_path: Path) -> None:
    cut = another(one, tmp_path / "runs" / "cut", optimizer="lars")
    (cut / "summary.json").unlink()
    damaged = another(one, tmp_path / "runs" / "damaged", optimizer="lamb")
    (damaged / "config.json").write_text("{")
    (damaged / "environment.json").write_text("[1")
    parts = another(one, tmp_path / "runs" / "parts", optimizer="adamw")
    (parts / "landscape.csv").write_text("x,what\n1,2\n")
    next((parts / "layer-stats").glob("*.parquet")).write_bytes(b"no")
    (parts / "plan.json").write_text('{"lr": null}')
    short = another(one, tmp_path / "runs" / "short", optimizer="lars", seed=3)
    (short / "epochs.csv").write_text("".join((short / "epochs.csv").read_text().splitlines(True)[:-1]))
    diverged = another(one, tmp_path / "runs" / "diverged", optimizer="sgd")
    (diverged / "summary.json").write_text('{"status": "diverged"}')
    for name in ("epochs.csv", "sharpness.csv"):
        (diverged / name).write_text((diverged / name).read_text().splitlines()[0] + "\n")
    (tmp_path / "runs" / "empty").mkdir()
    text = report([tmp_path / "runs", one], tmp_path / "page.html").read_text()
    assert "cut is unfinished: it has 3 epochs; means do not include it." in text
    assert "diverged is diverged: it has 0 epochs; means do not include it." in text
    assert "damaged: config.json cannot be read" in text
    assert "damaged has no record of its options; tables and figures do not include it." in text
    assert "Batch size 0" not in text
    assert "damaged: environment.json cannot be read" in text
    assert "empty is left out" in text
    assert "landscape.csv cannot be read" in text
    assert "must hold layer statistics, but a file is damaged" in text
    assert "short finished, but some results are missing; means do not include it." in text
    assert "Batch size 256: no verdict</strong>; adamw and tvlars share the highest mean test accuracy" in text


def test_a_report_on_nothing_but_failures_says_so(one: Path, tmp_path: Path) -> None:
    run = another(one, tmp_path / "run")
    (run / "summary.json").write_text('{"status": "diverged"}')
    assert "No run has finished." in report([run], tmp_path / "page.html").read_text()


def test_the_page_says_what_its_numbers_cannot_show(one: Path, tmp_path: Path) -> None:
    folders = [
        another(one, tmp_path / f"s{seed}-{arm}", optimizer=arm, seed=seed)
        for seed in (0, 1)
        for arm in ("tvlars", "lars")
    ]
    text = report(folders, tmp_path / "page.html").read_text()
    assert '<p class="protocol">2 seeds: no interval, which needs 3 seeds.</p>' in text
    assert " ± " not in text.partition("<main>")[2].partition("All differences")[0]
    written = report(folders, tmp_path / "table.md").read_text()
    assert "Test accuracy: mean over 2 seeds, no interval; " in written
    assert "2 seeds: no interval, which needs 3 seeds." in written


def test_one_run_named_twice_is_one_and_a_seed_that_is_there_twice_is_said(one: Path, tmp_path: Path) -> None:
    first, again = another(one, tmp_path / "first"), another(one, tmp_path / "again", shift=0.01)
    text = report([first, first], tmp_path / "page.html").read_text()
    assert "more than once" not in text
    text = report([first, again], tmp_path / "page.html").read_text()
    assert "tvlars, batch size 256, seed 0 appears more than once" in text
    assert "±" not in text.split("<tbody>")[1].split("</tbody>")[0]


def test_runs_of_other_lengths_stand_apart(one: Path, tmp_path: Path) -> None:
    folders = _two_lengths(one, tmp_path, 256)
    parts = parts_of(list(map(load_run, folders)))
    assert [(part.title, [arm.name for arm in part.arms]) for part in parts] == [
        ("3 epochs", ["tvlars"]),
        ("30 epochs", ["lars"]),
    ]
    text = report(folders, tmp_path / "page.html", command="tvlars report").read_text()
    assert "each has its own table and figures, and results are not compared between them" in text
    assert '<h3 class="part">30 epochs</h3>' in text
    assert '<h2><span class="of-part">30 epochs:</span> Curves</h2>' in text
    assert found_colors(text, "tvlars") == {"#D55E00"}
    assert "lars has the highest" not in text


def found_colors(page: str, arm: str) -> set[str]:
    """Colours of the dots before an arm's name."""
    return set(re.findall(rf'<i class="dot" style="background:(#\w+)"></i>{arm}\b', page))


def _two_lengths(one: Path, folder: Path, batch_size: int) -> list[Path]:
    other = another(one, folder / "b", optimizer="lars", epochs=30, batch_size=batch_size)
    return [another(one, folder / "a"), other]


def test_the_page_of_one_run_compares_nothing(one: Path, page: Path, tmp_path: Path) -> None:
    alone, many = report([one], tmp_path / "page.html").read_text(), page.read_text()
    assert "<h1>Run of tvlars</h1>" in alone
    for words in ("Mean over seeds", "over seeds", 'aria-label="Arms"', "each seed", "highest mean", 'id="speed"'):
        assert words in many, words
        assert words not in alone, words
    targets = alone.partition('aria-label="Time to a target"')[2].partition("</thead>")[0]
    assert re.findall(r'<th scope="col">(.*?)</th>', targets) == ["target", "steps", "samples", "training time"]


def test_many_arms_are_counted_in_the_title_and_told_apart_by_dashes_where_colours_repeat(
    one: Path, tmp_path: Path
) -> None:
    runs = [another(one, tmp_path / f"arm{i}", arm=f"arm{i}", seed=0) for i in range(12)]
    text = report(runs, tmp_path / "page.html").read_text()
    assert "<h1>Runs of 12 arms</h1>" in text
    chips = re.findall(r'data-arm="arm\d+">(.*?)arm\d+</button>', text)
    assert len(chips) == len(set(chips)) == 12


def test_all_heat_maps_of_a_quantity_have_one_colour_scale(one: Path, tmp_path: Path) -> None:
    runs = [load_run(one), load_run(another(one, tmp_path / "b", optimizer="lars"))]
    arms, stats = make_arms(runs), [mean_layer_stats([run], []) for run in runs]
    stats[1] = stats[1].assign(value=100 * stats[1]["value"])
    ranges = color_ranges(stats)
    maps = [heat_map(arm, part, 5.0, ranges) for arm, part in zip(arms, stats, strict=True)]
    quantities = [figure.layout.meta["quantities"] for figure in maps]
    assert set(quantities[0]) == set(quantities[1]) == {*HEAT.values()}
    for name in quantities[0]:
        assert len({(one[name]["zmin"], one[name]["zmax"]) for one in quantities}) == 1
    low, high = ranges["LNR"]
    assert high - low > 2
    assert maps[0].data[0].zmin == low


def test_names_from_folders_and_configs_are_escaped(one: Path, tmp_path: Path) -> None:
    evil = another(one, tmp_path / EVIL.replace("/", "_"), optimizer="lars")
    config = json.loads((evil / "config.json").read_text())
    (evil / "config.json").write_text(json.dumps({**config, "data": f"imagefolder:{EVIL}", "surprise": EVIL}))
    environment = json.loads((evil / "environment.json").read_text())
    (evil / "environment.json").write_text(
        json.dumps({**environment, "command": EVIL, "model": EVIL, "versions": EVIL})
    )
    text = report([evil, another(one, tmp_path / "good")], tmp_path / "page.html", command=EVIL).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "imagefolder:" not in text  # the content of both is the same, whatever it is called


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("report nowhere", "run must be an existing folder, got 'nowhere'"),
        ("report EMPTY", "is no run folder"),
        ("report RUN -o EMPTY", "out must end in .html or .htm or .md or .tex or .csv, got"),
        ("report RUN --watch 0", "watch must be an integer from 1 to 86400"),
        ("report", "the following arguments are required: RUN"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: str, sentence: str, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments.replace("RUN", str(one)).replace("EMPTY", str(tmp_path)).split()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_writes_beside_the_runs(one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    another(one, tmp_path / "all" / "a")
    assert main(["report", str(tmp_path / "all")]) == 0
    assert capsys.readouterr().out == f"page: {tmp_path / 'all' / 'report.html'}\n"
    (tmp_path / "none" / "x").mkdir(parents=True)
    (tmp_path / "none" / "comparison.json").write_text("{}")
    with pytest.raises(UsageError, match="must be a run or comparison folder"):
        report([tmp_path / "none"], tmp_path / "page.html")


def test_a_page_without_room_leaves_the_one_that_is_there(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = '<meta name="generator" content="tvlars report">'
    (tmp_path / "page.html").write_text(old)
    with room(100_000):
        assert main(["report", str(one), "-o", str(tmp_path / "page.html")]) == 2
    name = str(tmp_path / "page.html")
    assert capsys.readouterr().err == f"tvlars: out must be a writable file, got {name!r}: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == old


def test_watching_goes_on_until_it_is_interrupted(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sleeps = []

    def sleep(seconds: float) -> None:
        sleeps.append((tmp_path / "page.html").stat().st_mtime_ns)
        if len(sleeps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    assert main(["report", str(one), "-o", str(tmp_path / "page.html"), "--watch", "5"]) == 130
    assert len(set(sleeps)) == 3
    assert '<meta http-equiv="refresh" content="5">' in (tmp_path / "page.html").read_text()


def test_watching_outlives_what_may_pass(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, away, page = tmp_path / "run", tmp_path / "away", tmp_path / "page.html"
    shutil.copytree(one, run)
    rounds = iter([lambda: run.rename(away), lambda: None, lambda: away.rename(run)])
    pages = []

    def sleep(seconds: float) -> None:
        pages.append(page.stat().st_mtime_ns)
        following = next(rounds, None)
        if following is None:
            raise KeyboardInterrupt
        following()

    monkeypatch.setattr("time.sleep", sleep)
    assert main(["report", str(run), "-o", str(page), "--watch", "5"]) == 130
    assert [a == b for a, b in itertools.pairwise(pages)] == [True, True, False]
    captured = capsys.readouterr()
    assert captured.out.count("the page was not updated: run must be an existing folder") == 1
    assert captured.err == f"tvlars: interrupted; {page} has the last complete update\n"


# -- in a browser ---------------------------------------------------------------------------------------------


def opened(browser: Any, page: Path, **options: Any) -> Any:
    """The page when all is drawn; ``errors`` are those of the console. The network is off."""
    context = browser.new_context(offline=True, accept_downloads=True, **options)
    tab = context.new_page()
    tab.errors = []
    tab.on("console", lambda message: tab.errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(f"file://{page}", timeout=120_000)
    tab.wait_for_function("document.documentElement.dataset.ready === 'yes'", timeout=120_000)
    return tab


def test_every_figure_draws_without_an_error(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    assert tab.errors == []
    figures = tab.locator(".figure").count()
    # over batch sizes; 4 curves, 2 heat maps, 3 of sharpness, slices and noise, for two batch sizes
    assert figures == 1 + 2 * (4 + 2 + 3 + 1 + 1)
    drawn = "[...document.querySelectorAll('.figure')].filter(f => f.querySelector('.trace, .hm')).length"
    assert tab.evaluate(drawn) == figures


def test_a_page_has_loaded_when_its_figures_are_drawn(browser: Any, page: Path) -> None:
    tab = browser.new_context(offline=True).new_page()
    tab.add_init_script("""window.addEventListener("load", () => {
        const of = name => document.querySelectorAll(name).length;
        window.atLoad = [of(".figure.drawn .main-svg"), of("iframe")];
    })""")
    tab.goto(page.as_uri(), wait_until="load", timeout=120_000)
    drawn, frames = tab.evaluate("window.atLoad")
    assert drawn >= tab.locator(".figure:visible").count() > 0
    assert frames == 0


def test_controls_change_all_curves(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    place = tab.locator("#curves .figure").first
    tick = "f => f.layout.yaxis.tickvals.includes(10) || f.layout.yaxis.tickvals.length > 2"
    assert place.evaluate("f => [f.layout.yaxis.type, f.layout.xaxis.title.text]") == ["log", "epoch"]
    assert place.evaluate(tick)
    error = place.evaluate("f => f.data[1].y")
    tab.select_option("[data-control=y]", "accuracy")
    tab.select_option("[data-control=x]", "samples")
    tab.wait_for_function("document.querySelector('#curves .figure').layout.xaxis.title.text === 'training samples'")
    assert place.evaluate("f => f.data[1].y") == pytest.approx([100 - value for value in error])
    assert place.evaluate("f => f.data[1].x") == [5 * 128, 10 * 128, 15 * 128]
    tab.select_option("[data-control=x]", "seconds")
    tab.wait_for_function(
        "document.querySelector('#curves .figure').layout.xaxis.title.text.startsWith('training time')"
    )
    tab.locator(".chips button", has_text="tvlars").click()
    visible = "() => document.querySelector('#curves .figure')._fullData.filter(t => t.visible === true).length"
    tab.wait_for_function(f"({visible})() === 2")  # the curve of lars and its band
    tab.select_option("[data-control=size]", "256")
    assert tab.locator("#curves .block:visible").count() == 1
    loss = tab.locator("#curves .block:visible .figure").nth(1)
    rough = loss.evaluate("f => f.data[1].y")
    tab.locator("[data-control=smooth]").fill("0.9")
    tab.wait_for_function("() => document.querySelectorAll('#curves .block:not([hidden]) .figure')[1].data[1].y[9] > 0")
    smooth = loss.evaluate("f => f.data[1].y")
    assert np.abs(np.diff(smooth)).sum() < np.abs(np.diff(rough)).sum()
    assert tab.errors == []


def test_the_mouse_on_an_arm_brings_its_curves_out(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    curve = tab.locator("#curves .figure").first
    opacities = "f => f.data.map(t => [t.meta, t.opacity ?? 1])"
    tab.locator(".chips button", has_text="lars").last.hover()
    assert {tuple(one) for one in curve.evaluate(opacities)} == {("lars", 1), ("tvlars", 0.12)}
    tab.mouse.move(0, 0)
    assert {tuple(one) for one in curve.evaluate(opacities)} == {("lars", 1), ("tvlars", 1)}
    assert tab.errors == []


@pytest.mark.parametrize("width", [390, 700, 1210, 1440])
def test_labels_of_ticks_do_not_touch(browser: Any, page: Path, width: int) -> None:
    tab = opened(browser, page, viewport={"width": width, "height": 900})
    ends = "e => [...e.querySelectorAll('b')].map(b => b.getBoundingClientRect()).filter(r => r.width > 0)"
    ends += ".map(r => [r.left, r.right])"
    for head in tab.locator("#result .head .track").all():
        labels = head.evaluate(ends)
        assert len(labels) >= 2
        assert all(after[0] - before[1] > 2 for before, after in itertools.pairwise(labels)), labels


def test_the_table_sorts(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    rows = tab.locator("table.sortable").first
    accuracies = lambda: [float(t.split()[0]) for t in rows.locator("td.measure").all_inner_texts()]  # noqa: E731
    rows.locator("th", has_text="test accuracy").click()
    assert accuracies() == sorted(accuracies(), reverse=True)
    rows.locator("th", has_text="test accuracy").click()
    assert accuracies() == sorted(accuracies())
    rows.locator("th", has_text="optimizer").click()
    names = rows.locator("tbody tr td:first-child").all_inner_texts()
    assert names == sorted(names, reverse=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_phone_in_either_theme(browser: Any, page: Path, scheme: str) -> None:
    tab = opened(browser, page, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert tab.errors == []
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 391)"
    wide += ".filter(e => !e.closest('.wide, .sr'))"
    assert tab.evaluate(f"{wide}.map(e => e.tagName + '.' + e.className)") == []
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 26)"
    assert dark == (scheme == "dark")
    tab.locator("#theme").click()
    assert (tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 26)") != dark
    assert tab.evaluate("document.querySelector('.figure').layout.font.color") == ("#5c5c5c" if dark else "#ababab")


def test_the_data_behind_a_figure_is_downloaded(browser: Any, page: Path, twelve: list[Path]) -> None:
    tab = opened(browser, page)
    section = tab.locator("#curves .block").first
    with tab.expect_download() as started:
        section.locator("button.csv").first.click()
    assert started.value.suggested_filename == "batch-size-128-curves-test-accuracy.csv"
    rows = pd.read_csv(started.value.path())
    expected = np.mean([pd.read_csv(run / "epochs.csv")["test_accuracy"] for run in twelve[:3]], axis=0)
    assert rows[rows["name"] == "tvlars"]["y"].tolist() == pytest.approx((100 * expected).tolist(), rel=1e-4)
    layers = tab.locator("#layers .block").first
    tab.select_option("[data-control=quantity]", "LWN = ‖w‖")
    with tab.expect_download() as started:
        layers.locator("button.csv").first.click()
    rows = pd.read_csv(started.value.path())
    assert {"stem.weight", "head.bias"} <= set(rows["y"])
    assert set(rows["quantity"]) == {"LWN = ‖w‖"}


def test_one_menu_changes_all_heat_maps(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    all_of = "[...document.querySelectorAll('#layers .figure')].map(f => JSON.stringify(f.data[0].z))"
    before, scale = tab.evaluate(all_of), tab.locator("#layers .scale .low").first.inner_text()
    tab.select_option("[data-control=quantity]", "LGN = ‖g‖")
    tab.wait_for_function("low => document.querySelector('#layers .scale .low').innerText !== low", arg=scale)
    assert len(before) == 4
    assert all(a != b for a, b in zip(before, tab.evaluate(all_of), strict=True))
    assert tab.errors == []


def test_the_essentials_alone_are_on_paper(browser: Any, page: Path, tmp_path: Path) -> None:
    tab = opened(browser, page)
    tab.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (
        len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) <= 3
    )  # two batch sizes take a third


def test_sharpness_at_steps_and_levels_has_a_menu_and_a_table_of_paired_ratios(one: Path, tmp_path: Path) -> None:
    folders = []
    for optimizer, factor in (("tvlars", 1.0), ("lars", 2.0)):
        for seed in (1, 2, 3):
            folder = another(one, tmp_path / f"{optimizer}-{seed}", optimizer=optimizer, seed=seed)
            others = (300.0, 20.0, 0.3, 0.1, 0.01, 5.0, 1.0)
            kept = [("step 2; loss 2", 2, 10.0), ("step 7", 7, 40.0), ("epoch 3", 15, 90.0)]
            rows = [
                SharpnessRow(1 + step // 6, step, 32, 0.5, factor * top * 1.1**seed, *others, "fresh", at)
                for at, step, top in kept
            ]
            pd.DataFrame(map(asdict, rows)).to_csv(folder / "sharpness.csv", index=False)
            folders.append(folder)
    found = Report("", "", [load_run(folder) for folder in folders])
    section = next(section for section in found.sections() if section.kind == "sharpness")
    assert [view.title for view in section.intervals] == [
        f"{at}, fresh statistics" for at in ("step 2", "step 7", "epoch 3", "loss 2")
    ]
    for view in section.intervals:
        lars, tvlars = ({row.name: row for row in view.rows}[name] for name in ("lars", "tvlars"))
        assert lars.value == pytest.approx(2 * tvlars.value)
        assert lars.low < lars.value < lars.high
        assert len(lars.points) == 3
    second = section.rows[1]
    assert (second["at"], second["arm"], second["seeds"]) == ("step 2", "lars", 3)
    assert second["λ₁ to that of tvlars"] == "2 (2 to 2)"
    assert section.figures[0].data[1].x == (0.4, 1.4, 3.0)
    assert "<td>2 (2 to 2)</td>" in forms.page(found)
