"""Additions of the site to the pages as they are written: figures for both themes, examples, and the commands' help."""

from __future__ import annotations

import argparse
import re
from html import unescape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
EXAMPLES = DOCS.parent / "examples"
WIDE, SHORT = 5, 24
"""Columns of a wide table, and characters of a cell that fit beside others in it."""


def on_page_markdown(markdown: str, *, page: Any, **kwargs: Any) -> str:
    folder = (DOCS / page.file.src_uri).parent
    markdown = re.sub(r"!\[([^\]]*)\]\(([^)\s]+)\.svg\)", lambda m: _both_themes(m, folder), markdown)
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    if "<!-- examples -->" in markdown:
        markdown = markdown.replace("<!-- examples -->", examples())
    return markdown


def on_page_content(html: str, **kwargs: Any) -> str:
    """Short cells of wide tables stay on one line, so that a narrow screen scrolls the table and rows can be read."""
    return re.sub(r"<table>.*?</table>", _wide_table, html, flags=re.S)


def _wide_table(match: re.Match[str]) -> str:
    wide = match[0].count("<th") - match[0].count("<thead") >= WIDE
    return re.sub(r"<td([^>]*)>(.*?)</td>", _cell, match[0], flags=re.S) if wide else match[0]


def _cell(match: re.Match[str]) -> str:
    attributes, inner = match.groups()
    short = len(unescape(re.sub(r"<[^>]+>", "", inner))) <= SHORT
    return f'<td class="short"{attributes}>{inner}</td>' if short else match[0]


def _both_themes(match: re.Match[str], folder: Path) -> str:
    """A figure that has a dark twin, as phi.svg has phi-dark.svg: each is shown in its own theme."""
    text, path = match.groups()
    if not (folder / f"{path}-dark.svg").is_file():
        return match[0]
    return f"![{text}]({path}.svg#only-light)\n![{text}]({path}-dark.svg#only-dark)"


def examples() -> str:
    """The README of the examples without its title, and under it each script that it links to."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8").partition("\n")[2]
    names = dict.fromkeys(re.findall(r"\]\((\w+)\.py\)", text))
    text = re.sub(r"\]\((\w+)\.py\)", r"](#\1)", text)
    scripts = [
        f"## {name}.py {{#{name}}}\n\n```python\n{(EXAMPLES / f'{name}.py').read_text(encoding='utf-8')}```"
        for name in names
    ]
    return "\n\n".join([text, *scripts])


def commands() -> str:
    """Every command with its options, from the parser that reads them."""
    from tvlars.cli._commands import make_parser

    chosen = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return "\n\n".join(_command(name, parser) for name, parser in chosen.choices.items())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    places = [a.metavar or a.dest for a in parser._actions if not a.option_strings]
    usage = " ".join(["tvlars", name, *map(str, places), "[options]"])
    parts = [f"## tvlars {name} {{#tvlars-{name}}}", str(parser.description), f"```text\n{usage}\n```"]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.dest != "help" and a.help != argparse.SUPPRESS]
        if not actions:
            continue
        title = str(group.title)
        if title not in ("positional arguments", "options"):
            parts.append(f"### {title[0].upper()}{title[1:]} {{#tvlars-{name}-{_slug(title)}}}")
        parts.append("\n\n".join(_option(action, parser) for action in actions))
    return "\n\n".join(parts)


def _option(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    many = " ..." if action.nargs == "+" else ""
    flags = ", ".join(f"`{flag}{value}{many}`" for flag in action.option_strings) or f"`{action.metavar}{many}`"
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    text = re.sub(r"([*_<>])", r"\\\1", text)
    return f"{flags}\n:   {text or '-'}"


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
