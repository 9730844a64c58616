"""Options of a comparison: those of all runs, and those that vary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tvlars.lab.config import OPTIMIZERS, OPTIONS, TrainConfig, names_of
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.options import Is, check, check_names, option

SAME_FOR_ALL = tuple(name for name in names_of(Is.SAME | Is.AXIS) if name != "optimizer")
"""Options that must be the same for all optimizers."""


@dataclass(frozen=True)
class CompareConfig:
    """Every optimizer at every batch size with every seed."""

    base: TrainConfig = field(default_factory=TrainConfig)
    optimizers: tuple[str, ...] = option(("tvlars", "lars", "lamb"), "those compared, one or more", choices=OPTIMIZERS)
    batch_sizes: tuple[int, ...] = option((256,), "samples per optimizer step, one or more")
    seeds: tuple[int, ...] = option((0, 1, 2), "one or more")
    overrides: tuple[tuple[str, str, Any], ...] = ()
    """(optimizer, option, value): options of ``TrainConfig`` for one optimizer alone."""
    out: Path | None = option(None, "folder, gone on with where it is a comparison's (default: a new one below runs/)")

    def __post_init__(self) -> None:
        check(self)
        given: Any = self.overrides
        if isinstance(given, (str, dict)) or not isinstance(given, Iterable):
            raise UsageError(f"overrides must be a list, got {given!r}")
        object.__setattr__(self, "overrides", tuple(tuple(v) if isinstance(v, list) else v for v in given))
        if not all(isinstance(entry, tuple) and len(entry) == 3 for entry in self.overrides):
            raise UsageError(f"overrides must be (optimizer, option, value) each, got {self.overrides!r}")
        known = [name for name in OPTIONS if name not in ("optimizer", "out")]
        for optimizer, name, _ in self.overrides:
            if name in SAME_FOR_ALL:
                raise UsageError(f"{name} must be the same for all optimizers, but is set for {optimizer} alone")
            if optimizer not in self.optimizers:
                raise unknown("optimizer among those compared", optimizer, self.optimizers)
            if name not in known:
                raise unknown("option", name, known)
        named = [(optimizer, name) for optimizer, name, _ in self.overrides]
        for optimizer, name in named:
            if named.count((optimizer, name)) > 1:
                raise UsageError(f"{name} must be set once for {optimizer}, got several values")
        if not self.base.test:
            raise UsageError("test must be true for a comparison, which reports results on the test set")
        self.runs()

    def to_json(self) -> str:
        """Return all fields as JSON; :meth:`from_mapping` reads it back."""
        return json.dumps(asdict(self), indent=1, default=str)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> CompareConfig:
        """Return a config made from field names and values; ``base`` is a mapping as for ``TrainConfig``.

        Raises:
            UsageError: a name is not a field's, or a value is bad.
        """
        check_names(cls, values)
        return cls(**{**values, "base": TrainConfig.from_mapping(values.get("base", {}))})

    def runs(self) -> list[TrainConfig]:
        """Return the config of every run in the order of training: seeds outermost.

        An interrupted comparison is then a fair one, in which every optimizer has had the same seeds.
        """
        runs = []
        for seed in self.seeds:
            for batch_size in self.batch_sizes:
                for optimizer in self.optimizers:
                    values = {f.name: getattr(self.base, f.name) for f in fields(TrainConfig)}
                    values.update(optimizer=optimizer, batch_size=batch_size, seed=seed, out=None)
                    values.update({name: value for owner, name, value in self.overrides if owner == optimizer})
                    runs.append(TrainConfig.from_mapping(values))
        return runs
