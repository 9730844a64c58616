"""The public names: documented argument by argument, with the defaults that it has, and changed on purpose alone.

``docs/api-signatures.txt`` lists it. After a change that is meant: ``python -m tests.test_public_api``, and a line in
the changelog; ``docs/versioning.md`` says which version may have it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tvlars

LIST = Path(__file__).parents[1] / "docs" / "api-signatures.txt"
MODULES = {
    "tvlars": None,
    "tvlars.optim": None,
    "tvlars.schedule": None,
    "tvlars.stats": None,
    "tvlars.sharpness": "sharpness",
    "tvlars.noise_scale": None,
    "tvlars.lab": "lab",
    "tvlars.lab.ssl": "lab",
    "tvlars.lab.bench": "lab",
    "tvlars.jax": "jax",
}
"""Public modules, and the extra that each needs."""
HEADER = """\
The public names of tvlars. Written by: python -m tests.test_public_api
"""
NO_DEFAULT = inspect.Parameter.empty


@pytest.mark.parametrize("name", MODULES)
def test_signatures_are_those_listed(name: str) -> None:
    module = imported(name)
    sections = LIST.read_text(encoding="utf-8").split("\n## ")[1:]
    listed = {title: body.split("\n") for title, _, body in (section.strip().partition("\n") for section in sections)}
    found = list(describe(module))
    if found != listed.get(name):
        change = difflib.unified_diff(listed.get(name, []), found, "docs/api-signatures.txt", "the code", lineterm="")
        pytest.fail(
            f"{name} is not what docs/api-signatures.txt says. If it was to change: python -m tests.test_public_api, "
            "a line in CHANGELOG.md, and see docs/versioning.md.\n" + "\n".join(change),
            pytrace=False,
        )


@pytest.mark.parametrize("name", MODULES)
def test_all_is_documented(name: str) -> None:
    """Names and methods have docstrings of their own; Args, where there are any, are the arguments, all of them."""
    problems = []
    for label, thing in everything(imported(name)):
        doc = inspect.getdoc(thing) or ""
        if not doc or doc.startswith(f"{thing.__name__}("):  # what dataclass makes of the fields is none
            problems.append(f"{label} has no docstring")
        if dataclasses.is_dataclass(thing):
            continue  # what a field is stands beside it
        arguments, documented = arguments_of(thing), args_section(doc)
        if documented and set(documented) != set(arguments):
            problems.append(f"{label} has arguments {', '.join(arguments)}, and Args has {', '.join(documented)}")
        elif len(arguments) > 1:
            unsaid = [argument for argument in arguments if not re.search(rf"\b{argument}\b", doc)]
            problems += [f"{label} does not say what {argument} is" for argument in unsaid]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", [name for name, extra in MODULES.items() if extra == "lab"])
def test_options_have_help(name: str) -> None:
    module = imported(name)
    for label, thing in public(module):
        if label.endswith("TrainConfig"):
            for field in dataclasses.fields(thing):
                assert field.metadata["option"].help, f"{label}.{field.name} has no help"


def test_defaults_are_those_that_docstrings_name() -> None:
    wrong, compared = [], 0
    for name in MODULES:
        try:
            module = whole(name)
        except ImportError:
            continue
        for label, thing in everything(module):
            arguments = arguments_of(thing)
            for argument, text in args_section(inspect.getdoc(thing) or "").items():
                said = default_in(text)
                default = arguments[argument].default if argument in arguments else None
                if said is None or default is None:  # where the signature has None, the docstring says what that is
                    continue
                compared += 1
                if default is NO_DEFAULT or default != said or isinstance(default, bool) != isinstance(said, bool):
                    wrong.append(f"{label}: {argument} is said to default to {said!r}, and does to {default!r}")
    assert not wrong, "\n".join(wrong)
    assert compared > 60


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("μ in [0, 1). Default 0.9. At 0 no buffer is kept.", 0.9),
        ("η > 0. Default 1e-3.", 1e-3),
        ("look ahead. Default False.", False),
        ("both norms are clamped to it; None (default) leaves them.", None),
        ('"all" (default) or "ratio".', "all"),
        ("optimizer steps. Default 10", 10),
        ("a pair. Default (0.9, 0.999).", (0.9, 0.999)),
    ],
)
def test_how_a_default_is_read(text: str, default: Any) -> None:
    found = default_in(text)
    assert found == ((default,) if default is None else default) or (default is None and found is None)


def test_what_the_core_says_is_ascii() -> None:
    """A console in cp1252 or ASCII raises at a Greek letter, and print(plan(...)) is a first thing to try."""
    package = Path(tvlars.__file__).parent
    said = []
    for file in package.rglob("*.py"):
        if {"lab", "cli"} & set(file.relative_to(package).parts):  # they write by way of lab.output
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        said += [
            f"{file.name}:{node.lineno} {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if not node.value.isascii()
        ]
    assert not said, "\n".join(said)
    assert str(tvlars.plan(512, 60_000, 15)).isascii()


# -- what is public -----------------------------------------------------------------------------------------


def imported(name: str) -> ModuleType:
    """Return the module with all its names, or skip the test if its extra is not installed."""
    try:
        return whole(name)
    except ImportError as error:
        if MODULES[name] is None:
            raise
        pytest.skip(f"the extra {MODULES[name]!r} is not installed ({error})")


def whole(name: str) -> ModuleType:
    """Import a module and all its names, which a lazy package imports only when they are asked for."""
    module = importlib.import_module(name)
    for public_name in getattr(module, "__all__", []):
        getattr(module, public_name)
    return module


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The names of a module: those of ``__all__``, or what it defines."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
        if not hasattr(value, "__constraints__")
    ]
    for name in sorted(getattr(module, "__all__", own)):
        yield f"{module.__name__}.{name}", getattr(module, name)


def everything(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public functions and classes, and the classes' methods."""
    for label, thing in public(module):
        if not callable(thing):
            continue
        yield label, thing
        if inspect.isclass(thing):
            for name, method in methods(thing).items():
                if not isinstance(method, property):
                    yield f"{label}.{name}", method


