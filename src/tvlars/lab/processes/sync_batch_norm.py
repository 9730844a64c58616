"""Batch norm with the statistics of all processes, and its replacement by plain batch norm.

On CPUs, where ``torch.nn.SyncBatchNorm`` does not work, a class of this module is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNormCPU(_BatchNorm):
    r"""Batch norm over the samples of all processes, (N, C, ...):

    .. math:: y = \gamma (x - \bar x) / \sqrt{\overline{(x - \bar x)^2} + \epsilon} + \beta

    Means are taken over all samples and positions, whose number may differ between processes. As in torch, the running
    variance is unbiased.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input must have at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count = _moments(input)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._track(mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
        shape = [1, -1] + [1] * (input.dim() - 2)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.float()
        centred = (input.float() - mean.view(shape)) * scale.view(shape)
        if self.bias is not None:
            centred = centred + self.bias.float().view(shape)
        return centred.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean over all batches so far
                momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), 1.0 if momentum is None else momentum)
        self.running_var.lerp_(variance.to(self.running_var), 1.0 if momentum is None else momentum)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel over all processes, and the number of values per channel."""
    over = [0, *range(2, x.dim())]
    own = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)
    x = x.float()
    sums = _total(torch.cat([x.sum(over), own]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    # A second sum, since the mean of squares minus the square of the mean loses digits.
    variance = _total((x - mean.view([1, -1] + [1] * (x.dim() - 2))).square().sum(over)) / count
    return mean, variance, count


class _Total(torch.autograd.Function):
    """Sum over all processes. Every process uses the sum, so its gradient is a sum too. (The function of
    ``torch.distributed.nn.functional`` is deprecated.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)


def _total(x: Tensor) -> Tensor:
    summed: Tensor = _Total.apply(x)
    return summed


def synchronize_batch_norm(model: nn.Module, on_cpu: bool) -> dict[str, type[nn.Module]]:
    """Replace every batch norm of ``model`` by a synchronized batch norm with the same parameters and statistics.

    Returns:
        The replaced classes by module name, for :func:`plain_batch_norm`.
    """
    kinds: dict[str, type[nn.Module]] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, _BatchNorm) and not isinstance(module, (nn.SyncBatchNorm, SyncBatchNormCPU)):
            kinds[name] = type(module)
            _replace(model, name, SyncBatchNormCPU if on_cpu else nn.SyncBatchNorm)
    return kinds


def plain_batch_norm(model: nn.Module, kinds: dict[str, type[nn.Module]]) -> None:
    """Replace synchronized batch norms by their former classes, so that one process can use the model alone."""
    for name, kind in kinds.items():
        _replace(model, name, kind)


def _replace(model: nn.Module, name: str, kind: type[nn.Module]) -> None:
    old = model.get_submodule(name)
    assert isinstance(old, _BatchNorm)
    new = kind(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    new.train(old.training)
    model.set_submodule(name, new)
