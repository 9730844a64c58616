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


def on_page_markdown(markdown: str, *, page: Any, config: Any, **kwargs: Any) -> str:
    folder = (DOCS / page.file.src_uri).parent
    markdown = re.sub(r"!\[([^\]]*)\]\(([^)\s]+)\.svg\)", lambda m: _both_themes(m, folder), markdown)
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", command_groups(config["nav"]))
    if match := re.search(r"<!-- command: (\w+) -->", markdown):
        parser = commands()[match[1]]
        markdown = markdown.replace(match[0], command_head(parser)) + command_options(parser)
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


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command by its name, with the parser that reads its options."""
    from tvlars.cli._commands import make_parser

    return _commands_of(make_parser())


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    chosen = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(chosen[0]) if chosen else {}  # type: ignore[arg-type]


def command_groups(nav: Any) -> str:
    """A table of commands for each group that the navigation has below the page of the command line."""
    parsers, parts = commands(), []
    for title, pages in _groups_beside("reference/cli/index.md", nav):
        names = [Path(page).stem for page in pages]
        rows = [f"| [tvlars {name}]({name}.md) | {parsers[name].description} |" for name in names]
        parts.append("\n".join([f"## {title}", "", "| command | what it does |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _groups_beside(page: str, nav: Any) -> list[tuple[str, list[str]]]:
    """The groups of pages that stand in the navigation beside ``page``."""
    if isinstance(nav, dict):
        return [group for below in nav.values() for group in _groups_beside(page, below)]
    if not isinstance(nav, list):
        return []
    if page in nav:
        return [group for entry in nav if isinstance(entry, dict) for group in entry.items()]
    return [group for entry in nav for group in _groups_beside(page, entry)]


def command_head(parser: argparse.ArgumentParser) -> str:
    """Return the description of a command, its usage, and its examples."""
    formatter = parser._get_formatter()
    places = [formatter._format_args(a, a.dest) for a in parser._actions if not a.option_strings]
    parts = [str(parser.description), f"```text\n{' '.join([parser.prog, *places, '[options]'])}\n```"]
    if said := getattr(parser, "examples", None) or parser.epilog:
        parts.append(f"```text\n{said.strip()}\n```")
    return "\n\n".join(parts)


def command_options(parser: argparse.ArgumentParser) -> str:
    """All options of a command, group by group, and those of the commands below it."""
    parts = [""]
    for group in sorted(parser._action_groups, key=lambda one: one is parser._optionals):  # general options are last
        actions = [action for action in group._group_actions if not _is_help(action)]
        actions = [action for action in actions if not isinstance(action, argparse._SubParsersAction)]
        if actions:
            title = {"positional arguments": "arguments"}.get(str(group.title), str(group.title))
            parts.append(f"## {title[0].upper()}{title[1:]}")
            parts.append("\n\n".join(_option(action, parser) for action in actions))
    for below in _commands_of(parser).values():
        parts += [f"## {below.prog}", command_head(below), command_options(below).replace("\n## ", "\n### ").strip()]
    return "\n\n".join(parts) + "\n"


def _is_help(action: argparse.Action) -> bool:
    return any(flag.startswith("--help") for flag in action.option_strings)


def _option(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    many = " ..." if action.nargs in ("+", "*") else ""
    flags = ", ".join(f"`{flag}{value}{many}`" for flag in action.option_strings) or f"`{action.metavar}{many}`"
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    text = re.sub(r"([*_<>])", r"\\\1", text)
    return f"{flags}\n:   {text or '-'}"
