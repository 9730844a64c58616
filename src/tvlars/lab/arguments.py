"""Arguments of users' classes and functions: text to values and back, checked against a signature."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tvlars.lab.errors import UsageError, unknown

WORDS = {"true": True, "false": False, "none": None}
OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parse_arguments(text: str, what: str) -> dict[str, Any]:
    """Return the arguments of a text such as ``lr=0.002 betas=(0.9, 0.95) foreach=false``.

    Values are literals of Python; any other value is text. Spaces or commas separate arguments.

    Args:
        text: the arguments.
        what: name of the option, for errors, as in "optimizer_options".

    Raises:
        UsageError: a part is not NAME=VALUE, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for part in split_outside(text, " ,\t\n"):
        name, equals, value = part.partition("=")
        name = name.replace("-", "_")
        if not (equals and name.isidentifier() and value):
            raise UsageError(f"{what} must be NAME=VALUE each, as in betas=(0.9,0.95) eps=1e-6, got {part!r}")
        if name in found:
            raise UsageError(f"{what} must have {name} once, got {text!r}")
        found[name] = parse_literal(value)
    return found


def parse_literal(text: str) -> Any:
    """Return the value of a literal of Python, true, false or none; return any other text unchanged."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def spelled_arguments(arguments: Mapping[str, Any]) -> str:
    """Return the text that :func:`parse_arguments` turns into ``arguments``, sorted by name."""
    return " ".join(f"{name}={arguments[name]!r}" for name in sorted(arguments))


def split_outside(text: str, separators: str) -> list[str]:
    """Split a text at ``separators`` outside brackets and quotes; empty parts are left out.

    >>> split_outside("lars,betas=(0.9,0.95)", ",")
    ['lars', 'betas=(0.9,0.95)']
    """
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in QUOTES:
            quote = sign
        depth += 0 if quote else (sign in OPENING) - (sign in CLOSING)
        if sign in separators and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return [part for part in (part.strip() for part in parts) if part]


def arguments_of(function: Any) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a function or class by name.

    If the constructor of a class takes any keyword, the parameters of its base class are added.
    """
    if not isinstance(function, type):
        return _named(inspect.signature(function))
    found: dict[str, inspect.Parameter] = {}
    for cls in function.__mro__:
        if "__init__" not in vars(cls) or cls is object:
            continue
        signature = inspect.signature(cls)
        found = {**_named(signature), **found}
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values()):
            break
    return found


def _named(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    return {name: one for name, one in signature.parameters.items() if one.kind in NAMED}


def check_arguments(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Raise ``UsageError`` with the nearest names unless all ``names`` are arguments ``known`` of ``what``."""
    for name in names:
        if name not in known:
            if not known:
                raise UsageError(f"{name} must not be given for {what}, which has no arguments")
            raise unknown(f"argument of {what}", name, known)
