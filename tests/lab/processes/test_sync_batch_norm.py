"""Batch norm over all processes is batch norm over all samples, forward and backward."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from tests.lab.processes.processes import in_processes
from tvlars.lab.processes.sync_batch_norm import plain_batch_norm, synchronize_batch_norm


def batch_norm() -> None:
    """Uneven shares, affine and not, with four dimensions and with two: as one batch norm over all."""
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    for shape, kind in (((7, 3, 4, 5), nn.BatchNorm2d), ((7, 3), nn.BatchNorm1d)):
        for options in ({}, {"affine": False}, {"momentum": None}):
            x = torch.randn(shape, generator=generator, dtype=torch.float32) * 3 + 2
            weights = torch.randn(shape, generator=generator)
            plain = nn.Sequential(kind(3, **options), nn.Tanh())
            ours = nn.Sequential(kind(3, **options), nn.Tanh())
            if "affine" not in options:
                for model in (plain, ours):
                    nn.init.constant_(model[0].weight, 1.5)  # type: ignore[arg-type]
            kinds = synchronize_batch_norm(ours, on_cpu=True)
            whole, own = x.clone().requires_grad_(), x.tensor_split([2])[rank].clone().requires_grad_()
            for _ in range(2):
                (plain(whole) * weights).sum().backward()
                (ours(own) * weights.tensor_split([2])[rank]).sum().backward()
            close = dict(rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(own.grad, whole.grad.tensor_split([2])[rank], **close)  # type: ignore[union-attr]
            for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
                dist.all_reduce(q.grad)
                torch.testing.assert_close(q.grad, p.grad, **close)
            plain_batch_norm(ours, kinds)
            assert type(ours[0]) is kind
            for (key, a), b in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
                torch.testing.assert_close(b, a, **close, msg=f"{kind} {options} {key}: {b}, {a}")
            torch.testing.assert_close(ours.eval()(x), plain.eval()(x), **close)


def with_group() -> None:
    dist.init_process_group("gloo")
    batch_norm()


def test_batch_norm_over_all_processes(tmp_path: Path) -> None:
    in_processes(2, with_group, log=tmp_path / "log")
