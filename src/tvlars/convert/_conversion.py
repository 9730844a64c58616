"""Result of a conversion: our optimizer, its arguments, its groups, and what stays different."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvlars._notebook import page, pre
from tvlars.convert._groups import Parameters, ours_of_each
from tvlars.convert._recipe import PASSED_ON, Options, Recipe
from tvlars.optim.layerwise import LayerwiseOptimizer


@dataclass(frozen=True)
class Conversion:
    """Settings of ours for an optimizer of another library, made by :func:`convert`. ``str()`` lists them.

    Attributes:
        theirs: what was converted.
        optimizer: :class:`LARS`, :class:`TVLARS` or :class:`LAMB`.
        arguments: for its constructor, but for the parameters.
        weights: options of the group of weights, as their rule picks them, with ``layer_adaptation``.
        biases: those of biases and normalization parameters, tensors of one dimension. The same where their rule
            makes no difference.
        differences: why the trajectory is not theirs, a sentence each: what differs, when, and by how much.
        tolerance: how much a step may differ, relative to itself, where gradient norms are 1 or more: 0 where
            ``exact``, about 1e-8 for their usual eps, infinite where it depends on more than that.
        notes: what has to be done beside the optimizer for this, and what has no effect there, or breaks.
        lr_schedule: their learning rate by step (0 at the first), where it is a function; for ``LambdaLR``.
    """

    theirs: str
    optimizer: type[LayerwiseOptimizer]
    arguments: dict[str, Any]
    weights: dict[str, Any]
    biases: dict[str, Any]
    differences: tuple[str, ...] = ()
    tolerance: float = 0.0
    notes: tuple[str, ...] = ()
    lr_schedule: Callable[[int], float] | None = None
    _recipe: Recipe = field(repr=False, compare=False, kw_only=True)
    _options: Options = field(repr=False, compare=False, kw_only=True)
    _params: Parameters | None = field(repr=False, compare=False, kw_only=True)

    @property
    def exact(self) -> bool:
        """True if the trajectory is theirs to rounding, provided that every parameter has a gradient in every step.

        And where ``notes`` are followed, and theirs is finite.
        """
        return not self.differences

    def groups(self, params: Any = None) -> list[dict[str, Any]]:
        """Return parameter groups by their rule, for ``optimizer``.

        Args:
            params: a model, or its (named) parameters; None (default) takes those that :func:`convert` was given.
                They are grouped as theirs does with the same. So with timm's ``create_optimizer_v2`` biases and norms
                of a model are spared, and of parameters none, named or not.

        Raises:
            ValueError: there are none, or not named where a mask of optax asks for names, or they are groups with
                options of their own, which belong into ``convert``, since what differs depends on them.
        """
        chosen = self._params if params is None else Parameters.of(params)
        if chosen is None:
            raise ValueError("params must be given, a model or its parameters, where convert was not given any")
        if chosen is not self._params and chosen.grouped:
            raise ValueError("params must be a model or parameters; give groups to convert, as params=")
        groups: list[dict[str, Any]] = []
        buckets: dict[tuple[Any, ...], dict[str, Any]] = {}
        for i, entry in enumerate(chosen.entries):
            kept = self._recipe.of_group(self._options, entry.extras).kept
            converted = ours_of_each(self._recipe, self._options, chosen, entry)
            for (name, p), ours in zip(entry.named, converted, strict=True):
                options = group_options(ours.options, self.arguments)
                key = (i, *options.items())
                if key not in buckets:
                    buckets[key] = {"params": [], **({"param_names": []} if name else {}), **kept, **options}
                    groups.append(buckets[key])
                buckets[key]["params"].append(p)
                if name:
                    buckets[key]["param_names"].append(name)
        return groups

    def build(self, params: Any = None) -> LayerwiseOptimizer:
        """Return the optimizer on ``groups(params)``.

        Raises:
            ValueError: as ``groups`` does.
        """
        return self.optimizer(self.groups(params), **self.arguments)

    def __repr__(self) -> str:
        count = len(self.differences)
        same = "exact" if self.exact else f"{count} difference{'s' * (count > 1)}"
        return f"Conversion({self.theirs} is {self.optimizer.__name__}, {same})"

    def _repr_html_(self) -> str:
        """Return the text of ``str()``, for notebooks."""
        return page(pre(self))

    def __str__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        lines = [f"{self.theirs} is {self.optimizer.__name__}(groups{arguments})"]
        for title, group in (("weights", self.weights), ("biases and norms", self.biases)):
            lines.append(f"  {title:<16}  " + ", ".join(f"{name}={value!r}" for name, value in group.items()))
        lines += [f"  note: {note}" for note in self.notes]
        if self.exact:
            lines.append("The trajectory is theirs, to rounding.")
        else:
            near = f" but for about {self.tolerance:.0e} of a step" if self.tolerance < 1 else ""
            lines.append(f"The trajectory is {'theirs' if near else 'not theirs'}{near}:")
            lines += [f"  - {difference}" for difference in self.differences]
        return "\n".join(lines)


def constructor_arguments(ours: Options) -> dict[str, Any]:
    """Return the options of a parameter that the constructor takes and that are not its defaults."""
    return {
        name: value
        for name, value in ours.items()
        if name != "layer_adaptation" and not (name in PASSED_ON and value == PASSED_ON[name])
    }


def group_options(ours: Options, arguments: Options) -> dict[str, Any]:
    """Return the options of a parameter that its group needs: adaptation, decay, and any that ``arguments`` lack."""
    always = ("layer_adaptation", "weight_decay")
    unused = () if ours["layer_adaptation"] else ("trust_coefficient",)
    options = {name: ours[name] for name in always}
    for name, value in ours.items():
        default = arguments.get(name, PASSED_ON.get(name))
        if name not in (*always, *unused) and value is not default and value != default:
            options[name] = value
    return options
