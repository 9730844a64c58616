"""LARS with a sum of norms in the denominator: timm, lightly, apex, solo-learn, pytorch-optimizer.

    q = η ‖w‖ / (‖g‖ + β ‖w‖ + eps)        ours: q = η ‖w‖ / ‖g + β w‖

With β = 0 and eps = 0 both are equal; with weight decay they always differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvlars._checks import check_flag, check_number
from tvlars.convert._recipe import Difference, Options, Translation, passed_on


@dataclass(frozen=True)
class SumOfNorms:
    """Options of one parameter in such a library, and the differences between these libraries."""

    who: str
    theirs: Options
    coefficient: str
    """Name of η in the library."""
    adapted: bool
    clip: str | None = None
    """Name of the option that bounds q at lr, if the library has one."""
    clips_one: bool = False
    """True if the bound also acts on q = 1, when a norm is 0."""
    at_zero_gradient: str | None = "leaves them as they are"
    """Effect on weights with decay if the gradient is 0; None if it is the same as ours."""
    buffer_from_zeros: bool = False
    """True if dampening also acts on the first direction."""
    decays_before_it_turns: bool = False
    """True if ``maximize`` also reverses the weight decay."""

    def translate(self) -> Translation:
        """Return our options; raise ``ValueError`` if an option is out of range."""
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
            f"with weight_decay = {beta:g}, the denominator of q is |g| + beta |w| in {self.who}, and |g + beta w| "
            "here. With rho = beta |w|/|g|, their steps are smaller by at most the fraction 2 rho/(1 + rho), and by "
            f"about rho if g and w are orthogonal and rho is small ({beta:g} if |w| = |g|)."
        ]
        if self.at_zero_gradient is not None:
            sentences.append(
                f"If a layer's gradient is 0 and its weights are not, {self.who} {self.at_zero_gradient}; here "
                "q = eta/beta, and the step is lr eta w."
            )
        if self.theirs.get("maximize") and self.decays_before_it_turns:
            sentences.append(
                f"maximize=True also reverses the weight decay in {self.who}, so that it pushes weights away from 0; "
                "here they decay towards 0."
            )
        return [Difference(sentence) for sentence in sentences]

    def _eps(self, eps: float) -> Difference:
        sentence = (
            f"eps = {eps:g} is added to the denominator of q in {self.who}, but not here: their steps are smaller by "
            f"at most the fraction eps/|g|, {eps:g} if |g| = 1."
        )
        return Difference(sentence, eps)

    def _clip(self, ours: float) -> Difference:
        theirs = float(self.theirs["lr"])
        return Difference(
            f"{self.clip}=True makes the rate of a layer min(q, lr) in {self.who}, with lr = {theirs:g}; here it has "
            f"no bound. trust_coefficient is eta/{ours:g} here, so that the rate is q: the same while "
            f"q <= {theirs:g}; above that, our rate is q/{theirs:g} times theirs. A schedule on lr moves the bound in "
            f"{self.who}, but the rate itself here."
        )

    def _dampening(self, lr: Any) -> tuple[Any, list[Difference]]:
        """Return lr (1 − dampening), with which all dampened directions have the same weight, and differences."""
        dampening = self.theirs["dampening"]
        if not self.theirs["momentum"] or not dampening:
            return lr, []
        rest = 1 - dampening
        if not self.buffer_from_zeros:
            sentence = (
                f"dampening = {dampening:g} does not act on the first direction in {self.who}. lr is {rest:g} of "
                "theirs here, so that all later directions have the same weight; the first has "
                f"{1 / rest:g} times the weight there."
            )
        elif self.theirs["nesterov"]:
            sentence = (
                f"dampening = {dampening:g} scales the momentum, but not the direction that nesterov adds to it, in "
                f"{self.who}. lr is {rest:g} of theirs here, so that the momentum has the same weight; the direction "
                f"has {1 / rest:g} times the weight there."
            )
        else:
            return lr * rest, []
        return lr * rest, [Difference(sentence)]
