"""Batch norm's statistics estimated anew, and weights scaled to chosen norms.

Running statistics lag behind the weights early in training, so that the loss in evaluation mode is not the loss that is
trained; and the curvature along a weight that batch norm follows depends on the norm of that weight alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from tvlars._checks import check_number
from tvlars.sharpness._batch_loss import to_device
from tvlars.sharpness._surface import Batches

TOLERANCE = 0.01
"""Relative change of outputs up to which a weight's scale counts as without effect; batch norm's ε causes some."""


@contextmanager
def fresh_statistics(model: nn.Module, batches: Batches, *, seed: int = 0) -> Iterator[nn.Module]:
    """Estimate batch norm's running statistics anew on ``batches``, within the context.

    Each statistic is the mean over the batches, as :func:`torch.optim.swa_utils.update_bn` computes it. Afterwards all
    buffers, modes and global random states are restored, bit for bit. A model without running statistics is left
    alone, and ``batches`` are not read.

    Args:
        model: any module, on the device where it computes. If its batch norms are synchronized, every process enters
            the context.
        batches: inputs, or tuples and lists whose first entry is the input. Batches weigh the same, so give batches of
            one size, as large as those of training.
        seed: seed of dropout while statistics are estimated. Default 0.

    Yields:
        The model.

    Raises:
        ValueError: ``model`` is no module, or there are no batches.

    Example:
        >>> with fresh_statistics(model, batches):
        ...     top = hessian_eigenvalues(model, F.cross_entropy, batches)
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.running_mean is not None]
    if not norms:
        yield model
        return
    device = _device_of(model)
    data = [to_device(batch, device) for batch in batches]
    if not data:
        raise ValueError("batches must hold at least one batch for a model with batch norm, got none")
    modules = list(model.modules())
    modes = [module.training for module in modules]
    momenta = [norm.momentum for norm in norms]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        with _random_numbers(device, seed):
            update_bn(data, model)
        _set_modes(modules, modes)
        yield model
    finally:
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                module._buffers[name] = buffer  # a forward pass may have put another tensor in its place
                buffer.copy_(saved)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        _set_modes(modules, modes)


@torch.no_grad()
def scale_invariant_weights(model: nn.Module, batches: Batches, *, seed: int = 0) -> list[str]:
    """Return the names of the weights whose scale has no effect on the model, such as kernels before batch norm.

    A weight is one with two dimensions or more. It is found by trial, so that no structure of the model is assumed: on
    the first batch, in training mode, the outputs with w and with 2w differ by at most 1 % of their largest value. In
    the trial parameters of one dimension are drawn from [0.5, 1.5), and weights of zeros from a normal distribution,
    so that a branch that starts at zero (as zero-initialized γ) is not taken for one without effect.

    Args:
        model: any module with tensors as outputs; it is copied.
        batches: as for :func:`fresh_statistics`; one batch of some 64 samples suffices.
        seed: seed of these draws, and of dropout. Default 0.

    Raises:
        ValueError: ``model`` is no module or returns no tensor, or there are no batches.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    device = _device_of(model)
    batch = next(iter(batches), None)
    if batch is None:
        raise ValueError("batches must hold at least one batch, got none")
    x = to_device(batch[0] if isinstance(batch, (tuple, list)) else batch, device)
    trial = copy.deepcopy(model).train()
    generator = torch.Generator(device).manual_seed(seed)
    for p in trial.parameters():
        if p.ndim < 2:
            p.copy_(torch.rand(p.shape, generator=generator, device=p.device, dtype=p.dtype) + 0.5)
        elif not p.any():
            p.copy_(torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype))

    def output() -> Tensor:
        with _random_numbers(device, seed):
            found = trial(x)
        if not isinstance(found, Tensor):
            raise ValueError(f"model must return a tensor, got {type(found).__name__}")
        return found

    base, names = output(), []
    for name, p in trial.named_parameters():
        if p.ndim > 1:
            p.mul_(2.0)
            if float((output() - base).abs().max()) <= TOLERANCE * float(base.abs().max()):
                names.append(name)
            p.div_(2.0)  # exact
    return names


@contextmanager
def at_norms(model: nn.Module, norms: Mapping[str, float]) -> Iterator[nn.Module]:
    """Scale weights to given norms, within the context.

    If the scale of a weight has no effect (see :func:`scale_invariant_weights`), the loss is unchanged once batch
    norm's statistics are estimated *inside* this context, and curvature along the weight is the curvature at the given
    norm: the Hessian's block of a weight s·w is 1/s² of the block of w. Weights of norm 0 stay as they are. Afterwards
    all weights are restored, bit for bit.

    Args:
        model: any module.
        norms: L2 norm by name of the parameter, > 0.

    Yields:
        The model.

    Raises:
        ValueError: a name is not a parameter's, or a norm is not > 0.

    Example:
        >>> names = scale_invariant_weights(model, batches)
        >>> with at_norms(model, {name: at_start[name] for name in names}), fresh_statistics(model, batches):
        ...     top = hessian_eigenvalues(model, F.cross_entropy, batches)
    """
    params = dict(model.named_parameters())
    for name, norm in norms.items():
        if name not in params:
            raise ValueError(f"norms must name parameters of the model, got {name!r}")
        check_number(f"norms[{name!r}]", norm, open_low=True)
    saved = {name: params[name].detach().clone() for name in norms}
    try:
        with torch.no_grad():
            for name, norm in norms.items():
                now = float(torch.linalg.vector_norm(params[name].double()))
                if now > 0:
                    params[name].mul_(norm / now)
        yield model
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                params[name].copy_(value)


def _device_of(model: nn.Module) -> torch.device:
    return next((x.device for some in (model.parameters(), model.buffers()) for x in some), torch.device("cpu"))


@contextmanager
def _random_numbers(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators, and restore their states afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _set_modes(modules: Sequence[nn.Module], modes: Sequence[bool]) -> None:
    for module, mode in zip(modules, modes, strict=True):
        module.training = mode
