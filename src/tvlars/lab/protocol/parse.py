"""Parts of a protocol's file, and the config of its command that is made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

from tvlars._checks import check_number
from tvlars.lab.config import MAX_SEED, OPTIONS, TrainConfig
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.experiments.arms import Arm
from tvlars.lab.experiments.compare_config import USUAL
from tvlars.lab.experiments.grid import Grid, parse_arms
from tvlars.lab.options import options_of

CONFIGS = {
    "compare": ("tvlars.lab.experiments.compare_config", "CompareConfig"),
    "tune": ("tvlars.lab.experiments.tuning.config", "TuneConfig"),
    "robustness": ("tvlars.lab.experiments.robustness.result", "RobustnessConfig"),
    "scaling": ("tvlars.lab.experiments.scaling.result", "ScalingConfig"),
}
"""Module and class of each command's config; a sweep has a grid instead."""
SWEEP = "sweep"
COMMANDS = (*CONFIGS, SWEEP)
NEEDED = ("name", "question", "command", "seeds", "stopping")
TESTED = ("compare", "tune")
"""Commands whose runs are compared by tests, which need a declared family and margin."""
TUNING = {"seeds": "tune_seeds", **{name: name for name in ("trials", "sampler", "rerun", "widen", "prune", "spent")}}
"""Options of a tuning, by their names in the part ``tuning``."""
OWN_PARTS = ("base", "arms", "overrides", "seeds", "family", "margin", "space", "out", *TUNING.values())
"""Fields of configs that have their own part of the file, or none."""
NOT_OF_A_BASE = ("seed", "lr", "arm", "out", "resume", "protocol")
"""Options of a run that the part ``options`` must not have."""
PARTS = (
    *("name", "question", "command", "options", "arms", "space", "tuning", "seeds", "family", "margin"),
    *("power", "budgets", "stopping", "cuts", "measure"),
)


def check_parts(content: Any) -> dict[str, Any]:
    """Check that the parts of a protocol's file exist and have valid types, and return the content.

    Raises:
        UsageError: a part is unknown, missing or of another type.
    """
    if not isinstance(content, dict) or not content:
        raise UsageError(f"a protocol must be a mapping with {', '.join(NEEDED)}, got {content!r:.60}")
    for part in content:
        if part not in PARTS:
            raise unknown("part of a protocol", part, PARTS)
    for part in NEEDED:
        if content.get(part) in (None, "", [], {}):
            raise UsageError(f"a protocol must have {part}: its parts are {', '.join(PARTS)}")
    if not isinstance(content["command"], str) or content["command"] not in COMMANDS:
        raise unknown("command of a protocol", content["command"], COMMANDS)
    if content["command"] in TESTED:
        for part in ("family", "margin"):
            if content.get(part) is None:
                raise UsageError(f"a protocol of {content['command']} must have {part}, declared before the first run")
    for part in ("options", "tuning", "power", "arms"):
        if not isinstance(content.get(part) or {}, dict):
            raise UsageError(f"{part} must be a mapping of names to values, got {content[part]!r:.60}")
    for part in ("name", "question", "cuts", "measure"):
        if not isinstance(content.get(part, ""), str):
            raise UsageError(f"{part} must be text, got {content[part]!r:.60}")
    if not all(sign.isalnum() or sign in "-_." for sign in content["name"]) or not content["name"][0].isalnum():
        raise UsageError(f"name must be letters, digits, dots, hyphens and underscores, got {content['name']!r:.60}")
    if (budgets := content.get("budgets", "equal")) not in ("equal", "unequal"):
        raise UsageError(f"budgets must be equal (default) or unequal, got {budgets!r:.60}")
    if budgets == "unequal" and content["command"] != SWEEP:
        raise UsageError(f"budgets must be equal for {content['command']}, whose arms are compared, got unequal")
    _check_seeds(content)
    if content.get("margin") is not None:
        _check_positive("margin", content["margin"])
    _check_stopping(content["stopping"])
    for name, value in _named(content.get("power") or {}, ("difference", "deviation", "power"), "power").items():
        _check_positive(name, value)
    if content.get("power") and not {"difference", "deviation"} <= set(content["power"]):
        raise UsageError(
            "power must have difference and deviation, both in points, as {difference: 0.5, deviation: 0.4}"
        )
    return content


def _check_seeds(content: dict[str, Any]) -> None:
    """Check that seeds are different integers, and not tuning seeds."""
    seeds: dict[str, list[int]] = {}
    for what, values in (("seeds", content["seeds"]), ("seeds of tuning", (content.get("tuning") or {}).get("seeds"))):
        values = [] if values is None else values
        whole = isinstance(values, list) and all(type(one) is int and 0 <= one <= MAX_SEED for one in values)
        if not whole or len(set(values)) < len(values):
            raise UsageError(f"{what} must be a list of different integers from 0 to {MAX_SEED}, got {values!r:.60}")
        seeds[what] = values
    if both := [seed for seed in seeds["seeds"] if seed in seeds["seeds of tuning"]]:
        raise UsageError(f"seeds must be fresh ones, none of which is a tuning seed, got {both[0]} in both")


def _check_stopping(value: Any) -> None:
    if isinstance(value, dict):
        for name, most in _named(value, ("runs", "hours"), "stopping").items():
            _check_positive(f"{name} of stopping", most)
    elif not isinstance(value, str):
        raise UsageError(f"stopping must be text, or a mapping as {{runs: 18, hours: 1}}, got {value!r:.60}")


