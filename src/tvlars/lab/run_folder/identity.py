"""What makes two runs the same: the options that decide it, the plan, and the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvlars.lab.config import MEANS, TrainConfig
from tvlars.lab.data.fingerprint import Fingerprint, difference_of_names
from tvlars.lab.data.place import FOLDER_PREFIX, same_folder
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.record import MODEL, read_object
from tvlars.plan import Plan

FINGERPRINT = "fingerprint"
"""Where model.json, and the manifest of a checkpoint, have the fingerprint of the data."""


def identity(config: TrainConfig, plan: Plan) -> dict[str, dict[str, Any]]:
    """Return what has to be the same in a run that goes on: options and plan, as JSON has them."""
    options = {name: value for name, value in json.loads(config.to_json()).items() if name not in MEANS}
    return {"config": options, "plan": {"steps": plan.total_steps, "steps_per_epoch": plan.steps_per_epoch}}


def check_same(
    there: dict[str, Any],
    config: TrainConfig,
    plan: Plan,
    fingerprint: Any,
    sentence: str,
    same_data: Callable[[], None],
) -> None:
    """Raise ``UsageError`` where ``there``, the :func:`identity` of a run, is not that of ``config`` and ``plan``.

    Options that an earlier version had not are what they are by default. ``fingerprint`` is that of its data as JSON;
    ``sentence`` is the error's, up to the part that differs; ``same_data`` is called when the options are the same.
    """
    here = identity(config, plan)
    for part in ("config", "plan"):
        stored = there[part]
        if part == "config":
            known = Fingerprint.from_json(fingerprint) is not None
            stored = _at_one_place({**identity(TrainConfig(), plan)[part], **stored}, config, known)
        if said := differences(stored, here[part]):
            raise UsageError(f"{sentence} {part} is another: {said}")
        if part == "config":
            same_data()


def _at_one_place(there: dict[str, Any], config: TrainConfig, known_by_content: bool) -> dict[str, Any]:
    """Return the options ``there`` with the spelling of ``config`` for a folder of images that is the same: one that is
    known by its content, a fingerprint, may lie elsewhere by now, else its place tells."""
    data = there.get("data")
    if not (isinstance(data, str) and data.startswith(FOLDER_PREFIX) and config.data.startswith(FOLDER_PREFIX)):
        return there
    same = known_by_content or data == config.data or same_folder(data, config.data_dir, config.data, config.data_dir)
    return {**there, "data": config.data} if same else there


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Return every value that is not the same, in words; "" where all are. Means that an earlier version had among what
    a run is play no part."""
    names = [name for name in {**there, **here} if name not in MEANS and there.get(name) != here.get(name)]
    return ", ".join(f"{name} {there.get(name)!r} there, {here.get(name)!r} here" for name in names)


def check_data(where: Path, stored: Any, here: Fingerprint, tell: Callable[[str], None] = lambda text: None) -> None:
    """Raise ``UsageError`` where a run that is kept in ``where`` was on other data.

    ``stored`` is the fingerprint of its data as JSON, None of a version that kept none; ``tell`` hears what was not
    compared.
    """
    there = Fingerprint.from_json(stored)
    if there is None:
        tell(f"{where.name} does not say which data it is of, so that they could not be compared with those here")
    elif said := there.difference(here):
        raise UsageError(f"data must be as they were when the run of {where} began, but have changed: {said}")
    elif said := there.uncompared(here):
        tell(said)


def check_data_of(folder: Path, data: Fingerprint) -> None:
    """Raise ``UsageError`` where the run in ``folder``, if there is one, was on other data than ``data``."""
    facts = read_object(folder / MODEL)
    if FINGERPRINT in facts:
        check_data(folder, facts[FINGERPRINT], data)
    elif isinstance(names := facts.get("class_names"), list) and (said := difference_of_names(names, data.class_names)):
        raise UsageError(f"data must be as they were when the run of {folder} began, but have changed: {said}")