def methods(cls: type) -> dict[str, Any]:
    """Public methods and properties that are ours and not torch's, a NamedTuple's or an exception's."""
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        if owner.__module__.startswith("tvlars"):
            for name, value in vars(owner).items():
                if isinstance(value, classmethod):
                    value = getattr(cls, name)
                if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                    found[name] = value
    return dict(sorted(found.items()))


def signature(thing: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(thing)
    except ValueError:  # an exception has none
        return None


def arguments_of(thing: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Arguments by name, without self, and without what is inherited from outside of the package."""
    if getattr(thing, "_is_protocol", False):
        return {}
    if inspect.isclass(thing) and not (dataclasses.is_dataclass(thing) or "__init__" in ours(thing)):
        return {}
    found = signature(thing)
    parameters = dict(found.parameters) if found else {}
    parameters.pop("self", None)
    return parameters


def ours(cls: type) -> set[str]:
    return {name for owner in cls.__mro__ if owner.__module__.startswith("tvlars") for name in vars(owner)}


# -- how it is written down ---------------------------------------------------------------------------------


def describe(module: ModuleType) -> Iterator[str]:
    """A line for each public name, indented ones for methods."""
    for label, thing in public(module):
        name = label.rpartition(".")[2]
        if inspect.isclass(thing):
            bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
            yield f"class {name}" + (f" of {bases}" if bases else "")
            if arguments_of(thing):
                yield f"    {name}{written(thing)}"
            for method, value in methods(thing).items():
                yield f"    {method}" + ("" if isinstance(value, property) else written(value))
        elif callable(thing):
            yield f"{name}{written(thing)}"
        else:
            yield f"{name}: {type(thing).__name__}"


def written(thing: Callable[..., Any]) -> str:
    """The signature, the same in every version of Python."""
    found = signature(thing)
    assert found is not None
    words, before = [], None
    for name, one in found.parameters.items():
        if name == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and before not in (one.KEYWORD_ONLY, one.VAR_POSITIONAL):
            words.append("*")
        before = one.kind
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        default = repr(one.default)
        default = "..." if default.startswith("<") else default
        words.append(stars + name + annotation(": ", one.annotation))
        words[-1] += "" if one.default is NO_DEFAULT else f" = {default}"
    return f"({', '.join(words)})" + annotation(" -> ", found.return_annotation)


def annotation(prefix: str, value: Any) -> str:
    if value is NO_DEFAULT:
        return ""
    return prefix + (value if isinstance(value, str) else inspect.formatannotation(value))


def args_section(doc: str) -> dict[str, str]:
    """The arguments that a docstring's Args name, with what it says of each; options of groups aside."""
    match = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    if match is None:
        return {}
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?! )", inspect.cleandoc(match[1])):
        names, _, text = " ".join(entry.split()).partition(": ")
        if re.fullmatch(r"[\w*, ]+", names):  # options of groups aside, and lists below an entry
            entries.update({name.strip(" *"): text for name in names.split(",")})
    return entries


def default_in(text: str) -> Any:
    """The default that a docstring names; None where it names none, or one that is no literal, or None."""
    literal = r"""(\([^()]*\)|"[^"]*"|'[^']*'|[-+\w.]*\w)"""
    match = re.search(rf"Default {literal}", text) or re.search(rf"{literal} \(default\)", text)
    try:
        return ast.literal_eval(match[1]) if match else None
    except (ValueError, SyntaxError):
        return None


if __name__ == "__main__":
    parts = [f"\n## {name}\n" + "\n".join(describe(importlib.import_module(name))) + "\n" for name in MODULES]
    LIST.write_text(HEADER + "".join(parts), encoding="utf-8")
    print(LIST)
