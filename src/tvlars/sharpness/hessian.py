"""The curvature of a loss: largest eigenvalues, trace and spectral density of its Hessian.

curvlinops multiplies with the Hessian, which is never formed; SciPy's Lanczos iteration and curvlinops' estimators do
the rest.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tvlars._checks import check_choice, check_count, check_number
from tvlars._notebook import Line, page, picture
from tvlars.sharpness._surface import Batches, Estimate, Loss, LossSurface, flatten, seeded, unflatten

NO_SECOND_DERIVATIVE = (
    *("is not implemented", "not been implemented", "forward AD", "double backward", "setup_context", "vmap"),
    "cudnn RNN backward",
)
"""Parts of torch's errors for operators that cannot be differentiated twice, or not in the way curvlinops needs."""
WHICH = {"largest": "LA", "smallest": "SA", "magnitude": "LM"}


@dataclass(frozen=True)
class Eigenpairs:
    """``values`` [k] from the largest on, and their ``vectors`` [k, parameters] of length 1, flattened in the order
    of ``names``; each pair to the relative ``tolerance`` that it was computed with."""

    values: Tensor
    vectors: Tensor
    names: list[str]
    shapes: list[torch.Size]
    tolerance: float

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.values.tolist())
        return f"Eigenpairs(values=[{values}], {self.vectors.shape[1]:,} parameters)"

    def vector(self, i: int) -> dict[str, Tensor]:
        """Return the ``i``-th eigenvector in the shapes of the parameters."""
        like = [torch.empty(shape, device="meta") for shape in self.shapes]
        return dict(zip(self.names, unflatten(self.vectors[i], like), strict=True))


@dataclass(frozen=True)
class SpectralDensity:
    """p(λ) on ``grid`` [points], a mean over independent Lanczos runs, with its standard error at each point."""

    grid: Tensor
    density: Tensor
    standard_error: Tensor

    def __repr__(self) -> str:
        low, high = self.grid[0].item(), self.grid[-1].item()
        return f"SpectralDensity({len(self.grid)} points from {low:.4g} to {high:.4g})"

    def _repr_html_(self) -> str:
        """Return the density as a picture, for notebooks."""
        above = self.density.where(self.density > 1e-6 * self.density.max(), torch.nan)
        line = Line(self.grid.tolist(), above.tolist())
        return page(picture([line], "spectral density", "eigenvalue of the Hessian", log="y"))


def hessian_eigenvalues(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    k: int = 1,
    *,
    which: str = "largest",
    tolerance: float = 1e-3,
    max_iterations: int = 1000,
    differences: bool = False,
    seed: int = 0,
) -> Eigenpairs:
    """Return the top ``k`` eigenvalues and eigenvectors of the Hessian of the mean loss over ``data``.

    The model is evaluated in evaluation mode, and left unchanged, bit for bit (parameters, buffers, gradients).

    Args:
        model: any module; the Hessian is with respect to all its parameters that need gradients.
        loss: (output, target) to a scalar: a loss of ``torch.nn`` or ``torch.nn.functional``, ``functools.partial`` of
            one, or any other that is the mean over the samples of a batch or their sum, which is detected. The result
            is that of all samples in one batch, with the denominator of that loss (the weights of the targets that are
            not ignored for cross-entropy); a sum is divided by the number of samples. A function whose first argument
            is named ``model`` is called with (model, batch) instead: ``lambda model, batch: model(**batch).loss``.
            It returns the mean over the samples of a batch, or a pair: a mean and its denominator, such as a number
            of tokens; see :class:`BatchLoss`.
        data: batches (input, target), or of any form for a loss of (model, batch); the size of batches only changes
            the memory used.
        k: number of eigenvalues, >= 1.
        which: "largest" (default), "smallest" or "magnitude".
        tolerance: relative accuracy of the eigenvalues, > 0, of SciPy's ``eigsh``. Default 1e-3; float32 allows
            about 1e-5.
        max_iterations: restarts of the Lanczos iteration at most. Default 1000.
        differences: multiply with the Hessian by central differences of gradients, for models that have no
            second derivative; accurate to about 1e-3 for smooth models. With kinks (ReLU) they include the bends
            between the two points, which a second derivative does not. Default False.
        seed: seed of the start vector.

    Raises:
        ValueError: an argument is out of its range; the loss is not differentiable, or neither a mean nor a sum over
            samples, such as a contrastive loss; no parameter needs a gradient, or one is complex.
        RuntimeError: the iteration did not converge, or an operator of the model has no second derivative.
        ImportError: the extra ``sharpness`` is not installed.

    Source: Ghorbani, Krishnan, Xiao, "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density",
    arXiv 1901.10159, for the use of Lanczos on networks.

    Example:
        >>> top = hessian_eigenvalues(model, nn.CrossEntropyLoss(), batches, k=2)
        >>> top.values, top.vector(0)["fc.weight"]
        >>> top = hessian_eigenvalues(bert, lambda model, batch: model(**batch).loss, loader)  # batches of transformers
    """
    check_count("k", k)
    check_choice("which", which, tuple(WHICH))
    check_number("tolerance", tolerance, open_low=True)
    check_count("max_iterations", max_iterations)
    with _hessian(LossSurface(model, loss, data), differences) as (surface, operator):
        size = sum(p.numel() for p in surface.params)
        if k > size:
            raise ValueError(f"k must be <= {size}, the number of parameters, got {k}")
        if size <= max(2 * k + 1, 32):  # too small for Lanczos, and small enough to be formed
            dense = operator @ torch.eye(size, dtype=operator.dtype, device=operator.device)
            values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
            order = values.abs().argsort() if which == "magnitude" else torch.arange(size, device=values.device)
            chosen = order[:k] if which == "smallest" else order[-k:]
            values, vectors = values[chosen], vectors[:, chosen].T
        else:
            start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
            found = _eigsh(operator, k, which=WHICH[which], tol=tolerance, maxiter=max_iterations, v0=start.numpy())
            values, vectors = (torch.as_tensor(x, device="cpu") for x in (found[0], found[1].T))
        order = values.argsort(descending=True)
        shapes = [p.shape for p in surface.params]
        return Eigenpairs(values[order].cpu(), vectors[order].cpu(), surface.names, shapes, tolerance)


