"""All processes of a run do the same run: what each was started with is compared before the first step.

Processes that were started with other options, seeds, data or versions would train without an error, each towards other
weights.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from tvlars import __version__
from tvlars.lab.config import TrainConfig, names_of
from tvlars.lab.data import FOLDER_PREFIX, ImageData
from tvlars.lab.errors import UsageError
from tvlars.lab.options import Is
from tvlars.lab.processes.processes import Processes
from tvlars.plan import Plan

SAID = 3
"""So many differences are said at most."""
PATIENCE = 30.0
"""Seconds that the first process waits until the others have heard that they cannot go on."""
_number = itertools.count()
"""Numbers the comparisons, the same in all processes."""


def facts_of(config: TrainConfig, plan: Plan, data: ImageData, precision: str) -> dict[str, Any]:
    """Return what has to be the same in all processes of a run, as JSON has it, by names that a user knows.

    The data are compared by what they hold, the number of processes by that of those which have met.
    """
    own = names_of(Is.MACHINE)
    options = {name: value for name, value in json.loads(config.to_json()).items() if name not in own}
    name = "imagefolder" if config.data.startswith(FOLDER_PREFIX) else config.data
    held = data.fingerprint.as_json()
    splits = {
        f"{what} of the {word} images": value
        for split, word in (("train", "training"), ("test", "test"))
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
        **{f"{name} of the plan": value for name, value in asdict(plan).items()},
    }
    facts: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return facts


def check_alike(processes: Processes, facts: dict[str, Any]) -> None:
    """Raise ``UsageError`` in every process unless ``facts`` are the same in all.

    They are exchanged through the store in which all have met: collectives of processes that differ may hang.
    """
    if not processes.several:
        return
    store: Any = dist.distributed_c10d._get_default_store()
    place = f"tvlars/alike/{next(_number)}"
    store.set(f"{place}/{processes.rank}", json.dumps(facts))
    if processes.first:
        everyone = [json.loads(store.get(f"{place}/{rank}")) for rank in range(processes.count)]
        store.set(f"{place}/said", json.dumps(difference(everyone)))
    said = json.loads(store.get(f"{place}/said"))
    if not said:
        return
    heard = store.add(f"{place}/heard", 1)
    until = time.monotonic() + PATIENCE
    while processes.first and heard < processes.count and time.monotonic() < until:  # the store may end with it
        time.sleep(0.01)
        heard = store.add(f"{place}/heard", 0)
    raise UsageError(f"all processes must do the same run, but {said}")


def difference(everyone: list[dict[str, Any]]) -> str:
    """How the facts of some processes, by rank, differ, in words; "" where they do not."""
    names = list(dict.fromkeys(name for facts in everyone for name in facts))
    different = [name for name in names if any(facts.get(name) != everyone[0].get(name) for facts in everyone)]
    said = [_said(name, [facts.get(name) for facts in everyone]) for name in different[:SAID]]
    more = [f"{len(different) - SAID} more differ"] * (len(different) > SAID)
    return "; ".join([*said, *more])


def _said(name: str, values: list[Any]) -> str:
    """ "lr is 1.0 on process 0 and 2.0 on processes 1, 2"."""
    by_value: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        by_value.setdefault(repr(value), []).append(rank)
    parts = [f"{_short(value)} on {_ranks(ranks)}" for value, ranks in by_value.items()]
    *first, last = [*parts[:SAID], *(["others elsewhere"] * (len(parts) > SAID))]
    return f"{name} is {', '.join(first)} and {last}"


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}..."


def _ranks(ranks: list[int]) -> str:
    some = ", ".join(map(str, ranks[:4]))
    return f"process{'es' if len(ranks) > 1 else ''} {some}{f' and {len(ranks) - 4} more' if len(ranks) > 4 else ''}"
