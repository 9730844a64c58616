"""Options of a comparison: common options of all runs, and options that vary."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from tvlars.lab.comparison.family import check_family, family_option, margin_option
from tvlars.lab.config import OPTIMIZERS, OPTIONS, TrainConfig, names_of
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.experiments.arms import Arm, as_options, check_names_differ, short_spellings
from tvlars.lab.imported import said_path, spelled_path
from tvlars.lab.optimizers import optimizer_name
from tvlars.lab.options import Is, check, check_names, option

SAME_FOR_ALL = tuple(name for name in names_of(Is.SAME | Is.AXIS) if name != "optimizer")
"""Options that must be the same for all optimizers."""
USUAL = ("tvlars", "lars", "lamb")
Config = TypeVar("Config", bound="Stored")
NOT_OF_AN_ARM = ("optimizer", "arm", "protocol", "out", "resume")


class Stored:
    """Base class of configs of several runs, each of an optimizer or an arm, that are stored as JSON."""

    optimizers: tuple[str, ...]
    arms: tuple[Arm, ...]

    def _take_arms(self) -> None:
        """Check optimizers and arms, and set the usual optimizers if neither is given."""
        arms: Any = self.arms
        if not (isinstance(arms, (list, tuple)) and all(isinstance(one, Arm) for one in arms)):
            raise UsageError(f"arms must be a list of Arm(name, optimizer, options), got {arms!r:.80}")
        names = self.optimizers or (() if arms else USUAL)
        object.__setattr__(self, "optimizers", tuple(map(optimizer_name, names)))
        object.__setattr__(self, "arms", tuple(arms))
        check_names_differ([arm.name for arm in self.all_arms()], "optimizers and arms" if arms else "optimizers")

    def all_arms(self) -> list[Arm]:
        """Return the optimizers, as arms under their own names, and the arms."""
        return [*map(Arm.of, self.optimizers), *self.arms]

    def to_json(self) -> str:
        """Return all fields as JSON; :meth:`from_mapping` reads it back."""
        return json.dumps(asdict(self), indent=1, default=str)  # type: ignore[call-overload]

    @classmethod
    def from_mapping(cls: type[Config], values: dict[str, Any]) -> Config:
        """Return a config made from field names and values; ``base`` is a mapping as for ``TrainConfig``.

        Raises:
            UsageError: a name is not a field, or a value is bad.
        """
        check_names(cls, values)
        arms = values.get("arms", ())
        if isinstance(arms, list) and all(isinstance(one, dict) for one in arms):
            for one in arms:
                check_names(Arm, one)
            arms = tuple(Arm(**{"name": "", "optimizer": "", **one}) for one in arms)
        return cls(**{**values, "base": TrainConfig.from_mapping(values.get("base", {})), "arms": arms})


def check_varied(owner: str, name: str, same: Collection[str] = SAME_FOR_ALL, whose: str = "optimizers") -> None:
    """Raise ``UsageError`` unless the option ``name`` may be set for only one arm, ``owner``."""
    if name in same:
        raise UsageError(f"{name} must be the same for all {whose}, but is set only for {owner}")
    if name in NOT_OF_AN_ARM:
        raise unknown("option", name, [known for known in OPTIONS if known not in NOT_OF_AN_ARM])


@dataclass(frozen=True)
class CompareConfig(Stored):
    """Every optimizer, and every arm, at every batch size with every seed. ``margin`` is in points of accuracy.

    Raises:
        UsageError: a value is unknown or out of its range, or two have the same name.
    """

    base: TrainConfig = field(default_factory=TrainConfig)
    """Options of all runs; its optimizer, arm, seed and out are ignored or chosen here."""
    optimizers: tuple[str, ...] = option(
        (),
        "optimizers to compare: {choices}, or import paths (default: tvlars lars lamb; with arms: none)",
        choices=OPTIMIZERS,
        closed=False,
    )
    batch_sizes: tuple[int, ...] = option((), "samples per optimizer step (default: 256)")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of initialization, shuffling and augmentation")
    overrides: tuple[tuple[str, str, Any], ...] = ()
    """(optimizer or arm, option, value): options of ``TrainConfig``, or arguments of the optimizer's class, for only
    this optimizer or arm."""
    arms: tuple[Arm, ...] = ()
    """Named settings of optimizers, compared in addition to ``optimizers``."""
    family: str = family_option()
    margin: float | None = margin_option()
    out: Path | None = option(None, "folder; an earlier comparison in it is continued (default: a new one below runs/)")

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "batch_sizes", self.batch_sizes or (self.base.batch_size,))
        self._take_arms()
        self._check_overrides()
        if not self.base.test:
            raise UsageError("test must be true for a comparison, which reports results on the test set")
        check_family(self.family, [run.arm_name for run in self.runs()])

    def _check_overrides(self) -> None:
        given: Any = self.overrides
        if isinstance(given, (str, dict)) or not isinstance(given, Iterable):
            raise UsageError(f"overrides must be a list, got {given!r}")
        object.__setattr__(self, "overrides", tuple(tuple(v) if isinstance(v, list) else v for v in given))
        if not all(isinstance(entry, tuple) and len(entry) == 3 for entry in self.overrides):
            raise UsageError(f"overrides must be (optimizer, option, value) each, got {self.overrides!r}")
        spelled = tuple((spelled_path(str(owner)), name, value) for owner, name, value in self.overrides)
        object.__setattr__(self, "overrides", spelled)
        owners = self.owners()
        settings = [(owner, name) for owner, name, _ in self.overrides]
        for owner, name in [*settings, *((arm.name, name) for arm in self.arms for name in arm.options)]:
            if owner not in owners:
                raise unknown("optimizer among those compared", owner, short_spellings(owners))
            check_varied(owner, name)
        for owner, name in settings:
            if settings.count((owner, name)) > 1:
                raise UsageError(f"{name} must be set once for {owner}, got several values")

    def owners(self) -> dict[str, str]:
        """Return optimizers by the names that overrides may use: names of ``optimizers``, and of arms."""
        plain = {spelling: name for name in self.optimizers for spelling in (said_path(name), name)}
        return {**plain, **{arm.name: arm.optimizer for arm in self.arms}}

    def runs(self) -> list[TrainConfig]:
        """Return the config of every run in the order of training: seeds outermost.

        An interrupted comparison is then still fair, since every optimizer has been run with the same seeds.
        """
        settings = [(arm, self._options(arm)) for arm in self.all_arms()]
        runs = []
        for seed in self.seeds:
            for batch_size in self.batch_sizes:
                for arm, options in settings:
                    values = {f.name: getattr(self.base, f.name) for f in fields(TrainConfig)}
                    values.update(optimizer=arm.optimizer, batch_size=batch_size, seed=seed, out=None)
                    values.update(arm=arm.name if arm in self.arms else None)
                    runs.append(TrainConfig.from_mapping({**values, **options}))
        return runs

    def _options(self, arm: Arm) -> dict[str, Any]:
        """Return the options of ``TrainConfig`` that only this arm sets."""
        named = arm in self.arms
        owners = {arm.name} if named else {arm.optimizer, said_path(arm.optimizer)}
        own = {name: value for owner, name, value in self.overrides if owner in owners}
        if not (arm.options or own):
            return {}
        return as_options(arm.optimizer, {**arm.options, **own}, self.base.optimizer_options)
