"""Losses of (model, batch): equal to the plain ones, for dictionaries of transformers, tuples and other batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("curvlinops", reason="the extra 'sharpness' (curvlinops-for-pytorch) is not installed")

from tvlars.noise_scale import noise_scale
from tvlars.sharpness import (
    BatchLoss,
    average_case_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    keskar_sharpness,
    loss_between,
    loss_slice,
    spectral_density,
    worst_case_sharpness,
)

Measure = Callable[..., Any]
MEASURES: dict[str, Measure] = {
    "eigenvalues": lambda *a: hessian_eigenvalues(*a, tolerance=1e-3).values,
    "trace": lambda *a: hessian_trace(*a, samples=2).value,
    "worst case": lambda *a: worst_case_sharpness(*a, steps=2),
    "worst case of groups": lambda *a: worst_case_sharpness(*a, m=5, steps=2),
    "average case": lambda *a: average_case_sharpness(*a, samples=2).value,
    "keskar": lambda *a: keskar_sharpness(*a, iterations=2),
    "slice": lambda *a: loss_slice(*a, points=3).losses,
    "line": lambda *a: loss_between(*a, a[0].state_dict(), {k: 2 * v for k, v in a[0].state_dict().items()}).losses,
    "noise scale": lambda *a: noise_scale(*a).value,
    "noise scale in training mode": lambda *a: noise_scale(*a, training=True).value,
}


@cache
def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = dict(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4)
    config = transformers.BertConfig(**sizes, max_position_embeddings=6, num_labels=3, attn_implementation="eager")
    return transformers.BertForSequenceClassification(config).double()


@cache
def texts() -> tuple[dict[str, Tensor], ...]:
    """Four batches of six tokenized texts of several lengths."""
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 8, (24, 6), generator=draws)
    mask = (torch.arange(6) < torch.randint(2, 7, (24, 1), generator=draws)).long()
    labels = torch.randint(0, 3, (24,), generator=draws)
    parts = zip(tokens.split(6), mask.split(6), labels.split(6), strict=True)
    return tuple({"input_ids": t, "attention_mask": m, "labels": y} for t, m, y in parts)


class Logits(nn.Module):
    """The wrapper that (output, target) needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model(**inputs).logits  # type: ignore[no-any-return]


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).loss  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MEASURES)
def test_a_model_of_transformers_needs_no_wrapper(name: str) -> None:
    measure, model = MEASURES[name], bert()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pairs = [({k: v for k, v in batch.items() if k != "labels"}, batch["labels"]) for batch in texts()]
    wrapped = Logits(model)
    plain = measure(wrapped, F.cross_entropy, pairs)
    found = measure(model, own_loss, texts())
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(plain), rtol=1e-6, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_a_tokenizer_returns_is_a_batch() -> None:
    from transformers import BatchEncoding

    batches = [BatchEncoding(dict(batch)) for batch in texts()]
    by_attribute = lambda model, batch: model(batch.input_ids, batch.attention_mask, labels=batch.labels).loss  # noqa: E731
    found = worst_case_sharpness(bert(), by_attribute, batches, m=5, steps=2)
    assert found == pytest.approx(worst_case_sharpness(bert(), own_loss, texts(), m=5, steps=2), rel=1e-9)


# -- batches of any form -----------------------------------------------------------------------------------------------


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


@cache
def pairs(size: int = 6) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 3, generator=draws, dtype=torch.float64), torch.randint(0, 2, (24,), generator=draws)
    return list(zip(x.split(size), y.split(size), strict=True))


