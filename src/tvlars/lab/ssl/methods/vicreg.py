"""VICReg: views alike, every feature with a variance of its own, features uncorrelated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tvlars.lab.ssl.methods.method import Method


class VICReg(Method):
    r"""Bardes et al. 2022 (arXiv 2105.04906), eq. 6, as its published code weighs the terms:

    .. math:: \lambda \tfrac1{ND} \|z_1 - z_2\|^2 + \tfrac{\mu}{2} (v(z_1) + v(z_2)) + \nu (c(z_1) + c(z_2)),

    v the mean over features of max(0, 1 − σ), c the squared covariances of different features, by D.
    ``similarity``, ``variance`` and ``covariance`` are λ, μ and ν: 25, 25 and 1.
    """

    OPTIONS: ClassVar[dict[str, float]] = {"similarity": 25.0, "variance": 25.0, "covariance": 1.0}

    def __init__(self, backbone: nn.Module, features: int, widths: Sequence[int], **options: float) -> None:
        super().__init__(backbone, features, widths, **options)
        from lightly.loss import VICRegLoss

        self.criterion: Any = VICRegLoss(
            lambda_param=self.options["similarity"],
            mu_param=self.options["variance"],
            nu_param=self.options["covariance"],
        )

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        value: Tensor = self.criterion(first, second)
        return value
