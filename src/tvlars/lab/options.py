"""Options: kind, range, choices and role, stated once in a dataclass field, and conversion of text to values.

The command line, grids, search spaces and configs read options from here; none of them lists names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Flag, auto
from functools import cache
from pathlib import Path
from typing import Any

from tvlars._checks import check_number
from tvlars._reading import parse_number
from tvlars.lab.errors import UsageError, unknown
from tvlars.plan import CURVES, DEFAULTS, OTHER

KINDS = {"int": int, "float": float, "bool": bool, "str": str, "Path": Path}
USERS = "import path"
"""Name that all schedules given by import path share."""
WANTED = {int: "an integer", float: "a number", bool: "true or false", Path: "a path"}


class Is(Flag):
    """Kinds of options: their roles in a run, and how comparisons, tuning and tasks treat them.

    An option affects the training unless it is ``MEASURED``, ``MEANS`` or ``MACHINE``. Two runs are the same run if all
    options except ``MEANS`` and ``MACHINE`` are equal: one resumes the other, and a sweep does only one of them. Two
    runs belong to one arm of a report if the options that affect the training are equal, except batch size and seed.
    """

    TRAINED = 0
    MEASURED = auto()
    """Determines additional measurements."""
    MEANS = auto()
    """Determines how a run is done, not its result."""
    MACHINE = auto()
    """Determines the same for one machine: places of files, and tasks of the first process."""

    SAME = auto()
    """Has one value for all runs of a comparison."""
    AXIS = auto()
    """Varied by every comparison."""
    SETUP = auto()
    """Has one value for most runs of a comparison; if it differs, each arm names its value."""
    PLANNED = auto()
    """Chosen by :func:`tvlars.plan` if it is None."""
    TUNABLE = auto()
    """May be searched by tuning: options of optimizer, schedule or training."""

    CLASSIFICATION = auto()
    """Only for classification."""
    SELF_SUPERVISED = auto()
    """Only for self-supervised learning."""
    SEVERAL = auto()
    """Only affects runs with several processes."""
    LOADS = auto()
    """Determines which data are loaded."""
    COMMON = auto()
    """In the short help of commands."""
    OWN = auto()
    """Not copied when a run is made from the config of another."""


@dataclass(frozen=True)
class Option:
    """An option. ``name``, ``kind``, ``many`` and ``default`` come from the dataclass field itself."""

    help: str
    """Help of the command line; ``{choices}`` is replaced by the choices."""
    kinds: Is = Is.TRAINED
    section: str = ""
    """Title of the section of the help that begins with this option."""
    choices: Collection[str] = ()
    """Valid values; registries, such as models and data sets, may grow later."""
    closed: bool = True
    """True if values must be among ``choices``."""
    within: tuple[float, float | None] | None = None
    """Least and largest value."""
    above: bool = False
    """True if the least value itself is excluded."""
    below: bool = False
    """True if the largest value itself is excluded."""
    unit: str = ""
    optimizers: tuple[str, ...] = ()
    """Optimizers with this option; () for all."""
    schedules: tuple[str, ...] = ()
    """Schedules with this option; () for all."""
    not_in_grids: str = ""
    """Reason why grids must not set it; "" if they may."""
    metavar: str = ""
    """Placeholder of the value in the help, "" for the default of its kind."""
    parts: tuple[str, str] = ("", "")
    """Placeholder of a part of a text, and separator: the command line takes several words too, and joins them."""
    name: str = ""
    kind: type = str
    many: bool = False
    default: Any = None

    @property
    def text(self) -> str:
        """Help with the choices."""
        return self.help.replace("{choices}", ", ".join(self.choices))

    def plays_a_part(self, optimizer: str, schedule: str) -> bool:
        """Return whether the option affects runs of ``optimizer`` with ``schedule``."""
        if self.optimizers and optimizer not in self.optimizers:
            return False
        return not self.schedules or schedule_of(optimizer, schedule) in self.schedules

    def parse(self, text: str) -> Any:
        """Return the value of ``text``; raise ``UsageError`` if the text is of another kind."""
        try:
            return parse_value(self.kind, text)
        except ValueError as error:
            raise UsageError(f"{self.name} {error}") from None

    def convert(self, value: Any) -> Any:
        """Return a ``value`` from a file in the option's kind: YAML reads 1e-3 as text, and 4 may mean a float.

        Values of options with many values are lists, or text separated by spaces or commas.
        """
        if self.many and isinstance(value, (str, list)):
            return tuple(value.replace(",", " ").split() if isinstance(value, str) else value)
        if self.kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            try:
                return parse_number(float, value) if isinstance(value, str) else float(value)
            except (ValueError, OverflowError):
                return value
        return Path(value) if self.kind is Path and isinstance(value, str) else value

    def checked(self, value: Any) -> Any:
        """Return ``value`` in the form of a config: paths with ~ expanded, lists as tuples.

        Raises:
            UsageError: ``value`` is of another kind, out of range or not among the choices.
        """
        if not self.many:
            return None if value is None and self.default is None else self._checked(self.name, value)
        if isinstance(value, (str, dict)) or not isinstance(value, Iterable):
            raise UsageError(f"{self.name} must be a list, got {value!r}")
        values = tuple(self._checked(self.name, one) for one in value)
        if self.default and not values:
            raise UsageError(f"{self.name} must name at least one, got none")
        if len(set(map(repr, values))) != len(values):
            raise UsageError(f"{self.name} must not repeat, got {', '.join(map(str, values))}")
        return values

    def _checked(self, name: str, value: Any) -> Any:
        if self.choices and self.closed and (not isinstance(value, str) or value not in self.choices):
            raise unknown(name.removesuffix("s") if self.many else name, value, self.choices)
        if self.choices and isinstance(value, str) and value.endswith(".py"):
            raise UsageError(f"{name} must name an object in the file too, as {value}:name, got {value!r}")
        if self.kind is bool and not isinstance(value, bool):
            raise UsageError(f"{name} must be true or false, got {value!r}")
        if self.kind is Path:
            return as_path(name, value)
        if self.within is None:
            return value
        low, high = self.within
        if self.kind is float:
            try:
                ends = dict(open_low=self.above, open_high=self.below)
                check_number(name, value, low=low, high=high or math.inf, unit=self.unit, **ends)
            except ValueError as error:
                raise UsageError(str(error)) from error
        elif not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise UsageError(f"{name} must be an integer >= {low}, got {value!r}")
        elif high is not None and value > high:
            raise UsageError(f"{name} must be <= {high}, got {value}")
        return value


def option(default: Any, help: str, kinds: Is = Is.TRAINED, **more: Any) -> Any:
    """Return the field of an option with ``more`` attributes."""
    return field(default=default, metadata={"option": Option(help, kinds, **more)})


@cache
def options_of(cls: Any) -> dict[str, Option]:
    """Return the options of a dataclass by name, in the order of the fields."""
    found = {}
    for f in fields(cls):
        if "option" in f.metadata:
            many, kind = re.fullmatch(r"(tuple\[)?(\w+).*", str(f.type)).groups()  # type: ignore[union-attr]
            facts = dict(name=f.name, kind=KINDS[kind], many=many is not None, default=f.default)
            found[f.name] = replace(f.metadata["option"], **facts)
    return found


def check(config: Any) -> None:
    """Check each option of a config by itself, and replace it by the result of :meth:`Option.checked`."""
    cls: Any = type(config)
    for name, one in options_of(cls).items():
        object.__setattr__(config, name, one.checked(getattr(config, name)))


def check_names(cls: Any, values: Any) -> None:
    """Raise ``UsageError`` unless ``values`` is a mapping of names of fields of the dataclass ``cls``."""
    if not isinstance(values, dict):
        raise UsageError(f"a config must be an object of options, got {values!r}")
    known = [f.name for f in fields(cls)]
    for name in values:
        if name not in known:
            raise unknown("option", name, known)


def given(config: Any) -> dict[str, Any]:
    """Return the options of a config that differ from their defaults."""
    defaults = {f.name: f.default for f in fields(config)}
    return {name: value for name, value in asdict(config).items() if value != defaults[name]}


def option_name(options: Mapping[str, Option], text: object, what: str) -> str:
    """Return the name of an option that a grid spells with - or _.

    Raises:
        UsageError: the name is unknown, or not allowed in ``what``.
    """
    name = str(text).replace("-", "_")
    if name in options and (why := options[name].not_in_grids):
        raise UsageError(f"{name} must not be given in {what}: {why}")
    known = [known for known, one in options.items() if not one.not_in_grids]
    if not isinstance(text, str) or name not in known:
        raise unknown(f"option of {what}", name, known)
    return name


def parse_value(kind: type, text: str) -> Any:
    """Return ``text`` as a value of a ``kind``.

    Raises:
        ValueError: the text is of another kind; the message lacks the name, as in "must be a number, got 'x'".
    """
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is Path and not text:  # as from an unset variable: it would mean the working directory
            raise ValueError
        return parse_number(kind, text) if kind in (int, float) else kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"must be {WANTED[kind]}, got {text!r}") from None


def schedule_of(optimizer: str, schedule: str) -> str:
    """Return the schedule of runs of ``optimizer``, ``USERS`` for an import path; ``schedule`` may be "auto"."""
    if schedule == "auto" or optimizer == "tvlars":
        return DEFAULTS.get(optimizer, OTHER).schedule
    return schedule if schedule in CURVES else USERS


def as_path(name: str, value: Any) -> Path | None:
    """Return ``value`` as a path with ~ expanded; None stays.

    Raises:
        UsageError: ``value`` is neither text nor a path, or the home of ~ is unknown.
    """
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or "\0" in str(value):
        raise UsageError(f"{name} must be a path, got {value!r}")
    return expanded(name, Path(value))


def expanded(name: str, path: Path) -> Path:
    """Return ``path`` with ~ expanded; raise ``UsageError`` if the home is unknown."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{name} must be a path, got {str(path)!r}, in a home that is not known here") from error