def test_a_sum_and_a_module_are_losses_of_batches_too() -> None:
    class Loss(nn.Module):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            assert not self.training
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    loss = Loss()
    plain = noise_scale(linear(), nn.CrossEntropyLoss(), pairs())
    assert noise_scale(linear(), loss, pairs()).value == pytest.approx(plain.value, rel=1e-9)
    assert loss.training
    density = lambda loss: spectral_density(linear(), loss, pairs(), lanczos_steps=4, runs=2, points=8).density  # noqa: E731
    torch.testing.assert_close(density(loss), density(nn.CrossEntropyLoss()))
    first = partial(lambda scale, model, batch: scale * F.cross_entropy(model(batch[0]), batch[1]), 1.0)
    assert noise_scale(linear(), first, pairs()).value == pytest.approx(plain.value, rel=1e-9)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_loss_says_what_it_divides_by(as_tensor: bool) -> None:
    """Ignored targets: the mean over those that count, however samples are cut into batches."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        counted = (batch["y"] != -100).sum()
        mean = F.cross_entropy(model(batch["x"]), batch["y"])
        return mean, counted if as_tensor else int(counted)

    data = [(x, y.masked_fill(torch.arange(len(y)) % 3 == i % 3, -100)) for i, (x, y) in enumerate(pairs(7))]
    dictionaries = [{"x": x, "y": y} for x, y in data]
    for measure in (MEASURES["worst case of groups"], MEASURES["eigenvalues"], MEASURES["slice"]):
        found = torch.as_tensor(measure(linear(), loss, dictionaries))
        torch.testing.assert_close(found, torch.as_tensor(measure(linear(), nn.CrossEntropyLoss(), data)))
    with pytest.raises(ValueError, match=r"neither|must be a mean.*return a pair: the mean, and the number that it"):
        hessian_trace(linear(), lambda model, batch: loss(model, batch)[0], dictionaries)


def test_batches_that_do_not_tell_their_samples() -> None:
    """Flattened samples with an index, as graphs have them."""
    nodes = torch.randn(12, 3, dtype=torch.float64)
    graphs = [{"nodes": nodes, "graph": torch.arange(12) // 4, "y": torch.zeros(3, 2, dtype=torch.float64)}] * 4

    def function(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        outputs = torch.zeros(3, 2, dtype=torch.float64).index_add(0, batch["graph"], net(batch["nodes"]))
        return F.mse_loss(outputs, batch["y"])

    with pytest.raises(ValueError, match=r"got tensors of lengths 3, 12: give the number of samples by BatchLoss"):
        noise_scale(linear(), BatchLoss(function), graphs)
    samples = lambda batch: len(batch["y"])  # noqa: E731
    with pytest.raises(ValueError, match=r"loss must return a pair, the mean and the number that it divides by"):
        noise_scale(linear(), BatchLoss(function, samples), graphs)
    loss = BatchLoss(lambda net, batch: (function(net, batch), 3), samples)
    assert noise_scale(linear(), loss, graphs).trace == pytest.approx(0, abs=1e-12)  # four times the same batch
    assert worst_case_sharpness(linear(), loss, graphs, steps=1) > 0
    with pytest.raises(ValueError, match=r"m must be None, or such that batches are not cut"):
        worst_case_sharpness(linear(), loss, graphs, m=2)


@pytest.mark.parametrize(
    ("loss", "data", "said"),
    [
        (lambda m, b: m(b["x"]).sum(), [{"x": torch.ones(2, 3)}], r"type dict; a loss whose first argument is named"),
        (lambda model, batch: model(batch), pairs()[0][0], r"data must be batches, got Tensor"),
        (lambda model, batch: model(batch), [pairs()[0][0]], r"must return a real scalar tensor.*\(6, 2\)"),
        (lambda model, batch: (model(batch).sum(), -1), [pairs()[0][0]], r"number >= 0 that it divides by.*-1\)"),
        (lambda model, batch: (model(batch), 1, 2), [pairs()[0][0]], r"got \(tensor of shape \(6, 2\), 1, 2"),
        (BatchLoss(lambda net, b: 0, lambda b: 2.5), pairs(), r"samples must return the number of samples.* got 2.5"),
        (lambda model, batch: 0, ["text"], r"batches of tensors with one entry per sample, got none"),
        (lambda model, batch: model(batch).sum(), [], r"at least one batch"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(loss: Any, data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        average_case_sharpness(linear(), loss, data)


def test_a_batch_loss_is_a_function() -> None:
    with pytest.raises(ValueError, match=r"function must be a function of \(model, batch\), got int"):
        BatchLoss(3)  # type: ignore[arg-type]
