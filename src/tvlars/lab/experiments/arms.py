"""Arms: named settings of an optimizer, made of options of a run and arguments of the optimizer's class."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvlars.lab.arguments import QUOTES, parse_literal, spelled_arguments, split_outside
from tvlars.lab.config import OPTIONS, check_arm_name
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.imported import said_path, short_name, spelled_path
from tvlars.lab.optimizers import arguments_of_optimizer, is_known, optimizer_name, options_of_optimizer


@dataclass(frozen=True)
class Arm:
    """An optimizer with its own options, under the name that tables and pages show.

    Args:
        name: at most 40 letters, digits, dots, hyphens and underscores.
        optimizer: one of the known names, or an import path.
        options: values by name, for options of ``TrainConfig`` and for arguments of the optimizer's class.

    Raises:
        UsageError: a name is bad, or the optimizer is unknown.
    """

    name: str
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_arm_name(self.name)
        object.__setattr__(self, "optimizer", optimizer_name(self.optimizer))
        if not isinstance(self.options, Mapping):
            raise UsageError(f"options of arm {self.name} must be a mapping of options, got {self.options!r:.60}")
        object.__setattr__(self, "options", {str(n).replace("-", "_"): v for n, v in self.options.items()})

    @classmethod
    def of(cls, optimizer: str) -> Arm:
        """Return an optimizer as an arm under its own name."""
        return cls(file_name(optimizer), optimizer)

    @property
    def plain(self) -> bool:
        """True if the arm is an optimizer under its own name, without further options."""
        return not self.options and self.name == file_name(self.optimizer)

    @property
    def key(self) -> str:
        """Unique name within an experiment: the arm's name, or the import path of a plain optimizer."""
        return self.optimizer if self.plain else self.name

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Return the arm of ``NAME=OPTIMIZER,OPTION=VALUE,...``; without ``NAME=`` its name is the optimizer's.

        Raises:
            UsageError: the text has another form, or a name in it is unknown.
        """
        first, *others = split_outside(text, ",") or [""]
        name, equals, optimizer = first.partition("=")
        found = optimizer_name(optimizer if equals else name, "optimizer of an arm")
        options = {}
        for other in others:
            option, equal, value = other.partition("=")
            option = option.strip().replace("-", "_")
            if not (option and equal and value):
                raise UsageError(f"arm must be NAME=OPTIMIZER,OPTION=VALUE,... as in cold=lars,lr=8, got {text!r}")
            if option in options:
                raise UsageError(f"arm must have {option} once, got {text!r}")
            options[option] = parse_setting(found, option, value.strip())
        return cls(name.strip() if equals else file_name(found), found, options)


def file_name(optimizer: str) -> str:
    """Return the name of an optimizer as part of a folder name."""
    return said_path(optimizer).replace(":", "-")


def is_argument(optimizer: str, name: str) -> bool:
    """Return True if ``name`` is an argument of the optimizer's class, False if it is an option of a run.

    An argument of an imported class takes precedence, for example alpha of ``torch.optim.RMSprop``.

    Raises:
        UsageError: ``name`` is neither.
    """
    if name in OPTIONS and is_known(optimizer):
        return False
    arguments = arguments_of_optimizer(optimizer)
    if name not in arguments and name not in OPTIONS:
        raise unknown(f"option of {said_path(optimizer)}", name, arguments, OPTIONS)
    return name in arguments


def parse_setting(optimizer: str, name: str, text: str) -> Any:
    """Return the value of ``text`` for an option of a run or an argument of the class; quotes around it are removed."""
    if is_argument(optimizer, name):
        return parse_literal(text)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES
    return OPTIONS[name].parse(text[1:-1] if quoted else text)


def as_options(optimizer: str, settings: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """Return ``settings`` as options of a run: arguments of the class are added to the optimizer_options ``base``.

    Raises:
        UsageError: a name is neither an option nor an argument.
    """
    options = {name: value for name, value in settings.items() if not is_argument(optimizer, name)}
    arguments = {name: value for name, value in settings.items() if name not in options}
    if arguments:
        given = options_of_optimizer(optimizer, options.get("optimizer_options", base))
        options["optimizer_options"] = spelled_arguments({**given, **arguments})
    return options


def owner_of(left: str, owners: Iterable[str], what: str, form: str) -> tuple[str, str]:
    """Split ``OWNER.OPTION`` at the longest of ``owners`` that fits, or at the last name of one, as in ``NAdam.lr``;
    return the option spelled with underscores.

    Raises:
        UsageError: no owner fits; the message begins with ``form``, the form that is expected.
    """
    names = sorted(owners, key=len, reverse=True)
    for text, owner in itertools.product((left, spelled_path(left)), names):
        if text.startswith(f"{owner}."):
            return owner, text.removeprefix(f"{owner}.").replace("-", "_")
    owner, dot, name = left.rpartition(".")
    if not (dot and owner and name):
        raise UsageError(f"{form}, got {left!r}")
    short = [one for one in names if short_name(one) == owner]
    spellings = {said_path(one) for one in short if said_path(one) != one}
    if len(full := [one for one in short if one not in spellings]) == 1:
        return full[0], name.replace("-", "_")
    raise unknown(what, owner, short_spellings(short or names))


def short_spellings(names: Iterable[str]) -> list[str]:
    """Return ``names`` without absolute file paths, whose short spellings are among the names too."""
    return sorted(name for name in names if said_path(name) == name)


def check_names_differ(names: Sequence[str], what: str) -> None:
    """Raise ``UsageError`` if a name appears twice."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{what} must have different names, but {name} appears twice: give one as NAME=OPTIMIZER")
