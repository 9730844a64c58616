"""Result of a conversion: our optimizer, its arguments and groups, and the remaining differences."""

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
    """Settings of our optimizer for an optimizer of another library, made by :func:`convert`. ``str()`` lists them.

    Attributes:
        theirs: name of the converted optimizer.
        optimizer: :class:`LARS`, :class:`TVLARS` or :class:`LAMB`.
        arguments: arguments of the constructor, without the parameters.
        weights: options of the group of weights according to the other library's rule, with ``layer_adaptation``.
        biases: options of biases and normalization parameters (tensors of one dimension); equal to ``weights`` if the
            other library's rule makes no difference.
        differences: one sentence per difference of the trajectory: what differs, when, and by how much.
        tolerance: largest relative difference of a step if gradient norms are 1 or more: 0 if ``exact``, about 1e-8 for
            the usual eps, infinite if it depends on other quantities.
        notes: steps that are needed besides the optimizer, and options that have no effect, or fail, in the other
            library.
        lr_schedule: the other learning rate by step (0 at the first) if it is a function; for ``LambdaLR``.
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
        """True if the trajectory is the same up to rounding.

        This requires that every parameter has a gradient in every step, that ``notes`` are followed, and that the other
        trajectory is finite.
        """
        return not self.differences

    def groups(self, params: Any = None) -> list[dict[str, Any]]:
        """Return parameter groups for ``optimizer`` by the other library's rule.

        Args:
            params: a model, or its (named) parameters; None (default): the parameters given to :func:`convert`. They
                are grouped as in the other library. So for timm's ``create_optimizer_v2``, biases and norms are
                exempted if a model is given, but not if parameters are given, named or not.

        Raises:
            ValueError: there are no parameters, a mask of optax needs names that they do not have, or they are groups
                with options, which must be passed to ``convert``, since the differences depend on them.
        """
        chosen = self._params if params is None else Parameters.of(params)
        if chosen is None:
            raise ValueError("params must be given, a model or its parameters, since convert was not given any")
        if chosen is not self._params and chosen.grouped:
            raise ValueError("params must be a model or parameters: pass groups to convert, as params=")
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
        """Return the text of ``str()`` as HTML for notebooks."""
        return page(pre(self))

    def __str__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        lines = [f"{self.theirs} is {self.optimizer.__name__}(groups{arguments})"]
        for title, group in (("weights", self.weights), ("biases and norms", self.biases)):
            lines.append(f"  {title:<16}  " + ", ".join(f"{name}={value!r}" for name, value in group.items()))
        lines += [f"  note: {note}" for note in self.notes]
        if self.exact:
            lines.append("The trajectory is the same up to rounding.")
        else:
            near = f"the same up to about {self.tolerance:.0e} of a step" if self.tolerance < 1 else "not the same"
            lines.append(f"The trajectory is {near}:")
            lines += [f"  - {difference}" for difference in self.differences]
        return "\n".join(lines)


def constructor_arguments(ours: Options) -> dict[str, Any]:
    """Return the options of a parameter that are arguments of the constructor and differ from its defaults."""
    return {
        name: value
        for name, value in ours.items()
        if name != "layer_adaptation" and not (name in PASSED_ON and value == PASSED_ON[name])
    }


def group_options(ours: Options, arguments: Options) -> dict[str, Any]:
    """Return the options that a parameter's group needs: adaptation, decay, and any that ``arguments`` lack."""
    always = ("layer_adaptation", "weight_decay")
    unused = () if ours["layer_adaptation"] else ("trust_coefficient",)
    options = {name: ours[name] for name in always}
    for name, value in ours.items():
        default = arguments.get(name, PASSED_ON.get(name))
        if name not in (*always, *unused) and value is not default and value != default:
            options[name] = value
    return options
