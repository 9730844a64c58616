"""Barlow Twins: equal features of the two views correlate, different features do not."""

from typing import Any, ClassVar

from tvlars.lab.ssl.methods.method import Method


class BarlowTwins(Method):
    r"""Zbontar et al. 2021 (arXiv 2103.03230), eq. 1.

    .. math:: \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad C = \tfrac1N \hat z_1^\top \hat z_2

    with embeddings standardized over the batch. ``lambda_param`` is λ, 0.005 as in the paper.
    """

    OPTIONS: ClassVar[dict[str, float]] = {"lambda_param": 0.005}

    def make_criterion(self) -> Any:
        from lightly.loss import BarlowTwinsLoss

        return BarlowTwinsLoss(lambda_param=self.options["lambda_param"])