def hessian_trace(
    model: nn.Module, loss: Loss, data: Batches, *, samples: int = 32, differences: bool = False, seed: int = 0
) -> Estimate:
    """Return the trace of the Hessian by Hutchinson's estimator, with its standard error.

    Args:
        model, loss, data, differences, seed: as for :func:`hessian_eigenvalues`.
        samples: random vectors (Rademacher), >= 2; the standard error falls with their square root.

    Raises:
        ValueError, RuntimeError, ImportError: as for :func:`hessian_eigenvalues`.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989.
    """
    check_count("samples", samples, low=2)
    with _hessian(LossSurface(model, loss, data), differences) as (surface, operator):
        generator, shape = seeded(surface, seed), (operator.shape[1],)
        draws = []
        for _ in range(samples):
            signs = torch.randint(0, 2, shape, generator=generator, device=operator.device).to(operator.dtype) * 2 - 1
            draws.append(float((signs * (operator @ signs)).sum()))
        return Estimate.of(draws)


def spectral_density(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    *,
    lanczos_steps: int = 48,
    runs: int = 4,
    points: int = 512,
    differences: bool = False,
    seed: int = 0,
) -> SpectralDensity:
    """Return the spectral density of the Hessian: the distribution of its eigenvalues, which integrates to 1.

    Each Lanczos run from a random vector gives a density with Gaussian bumps at its nodes; the mean over runs is
    returned with its standard error.

    Args:
        model, loss, data, differences, seed: as for :func:`hessian_eigenvalues`.
        lanczos_steps: products with the Hessian per run, >= 2 and less than the number of parameters. Default 48.
        runs: independent runs, >= 2. Default 4.
        points: points of the grid, >= 2. Default 512.

    Raises:
        ValueError: an argument is out of its range, or the spectrum has fewer distinct values than steps.
        RuntimeError, ImportError: as for :func:`hessian_eigenvalues`.

    Source: Papyan, "Traces of Class/Cross-Class Structure Pervade Deep Learning Spectra", JMLR 2020, algorithm 2,
    as implemented in curvlinops.
    """
    check_count("lanczos_steps", lanczos_steps, low=2)
    check_count("runs", runs, low=2)
    check_count("points", points, low=2)
    spectrum = _needed("curvlinops.papyan2020traces.spectrum")
    with _hessian(LossSurface(model, loss, data), differences) as (_, operator):
        size = operator.shape[1]
        if lanczos_steps >= size:
            raise ValueError(f"lanczos_steps must be < {size}, the number of parameters, got {lanczos_steps}")
        densities = []
        start = torch.randn(
            size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu"
        ).numpy()
        bounds = tuple(
            float(_eigsh(operator, 1, which=end, tol=1e-2, maxiter=1000, v0=start)[0][0]) for end in ("SA", "LA")
        )
        with _torch_seed(seed):
            for _ in range(runs):
                grid, density = spectrum.lanczos_approximate_spectrum(
                    operator, lanczos_steps, num_points=points, boundaries=bounds
                )
                densities.append(density)
        found = torch.stack(densities)
        if not found.isfinite().all():
            raise ValueError(f"lanczos_steps must be less than the number of distinct eigenvalues, got {lanczos_steps}")
        return SpectralDensity(grid.cpu(), found.mean(0).cpu(), (found.std(0) / runs**0.5).cpu())


