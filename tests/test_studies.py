"""Data of the studies, their protocols, and the script that runs them."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from tests.study_modules import STUDIES, study_module
from tvlars import plan
from tvlars.lab import TrainConfig, sweep
from tvlars.lab.comparison import statistics
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.data.torchvision_sets import SYSTEM_DIR
from tvlars.lab.experiments.board import Board
from tvlars.lab.models import build_model
from tvlars.lab.protocol import Protocol

COUNT, TEST = 6_000, 50


data, run, results = study_module("data"), study_module("run"), study_module("results")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files like those of Fashion-MNIST, with the number of each image in its first 2 x 4 pixels."""
    made: Path = tmp_path_factory.mktemp("fashion")
    for split, count in (("train", COUNT), ("t10k", TEST)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, :2, :2] = (np.arange(count) % 256)[:, None, None]
        images[:, :2, 2:4] = (np.arange(count) // 256)[:, None, None]
        labels = (np.arange(count) * 7 % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            file = made / f"{split}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))
    return made


def numbers(images: torch.Tensor) -> list[int]:
    """Return the numbers of images of ``folder`` at half of their size."""
    return (images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()).tolist()


def test_halves_of_means_are_rounded_up() -> None:
    image = torch.tensor([[1, 2, 255, 255], [0, 3, 255, 255], [0, 0, 1, 0], [0, 1, 1, 0]], dtype=torch.uint8)
    assert data.averaged(image[None, None], 2).tolist() == [[[[2, 255], [0, 1]]]]


def test_images_of_7_x_7_are_means_of_4_x_4_and_colours_say_nothing_of_the_class() -> None:
    image = torch.full((1, 1, 28, 28), 10, dtype=torch.uint8)
    image[..., :4, :4] = torch.arange(16).reshape(4, 4)
    small = data.averaged(image, 4)
    assert small.shape == (1, 1, 7, 7)
    assert (int(small[0, 0, 0, 0]), int(small[0, 0, 0, 1])) == (8, 10)
    grey = torch.full((1000, 1, 2, 2), 200, dtype=torch.uint8)
    made = data.colored(grey, torch.Generator().manual_seed(0)).float()
    assert made.shape == (1000, 3, 2, 2)
    assert int(made.min()) >= 60
    assert int(made.max()) <= 200
    assert (made.mean((0, 2, 3)) - 130).abs().max() < 5, "channels are alike on average"
    assert made[:, :, 0, 0].unique(dim=0).shape[0] > 990


def test_training_and_validation_share_no_image_and_have_each_class_alike(folder: Path) -> None:
    made = data.fashion(500, data_dir=folder)
    train, validation = numbers(made.train_images), numbers(made.validation_images)
    assert made.train_images.shape == (500, 1, 14, 14)
    assert len(set(train)) == 500
    assert len(set(validation)) == data.VALIDATION
    assert not set(train) & set(validation)
    for labels, which in ((made.train_labels, train), (made.validation_labels, validation)):
        assert labels.tolist() == [n * 7 % 10 for n in which]
        assert torch.bincount(labels).tolist() == [len(labels) // 10] * 10
    assert numbers(made.test_images) == list(range(TEST))


def test_all_sizes_have_the_same_validation_images_each_time(folder: Path) -> None:
    small, large, again = (data.fashion(count, data_dir=folder) for count in (100, 900, 100))
    assert small.fingerprint.validation == large.fingerprint.validation
    assert small.fingerprint == again.fingerprint
    assert small.fingerprint != large.fingerprint
    whole = data.fashion(100, data_dir=folder, side=28)
    assert whole.train_labels.equal(small.train_labels)
    assert whole.train_images.shape == (100, 1, 28, 28)


def test_a_fifth_of_the_training_labels_is_wrong_and_no_other(folder: Path) -> None:
    clean, noisy = data.fashion(500, data_dir=folder), data.fashion(500, 0.2, data_dir=folder)
    assert int((clean.train_labels != noisy.train_labels).sum()) == 100
    assert noisy.train_images.equal(clean.train_images)
    assert noisy.validation_labels.equal(clean.validation_labels)
    assert noisy.test_labels.equal(clean.test_labels)
    assert noisy.account == ("20% of the training labels are those of another class",)
    assert clean.account == ()


def test_wrong_labels_are_spread_over_all_other_classes() -> None:
    labels = torch.zeros(10_000, dtype=torch.int64)
    moved = data.with_noise(labels, 0.9, 10, seed=3)
    counts = torch.bincount(moved, minlength=10)
    assert counts[0] == 1_000
    assert int(counts[1:].min()) > 900


@pytest.mark.skipif(not SYSTEM_DIR.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_files_of_fashion_mnist_give_these_images() -> None:
    made = load_data(f"{STUDIES / 'data.py'}:fashion14_4000_noisy")
    assert isinstance(made, ImageData)
    validation = made.fingerprint.validation
    assert validation is not None
    assert made.fingerprint.train.pixels == "758502747c1a51117973e43776ac83d3"
    assert made.fingerprint.train.labels == "37728c4815eebd63fa5eedfeb09d668f"
    assert validation.pixels == "c2a47efb6efed7f300f6c2689dffca55"
    assert made.fingerprint.test.pixels == "43f1811e2c0c92ab815b17f5fee69113"


def test_a_study_is_collected_under_its_own_protocol_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    protocol = Protocol.read(STUDIES / "protocols" / "a3.yaml")
    with pytest.raises(SystemExit, match="before its first run"):
        run.collect(protocol, tmp_path)
    (tmp_path / "protocol.yaml").write_text((STUDIES / "protocols" / "a2.yaml").read_text())
    with pytest.raises(SystemExit, match="of another protocol"):
        run.collect(protocol, tmp_path)


@pytest.mark.parametrize("file", sorted((STUDIES / "protocols").glob("*.yaml")), ids=lambda file: file.stem)
def test_protocols_are_valid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(STUDIES.parents[1])
    protocol = Protocol.read(file)
    assert protocol.name == file.stem
    assert protocol.content["cuts"]
    assert protocol.content["measure"]


@pytest.mark.parametrize("file", sorted(results.RESULTS.glob("*.csv")), ids=lambda file: file.stem)
def test_runs_are_of_the_protocol_that_is_there(file: Path) -> None:
    frame = pd.read_csv(file)
    if "protocol" in frame:  # tables of differences and of steps name runs alone
        name = file.stem.removesuffix("-sharpness")  # measurements of the runs of a2
        assert set(frame["protocol"]) == {Protocol.read(STUDIES / "protocols" / f"{name}.yaml").digest}


@pytest.mark.parametrize("name", ["plain20", "plain40", "vit"])
def test_networks_have_no_batch_norm_and_start_with_outputs_of_a_usual_size(name: str) -> None:
    torch.manual_seed(0)
    network, _ = build_model(f"{STUDIES / 'models.py'}:{name}", 1, 14, 10)
    assert not any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    layers = sum(isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) for layer in network.modules())
    assert name == "vit" or layers == int(name.removeprefix("plain"))
    logits = network(torch.randn(64, 1, 14, 14))
    assert logits.shape == (64, 10)
    assert 0.05 < float(logits.detach().std()) < 5


def test_muon_trains_kernels_as_matrices_at_the_rate_of_the_plan() -> None:
    torch.manual_seed(0)
    network, _ = build_model("small_resnet", 1, 14, 10)
    made = study_module("optimizers").muon(network, plan(100, 1_000, 10, "torch.optim.AdamW", lr=0.02))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network(torch.randn(8, 1, 14, 14)).square().mean().backward()
    made.step()
    moved = {name: p.detach() - before[name] for name, p in network.named_parameters()}
    kernel = moved["blocks.1.conv1.weight"].flatten(1)
    values = torch.linalg.svdvals(kernel)
    assert 0.5 < float(values.min() / 0.02) < float(values.max() / 0.02) < 1.5  # near an orthogonal matrix
    assert float(moved["bn.bias"].abs().max()) == pytest.approx(0.002, rel=1e-3)


def rows(values: dict[str, dict[float, list[float]]]) -> pd.DataFrame:
    """Return runs with these accuracies in percent by arm and rate, one for each seed; NaN: it diverged."""
    return pd.DataFrame(
        [
            dict(arm=arm, lr=lr, seed=seed, validation_accuracy=value / 100, status=status(value))
            for arm, rates in values.items()
            for lr, seeds in rates.items()
            for seed, value in enumerate(seeds, 1)
        ]
    )


def status(value: float) -> str:
    return "diverged" if math.isnan(value) else "finished"


def test_plateaus_and_failures_of_a_table_made_by_hand() -> None:
    nan = math.nan
    wide: dict[float, list[float]] = {4: [78, 78], 8: [80, 80], 16: [79.5, 80.5], 32: [78, 78]}
    narrow: dict[float, list[float]] = {4: [70, 70], 8: [80, 80], 16: [70, 70], 32: [nan, 19]}
    found = results.Robustness(rows({"wide": wide, "narrow": narrow}), ["wide", "narrow"], 1.0)
    assert found.seeds == [1, 2]
    assert found.plateau("wide").octaves == pytest.approx(2.0)  # half an octave, one, half an octave
    assert found.plateau("narrow").octaves == pytest.approx(0.2)
    assert found.failures("narrow") == {4: 0, 8: 0, 16: 0, 32: 2}
    assert sum(found.failures("wide").values()) == 0
    assert found.cells["narrow"][1][3].tolist() == [10.0, 19.0]  # one that diverged counts as guessing
    table = found.tables()
    assert "| narrow | 80.00 | 8 | 7.46 to 8.57 | 0.20 (0.20 to 0.20) | +1.80 (" in table
    assert "14.50, 2 failed" in table


def test_seeds_that_are_not_whole_do_not_count() -> None:
    frame = rows({"one": {4: [80, 81], 8: [79, 80]}, "two": {4: [80, 81], 8: [79, 80]}})
    assert results.Robustness(frame.iloc[:-1], ["one", "two"], 1.0).seeds == [1]


def test_runs_of_a_study_are_collected_from_their_folders(tmp_path: Path) -> None:
    config = TrainConfig(batch_size=512, epochs=1, validation=200, test=False, arm="phi", lr=8.0)
    for seed in (1, 2):
        sweep([replace(config, seed=seed)], tmp_path / f"{seed}", data=load_data("digits"), board=Board())
    for run_folder in (tmp_path / "2").glob("digits-*/"):
        run_folder.rename(tmp_path / "1" / run_folder.name)
    (tmp_path / "1").rename(tmp_path / "runs")
    found = results.rows_of(tmp_path, "abc")
    assert found[["arm", "lr", "seed", "status", "protocol"]].values.tolist() == [
        ["phi", 8.0, 1, "finished", "abc"],
        ["phi", 8.0, 2, "finished", "abc"],
    ]
    assert found["validation_accuracy"].between(0, 1).all()
    assert found["test_accuracy"].isna().all()


def test_final_runs_of_a_tuning_are_compared_over_the_declared_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(STUDIES.parents[1])
    protocol = Protocol.read(STUDIES / "protocols" / "c2.yaml")
    frame = pd.DataFrame(
        [
            dict(
                part=part,
                arm=arm,
                batch_size=16384,
                seed=seed,
                lr=16.0,
                status="finished",
                run=f"{arm}-{seed}",
                test_accuracy=value + 0.001 * seed,
                validation_accuracy=0.8,
            )
            for part, arm, value in (("final", "phi", 0.85), ("final", "cosine-warm20", 0.8), ("trial", "phi", 0.1))
            for seed in range(1, 9)
        ]
    )
    found = results.compared(protocol, frame, tmp_path)
    pairs = found.differences()
    assert len(pairs) == 1
    assert (pairs["better"].item(), pairs["worse"].item()) == ("phi", "cosine-warm20")
    assert pairs["difference"].item() == pytest.approx(0.05)
    assert pairs["comparisons"].item() == 1


def tuned_frame() -> pd.DataFrame:
    """Runs of a tuning of two arms: three rates of which the middle one is best, then eight final seeds; the second
    arm is worse by 0.5 to 1.2 points, and has a diverged trial."""
    trials = [
        dict(
            part="trial", arm=arm, lr=lr, seed=seed, status="finished", validation_accuracy=value + 0.01 * (seed - 1000)
        )
        for arm, low in (("phi", 0.0), ("cosine", 0.02))
        for lr, value in ((8.0, 0.80), (16.0, 0.82 - low), (32.0, 0.81))
        for seed in (1000, 1001)
    ]
    trials[-1] |= dict(status="diverged", validation_accuracy=math.nan)
    final = [
        dict(
            part="final",
            arm=arm,
            lr=16.0,
            seed=seed,
            status="finished",
            train_accuracy=0.9,
            test_accuracy=0.85 + 0.001 * seed - low * seed,
        )
        for arm, low in (("phi", 0.0), ("cosine", 0.0001))
        for seed in range(5, 13)
    ]
    return pd.DataFrame(trials + final).assign(batch_size=512, run="x")


def test_a_page_of_a_tuning_has_the_search_the_differences_and_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    tuned, frame = study_module("tuned"), tuned_frame()
    pairs = statistics.differences(
        frame[frame["part"] == "final"].assign(test_images=10**9, **dict.fromkeys(statistics.MEANS)), "phi"
    )
    found = tuned.Tuned(frame, pairs, ["phi", "cosine"])
    assert found.search("phi").tolist() == pytest.approx([80.5, 82.5, 81.5])
    assert found.search("cosine").iloc[-1] == pytest.approx((81 + 10) / 2), "a diverged run counts as guessing"
    assert found.chosen("phi") == 16
    text = found.tables()
    assert "| validation, tuning seeds | training accuracy, % | test accuracy, % | runs |" in text
    assert "| phi | 6 | 8 to 32 | 16 | 82.00 83.00 | 90.00 ± 0.00 | 85.85 ± 0.20 | 8 of 8 |" in text
    unlabelled = tuned.Tuned(frame.assign(train_accuracy=math.nan), pairs, ["phi", "cosine"]).tables()
    assert "| phi | 6 | 8 to 32 | 16 | 82.00 83.00 | 85.85 ± 0.20 | 8 of 8 |" in unlabelled
    assert "| phi less cosine | +0.09 ± 0.02 | 0.0078 | 0.0078 |" in text
    assert "equivalent within 0.3 points" in text
    reversed_arms = tuned.Tuned(frame, pairs, ["cosine", "phi"])
    assert "| cosine less phi | -0.09 ± 0.02 |" in reversed_arms.tables()
    theme = SimpleNamespace(color=lambda i: f"C{i}", series="abcde", ink="black", faint="grey", ground="white")
    figure = Figure()
    found.painter()(figure, theme)
    search, gaps = figure.axes
    assert [line.get_label() for line in search.get_lines()][::2] == ["phi", "cosine"]
    assert [label.get_text() for label in gaps.get_yticklabels()] == ["phi less cosine"]
    assert [len(line.get_xdata()) for line in search.get_lines()[1::2]] == [0, 0]
    tuned.Tuned(frame.drop(index=0), pairs, ["phi", "cosine"]).painter()(fewer := Figure(), theme)
    hollow = fewer.axes[0].get_lines()[1]
    assert hollow.get_xdata().tolist() == [8.0], "one seed alone has tried it"


def test_a_page_keeps_the_words_around_what_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "studies")
    monkeypatch.setattr(results, "PAGES", {"x": "page-of-x"})
    before = "before\n<!-- made by python run.py x -->\n{}\n<!-- end -->\nafter\n<!-- made by y -->\nz\n<!-- end -->\n"
    (tmp_path / "page-of-x.md").write_text(before.format("old\nlines"))
    results.write_page("x-part", "python run.py x", "| new |")
    results.write_page("x", "python run.py x", "| new |")
    assert (tmp_path / "page-of-x.md").read_text() == before.format("| new |")
    with pytest.raises(SystemExit, match="made by z"):
        results.write_page("x", "z", "| new |")
