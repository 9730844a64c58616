"""Settings of the arms: options and planned numbers, one column per arm and batch size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvlars.lab.config import OPTIONS
from tvlars.lab.imported import said_path
from tvlars.lab.optimizers import default_of, is_known
from tvlars.lab.options import Is
from tvlars.lab.report.arms import Arm, config_of, plan_number
from tvlars.lab.run_folder.loaded_run import LoadedRun

NAMES = {
    "lr": "learning rate (peak)",
    "bias_norm_lr_scale": "learning rate of biases and norms / peak",
    "delay_factor": "delay factor λ (per step)",
    "delay": "delay d_e (steps)",
    "alpha": "α",
    "gamma_min": "γ_min",
    "warmup_steps": "warm-up (steps)",
    "phi_scope": "scope of φ",
    "total_steps": "steps in all",
}
"""Names of settings that differ from the names of their options."""
LEFT_OUT = Is.AXIS | Is.MEASURED | Is.MEANS | Is.MACHINE | Is.SAME
PLANS = ("steps_per_epoch", "total_steps")
NONE = "–"


@dataclass(frozen=True)
class Setting:
    """Values of one setting by column. ``odd`` marks values that no other arm of the same batch size has, or fewer arms
    than another value."""

    name: str
    values: list[str]
    odd: list[bool]

    @property
    def differs(self) -> bool:
        """True if arms of one batch size differ in this setting."""
        return any(self.odd)


@dataclass(frozen=True)
class Settings:
    """Heads of the columns, which are name, colour and batch size, and the settings by row."""

    heads: list[tuple[str, str, str]]
    rows: list[Setting]

    @property
    def different(self) -> list[Setting]:
        """Settings whose values differ between columns; for a single column, all used settings."""
        if len(self.heads) == 1:
            return [row for row in self.rows if row.values[0] != NONE]
        return [row for row in self.rows if len(set(row.values)) > 1]

    @property
    def shared(self) -> list[tuple[str, str]]:
        """Name and value of the settings that all of several columns share, except unused ones."""
        alike = [row for row in self.rows if len(set(row.values)) == 1 and row.values[0] != NONE]
        return [(row.name, row.values[0]) for row in alike] if len(self.heads) > 1 else []


def settings(arms: Sequence[Arm], batch_sizes: Sequence[int]) -> Settings:
    """Return the settings of the arms at these batch sizes, each from its first run."""
    columns = [(arm, size, _values(runs[0])) for size in batch_sizes for arm in arms if (runs := arm.at(size))]
    rows = []
    for name in columns[0][2] if columns else ():
        values = [mine[name] for _, _, mine in columns]
        odd = []
        for (_, size, _), value in zip(columns, values, strict=True):
            counts = Counter(mine[name] for _, at, mine in columns if at == size)
            most = max(counts.values())
            odd.append(len(counts) > 1 and (counts[value] < most or [*counts.values()].count(most) > 1))
        rows.append(Setting(NAMES.get(name, name.replace("_", " ")), values, odd))
    if all(one == arm.name for (arm, _, _), one in zip(columns, rows[0].values if rows else (), strict=True)):
        rows = rows[1:]  # the heads name the optimizers
    return Settings([(arm.name, arm.color, f"{size:,}") for arm, size, _ in columns], rows)


def _values(run: LoadedRun) -> dict[str, str]:
    """Return the settings of a run in words, as applied: from the plan, the preset or its options."""
    config, found = config_of(run), {}
    preset = config.optimizer_preset()
    acting = {
        "layer_adaptation": preset.layer_adaptation,
        "adapt_bias_norm": preset.adapt_bias_norm,
        "label_smoothing": preset.label_smoothing or None,
        **preset.optimizer,
    }
    for name in ("optimizer", *(name for name, one in OPTIONS.items() if not one.kinds & LEFT_OUT), *PLANS):
        option, value = OPTIONS.get(name), run.plan.get(name)
        if value is None and option is not None:
            value = acting.get(name) if (given := getattr(config, name)) is None else given
            if option.optimizers and config.optimizer not in option.optimizers:
                value = None
            elif value is None and option.optimizers and is_known(config.optimizer):
                value = default_of(config.optimizer, name)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            value = plan_number(run, name)
        found[name] = NONE if name == "warmup_epochs" and run.plan.get("warmup_steps") is not None else _text(value)
    more = [f"{name}={value}" for name, value in preset.optimizer.items() if name not in OPTIONS]
    found["optimizer_options"] = " ".join([*more, config.optimizer_options or ""]).strip() or NONE
    return found


def _text(value: Any) -> str:
    if value is None or value != value:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e7 else f"{value:.4g}"
    return said_path(str(value))