def _check_positive(name: str, value: Any) -> None:
    try:
        check_number(name, value, low=0.0, open_low=True)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _named(values: Mapping[Any, Any], known: Sequence[str], part: str) -> dict[str, Any]:
    """Return a part with underscores in its names; raise ``UsageError`` unless all names are ``known``."""
    found = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise unknown(f"option of {part}", key, known)
        if name in found:
            raise UsageError(f"{name} appears twice in {part}")
        found[name] = value
    return found


def family_of(content: dict[str, Any]) -> str:
    """Return the declared family as text: "all", an arm, or pairs as in "a:b,a:c"."""
    family = content.get("family", "all")
    if isinstance(family, list):
        pairs = [":".join(map(str, one)) if isinstance(one, list) else str(one) for one in family]
        return ",".join(pairs)
    return str(family)


def grid_of(content: dict[str, Any], digest: str) -> Grid:
    """Return the grid of a sweep: options are the base, the space is the grid."""
    space = _mapping(content.get("space") or {}, "space")
    values = {
        "base": {**(content.get("options") or {}), "protocol": digest},
        "grid": {**space, "seed": content["seeds"]},
        "arms": content.get("arms") or {},
    }
    return Grid.from_mapping({name: value for name, value in values.items() if value}, content["name"])


def config_of(content: dict[str, Any], digest: str) -> Any:
    """Return the config of the protocol's command.

    Raises:
        UsageError: an option is unknown, or its value is bad.
    """
    command = content["command"]
    kind = config_class(command)
    known = {f.name for f in fields(kind)}
    own, base = _options(kind, content)
    arms = tuple(parse_arms(content.get("arms") or {}))
    values: dict[str, Any] = {**own, "arms": arms, "seeds": tuple(content["seeds"])}
    for name, value in {"family": family_of(content), "margin": content.get("margin")}.items():
        if name in known and value is not None:
            values[name] = value
    if command == "tune":
        tuning = _named(content.get("tuning") or {}, tuple(TUNING), "tuning")
        values |= {TUNING[name]: _converted(kind, TUNING[name], value) for name, value in tuning.items()}
        values["space"] = tuple(space_texts(content.get("space") or {}, arms))
    elif content.get("space"):
        if "lrs" not in known:
            raise UsageError(f"space must not be given for {command}, which has no search: set options of each arm")
        values["lrs"] = tuple(_rates(content["space"]))
    first = (*values.get("optimizers", ()), *(arm.optimizer for arm in arms), *USUAL)[0]
    if command == "tune" and base.get("preset") is None:
        first = "tvlars"  # all options except a preset are options of tvlars too
    carried = {"batch_size": sizes[0]} if (sizes := values.get("batch_sizes")) else {}
    if command != "tune":
        carried["seed"] = content["seeds"][0]
    made = TrainConfig.from_mapping({**base, **carried, "optimizer": first, "protocol": digest})
    return kind(base=made, **values)


def config_class(command: str) -> Any:
    """Return the config class of a command other than a sweep."""
    module, name = CONFIGS[command]
    return getattr(import_module(module), name)


def _options(kind: Any, content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the command, and the options of its runs."""
    own, base = {}, {}
    mine = {f.name for f in fields(kind)} - set(OWN_PARTS)
    for key, value in (content.get("options") or {}).items():
        name = str(key).replace("-", "_")
        if name == "batch_size" and "batch_sizes" in mine and "batch_sizes" in options_of(kind):
            name = "batch_sizes"
        if name in own or name in base:
            raise UsageError(f"{name} appears twice in options")
        if name in mine:
            own[name] = _converted(kind, name, value)
        elif name in OPTIONS and name not in NOT_OF_A_BASE:
            base[name] = OPTIONS[name].convert(value)
        else:
            raise unknown("option of options", key, [*mine, *(one for one in OPTIONS if one not in NOT_OF_A_BASE)])
    return own, base


def _converted(kind: Any, name: str, value: Any) -> Any:
    one = options_of(kind).get(name)
    if one is None:
        raise UsageError(f"{name} is not an option of this protocol")
    if one.many and not isinstance(value, (str, list)):
        value = [value]
    value = one.convert(value)
    return tuple(map(str, value)) if one.many and one.kind is str else value


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{what} must be a mapping of options, as {{lr: [4, 8]}}, got {value!r:.60}")
    return {str(key): one for key, one in value.items()}


def space_texts(space: Any, arms: Sequence[Arm]) -> list[str]:
    """Return a search space as texts OPTION=SPACE and ARM.OPTION=SPACE.

    Args:
        space: a list of these texts, or a mapping from options to ranges ("4:64:log") or lists of values; the name of
            an arm is mapped to such a mapping for only this arm.
        arms: arms of the protocol.
    """
    if isinstance(space, list):
        return list(map(str, space))
    found, names = [], {arm.name for arm in arms}
    for key, value in _mapping(space, "space").items():
        if isinstance(value, dict) and key not in names:
            found += [f"{arm}.{key}={_text(one)}" for arm, one in value.items()]
        elif isinstance(value, dict):
            found += [f"{key}.{option}={_text(one)}" for option, one in value.items()]
        else:
            found.append(f"{key}={_text(value)}")
    return found


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _rates(space: Any) -> list[str]:
    """Return the learning rates of a study as texts: for all arms, or for one as "lars=4,8"."""
    if not isinstance(space, dict) or set(space) != {"lr"}:
        raise UsageError(f"space must have only lr, as {{lr: [4, 8, 16]}}, got {space!r:.60}")
    rates = space["lr"]
    if isinstance(rates, dict):
        return [f"{arm}={_text(some)}" for arm, some in rates.items()]
    return list(map(str, rates)) if isinstance(rates, list) else [str(rates)]
