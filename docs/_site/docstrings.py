"""Docstrings as this package writes them, made ready for the site: formulas, tables, roles and examples.

The docstrings are written to be read in a terminal and in an editor. Four of their habits are not Markdown:
``.. math::``, tables ruled with ``====``, roles as ``:func:`plan```, and ``Example:`` with a session under it.
"""

from __future__ import annotations

import dataclasses
import html
import importlib
import inspect
import re
from functools import cache
from typing import Any

import griffe
from latex2mathml.converter import convert

MODULES = (
    *("tvlars", "tvlars.stats", "tvlars.sharpness", "tvlars.noise_scale", "tvlars.jax"),
    *("tvlars.lab", "tvlars.lab.ssl", "tvlars.lab.ssl.methods", "tvlars.lab.bench"),
)
"""Modules whose public names the reference has to hold."""
NAMES = {
    "tvlars.noise_scale": ("NoiseScale", "NoiseScaleMeter", "from_two_batch_sizes", "noise_scale"),
    "tvlars.lab.ssl.methods": ("BYOL", "BarlowTwins", "Method", "SimCLR", "VICReg"),
}
"""Of a module that has no ``__all__``, and of one with names for the laboratory's own use in it."""


@cache
def public_names() -> tuple[str, ...]:
    """Full paths of all public names."""
    return tuple(
        f"{module}.{name}"
        for module in MODULES
        for name in NAMES.get(module) or importlib.import_module(module).__all__
    )


@cache
def path_of(name: str) -> str | None:
    """The full path of the public name ``name``, as ``tvlars.TVLARS`` of TVLARS."""
    return next((path for path in public_names() if path.rpartition(".")[2] == name), None)


class ReadableDocstrings(griffe.Extension):
    """Turns each docstring into Markdown when it is read; a dataclass's options get their help texts."""

    def on_object(self, *, obj: griffe.Object, loader: Any, **kwargs: Any) -> None:
        if obj.is_class and isinstance(init := obj.members.get("__init__"), griffe.Function):
            for name in [p.name for p in init.parameters if p.name.startswith("_")]:
                del init.parameters[name]  # of a dataclass, and nobody's business
        if obj.docstring:
            obj.docstring.value = as_markdown(shown_by_help(obj) if obj.is_class else obj.docstring.value)
            if obj.is_class:
                obj.docstring.value = with_options(obj.docstring.value, option_helps(obj.path))

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        value = attr.value
        if isinstance(value, griffe.ExprCall) and str(value.function) == "option":
            attr.value = value.arguments[0]  # option(default, help): the signature wants the default alone


def shown_by_help(cls: griffe.Object) -> str:
    """Return the docstring of a class as ``help`` shows it: that of an optimizer takes texts from its base."""
    assert cls.docstring is not None
    try:
        found = getattr(importlib.import_module(cls.path.rpartition(".")[0]), cls.name)
    except (ImportError, AttributeError):  # of a nested class, or one that needs what is not installed
        return cls.docstring.value
    return inspect.getdoc(found) or cls.docstring.value


def with_options(text: str, helps: dict[str, str]) -> str:
    """A dataclass's docstring with its options as arguments, before what it raises."""
    if not helps:
        return text
    arguments = "\n".join(["Args:", *(f"    {name}: {said}" for name, said in helps.items())])
    head, raises, rest = text.partition("Raises:\n")
    return f"{head.rstrip()}\n\n{arguments}\n\n{raises}{rest}"


def option_helps(class_path: str) -> dict[str, str]:
    """The help texts of a dataclass's fields that the command line offers; empty for any other class."""
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return {}
    if not dataclasses.is_dataclass(cls):
        return {}
    told = {f.name: f.metadata["option"] for f in dataclasses.fields(cls) if "option" in f.metadata}
    helps = {name: one.text.replace("%%", "%") for name, one in told.items()}
    return {name: f"{text}{'' if text.endswith('.') else '.'}" for name, text in helps.items()}


def as_markdown(text: str) -> str:
    """A docstring's text as Markdown in Google's style."""
    text = re.sub(r"^(\s*)Example:[ \t]*$", r"\1Examples:", text, flags=re.M)
    text = re.sub(r"^( +(?:\w+, )*\w+,)\n +((?:\w+, )*\w+: )", r"\1 \2", text, flags=re.M)  # names over two lines
    text = re.sub(r"^( *(?:[\w, ]+: )?)>(?!>>)", r"\1\\>", text, flags=re.M)  # >= 0 is no quotation
    text = re.sub(r"^( *)Source: ", r"\1**Source:** ", text, flags=re.M)
    text = re.sub(r"^( *)\.\. math::(.*?)(?=\n\s*\n|\Z)", _formula, text, flags=re.M | re.S)
    text = re.sub(r"(?:^ *=+(?:  =+)+ *$.*?){2}^ *=+(?:  =+)+ *$", _table, text, flags=re.M | re.S)
    return re.sub(r":(?:func|class|meth|mod|attr):`~?([^`]+)`", _role, text)


def _formula(match: re.Match[str]) -> str:
    """LaTeX as MathML, which browsers draw by themselves; parts that \\qquad sets apart get a line each."""
    indent, latex = match[1], " ".join(match[2].split())
    aligned = "&" in latex
    parts = [latex] if aligned else [part.strip() for part in latex.split(r"\qquad")]
    wrapped = [rf"\begin{{align*}}{part}\end{{align*}}" if aligned else part for part in parts]
    lines = "".join(convert(part, display="block") for part in wrapped)
    return f'{indent}<div class="formula" title="{html.escape(latex)}">{lines}</div>'


def _table(match: re.Match[str]) -> str:
    """A table ruled with ====, whose columns begin where the rules do; a row with no first cell goes on the last."""
    lines = match[0].splitlines()
    starts = [m.start() for m in re.finditer(r"=+", lines[0])]
    rows: list[list[str]] = []
    for line in lines:
        if set(line.strip()) <= {"=", " "}:
            continue
        ends = [*starts[1:], None]
        cells = [line[a:b].strip().replace("|", r"\|") for a, b in zip(starts, ends, strict=True)]
        if rows and not cells[0]:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    rows.insert(1, ["---"] * len(starts))
    indent = " " * starts[0]
    return "\n".join(f"{indent}| {' | '.join(row)} |" for row in rows)


def _role(match: re.Match[str]) -> str:
    name = match[1].rpartition(".")[2]
    path = path_of(name)
    return f"`{name}`" if path is None or match[0].startswith(":meth:") else f"[`{name}`][{path}]"
