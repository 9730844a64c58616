"""Tables of a comparison for papers and notebooks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.command import tvlars
from tvlars.lab import Comparison
from tvlars.lab.comparison.comparison import RunRow
from tvlars.lab.comparison.paper import arm_notes, tex, words


def comparison(folder: Path, accuracies: dict[str, list[float | None]], batch_size: int = 256) -> Comparison:
    """A comparison with these accuracies by seed; None is a run that diverged."""
    made = Comparison(folder, "tvlars compare")
    for arm, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            run = f"{arm}-b{batch_size}-s{seed}".replace("/", "_")
            (folder / run).mkdir(parents=True, exist_ok=True)
            config = {"data": "imagefolder:/home/me/my_birds", "model": "/x/net.py:build", "epochs": 30, "seed": seed}
            (folder / run / "config.json").write_text(json.dumps({**config, "batch_size": batch_size}))
            status = "diverged" if accuracy is None else "finished"
            made.runs.append(
                RunRow(arm, batch_size, seed, 16.0, status, accuracy, 0.1, 0.1, 1.0, 1.0, "", run, 100_000)
            )
    return made


@pytest.fixture
def three(tmp_path: Path) -> Comparison:
    values: dict[str, list[float | None]] = {"tvlars": [0.91, 0.92, 0.93] * 3, "lars": [0.81, 0.82, 0.83] * 3}
    return comparison(tmp_path, {**values, "a_b & 50%": [0.9, 0.93, None] * 3})


def test_the_highest_mean_is_bold_and_the_caption_says_what_it_is_of(three: Comparison) -> None:
    caption = (
        "Test accuracy: mean over n seeds ± half the width of its 95 % interval (Student's t); my_birds, "
        "net.py:build, 30 epochs, batch size 256. Bold: the highest mean. *: significantly below it (p ≤ 0.05, paired "
        "over seeds and test images by the exact sign-flip test, adjusted by Holm's method for 3 comparisons)."
    )
    assert three.to_markdown().splitlines() == [
        *("| optimizer | lr | test accuracy, % | n |", "| :--- | ---: | ---: | ---: |"),
        "| tvlars | 16 | **92.00 ± 0.67** | 9 |",
        r"| lars | 16 | 82.00 ± 0.67 \* | 9 |",
        r"| a\_b & 50% | 16 | 91.50 ± 1.72 | 6 of 9, 3 diverged |",
        "",
        words(caption),
    ]
    text = three.to_latex("tab:birds")
    assert rf"\caption{{{tex(caption)}}}" in text
    assert r"\label{tab:birds}" in text
    rows = text.partition("\\midrule\n")[2].partition("\n\\bottomrule")[0].splitlines()
    assert rows == [
        r"tvlars & 16 & \textbf{92.00 $\pm$ 0.67} & 9 \\",
        r"lars & 16 & 82.00 $\pm$ 0.67$^{*}$ & 9 \\",
        r"a\_b \& 50\% & 16 & 91.50 $\pm$ 1.72 & 6 of 9, 3 diverged \\",
    ]
    assert three.to_markdown(caption="Mine.").endswith("\n\nMine.\n")
    assert r"\caption{50 \% of it}" in three.to_latex(caption="50 % of it")


def test_batch_sizes_stand_apart_each_with_its_own_highest_mean(tmp_path: Path) -> None:
    both = comparison(tmp_path, {"tvlars": [0.9], "lars": [0.8]}, 512)
    both.runs += comparison(tmp_path, {"tvlars": [0.7], "lars": [0.8]}, 1024).runs
    text = both.to_latex()
    assert text.count(r"\midrule") == 2
    assert r"tvlars & 512 & 16 & \textbf{90.00} & 1 \\" in text
    assert r"lars & 1,024 & 16 & \textbf{80.00} & 1 \\" in text
    assert "Test accuracy of one seed; my\\_birds, net.py:build, 30 epochs. Bold: the highest mean of each" in text
    assert "Differences are not tested with fewer than 7 seeds." in text
    for run in both.runs:
        (tmp_path / run.folder / "config.json").write_text('{"data": "given:Birds", "model": "given:Net", "epochs": 1}')
    assert "; Birds, Net, 1 epoch. Bold" in both.to_latex()


def test_one_arm_alone_is_not_the_highest(tmp_path: Path) -> None:
    assert "**" not in comparison(tmp_path, {"lars": [0.9, 0.8, 0.85]}).to_markdown()


def test_tables_of_nothing_are_tables(tmp_path: Path) -> None:
    for made in (Comparison(tmp_path, ""), comparison(tmp_path, {"lars": [None]})):
        assert made.to_latex().count("\\\\\n") == 1 + len(made.runs)
        assert "Bold" not in made.to_markdown()
        assert str(made.table())


def test_signs_are_shown_literally() -> None:
    assert tex("\\ {x} a_b 5% #1 & $2\n~^ <|> [1] λ") == (
        r"\textbackslash{} \{x\} a\_b 5\% \#1 \& \$2 \textasciitilde{}\textasciicircum{} $<$$|$$>$ {[}1] $\lambda$"
    )
    assert words("a_b *c* | <d> $e$") == r"a\_b \*c\* \| \<d\> \$e\$"


def test_the_frame_prints_as_text(three: Comparison) -> None:
    lines = str(three.table()).splitlines()
    assert lines[0].split("  ")[0].startswith("optimizer")
    assert "test accuracy, %" in lines[0]
    assert re.search(r"lars +256 +16 +82\.00 ± 0\.67 +9 +−10\.00, significant", lines[2])
    assert repr(three.table().sort_values("accuracy")).splitlines()[1].startswith("lars")
    assert "0.92" in repr(three.table()[["optimizer", "accuracy"]])  # a frame as any other
    assert three.table()["accuracy"].max() == pytest.approx(0.92)
    assert str(three).splitlines()[-3].startswith("Batch size 256: tvlars has the highest mean test accuracy, 92.00 %")
    html = three._repr_html_()
    assert "<td>82.00 ± 0.67</td>" in html
    assert "a_b &amp; 50%" in html


def test_the_command_says_what_it_wrote(three: Comparison, tmp_path: Path) -> None:
    done = tvlars("report", tmp_path, "-o", tmp_path / "x.docx", cwd=tmp_path)
    assert done.returncode == 2
    assert "out must end in .html or .htm or .md or .tex or .csv, got" in done.stderr


def test_arms_with_names_of_their_own_are_explained() -> None:
    common = {"data": "digits", "momentum": 0.5, "lr": 1.0}
    arms = [
        {"arm": "tvlars", "optimizer": "tvlars", "alpha": None, "warmup_epochs": None, "lr": 2.0},
        {"arm": "cold", "optimizer": "lars", "alpha": None, "warmup_epochs": 0.0},
        {"arm": "mine", "optimizer": "/home/me/own.py:build", "alpha": 0.1, "warmup_epochs": None},
        {"arm": None, "optimizer": "lars", "alpha": None, "warmup_epochs": None},
    ]
    runs = [{**common, **arm, "seed": seed} for seed in (0, 1) for arm in arms]
    assert arm_notes(runs) == ["cold: lars, warmup-epochs 0", "mine: own.py:build, alpha 0.1"]
    assert arm_notes([]) == []
