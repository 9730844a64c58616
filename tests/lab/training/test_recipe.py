"""Label smoothing, clipped gradients and a moving average of weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.lab.training.test_run import build
from tvlars.lab import Reporter, TrainConfig, UsageError, evaluate, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.training.run import Run
from tvlars.lab.training.task import Classification

PLAIN: dict[str, Any] = dict(batch_size=128, epochs=2, precision="32-true", accelerator="cpu", optimizer="sgd")


def spied(run: Run, after: list[dict[str, torch.Tensor]]) -> Run:
    """Add a copy of the weights to ``after`` with every step."""
    update = run._update

    def spy() -> None:
        update()
        after.append(copy.deepcopy(run.task.bare_model.state_dict()))

    run._update = spy  # type: ignore[method-assign]
    return run


def test_the_moving_average_is_tested_and_kept_and_does_not_touch_the_training(tmp_path: Path, few: ImageData) -> None:
    steps: list[dict[str, torch.Tensor]] = []
    plain = build(Classification, tmp_path, few, **PLAIN)
    run = spied(build(Classification, tmp_path, few, **PLAIN, ema=0.8), steps)
    result, without = run.train(), plain.train()
    assert [row.train_loss for row in result.epochs] == [row.train_loss for row in without.epochs]
    assert result.epochs[-1].test_loss != without.epochs[-1].test_loss
    assert all(torch.equal(value, steps[-1][name]) for name, value in plain.task.weights().items())

    mean = {name: value.double() for name, value in steps[0].items()}
    for weights in steps[1:]:
        mean = {name: 0.8 * value + 0.2 * weights[name] for name, value in mean.items()}
    with run.task.with_tested_weights():
        kept = copy.deepcopy(run.task.weights())
    for name, value in mean.items():
        if kept[name].is_floating_point():  # buffers too
            torch.testing.assert_close(kept[name].double(), value, rtol=1e-5, atol=1e-6)


def test_kept_weights_of_a_run_with_an_average_give_its_accuracy(tmp_path: Path) -> None:
    result = train(TrainConfig(**PLAIN, ema=0.9, out=tmp_path / "run"), reporter=Reporter())
    again = evaluate(load_run(tmp_path / "run"))
    assert again.accuracy == result.test_accuracy
    assert again.loss == pytest.approx(result.epochs[-1].test_loss, rel=1e-5)
    assert "moving average of weights with decay 0.9" in load_run(tmp_path / "run").environment["recipe"]


def test_a_run_with_an_average_goes_on_from_its_state(tmp_path: Path, few: ImageData) -> None:
    one, other = (build(Classification, tmp_path, few, **PLAIN, ema=0.9, clip_grad_norm=0.3) for _ in range(2))
    one.run_epoch()
    state = copy.deepcopy(one.state_dict())
    one.run_epoch()
    other.load_state_dict(state)
    other.run_epoch()
    assert [row.test_loss for row in other.epochs] == [row.test_loss for row in one.epochs]
    for a, b in ((one.task.average, other.task.average), (one.task.bare_model, other.task.bare_model)):
        assert a is not None
        assert b is not None
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("size", [128, 50])
def test_the_gradient_of_the_whole_batch_is_clipped(tmp_path: Path, few: ImageData, size: int) -> None:
    """Also if it is accumulated: norms before and after are those of a step without micro-batches."""
    run = build(Classification, tmp_path, few, **PLAIN, micro_batch_size=size, clip_grad_norm=0.1)
    norms: list[float] = []

    def measure(*_: Any) -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in run.task.bare_model.parameters()]).norm()))

    run.task.bare_optimizer.register_step_pre_hook(measure)
    run.run_epoch()
    assert len(norms) == 5
    assert norms == pytest.approx([0.1] * 5, rel=1e-4)


def test_training_targets_are_smoothed_and_those_of_tests_are_not(tmp_path: Path, few: ImageData) -> None:
    run = build(Classification, tmp_path, few, **PLAIN, label_smoothing=0.2, augment=False)
    batch = torch.arange(128)
    images = run.task.normalize(few.train_images[batch])
    run.task.model.train()
    with torch.no_grad():
        logits = copy.deepcopy(run.task.bare_model)(images)
    loss, _ = run.task.gradient(batch, batch[:0])
    expected = F.cross_entropy(logits, few.train_labels[batch], label_smoothing=0.2)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    with torch.no_grad():
        run.task.model.eval()
        plain = F.cross_entropy(run.task.model(run.task.normalize(few.test_images)), few.test_labels)
    assert run.task.test(1, 1)[0] == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be >= 0 and < 1, got 1.0"),
        ({"ema": 1}, "ema must be > 0 and < 1, got 1"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm must be > 0, got 0.0"),
        ({"ema": 0.9, "shard": True}, "ema must not be given with shard"),
        ({"ema": 0.9, "task": "byol"}, "ema must not be given for byol"),
    ],
)
def test_what_a_recipe_must_not_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig(**options)
