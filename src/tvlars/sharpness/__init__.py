"""The loss around a model's weights: curvature, sharpness and slices.

Every function takes any model, loss and batches of data, evaluates in evaluation mode, and leaves the model as it was
bit for bit. Curvature and Keskar's metric need the extra ``sharpness``.
"""

from tvlars.sharpness._batch_loss import BatchLoss
from tvlars.sharpness._surface import Estimate
from tvlars.sharpness.hessian import Eigenpairs, SpectralDensity, hessian_eigenvalues, hessian_trace, spectral_density
from tvlars.sharpness.neighbourhood import average_case_sharpness, keskar_sharpness, worst_case_sharpness
from tvlars.sharpness.slices import Slice, loss_between, loss_slice

__all__ = [
    "BatchLoss",
    "Eigenpairs",
    "Estimate",
    "Slice",
    "SpectralDensity",
    "average_case_sharpness",
    "hessian_eigenvalues",
    "hessian_trace",
    "keskar_sharpness",
    "loss_between",
    "loss_slice",
    "spectral_density",
    "worst_case_sharpness",
]
