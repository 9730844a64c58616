"""Options: values from text and files, and the lists of names that are derived from fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tvlars.lab import TrainConfig, UsageError
from tvlars.lab.config import MEANS, OPTIONS, names_of
from tvlars.lab.options import Is, check, given, option, option_name, options_of, parse_value


@dataclass(frozen=True)
class Example:
    names: tuple[str, ...] = option(("a",), "some of {choices}", choices=("a", "b"))
    counts: tuple[int, ...] = option((1,), "counts", within=(1, 3))
    share: float | None = option(None, "a share", within=(0, 1), above=True, unit="of all")
    place: Path | None = option(None, "a place")
    note: str = ""

    def __post_init__(self) -> None:
        check(self)


def test_fields_say_what_an_option_is() -> None:
    found = options_of(Example)
    assert list(found) == ["names", "counts", "share", "place"]
    assert [(one.kind, one.many, one.default) for one in found.values()] == [
        (str, True, ("a",)),
        (int, True, (1,)),
        (float, False, None),
        (Path, False, None),
    ]
    assert found["names"].text == "some of a, b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(names="a"), "names must be a list, got 'a'"),
        (dict(names=()), "names must name at least one, got none"),
        (dict(names=["a", "a"]), "names must not repeat, got a, a"),
        (dict(names=["c"]), "unknown name 'c': Known: a, b."),
        (dict(counts=[1, 0]), "counts must be an integer >= 1, got 0"),
        (dict(counts=[4]), "counts must be <= 3, got 4"),
        (dict(counts=[True]), "counts must be an integer >= 1, got True"),
        (dict(share=0.0), "share must be > 0 and <= 1 (of all), got 0.0"),
        (dict(place=5), "place must be a path, got 5"),
        (dict(place="~nobody-here/x"), "place must be a path, got '~nobody-here/x', in a home that is not known here"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Example(**values)
    assert str(caught.value) == message


def test_values_are_kept_in_one_form() -> None:
    made = Example(names=["b", "a"], place="~/x")  # type: ignore[arg-type]
    assert made.names == ("b", "a")
    assert made.place == Path.home() / "x"
    assert given(made) == {"names": ("b", "a"), "place": Path.home() / "x"}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(int, "1_000", 1000), (float, "1e-3", 1e-3), (bool, "True", True), (str, "", ""), (Path, "x", Path("x"))],
)
def test_text_to_value(kind: type, text: str, value: object) -> None:
    assert parse_value(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (int, "1_0", "must be an integer, got '1_0'"),
        (float, "x", "must be a number, got 'x'"),
        (bool, "yes", "must be true or false, got 'yes'"),
        (Path, "", "must be a path, got ''"),
    ],
)
def test_text_that_is_no_value(kind: type, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        parse_value(kind, text)


def test_values_of_files() -> None:
    assert OPTIONS["lr"].convert("1e-3") == 1e-3
    assert (OPTIONS["lr"].convert(4), type(OPTIONS["lr"].convert(4))) == (4.0, float)
    assert OPTIONS["lr"].convert("fast") == "fast"  # refused where the config is made
    assert OPTIONS["lr"].convert(True) is True
    assert OPTIONS["data_dir"].convert("x") == Path("x")
    assert OPTIONS["epochs"].convert(3) == 3


def test_names_of_a_grid() -> None:
    assert option_name(OPTIONS, "batch-size", "grid") == "batch_size"
    with pytest.raises(UsageError, match="out must not be given in grid: every run has its own folder"):
        option_name(OPTIONS, "out", "grid")
    with pytest.raises(UsageError, match=r"unknown option of grid 'learning_rate'.*: (?!.*rendezvous)"):
        option_name(OPTIONS, "learning-rate", "grid")


def test_options_of_optimizers_and_schedules() -> None:
    def of(optimizer: str, schedule: str = "auto") -> set[str]:
        return {name for name, one in OPTIONS.items() if not one.plays_a_part(optimizer, schedule)}

    sigmoid, warmup = {"delay_factor", "delay", "alpha", "gamma_min"}, {"warmup_epochs", "warmup_steps"}
    trapezoid, own = {"decay_share", "decay_tail"}, "schedule_options"
    shapes = {"final_factor", "power", *trapezoid}
    assert of("tvlars") == {"schedule", own, *warmup, *shapes}
    assert of("lars") == {"phi_scope", "power", own, *trapezoid, *sigmoid}
    assert of("lars", "polynomial") == {"phi_scope", own, *trapezoid, *sigmoid}
    assert of("lars", "trapezoid") == {"phi_scope", "power", own, *sigmoid}
    assert of("lars", "sigmoid") == {"phi_scope", own, *shapes}
    assert of("lars", "published-phi") == {"phi_scope", own, *shapes, *sigmoid} - {"delay_factor"}
    assert of("lars", "constant") == {"phi_scope", own, *shapes, *sigmoid}
    assert of("lars", "./mine.py:factor") == {"phi_scope", *warmup, *shapes, *sigmoid}
    assert of("lamb") == of("lars") | {"trust_coefficient", "momentum", "nesterov"}
    assert of("adamw") == of("lamb") | {"layer_adaptation", "adapt_bias_norm"}


def test_lists_of_names() -> None:
    """Each was a list by hand once, which a new option was easily left out of."""
    assert names_of(Is.AXIS) == ("optimizer", "batch_size", "seed")
    assert names_of(Is.LOADS) == ("data", "data_dir", "image_size", "skip_bad_images")
    assert names_of(Is.OWN) == ("resume", "protocol", "out")
    assert names_of(Is.SEVERAL) == ("devices", "nodes", "shard", "sync_batch_norm", "rendezvous")
    assert set(names_of(Is.MACHINE)) < set(MEANS)
    assert set(names_of(Is.MACHINE)) == {
        *("out", "data_dir", "rendezvous", "timeout", "devices", "nodes", "profile", "log", "data_workers"),
    }
    assert set(names_of(Is.PLANNED)) < set(names_of(Is.TUNABLE))
    assert [name for name, one in OPTIONS.items() if one.not_in_grids] == ["nodes", "rendezvous", "resume", "out"]


@pytest.mark.parametrize("name", names_of(Is.CLASSIFICATION | Is.SELF_SUPERVISED))
def test_options_of_one_kind_of_task_are_refused_for_the_other(name: str) -> None:
    values: dict[str, Any] = {
        **dict(augment=False, rotation=5.0, compile=True, sharpness="end", sharpness_samples=8, noise_scale=True),
        **dict(label_smoothing=0.1, ema=0.9, keep_best=True, metrics="torchmetrics.classification.MulticlassF1Score"),
        **dict(crop="random-resized", crop_scale=0.5, auto_augment="randaugment", mixup=0.2, cutmix=1.0),
        **dict(sharpness_statistics="running", sharpness_statistics_samples=8),
        **dict(test_share=0.25, shard=True, projector="8-8", method_options="lambda_param=1", evaluations="knn"),
    }
    task = "byol" if name in names_of(Is.CLASSIFICATION) else "classification"
    with pytest.raises(UsageError, match=rf"^{name} must (not be given|be true) for {task}, "):
        TrainConfig(task=task, **{name: values[name]})
