"""VICReg: similar views, enough variance of each feature, and no covariance between features."""

from typing import Any, ClassVar

from tvlars.lab.ssl.methods.method import Method


class VICReg(Method):
    r"""Bardes et al. 2022 (arXiv 2105.04906), eq. 6, with the weights of its published code:

    .. math:: \lambda \tfrac1{ND} \|z_1 - z_2\|^2 + \tfrac{\mu}{2} (v(z_1) + v(z_2)) + \nu (c(z_1) + c(z_2)),

    where v is the mean over features of max(0, 1 − σ), and c is the sum of the squared covariances of different
    features, divided by D. ``similarity``, ``variance`` and ``covariance`` are λ, μ and ν; defaults 25, 25 and 1.
    """

    OPTIONS: ClassVar[dict[str, float]] = {"similarity": 25.0, "variance": 25.0, "covariance": 1.0}

    def make_criterion(self) -> Any:
        from lightly.loss import VICRegLoss

        similarity, variance, covariance = (self.options[name] for name in self.OPTIONS)
        return VICRegLoss(lambda_param=similarity, mu_param=variance, nu_param=covariance)
