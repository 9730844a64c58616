"""The family whose trust ratio has a sum of norms below the line: timm, lightly, apex, solo-learn, pytorch-optimizer.

    q = η ‖w‖ / (‖g‖ + β ‖w‖ + eps)        ours: q = η ‖w‖ / ‖g + β w‖

With β = 0 and eps = 0 the two are one; with weight decay they never are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvlars._checks import check_flag, check_number
from tvlars.convert._recipe import Difference, Options, Translation, passed_on


@dataclass(frozen=True)
class SumOfNorms:
    """The options that one parameter has in such a library, and what differs from library to library."""

    who: str
    theirs: Options
    coefficient: str
    """Their name of η."""
    adapted: bool
    clip: str | None = None
    """Their name of the option that bounds q at lr, where they have one."""
    clips_one: bool = False
    """True if that bound acts on q = 1 too, where a norm is 0."""
    at_zero_gradient: str | None = "leaves them as they are"
    """Effect on weights that decay where the gradient is 0; None if it is ours."""
    buffer_from_zeros: bool = False
    """True if dampening acts on the first direction too."""
    decays_before_it_turns: bool = False
    """True if ``maximize`` turns the weight decay as well."""

    def translate(self) -> Translation:
        """Raises ValueError where an option is out of range."""
        theirs, differences = self.theirs, list[Difference]()
        lr, beta, eta, eps = theirs["lr"], theirs["weight_decay"], theirs[self.coefficient], theirs.get("eps", 0.0)
        check_number(self.coefficient, eta, open_low=True)
        check_number("eps", eps)
        if self.clip is not None:
            check_flag(self.clip, theirs[self.clip])

        if self.adapted:
            if beta:
                differences += self._decay(beta)
            if eps:
                differences.append(self._eps(eps))
            if self.clip is not None and theirs[self.clip]:
                if self.clips_one and float(lr) > 1:
                    lr = 1.0
                eta = eta / float(lr) if float(lr) else eta
                differences.append(self._clip(float(lr)))
        lr, dampening = self._dampening(lr)
        options = dict(
            lr=lr,
            momentum=theirs["momentum"],
            weight_decay=beta,
            trust_coefficient=eta,
            nesterov=theirs["nesterov"] and theirs["momentum"] > 0,
            unit_ratio_at_zero=True,
            layer_adaptation=self.adapted,
            **passed_on(theirs),
        )
        return Translation(options, differences + dampening)

    def _decay(self, beta: float) -> list[Difference]:
        sentences = [
            f"weight_decay = {beta:g} stands below the line of q as |g| + beta |w| in {self.who}, |g + beta w| here. "
            "With rho = beta |w|/|g| their steps are smaller by never more than 2 rho/(1 + rho) of themselves, by "
            f"about rho where g and w are orthogonal and rho is small ({beta:g} where |w| = |g|)."
        ]
        if self.at_zero_gradient is not None:
            sentences.append(
                f"Where a layer's gradient is 0 and its weights are not, {self.who} {self.at_zero_gradient}; here "
                "q = eta/beta, and the step is lr eta w."
            )
        if self.theirs.get("maximize") and self.decays_before_it_turns:
            sentences.append(
                f"maximize=True turns the weight decay too in {self.who}, so that it pushes weights away from 0; here "
                "they decay towards 0."
            )
        return [Difference(sentence) for sentence in sentences]

    def _eps(self, eps: float) -> Difference:
        sentence = (
            f"eps = {eps:g} is added below the line of q in {self.who} and nothing is here: their steps are smaller by "
            f"at most eps/|g| of themselves, {eps:g} where |g| = 1."
        )
        return Difference(sentence, eps)

    def _clip(self, ours: float) -> Difference:
        theirs = float(self.theirs["lr"])
        return Difference(
            f"{self.clip}=True makes the rate of a layer min(q, lr) in {self.who}, with lr = {theirs:g}; nothing "
            f"bounds it here. trust_coefficient is eta/{ours:g} here, so that the rate is q: the same while "
            f"q <= {theirs:g}, beyond it ours is q/{theirs:g} times larger. A schedule on lr moves the bound there, "
            "and the rate itself here."
        )

    def _dampening(self, lr: Any) -> tuple[Any, list[Difference]]:
        """lr (1 − dampening), under which all directions that are dampened count the same."""
        dampening = self.theirs["dampening"]
        if not self.theirs["momentum"] or not dampening:
            return lr, []
        rest = 1 - dampening
        if not self.buffer_from_zeros:
            sentence = (
                f"dampening = {dampening:g} spares the first direction in {self.who}. lr is {rest:g} of theirs here, "
                f"so that all later directions count the same; the first counts {1 / rest:g} times as much there."
            )
        elif self.theirs["nesterov"]:
            sentence = (
                f"dampening = {dampening:g} scales the momentum, and not the direction that nesterov adds to it, in "
                f"{self.who}. lr is {rest:g} of theirs here, so that the momentum counts the same; the direction "
                f"counts {1 / rest:g} times as much there."
            )
        else:
            return lr * rest, []
        return lr * rest, [Difference(sentence)]
