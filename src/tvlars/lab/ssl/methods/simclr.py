"""SimCLR: each view identifies the other view of its image among all views of the batch."""

from typing import Any, ClassVar

from tvlars.lab.ssl.methods.method import Method


class SimCLR(Method):
    r"""Chen et al. 2020 (arXiv 2002.05709), eq. 1: the mean over all 2 N views i with twin j of

    .. math:: -\log \frac{\exp(s_{ij} / \tau)}{\sum_{k \ne i} \exp(s_{ik} / \tau)}

    with the cosine similarity s. ``temperature`` is τ; the default is 0.5, as in the paper for CIFAR-10 (appendix B.9).
    """

    OPTIONS: ClassVar[dict[str, float]] = {"temperature": 0.5}
    RANGES: ClassVar[dict[str, tuple[float, float]]] = {"temperature": (1e-3, 1e3)}

    def make_criterion(self) -> Any:
        from lightly.loss import NTXentLoss

        return NTXentLoss(temperature=self.options["temperature"])
