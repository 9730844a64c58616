"""Options of all studies: arms, seeds and learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tvlars._reading import parse_number
from tvlars.lab.config import MAX_LR, MAX_SEED, OPTIMIZERS, TrainConfig
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.experiments.arms import Arm
from tvlars.lab.experiments.compare_config import CompareConfig, Stored
from tvlars.lab.experiments.tuning.space import rounded, values_apart
from tvlars.lab.imported import said_path
from tvlars.lab.options import check, option

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class StudyConfig(Stored):
    """Arms at several learning rates with several seeds.

    Raises:
        UsageError: a value is unknown or out of its range, or two have the same name.
    """

    base: TrainConfig = field(default_factory=TrainConfig)
    """Options of all runs; its optimizer, arm, seed, lr, test, out and resume are ignored or chosen here."""
    optimizers: tuple[str, ...] = option(
        (),
        "optimizers to study: {choices}, or import paths (default: tvlars lars lamb; with arms: none)",
        choices=OPTIMIZERS,
        closed=False,
    )
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of the runs", within=(0, MAX_SEED))
    overrides: tuple[tuple[str, str, Any], ...] = ()
    """(optimizer or arm, option, value): options for only one of them, as in ``CompareConfig``."""
    arms: tuple[Arm, ...] = ()
    """Named settings of optimizers, studied in addition to ``optimizers``."""
    lrs: tuple[str, ...] = option(
        (), "learning rates for all arms (4 8 16, or 4:64:xsqrt2) or for one (lars=4,8,16), instead of lr-scales"
    )
    lr_scales: tuple[float, ...] = option(
        (), "learning rates as multiples of the planned rate of each arm", above=True, within=(0, MAX_LR)
    )
    out: Path | None = option(
        None, "folder, continued if it exists (default: below runs/, named by command, data and batch size)"
    )

    def __post_init__(self) -> None:
        lrs: Any = self.lrs
        if isinstance(lrs, (list, tuple)):
            object.__setattr__(self, "lrs", tuple(f"{x!r}" if isinstance(x, (int, float)) else x for x in lrs))
        check(self)
        base, kind = self.base, self.kind()
        if base.lr is not None:
            raise UsageError(f"lr must not be given for {kind}, which needs several: use lrs, got {base.lr:g}")
        if base.own_task:
            raise UsageError(f"task must have an accuracy for {kind}, got {said_path(base.task)}, one of your own")
        if not self.seeds:
            raise UsageError("seeds must name at least one, got none")
        compared = self.compared()
        object.__setattr__(self, "overrides", compared.overrides)
        object.__setattr__(self, "optimizers", compared.optimizers)
        if self.lrs and self.lr_scales:
            raise UsageError(f"lr_scales must not be given with lrs, got {' '.join(map(str, self.lr_scales))}")
        self.rates_of("")  # raises if they are bad
        if self.lrs:
            for run in compared.runs():
                if run.lr is not None:
                    raise UsageError(f"lr must not be set for {run.arm_name} with lrs, which has the rates of all arms")
                if not self.rates_of(run.arm_name):
                    raise UsageError(f"lrs must have rates for {run.arm_name} too, got {' '.join(self.lrs)}")

    @classmethod
    def kind(cls) -> str:
        """Return the name of the study, which is also the name of its command."""
        return cls.__name__.removesuffix("Config").lower()

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes of the runs, in ascending order."""
        return (self.base.batch_size,)

    def compared(self) -> CompareConfig:
        """Return the arms at all batch sizes with all seeds, at their planned rates."""
        values = dict(optimizers=self.optimizers, overrides=self.overrides, arms=self.arms)
        base = TrainConfig(**{**vars(self.base), "test": True})  # the study sets test
        return CompareConfig(base=base, batch_sizes=self.batch_sizes, seeds=self.seeds, **values)  # type: ignore[arg-type]

    def lengths(self, run: TrainConfig) -> list[TrainConfig]:
        """Return the runs of all lengths for one run."""
        return [run]

    def rates_of(self, arm: str) -> tuple[float, ...]:
        """Return the rates in ``lrs`` of the arm with the name ``arm``, in ascending order; () if there are none."""
        plain = {name: said_path(one) for one in self.optimizers for name in (said_path(one), one)}
        found = parse_lists("lrs", self.lrs, {**plain, **{one.name: one.name for one in self.arms}}, float)
        for rate in (one for some in found.values() for one in some):
            if not 0 < rate <= MAX_LR:
                raise UsageError(f"lrs must be > 0 and <= {MAX_LR:g}, got {rate:g}")
        return found.get(arm, found.get("", ()))

    def folder(self) -> Path:
        """Return the folder of the study."""
        sizes = "-".join(f"b{size}" for size in self.batch_sizes)
        return self.out or Path("runs") / f"{self.kind()}-{self.base.data_label()}-{sizes}"


def parse_lists(
    name: str, texts: tuple[str, ...], keys: Mapping[str, str], kind: type[Number]
) -> dict[str, tuple[Number, ...]]:
    """Return numbers by key, in ascending order: "8" has the key "", and "lars=4,8" the key of lars.

    LOW:HIGH:xFACTOR stands for numbers that are a factor apart, as in 4:64:x2 or 4:64:xsqrt2.

    Args:
        name: name of the option, for errors.
        texts: values of the option.
        keys: keys by the names that texts may use.
        kind: ``int`` or ``float``.

    Raises:
        UsageError: a text has another form, a name is unknown, or a number appears twice.
    """
    found: dict[str, list[Number]] = {}
    for text in texts:
        owner, equals, values = str(text).rpartition("=")
        if equals and owner not in keys:
            raise unknown(f"name in {name}", owner, list(keys))
        numbers: list[Number] = []
        for value in values.split(","):
            low, colon, rest = value.strip().partition(":")
            high, _, factor = rest.partition(":x")
            try:
                ends: list[Any] = [parse_number(kind, end) for end in ([low, high] if colon else [low])]
                if colon:
                    apart = values_apart(ends[0], ends[1], factor) if min(ends) > 0 else []
                    if not apart:
                        raise ValueError
                    ends = [round(one) if kind is int else rounded(one) for one in apart]
            except ValueError:
                wanted = "integers" if kind is int else "numbers"
                example = next(iter(keys), "NAME")
                raise UsageError(
                    f"{name} must be {wanted}, LOW:HIGH:xFACTOR as 4:64:x2 or 4:64:xsqrt2, or {example}=A,B,C for one "
                    f"alone, got {text!r}"
                ) from None
            numbers += ends
        mine = found.setdefault(keys[owner] if equals else "", [])
        for number in numbers:
            if number in mine or not math.isfinite(number):
                raise UsageError(f"{name} must be different numbers, got {' '.join(map(str, texts))}")
            mine.append(number)
    return {key: tuple(sorted(mine)) for key, mine in found.items()}
