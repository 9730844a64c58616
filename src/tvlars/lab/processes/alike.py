"""Comparison of all processes before the first step: all must have been started for the same run.

Processes with different options, seeds, data or versions would train without an error, but towards different weights.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from tvlars import __version__
from tvlars.lab.config import TrainConfig, names_of
from tvlars.lab.data import FOLDER_PREFIX, ImageData
from tvlars.lab.data.fingerprint import SPLITS
from tvlars.lab.errors import UsageError, listed
from tvlars.lab.options import Is
from tvlars.lab.processes.processes import Processes
from tvlars.plan import Plan

SAID = 3
"""Most differences that an error names."""


def facts_of(config: TrainConfig, plan: Plan, data: ImageData, precision: str) -> dict[str, Any]:
    """Return the facts that must be the same in all processes of a run, as JSON values by names for messages.

    The data are compared by content, since their place may differ between machines.
    """
    own = names_of(Is.MACHINE)
    options = {name: value for name, value in json.loads(config.to_json()).items() if name not in own}
    name = "imagefolder" if config.data.startswith(FOLDER_PREFIX) else config.data
    held = data.fingerprint.as_json()
    splits = {
        f"{what} of the {word} images": value
        for split, word in SPLITS.items()
        if split in held
        for what, value in held.pop(split).items()
    }
    found = {
        "tvlars version": __version__,
        "torch version": torch.__version__,
        **options,
        "data": name,
        **{name.replace("_", " "): value for name, value in held.items()},
        **splits,
        "precision that is used": precision,
        **{f"{name} of the plan": value for name, value in plan.as_dict().items()},
    }
    facts: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return facts


def check_alike(processes: Processes, facts: dict[str, Any]) -> None:
    """Raise ``UsageError`` in every process unless ``facts`` are the same in all."""
    if said := difference(processes.gather(facts)):
        raise UsageError(f"all processes must do the same run, but {said}")


def difference(everyone: list[dict[str, Any]]) -> str:
    """Return the differences between the facts of processes, ordered by rank, in words; "" if there are none."""
    said = []
    for name in dict.fromkeys(name for facts in everyone for name in facts):
        ranks: dict[str, list[int]] = {}
        for rank, facts in enumerate(everyone):
            ranks.setdefault(repr(facts.get(name)), []).append(rank)
        if len(ranks) > 1:
            parts = [
                f"{value if len(value) <= 60 else f'{value[:57]}...'} on {_ranks(own)}" for value, own in ranks.items()
            ]
            said.append(f"{name} is {listed([*parts[:SAID], *['others elsewhere'] * (len(parts) > SAID)])}")
    return "; ".join([*said[:SAID], *[f"{len(said) - SAID} more differ"] * (len(said) > SAID)])


def _ranks(ranks: list[int]) -> str:
    some = ", ".join(map(str, ranks[:4]))
    return f"process{'es' if len(ranks) > 1 else ''} {some}{f' and {len(ranks) - 4} more' if len(ranks) > 4 else ''}"
