"""Identity of a run: its options (without those that are only means), its plan and its data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvlars.lab.config import EARLIER_NAMES, MEANS, TrainConfig
from tvlars.lab.data.fingerprint import Fingerprint, difference_of_names
from tvlars.lab.data.place import FOLDER_PREFIX, same_folder
from tvlars.lab.errors import UsageError
from tvlars.lab.run_folder.record import MODEL, read_object
from tvlars.plan import DEFAULTS, Plan

FINGERPRINT = "fingerprint"
"""Entry of model.json, and of a checkpoint's manifest, with the fingerprint of the data."""


def identity(config: TrainConfig, plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the options and the plan that must not change when a run resumes, as JSON values."""
    options = {name: value for name, value in json.loads(config.to_json()).items() if name not in MEANS}
    return {"config": options, "plan": {"steps": plan.total_steps, "steps_per_epoch": plan.steps_per_epoch}}


def check_same(
    there: dict[str, Any], config: TrainConfig, plan: Plan, stored: Any, sentence: str, same_data: Callable[[], None]
) -> None:
    """Raise ``UsageError`` if ``there``, the :func:`identity` of a run, is not that of ``config`` and ``plan``.

    Options that an earlier version did not have count as their defaults. ``stored`` is the fingerprint of the stored
    run's data as JSON, and ``sentence`` the beginning of the error. ``same_data`` checks the data; it is called between
    options and plan, since other data have another plan.
    """
    here = identity(config, plan)
    options = {**identity(TrainConfig(), plan)["config"], **there["config"]}
    options["schedule"] = EARLIER_NAMES.get(options["schedule"], options["schedule"])
    known = Fingerprint.from_json(stored)
    options = _at_one_place(options, config, known is not None)
    if (known is None or known.validation is None) and options["validation"] is None and config.validation == 0:
        options["validation"] = config.validation  # an earlier version did not use the val folder
    if said := differences(options, here["config"]):
        raise UsageError(f"{sentence} config differs: {said}; take a new folder with --out")
    same_data()
    if said := differences(there["plan"], here["plan"]):
        raise UsageError(f"{sentence} plan differs: {said}; take a new folder with --out")


def _at_one_place(there: dict[str, Any], config: TrainConfig, known_by_content: bool) -> dict[str, Any]:
    """Return the options ``there``, with the path of ``config`` for a folder of images if it is the same folder.

    A folder that has a fingerprint (``known_by_content``) may have moved; one that has none is known by its place.
    """
    data = there.get("data")
    if not (isinstance(data, str) and data.startswith(FOLDER_PREFIX) and config.data.startswith(FOLDER_PREFIX)):
        return there
    same = known_by_content or data == config.data or same_folder(data, config.data_dir, config.data, config.data_dir)
    return {**there, "data": config.data} if same else there


def check_same_plan(there: dict[str, Any], plan: Plan, sentence: str) -> None:
    """Raise ``UsageError`` if the plan of a run of the same options and data has other values, by other defaults."""
    found = changed(there, plan.as_dict())
    if said := ", ".join(f"{name} {kept!r} there, {here!r} here" for name, (kept, here) in found.items()):
        raise UsageError(f"{sentence} plan differs: {said}, since defaults have changed; take a new folder with --out")


def changed(there: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs between the plans of two runs of the same options and data, by its name: other defaults."""
    others = ("dataset_size", "noise_scale", "lr_from", "users_schedule")  # data, and descriptions
    if here.get("optimizer") not in DEFAULTS or there.get("total_steps") not in (None, here.get("total_steps")):
        return {}  # a class has its own defaults, and other data are named elsewhere
    found = {}
    for name, value in here.items():
        kept = EARLIER_NAMES.get(str(there.get(name)), there.get(name))
        near = isinstance(kept, float) and isinstance(value, float) and abs(kept - value) <= 1e-9 * abs(value)
        if not (near or kept == value or None in (kept, value) or name in others):
            found[name] = kept, value
    return found


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Return all differences in words, "" if there are none; means that an earlier version stored are not compared."""
    names = [name for name in {**there, **here} if name not in MEANS and there.get(name) != here.get(name)]
    return ", ".join(f"{name} {there.get(name)!r} there, {here.get(name)!r} here" for name in names)


def check_data(where: Path, stored: Any, here: Fingerprint, tell: Callable[[str], None] = lambda text: None) -> None:
    """Raise ``UsageError`` if the run in ``where`` was trained on other data.

    ``stored`` is the fingerprint of its data as JSON, None if an earlier version wrote it. ``tell`` is called with a
    sentence if something could not be compared.
    """
    there = Fingerprint.from_json(stored)
    if there is None:
        tell(f"{where.name} does not say which data it is of, so that they could not be compared with those here")
    elif there.validation is None and here.validation is not None:
        raise UsageError(
            f"data must be as they were when the run of {where} began, which held out no images for validation: "
            "--validation 0 (validation=0) continues without"
        )
    elif said := there.difference(here):
        raise UsageError(f"data must be as they were when the run of {where} began, but have changed: {said}")
    elif said := there.uncompared(here):
        tell(said)


def check_data_of(folder: Path, data: Fingerprint) -> None:
    """Raise ``UsageError`` if there is a run in ``folder`` and it was trained on other data than ``data``."""
    facts = read_object(folder / MODEL)
    if FINGERPRINT in facts:
        check_data(folder, facts[FINGERPRINT], data)
    elif isinstance(names := facts.get("class_names"), list) and (said := difference_of_names(names, data.class_names)):
        raise UsageError(f"data must be as they were when the run of {folder} began, but have changed: {said}")
