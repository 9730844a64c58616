"""BYOL: an online network predicts the projection of the other view by a slowly updated target network."""

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.lab.ssl.methods.method import Method, projector


class BYOL(Method):
    r"""Grill et al. 2020 (arXiv 2006.07733), eq. 2 for both directions, mean over the batch:

    .. math:: 2 - 2 \cos(p_1, t_2) + 2 - 2 \cos(p_2, t_1)

    where p is a prediction of the online network, and t is the target network's projection. The weights of the target
    network are updated after every step, target ← τ target + (1 − τ) online, where τ goes from ``target_momentum`` to
    1 along a cosine. The paper uses 0.996 for 1,000 epochs; short runs need less.
    """

    OPTIONS: ClassVar[dict[str, float]] = {"target_momentum": 0.99}
    RANGES: ClassVar[dict[str, tuple[float, float]]] = {"target_momentum": (0.0, 1.0)}
    HEADS: ClassVar[tuple[str, ...]] = ("projector", "predictor")

    def __init__(self, backbone: nn.Module, features: int, widths: Sequence[int], **options: float) -> None:
        super().__init__(backbone, features, widths, **options)
        self.predictor = projector(widths[-1], (max(widths), widths[-1]))
        self.target = nn.Sequential(copy.deepcopy(self.backbone), copy.deepcopy(self.projector)).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return prediction and target concatenated, (n, 2 D)."""
        prediction = self.predictor(self.embed(x))
        with torch.no_grad():
            target = self.target(x)
        return torch.cat([prediction, target], 1)

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        (p1, t1), (p2, t2) = first.chunk(2, 1), second.chunk(2, 1)
        return (4 - 2 * F.cosine_similarity(p1, t2.detach()) - 2 * F.cosine_similarity(p2, t1.detach())).mean()

    def after_step(self, progress: float) -> None:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        steps = 1_000_000  # the schedule needs integers, but progress is a fraction
        momentum = cosine_schedule(round(progress * steps), steps, self.options["target_momentum"], 1.0)
        for online, target in ((self.backbone, self.target[0]), (self.projector, self.target[1])):
            update_momentum(online, target, momentum)
