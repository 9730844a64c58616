"""Methods: losses by their formulas, one interface, and what each needs besides."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")

from tvlars.lab import UsageError
from tvlars.lab.ssl.large_batch import exact_backward
from tvlars.lab.ssl.methods import METHODS, Method, build_method, parse_options, parse_widths

N, D = 6, 4


def make(name: str, options: str | None = None, norm: bool = False) -> Method:
    torch.manual_seed(0)
    inner = nn.BatchNorm1d(8) if norm else nn.Tanh()
    method, _ = build_method(name, nn.Sequential(nn.Linear(5, 8), inner), 8, f"16-{D}", options, True)
    return method


def embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return first, first + 0.5 * torch.randn(N, D, generator=generator, dtype=torch.float64)


def test_barlow_twins_is_its_formula() -> None:
    """Equation 1, entry by entry."""
    first, second = embeddings()
    z = [(x - x.mean(0)) / (x.std(0, correction=0)) for x in (first, second)]
    expected = 0.0
    for i in range(D):
        for j in range(D):
            c = sum(float(z[0][n, i] * z[1][n, j]) for n in range(N)) / N
            expected += (1 - c) ** 2 if i == j else 0.01 * c**2
    found = make("barlow-twins", "lambda_param=0.01").double().loss(first, second)
    assert float(found) == pytest.approx(expected, rel=1e-3)  # batch norm's eps


def test_simclr_is_its_formula() -> None:
    first, second = embeddings()
    z = F.normalize(torch.cat([first, second]), dim=1)
    similar = z @ z.T
    total = 0.0
    for i in range(2 * N):
        others = sum(math.exp(float(similar[i, k]) / 0.2) for k in range(2 * N) if k != i)
        total -= math.log(math.exp(float(similar[i, (i + N) % (2 * N)]) / 0.2) / others)
    assert float(make("simclr", "temperature=0.2").loss(first, second)) == pytest.approx(total / (2 * N), rel=1e-6)


def test_vicreg_is_its_formula() -> None:
    first, second = embeddings()
    expected = 10 * float((first - second).square().mean())
    for x in (first, second):
        expected += 20 / 2 * float(torch.relu(1 - (x.var(0) + 1e-4).sqrt()).mean())
        covariance = torch.cov(x.T)
        expected += 2 * float((covariance - covariance.diag().diag()).square().sum() / D)
    found = make("vicreg", "similarity=10,variance=20,covariance=2").loss(first, second)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_byol_is_its_formula() -> None:
    (p1, t1), (p2, t2) = embeddings(), embeddings()[::-1]
    expected = sum(
        (F.normalize(p, dim=1) - F.normalize(t, dim=1)).square().sum(1).mean() for p, t in ((p1, t2), (p2, t1))
    )
    found = make("byol").loss(torch.cat([p1, t1], 1), torch.cat([p2, t2], 1))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_byols_target_follows_and_is_not_trained() -> None:
    method = make("byol", "target_momentum=0.9")
    before = {name: value.clone() for name, value in method.target.state_dict().items()}
    x = torch.randn(8, 5)
    method.loss(method(x), method(x + 0.1)).backward()
    assert all(p.grad is None and not p.requires_grad for p in method.target.parameters())
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1.0)
    method.after_step(0.0)
    for name, value in method.target[0].state_dict().items():
        torch.testing.assert_close(value, before[f"0.{name}"] + 0.1)
    moved = copy.deepcopy(method.target.state_dict())
    method.after_step(1.0)  # momentum has reached 1
    for name, value in method.target.state_dict().items():
        torch.testing.assert_close(value, moved[name])


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("lengths", [[24], [8, 8, 8], [17, 7]])
def test_every_method_has_the_whole_batchs_gradient_in_any_parts(name: str, lengths: list[int]) -> None:
    torch.manual_seed(2)
    first, second = torch.randn(24, 5), torch.randn(24, 5)
    # The projector's batch norm in evaluation mode: its statistics are a part's, as documented.
    whole, parted = make(name).eval(), make(name).eval()
    whole.loss(whole(first), whole(second)).backward()
    parts = list(zip(torch.split(first, lengths), torch.split(second, lengths), strict=True))
    exact_backward(parted, parts, parted.loss)
    expected = {path: p.grad for path, p in whole.named_parameters() if p.grad is not None}
    found = {path: p.grad for path, p in parted.named_parameters() if p.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        torch.testing.assert_close(found[path], gradient, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_is_one_short_file_with_documented_options(name: str) -> None:
    method = make(name)
    assert method.options == METHODS[name].OPTIONS
    assert method.embed(torch.randn(3, 5)).shape == (3, D)
    for option in METHODS[name].OPTIONS:
        assert f"``{option}``" in (METHODS[name].__doc__ or "")


@pytest.mark.parametrize("text", ["", "4096-", "-1", "a-b", "0-4", "4096,4096", "99999999", "4 0", "²"])
def test_projectors_that_do_not_parse(text: str) -> None:
    with pytest.raises(UsageError, match="projector must be layer widths from 1 to 65536 as in 4096-4096-4096, got"):
        parse_widths(text)


def test_projectors_that_do() -> None:
    assert parse_widths("4096-4096-4096") == (4096, 4096, 4096)
    assert parse_widths("128") == (128,)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("barlow-twins", "lambda=1", "unknown method option of barlow-twins 'lambda': did you mean 'lambda_param'"),
        ("simclr", "temperature=0", "method option temperature must be a number from 0.001 to 1000, got '0'"),
        ("byol", "target_momentum=x", "method option target_momentum must be a number from 0 to 1, got 'x'"),
        ("vicreg", "variance=inf", "method option variance must be a number >= 0, got 'inf'"),
        ("barlow", None, "unknown method 'barlow': did you mean 'barlow-twins'"),
    ],
)
def test_bad_options(name: str, text: str | None, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_options(name, text)
