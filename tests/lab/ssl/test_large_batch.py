"""Exact gradients over large batches: those of one piece, whatever parts, losses and number of processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

loss = pytest.importorskip("lightly.loss", reason="the extra 'lab' (lightly) is not installed")

from tests.lab.processes.processes import in_processes  # noqa: E402
from tvlars.lab.ssl.large_batch import Views, exact_backward  # noqa: E402

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "barlow-twins": lambda: loss.BarlowTwinsLoss(lambda_param=0.005),
    "simclr": lambda: loss.NTXentLoss(temperature=0.5),
    "vicreg": lambda: loss.VICRegLoss(),
}
SAMPLES = 24


def encoder(dropout: float = 0.0, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    inner: nn.Module = nn.BatchNorm1d(16) if norm else nn.LayerNorm(16)
    return nn.Sequential(nn.Linear(10, 16), inner, nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 6))


def views() -> Views:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 10, generator=generator)
    return x, x + 0.3 * torch.randn(SAMPLES, 10, generator=generator)


def split(lengths: list[int]) -> list[Views]:
    first, second = views()
    return list(zip(torch.split(first, lengths), torch.split(second, lengths), strict=True))


def gradients(model: nn.Module) -> list[Tensor]:
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(list(model.parameters()))
    return found


def in_one_go(name: str) -> tuple[Tensor, list[Tensor]]:
    """The reference: plain autograd over the whole batch in one process."""
    model = encoder()
    value = LOSSES[name]()(*map(model, views()))
    value.backward()
    return value.detach(), gradients(model)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("lengths", [[24], [12, 12], [8, 8, 8], [1, 10, 13], [1] * 24], ids=str)
def test_equals_the_gradient_of_the_whole_batch(name: str, lengths: list[int]) -> None:
    model = encoder()
    value = exact_backward(model, split(lengths), LOSSES[name]())
    expected, wanted = in_one_go(name)
    assert not value.requires_grad
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    for found, right in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_plain_micro_batches_would_not_be_equal(name: str) -> None:
    """The reason for exact gradients: the mean of the parts' gradients is another gradient."""
    model = encoder()
    for first, second in split([8, 8, 8]):
        (LOSSES[name]()(model(first), model(second)) / 3).backward()
    pairs = zip(gradients(model), in_one_go(name)[1], strict=True)
    assert max(float((a - b).norm() / b.norm()) for a, b in pairs) > 0.05


def test_gradients_are_added_to_those_there() -> None:
    model = encoder()
    for _ in range(2):
        exact_backward(model, split([12, 12]), LOSSES["vicreg"]())
    for found, right in zip(gradients(model), in_one_go("vicreg")[1], strict=True):
        torch.testing.assert_close(found, 2 * right, rtol=1e-5, atol=1e-5)


def test_running_statistics_move_once_for_each_part_and_view() -> None:
    model, plain = encoder(norm=True), encoder(norm=True)
    exact_backward(model, split([12, 12]), LOSSES["simclr"]())
    for pair in split([12, 12]):
        for view in pair:
            plain(view)
    for found, right in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, right)
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm1d))


def test_dropout_is_the_same_both_times() -> None:
    """The gradient at z is z itself here, and right only where the second masks are the first ones."""
    found = []
    for again in (False, True):
        model = encoder(dropout=0.5)
        torch.manual_seed(7)
        if again:
            exact_backward(model, split([12, 12]), lambda a, b: (a * a.detach()).sum() + (b * b.detach()).sum())
        else:
            for pair in split([12, 12]):
                for z in map(model, pair):
                    (z * z.detach()).sum().backward()
        found.append(gradients(model))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="parts must hold at least one pair of views, got none"):
        exact_backward(encoder(), [], LOSSES["vicreg"]())


SHARES = [[[12], [12]], [[4, 8], [6, 6]], [[5, 5], [7, 7]]]
"""Lengths of the parts that each of two processes has."""


def one_of_two(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {}
    for name in LOSSES:
        for shares in SHARES:
            before = sum(len(share) for share in shares[:rank])
            own = split([n for share in shares for n in share])[before : before + len(shares[rank])]
            model = DistributedDataParallel(encoder())
            value = exact_backward(model, own, LOSSES[name](), no_sync=model.no_sync)
            found[f"{name} {shares}"] = [value, *gradients(model)]
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    in_processes(2, one_of_two, folder, log=folder / "log")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_two_processes_are_as_one(
    name: str, shares: list[list[int]], of_two_processes: list[dict[str, list[Tensor]]]
) -> None:
    value, wanted = in_one_go(name)
    for rank in of_two_processes:
        for found, right in zip(rank[f"{name} {shares}"], [value, *wanted], strict=True):
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
