"""YAML without ambiguous numbers: a number means what a reader expects, or its line is refused.

PyYAML follows YAML 1.1, in which 0100 is 64, 1:30 is 90 and 1e-3 is text. Here


- integers are decimal, with optional underscores between thousands; floats may have an exponent without a point;
- numbers with a leading zero or in another base, and other underscores, are refused unless quotes make them text;
- true, false, yes, no, on and off are flags in all spellings of YAML 1.1; a date is text;
- aliases and merge keys may stand for a limited number of values; only the tags of plain values are allowed;
- a file is one document in UTF-8, or in UTF-16 with a byte order mark, and no mapping has a key twice.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tvlars._reading import read_bytes, reason
from tvlars.lab.errors import UsageError

MOST_BYTES = 2**20
MOST_VALUES = 100_000
"""Most values of a file after aliases are expanded."""
MOST_LEVELS = 32
MOST_DIGITS = 20
UNCLEAR = "tag:unclear"
PREFIX = "tag:yaml.org,2002:"
KINDS = ("null", "bool", "int", "float", "str", "seq", "map", "merge")

THOUSANDS = r"[1-9][0-9]{0,2}(_[0-9]{3})+"
INTEGER = re.compile(rf"[-+]?(0|[1-9][0-9]*|{THOUSANDS})")
FLOAT = re.compile(
    rf"[-+]?(\.[0-9]+|([0-9]+|{THOUSANDS})\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
BOOL = re.compile(r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF")
NULL = re.compile(r"~|null|Null|NULL|")
REFUSED = (
    (re.compile(r"[-+]?0[0-9_]+"), "has a leading zero, with which some programs read it as octal"),
    (re.compile(r"[-+]?0[xXoObB][0-9a-fA-F_]+"), "is a number of another base than 10"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "is a number of base 60 to some programs"),
    (re.compile(r"(?=.*_)[-+]?[0-9._]*[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9_]+)?"), "has underscores in odd places"),
)
"""Numbers that programs read in different ways, tried in this order if a text is not a plain number."""


def read_yaml(file: Path, what: str = "grid") -> Any:
    """Return the content of a YAML file; errors name the file as ``what``.

    Raises:
        UsageError: the file cannot be read, or has an ambiguous or invalid value; the message names the line.
    """
    try:
        content = read_bytes(file, most=MOST_BYTES)
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return parse_yaml(content.decode("utf-16" if utf16 else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _unreadable(what, file, f"it is not UTF-8 from byte {error.start + 1} on") from error
    except (OSError, ValueError) as error:
        raise _unreadable(what, file, reason(error)) from error


def parse_yaml(text: str) -> Any:
    """Return the content of a text in YAML.

    Raises:
        ValueError: the text has an ambiguous or invalid value; the message names the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_words_of(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(reason(error)) from error


def _unreadable(what: str, file: Path, why: str) -> UsageError:
    return UsageError(f"{what} must be a YAML file, but {str(file)!r} cannot be read: {why}")


def _words_of(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it is not YAML"
    if problem == "but found another document":
        problem = "it must be one document, but a second one starts here"
    if "'\\t'" in problem:
        problem += "; lines are indented with spaces"
    return f"line {error.problem_mark.line + 1}: {problem}" if error.problem_mark is not None else problem


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def get_single_node(self) -> Any:
        root = super().get_single_node()
        if root is not None:
            self._check_size(root)
        return root

    def _check_size(self, root: yaml.Node) -> None:
        """Refuse aliases that are endless or very long when expanded."""
        sizes: dict[int, int] = {}
        open_: set[int] = set()

        def size(node: yaml.Node, level: int) -> int:
            if id(node) in open_:
                raise _problem(node, "it contains itself")
            if level > MOST_LEVELS:
                raise _problem(node, "it is nested too deeply")
            if id(node) not in sizes:
                open_.add(id(node))
                inner = []
                if isinstance(node, yaml.SequenceNode):
                    inner = node.value
                elif isinstance(node, yaml.MappingNode):
                    inner = [one for pair in node.value for one in pair]
                sizes[id(node)] = 1 + sum(size(one, level + 1) for one in inner)
                open_.discard(id(node))
                if sizes[id(node)] > MOST_VALUES:
                    raise _problem(node, f"it stands for more than {MOST_VALUES:,} values")
            return sizes[id(node)]

        size(root, 0)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag == UNCLEAR:
            _refuse(node, node.value)
        kind = node.tag.removeprefix(PREFIX)
        if not node.tag.startswith(PREFIX) or kind not in KINDS:
            raise _problem(node, f"the tag {node.tag[:60]!r} is not allowed")
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != f"{PREFIX}merge":
                    if (key.tag, key.value) in seen:
                        raise _problem(key, f"{key.value} appears twice")
                    seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        _refuse(node, text)
        if not INTEGER.fullmatch(text):
            raise _problem(node, f"{text[:60]!r} is not an integer")
        if len(text) > MOST_DIGITS:
            raise _problem(node, f"an integer has {len(text)} digits")
        return int(text)

    def float_(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node))
        _refuse(node, text)
        if not (FLOAT.fullmatch(text) or INTEGER.fullmatch(text)):
            raise _problem(node, f"{text[:60]!r} is not a number")
        return float(text.replace(".", "", 1) if text.lower().lstrip("+-") in (".inf", ".nan") else text)


def _refuse(node: yaml.Node, text: str) -> None:
    if not (INTEGER.fullmatch(text) or FLOAT.fullmatch(text)):
        for pattern, why in REFUSED:
            if pattern.fullmatch(text):
                raise _problem(node, f"{text[:60]} {why}: write a plain decimal number, or put text in quotes")


def _problem(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


MERGE = re.compile("<<")
for _kind, _pattern in (("null", NULL), ("bool", BOOL), ("int", INTEGER), ("float", FLOAT), ("merge", MERGE)):
    _Loader.add_implicit_resolver(f"{PREFIX}{_kind}", re.compile(rf"(?:{_pattern.pattern})\Z"), None)
for _pattern, _ in REFUSED:
    _Loader.add_implicit_resolver(UNCLEAR, re.compile(rf"(?:{_pattern.pattern})\Z"), None)
_Loader.add_constructor(f"{PREFIX}int", _Loader.integer)
_Loader.add_constructor(f"{PREFIX}float", _Loader.float_)