@contextmanager
def _hessian(surface: LossSurface, differences: bool) -> Iterator[tuple[LossSurface, Any]]:
    """Yield the surface at its own weights, and the operator that multiplies with its Hessian."""
    curvlinops = _needed("curvlinops")
    with surface:
        try:
            shares = surface.shares()
            surface.gradient([shares[0][0]])  # raises our errors for an invalid loss
            data = [(batch.x, _Target(batch.y, share)) for batch, share in shares]
            arguments = (surface.module, _Loss(surface), surface.params, data)
            kind = _differences_operator(surface) if differences else curvlinops.HessianLinearOperator
            yield (
                surface,
                kind(*arguments, check_deterministic=False, num_data=surface.samples, batch_size_fn=lambda x: 1),
            )
        except RuntimeError as error:
            if not any(part in str(error) for part in NO_SECOND_DERIVATIVE):
                raise
            raise RuntimeError(
                f"an operator of the model has no second derivative ({str(error).splitlines()[0]}); take "
                "differences=True, or for attention torch.nn.attention.sdpa_kernel(SDPBackend.MATH), for "
                "recurrent layers on CUDA torch.backends.cudnn.flags(enabled=False)"
            ) from error


class _Target:
    """Target of any kind, with the share of its batch in the loss; curvlinops passes it on unchanged."""

    def __init__(self, parts: Any, share: float) -> None:
        self.parts, self.share = parts, share

    def to(self, device: torch.device) -> _Target:
        return self


class _Loss(nn.Module):
    """Module from a loss of any kind, whose values over batches add up to the loss of all samples."""

    reduction = "sum"

    def __init__(self, surface: LossSurface) -> None:
        super().__init__()
        self._surface = [surface]  # in a list, so that a module in it is not registered as a part of this one

    def forward(self, output: Any, target: _Target) -> Tensor:
        loss: Tensor = self._surface[0].loss(output, target.parts)
        return loss.reshape(()) * target.share


def _differences_operator(surface: LossSurface) -> Any:
    """Return a class like curvlinops' Hessian whose products are central differences of gradients."""
    from curvlinops import HessianLinearOperator

    class DifferencesOperator(HessianLinearOperator):  # type: ignore[misc, unused-ignore]
        def _matmat(self, M: list[Tensor]) -> list[Tensor]:
            columns = [self._product([m[..., i] for m in M]) for i in range(M[0].shape[-1])]
            return [torch.stack(parts, -1) for parts in zip(*columns, strict=True)]

        def _product(self, v: list[Tensor]) -> list[Tensor]:
            # The cube root of the precision, relative to w, balances rounding with the third derivative.
            length, weight = (
                float(torch.linalg.vector_norm(flatten(x).detach().double())) for x in (v, surface.params)
            )
            step = torch.finfo(v[0].dtype).eps ** (1 / 3) * (1 + weight) / max(length, 1e-30)
            ends = []
            for sign in (step, -step):
                with surface.moved([sign * x for x in v]):
                    ends.append(surface.gradient()[1])
            return [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]

    return DifferencesOperator


def _eigsh(operator: Any, k: int, **options: Any) -> Any:
    """Run SciPy's Lanczos iteration, with a plain error if it does not converge."""
    linalg = _needed("scipy.sparse.linalg")
    try:
        return linalg.eigsh(operator.to_scipy(), k, **options)
    except linalg.ArpackNoConvergence as error:
        raise RuntimeError(
            f"the eigenvalues did not converge to tolerance {options['tol']:g} in {options['maxiter']} iterations; "
            "raise either"
        ) from error


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generators, from which the estimators draw, and restore them afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _needed(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a package that compiles functions as it is imported
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"curvature needs {name.split('.')[0]}: pip install '.[sharpness]' in the source folder"
        ) from error
