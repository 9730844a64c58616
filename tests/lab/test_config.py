"""Configs: what is refused, and the runs that a comparison is made of."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from tvlars.lab import CompareConfig, TrainConfig, UsageError
from tvlars.lab.errors import unknown
from tvlars.lab.training.batches import micro_batches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(data="digit"), "unknown data set 'digit': did you mean 'digits'?"),
        (dict(optimizer="LARSS"), "unknown optimizer 'LARSS': did you mean 'lars'"),
        (dict(model="small"), "unknown model 'small': did you mean 'small_resnet'?"),
        (dict(precision="bf16"), "unknown precision 'bf16': did you mean 'bf16-mixed'"),
        (dict(schedule="warmup"), "unknown schedule 'warmup': Known: auto, sigmoid, cosine"),
        (dict(schedule="polinomial"), "unknown schedule 'polinomial': did you mean 'polynomial'?"),
        (dict(schedule=3), "unknown schedule '3'"),
        (dict(schedule_options="gamma"), "schedule_options must be NAME=VALUE each"),
        (dict(decay_tail="root"), "unknown decay_tail 'root'"),
        (dict(batch_size=0), "batch_size must be an integer >= 2, got 0"),
        (dict(epochs=1.5), "epochs must be an integer >= 1, got 1.5"),
        (dict(micro_batch_size=-3), "micro_batch_size must be an integer >= 2, got -3"),
        (dict(seed=-1), "seed must be an integer >= 0, got -1"),
        (dict(seed=2**32), "seed must be <= 4294967295"),
        (dict(trust_coefficient=0.0), "trust_coefficient must be > 0, got 0.0"),
        (dict(optimizer="sgd", trust_coefficient=0.1), "trust_coefficient must not be given for sgd"),
        (dict(data=5), "data must be a name, got 5"),
        (dict(data_dir=5), "data_dir must be a path, got 5"),
        (dict(lr="5"), "lr must be > 0 and <= 1e+30, got '5'"),
        (dict(lr=1e39), "lr must be > 0 and <= 1e+30, got 1e+39"),
        (dict(crop_padding=10**6), "crop_padding must be <= 4096, got 1000000"),
        (dict(augment=False, rotation=5.0), "rotation must not be given if augment is false"),
        (dict(rotation=-1.0), "rotation must be >= 0 and <= 180 (degrees), got -1.0"),
        (dict(init="xavier"), "unknown init 'xavier': did you mean 'xavier_normal'"),
        (
            dict(skip_bad_images=True),
            "skip_bad_images must not be given for digits, which is not a folder of images, got Tr",
        ),
        (dict(data="imagefolder:"), "unknown data set 'imagefolder:'"),
        (dict(augment="yes"), "augment must be true or false, got 'yes'"),
        (dict(model=[]), "unknown model '[]'"),
        (
            dict(devices=4, nodes=2, batch_size=15),
            "batch_size must be >= 16, two samples for each of 8 processes, got 15",
        ),
        (
            dict(batch_size=5, micro_batch_size=2),
            "micro_batch_size must leave two samples in every part of a batch of 5, since batch norm has no statistics "
            "of one, got 2: take 3 or more",
        ),
        (
            dict(batch_size=6, micro_batch_size=2, devices=2, task="simclr", sync_batch_norm=False),
            "micro_batch_size must leave two samples in every part of a batch of 6 over 2 processes, since",
        ),
        (dict(batch_size=7, micro_batch_size=3, devices=2), "got 3: take 4 or more"),
        *(
            (
                dict(nodes=2, rendezvous=place),
                "rendezvous must be HOST:PORT of the first machine, as node1:29500, with a port from 1 to 65535, "
                f"got {place!r}",
            )
            for place in ("nonsense", "node1:", ":29500", "node1:0", "node1:65536", "node 1:29500", "::1:29500", 29500)
        ),
        (dict(rendezvous="node1:29500"), "nodes must be > 1 with rendezvous, the place where machines meet, got 1"),
        (dict(sharpness_samples=5), "sharpness must be given with sharpness_samples, got 5 alone"),
        (dict(optimizer="lars", phi_scope="ratio"), "phi_scope must be 'all' for lars, got 'ratio'"),
    ],
)
def test_refused_when_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("place", ["node1:29500", "node-1.example.org:1", "10.0.0.1:65535", "[fe80::1]:29500"])
def test_places_where_machines_meet(place: str) -> None:
    assert TrainConfig(nodes=2, rendezvous=place).rendezvous == place


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_the_micro_batch_size_that_is_named_is_the_smallest_that_will_do(processes: int) -> None:
    def message(batch_size: int, micro_batch_size: int) -> str:
        config = dict(batch_size=batch_size, micro_batch_size=micro_batch_size, devices=processes)
        try:
            parts = micro_batches(TrainConfig(**config), processes)  # type: ignore[arg-type]
        except UsageError as error:
            return str(error)
        pieces = [torch.tensor_split(share, parts) for share in torch.arange(batch_size).tensor_split(processes)]
        assert min(len(piece) for share in pieces for piece in share) >= 2
        return ""

    for batch_size in range(2 * processes, 12 * processes):
        for size in range(2, 12):
            if named := re.search(r"take (\d+) or more", said := message(batch_size, size)):
                assert not any(message(batch_size, larger) for larger in range(int(named[1]), 20))
                assert all(message(batch_size, smaller) for smaller in range(size, int(named[1])))
            else:
                assert not said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=2000), "batch_size must be <= dataset_size (1,437 samples), got 2,000"),
        (dict(momentum=0.0, nesterov=True), "momentum must be > 0 if nesterov=True, got 0.0"),
        (dict(delay=500.0, epochs=20), "delay must be < 100, the steps of this run, so that φ falls in it, got 500"),
        (dict(optimizer="lamb", momentum=0.5), "momentum and nesterov must not be given for lamb"),
    ],
)
def test_refused_with_the_data(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**arguments).plan(1437)
    assert message in str(caught.value)


def test_json_there_and_back() -> None:
    config = TrainConfig(optimizer="lars", lr=3.0, out="somewhere")  # type: ignore[arg-type]
    assert TrainConfig.from_mapping(json.loads(config.to_json())) == config
    with pytest.raises(UsageError, match="unknown option 'batchsize': did you mean 'batch_size'"):
        TrainConfig.from_mapping({"batchsize": 3})


def test_a_comparison_there_and_back() -> None:
    config = CompareConfig(
        base=TrainConfig(epochs=3), optimizers=("lars",), seeds=(4,), overrides=(("lars", "lr", 2.0),)
    )
    assert CompareConfig.from_mapping(json.loads(config.to_json())) == config
    with pytest.raises(UsageError, match="unknown option 'seed': did you mean 'seeds'"):
        CompareConfig.from_mapping({"seed": 3})
    with pytest.raises(UsageError, match="a config must be an object of options, got 5"):
        CompareConfig.from_mapping({"base": 5})


def test_labels_are_fit_for_a_file_name() -> None:
    assert TrainConfig().label() == "digits-tvlars-b256-s0"
    assert TrainConfig(data="imagefolder:/data/my images/").label() == "my_images-tvlars-b256-s0"


def test_runs_of_a_comparison() -> None:
    config = CompareConfig(
        base=TrainConfig(epochs=3, lr=2.0),
        optimizers=("tvlars", "lars"),
        batch_sizes=(64, 128),
        seeds=(0, 7),
        overrides=(("lars", "lr", 1.0), ("lars", "warmup_epochs", 0.0)),
    )
    runs = config.runs()
    assert [(r.seed, r.batch_size, r.optimizer) for r in runs[:4]] == [
        (0, 64, "tvlars"),
        (0, 64, "lars"),
        (0, 128, "tvlars"),
        (0, 128, "lars"),
    ]
    assert len(runs) == 8
    assert {(r.optimizer, r.lr, r.warmup_epochs, r.epochs) for r in runs} == {
        ("tvlars", 2.0, None, 3),
        ("lars", 1.0, 0.0, 3),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(optimizers=("tvlars", "lasr")), "unknown optimizer 'lasr'"),
        (dict(seeds=5), "seeds must be a list, got 5"),
        (dict(optimizers="lars"), "optimizers must be a list, got 'lars'"),
        (dict(overrides=[["lars", "lr"]]), "overrides must be (optimizer, option, value) each"),
        (
            dict(overrides=(("lars", "data", "x"),)),
            "data must be the same for all optimizers, but is set only for",
        ),
        (dict(overrides=(("lars", "seed", 3),)), "seed must be the same for all optimizers, but is set only for lars"),
        (dict(seeds=()), "seeds must name at least one, got none"),
        (dict(seeds=(1, 1)), "seeds must not repeat, got 1, 1"),
        (dict(overrides=(("sgd", "lr", 1.0),)), "unknown optimizer among those compared 'sgd'"),
        (dict(overrides=(("lars", "lr", 1), ("lars", "lr", 2))), "lr must be set once for lars, got several values"),
        (dict(overrides=(("lars", "learning_rate", 1.0),)), "unknown option of lars 'learning_rate'"),
    ],
)
def test_comparisons_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        CompareConfig(**arguments)
    assert message in str(caught.value)


def test_a_comparison_has_the_batch_size_of_its_base() -> None:
    base = TrainConfig(batch_size=512)
    assert {run.batch_size for run in CompareConfig(base, optimizers=("lars",)).runs()} == {512}
    assert CompareConfig().batch_sizes == (256,)
    several = CompareConfig(base, optimizers=("lars",), batch_sizes=(128, 256))
    assert {run.batch_size for run in several.runs()} == {128, 256}


def test_a_default_that_is_too_large_for_the_data_is_said_to_be_one() -> None:
    said = r"^batch_size must be <= dataset_size \(96 samples\), got 256, the default$"
    with pytest.raises(UsageError, match=said):
        TrainConfig().plan(96)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("learning_rate", "lr"), ("learning-rate", "lr"), ("wd", "weight_decay"), ("weightdecay", "weight_decay")],
)
def test_names_of_other_programs_are_understood_in_suggestions(typed: str, meant: str) -> None:
    assert f"did you mean '{meant}'?" in str(unknown("option", typed, ["lr", "weight_decay", "momentum", "epochs"]))
    assert "did you mean" not in str(unknown("option", "beta", ["ema", "momentum"]))
