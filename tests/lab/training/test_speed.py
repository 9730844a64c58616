"""Precision and compilation that a run chooses by measured speed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tvlars._reading import read_json
from tvlars.lab import TrainConfig, train
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.training import prepare, speed
from tvlars.lab.training.progress import Reporter

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)
QUICK: dict[str, Any] = dict(data="digits", model="small_resnet", batch_size=64, epochs=2, seed=3)
FAST_BF16, SLOW_BF16 = {"32-true": 2e-3, "bf16-mixed": 1e-3}, {"32-true": 1e-3, "bf16-mixed": 9e-3}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "speed.json"


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(144, 3))


def times(monkeypatch: pytest.MonkeyPatch, found: dict[str, float]) -> list[str]:
    """Have every measurement find these times; return the list of what has been measured."""
    said: list[str] = []

    def measured(ways: dict[str, Any], count: int) -> dict[str, float]:
        said.append(" and ".join(ways))
        return {name: found[name] for name in ways}

    monkeypatch.setattr(speed, "measured", measured)
    return said


def test_both_precisions_are_measured_once_and_change_nothing(cache: Path, net: nn.Module) -> None:
    before = [x.clone() for x in net.state_dict().values()]
    drawn = torch.get_rng_state()
    first = speed.choose_precision(net, CPU, SHAPE)
    kept = cache.read_bytes()
    assert speed.choose_precision(net, CPU, SHAPE) == first
    assert cache.read_bytes() == kept
    (found,) = read_json(cache).values()
    assert found.keys() == {"32-true", "bf16-mixed"}
    assert all(value > 0 for value in found.values())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(x, old) for x, old in zip(net.state_dict().values(), before, strict=True))
    assert net.training
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(("found", "choice"), [(FAST_BF16, "bf16-mixed"), (SLOW_BF16, "32-true")])
def test_the_faster_precision_is_chosen(
    cache: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch, found: dict[str, float], choice: str
) -> None:
    times(monkeypatch, found)
    chosen, why = speed.choose_precision(net, CPU, SHAPE)
    assert chosen == choice
    gain = found["32-true"] / found["bf16-mixed"]
    assert why == f"bf16-mixed trains at {gain:.2f} times the speed of 32-true here (measured)"


def test_nothing_is_measured_if_the_choice_cannot_be_kept(
    tmp_path: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TVLARS_CACHE", str(tmp_path / "file"))
    said = times(monkeypatch, FAST_BF16)
    chosen, why = speed.choose_precision(net, CPU, SHAPE)
    assert (chosen, said) == ("32-true", [])
    assert why == f"{tmp_path / 'file' / 'speed.json'} cannot be written, so no speed was measured"


def test_a_damaged_file_is_measured_anew(cache: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_text("{")
    times(monkeypatch, FAST_BF16)
    assert speed.choose_precision(net, CPU, SHAPE)[0] == "bf16-mixed"
    assert list(read_json(cache).values()) == [FAST_BF16]


def test_a_resumed_run_keeps_its_precision_whatever_is_measured_then(
    cache: Path, tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "native_bf16", lambda device: True)
    times(monkeypatch, FAST_BF16 | {"eager": 1e-3})
    folder = tmp_path / "run"
    config = TrainConfig(out=folder, resume=True, checkpoint_every="1-steps", **QUICK)

    class Stopped(Reporter):
        def epoch(self, row: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, data=few, reporter=Stopped())
    environment = read_json(folder / "environment.json")
    assert environment["precision"] == "bf16-mixed"
    assert environment["speed"] == ["bf16-mixed trains at 2.00 times the speed of 32-true here (measured)"]
    cache.unlink()
    said = times(monkeypatch, SLOW_BF16)
    train(config, data=few, reporter=Reporter())
    assert said == []
    assert read_json(folder / "environment.json")["resumed"][0]["precision"] == "bf16-mixed"


@pytest.mark.parametrize(
    ("images", "eager", "compiled", "choice", "said"),
    [
        (1_000_000, 1e-3, 0.5e-3, True, "compiled: the compiled model trains at 2.00 times the speed here"),
        (1_000_000, 1e-3, 0.99e-3, False, "not compiled: the compiled model trains at 1.01 times the speed here"),
        (500_000, 1e-3, 0.5e-3, False, ""),
    ],
    ids=["pays", "gains little", "too short to ask"],
)
def test_a_model_is_compiled_if_that_pays(
    cache: Path,
    net: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    eager: float,
    compiled: float,
    choice: bool,
    said: str,
) -> None:
    monkeypatch.setattr(speed, "compiled", lambda model: model)
    monkeypatch.setattr(speed, "seconds", lambda step, count: 1e-3)
    times(monkeypatch, {"eager": eager, "compiled": compiled})
    pays, why = speed.choose_compile(net, CPU, SHAPE, precision="32-true", images=images)
    assert pays is choice
    assert why.startswith(said)
    assert bool(why) is bool(said)
    assert cache.exists() is bool(said)  # nothing is measured for a short run


def test_a_compiler_that_costs_more_than_it_saves_is_not_used(
    cache: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 10.0, 410.0])  # a pass to fit the number of images, then the compiler's 400 seconds
    monkeypatch.setattr(speed, "compiled", lambda model: model)
    times(monkeypatch, {"eager": 1e-3, "compiled": 0.5e-3})
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    pays, why = speed.choose_compile(net, CPU, SHAPE, precision="32-true", images=1_000_000)
    assert pays is False
    assert why.endswith("compiling takes 800 s (measured)")


def test_a_compiler_that_does_not_work_is_named_and_the_run_goes_on(
    cache: Path, tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: nn.Module) -> Any:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(speed, "LONG", 0.0)
    train(
        TrainConfig(out=tmp_path / "run", **{**QUICK, "epochs": 4, "precision": "32-true"}),
        data=few,
        reporter=Reporter(),
    )
    environment = read_json(tmp_path / "run" / "environment.json")
    assert environment["compiled"] is False
    assert environment["speed"] == ["not compiled: No working C++ compiler found"]


def test_a_run_that_measures_trains_as_one_that_does_not(
    cache: Path, tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "native_bf16", lambda device: True)
    times(monkeypatch, SLOW_BF16 | {"eager": 1e-3})
    weights = []
    for name, precision in (("measured", "auto"), ("given", "32-true")):
        train(TrainConfig(out=tmp_path / name, precision=precision, **QUICK), data=few, reporter=Reporter())
        weights.append(torch.load(tmp_path / name / "weights.pt", weights_only=True))
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_a_run_compiles_its_model_where_that_pays_and_does_so_when_it_resumes(
    cache: Path, tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[nn.Module] = []

    def spy(model: nn.Module, **options: Any) -> nn.Module:
        models.append(model)
        return model

    monkeypatch.setattr(torch, "compile", spy)
    monkeypatch.setattr(speed, "LONG", 0.0)
    times(monkeypatch, {"eager": 1.0, "compiled": 0.5})
    config = TrainConfig(out=tmp_path / "run", checkpoint_every="1-steps", resume=True, **{**QUICK, "epochs": 4})

    class Stopped(Reporter):
        def epoch(self, row: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, data=few, reporter=Stopped())
    environment = read_json(tmp_path / "run" / "environment.json")
    assert environment["compiled"] is True
    assert len(models) == 2  # that of the measurement, and that of the run
    monkeypatch.setattr(speed, "LONG", 1e9)
    train(config, data=few, reporter=Reporter())
    assert len(models) == 3


def test_a_model_that_cannot_be_measured_trains(
    cache: Path, tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no room\nfor this")

    monkeypatch.setattr(speed, "Passes", broken)
    train(
        TrainConfig(out=tmp_path / "run", **{**QUICK, "epochs": 4, "precision": "32-true"}),
        data=few,
        reporter=Reporter(),
    )
    environment = read_json(tmp_path / "run" / "environment.json")
    assert environment["compiled"] is False
    assert environment["speed"] == ["not compiled: no room"]


@pytest.mark.parametrize("most", [3, 16])
def test_no_pass_is_larger_than_those_of_the_run(net: nn.Module, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(speed, "seconds", lambda step, count: step(count) or 1e-6)
    passes = speed.Passes(net, CPU, SHAPE, most)
    passes.step(bf16=False)(passes.count)
    assert max(sizes) == most == passes.count
