"""Parameters in the forms that users pass them, and the options of each parameter under a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tvlars.convert._recipe import Given, Options, Recipe, Translation, plain

Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class Entry:
    """Parameters that were given together; ``extras`` are the further options of a group."""

    named: Named
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameters:
    """A model, parameters, named parameters, or groups, split into entries."""

    entries: list[Entry]
    model: nn.Module | None = None
    grouped: bool = False

    @classmethod
    def of(cls, params: Any) -> Parameters:
        """Split ``params`` into entries; of a model, only trainable parameters.

        Raises:
            ValueError: ``params`` has no parameters, or other objects.
        """
        if isinstance(params, nn.Module):
            named = [(name, p) for name, p in params.named_parameters() if p.requires_grad]
            result = cls([Entry(named)], model=params)
        elif isinstance(params, Iterable) and not isinstance(params, (Tensor, Mapping, str)):
            items = list(params)
            if items and all(isinstance(item, Mapping) and "params" in item for item in items):
                result = cls([_entry(item) for item in items], grouped=True)
            else:
                result = cls([Entry([_pair(item) for item in items])])
        else:
            raise ValueError(f"params must be a model, parameters or parameter groups, got {type(params).__name__}")
        if not any(entry.named for entry in result.entries):
            raise ValueError("params must have a parameter to train, got none")
        return result

    @property
    def all(self) -> Named:
        return [pair for entry in self.entries for pair in entry.named]


def probes() -> Parameters:
    """Return a weight and a bias as a model, to see how a rule treats them."""
    return Parameters.of(nn.Linear(1, 1, device="meta"))


def ours_of_each(recipe: Recipe, options: Options, params: Parameters, entry: Entry) -> list[Translation]:
    """Return our options for every parameter of ``entry``.

    Raises:
        ValueError: an option is out of range.
    """
    theirs = {**options, **recipe.of_group(options, entry.extras).acting}
    given = Given(entry.named, params.model)
    return [recipe.translate(one) for one in recipe.rule(theirs, given)]


def _entry(group: Mapping[str, Any]) -> Entry:
    params = group["params"]
    items = [params] if isinstance(params, Tensor) else list(params)
    names = group.get("param_names")
    named = [_pair(item) for item in (zip(names, items, strict=True) if names else items)]
    return Entry(named, {name: plain(value) for name, value in group.items() if name not in ("params", "param_names")})


def _pair(item: Any) -> tuple[str, Tensor]:
    name, p = item if isinstance(item, tuple) and len(item) == 2 else ("", item)
    if not isinstance(name, str) or not isinstance(p, Tensor):
        raise ValueError(f"params must have tensors or (name, tensor) pairs, got {type(item).__name__}")
    return name, p
