"""The loss around a model's weights: curvature, sharpness and slices.

Every function takes any model, loss and batches of data, evaluates in evaluation mode, and leaves the model unchanged,
bit for bit. Early in training the running statistics of batch norm lag behind the weights: measure inside
:func:`fresh_statistics`. Curvature and Keskar's metric need the extra ``sharpness``.
"""

from tvlars.sharpness._batch_loss import BatchLoss
from tvlars.sharpness._surface import Estimate
from tvlars.sharpness.hessian import Eigenpairs, SpectralDensity, hessian_eigenvalues, hessian_trace, spectral_density
from tvlars.sharpness.neighbourhood import average_case_sharpness, keskar_sharpness, worst_case_sharpness
from tvlars.sharpness.slices import Slice, loss_between, loss_slice
from tvlars.sharpness.statistics import at_norms, fresh_statistics, scale_invariant_weights

__all__ = [
    "BatchLoss",
    "Eigenpairs",
    "Estimate",
    "Slice",
    "SpectralDensity",
    "at_norms",
    "average_case_sharpness",
    "fresh_statistics",
    "hessian_eigenvalues",
    "hessian_trace",
    "keskar_sharpness",
    "loss_between",
    "loss_slice",
    "scale_invariant_weights",
    "spectral_density",
    "worst_case_sharpness",
]
