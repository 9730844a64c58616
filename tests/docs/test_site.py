"""The site: it builds without a warning, has every public name, and asks nothing of the network."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docs.blocks import ROOT
from tvlars.cli._commands import make_parser

pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install '.[docs]'")

PHONE = 390
FIGURES = ROOT / "docs" / "figures"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Seen(HTMLParser):
    """Anchors of a page, and the addresses that a browser fetches when it opens it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {str(found[name]) for name in ("id", "name") if found.get(name)}
        address = found.get("src") or (found.get("href") if tag == "link" and found.get("rel") != "canonical" else None)
        if address:
            self.fetched.append(address)


def docstrings() -> ModuleType:
    """The site's own module that reads docstrings; it is no package."""
    file = ROOT / "docs" / "_site" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("site_docstrings", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    anchors = set().union(*(Seen(page).anchors for page in (site / "reference").glob("*.html")))
    assert {*docstrings().public_names()} - anchors == set()


def test_every_command_has_a_page_with_all_of_its_options(site: Path) -> None:
    folder = site / "reference" / "cli"
    commands = parsers_below(make_parser())
    assert {page.stem for page in folder.glob("*.html")} == {"index", *commands}
    listed = (folder / "index.html").read_text(encoding="utf-8")
    for name, parser in commands.items():
        assert f'<td><a href="{name}.html">tvlars {name}</a></td>' in listed
        page = (folder / f"{name}.html").read_text(encoding="utf-8")
        for one in (parser, *parsers_below(parser).values()):
            assert f'id="{one.prog.replace(" ", "-")}"' in page
            flags = {flag for action in one._actions for flag in action.option_strings}
            missing = [flag for flag in flags if not re.search(rf"<code>{flag}[ <]", page)]
            assert not set(missing) - {"-h", "--help", "--help-all"}, name


def parsers_below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: one
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, one in action.choices.items()
    }


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    foreign = {a for page in pages for a in Seen(page).fetched if re.match(r"(https?:)?//", a)}
    address = re.compile(r"url\(['\"]?((?:https?:)?//[^)]+)")
    styles = {a for css in site.rglob("*.css") for a in address.findall(css.read_text(encoding="utf-8"))}
    assert foreign | styles == set()
    assert len(pages) > 30


def test_figures_are_drawn_for_both_themes_and_used(site: Path) -> None:
    scripts = [*FIGURES.glob("*.py"), *(ROOT / "benchmarks" / "studies").glob("*.py")]
    drawn = {name for file in scripts for name in re.findall(r'draw\("([\w-]+)"', file.read_text())}
    studies = {file.stem for file in (ROOT / "benchmarks" / "studies" / "protocols").glob("*.yaml")}
    drawn |= {f"study-{name}" for name in studies if (FIGURES / f"study-{name}.svg").is_file()}
    pages = "".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html"))
    assert {f.stem for f in FIGURES.glob("*.svg")} == drawn | {f"{name}-dark" for name in drawn}
    for name in drawn:
        assert f"figures/{name}.svg#only-light" in pages
        assert f"figures/{name}-dark.svg#only-dark" in pages


def test_docstrings_leave_no_rst(site: Path) -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").rglob("*.html"))
    assert [word for word in (".. math::", ":func:", ":class:", "=====", "Example:<") if word in reference] == []


# -- in a browser ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_phone(browser: Any, site: Path) -> None:
    tab = browser.new_context(offline=True, viewport={"width": PHONE, "height": 844}).new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    wide = []
    for page in sorted(site.rglob("*.html")):
        tab.goto(f"file://{page}")
        if tab.evaluate("document.documentElement.scrollWidth") > PHONE:
            wide.append(str(page.relative_to(site)))
    assert wide == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []


def test_search_works_from_a_folder(browser: Any, site: Path) -> None:
    tab = browser.new_context(offline=True, viewport={"width": 1440, "height": 900}).new_page()
    tab.goto(f"file://{site / 'reference' / 'plan.html'}")
    tab.wait_for_load_state("networkidle")
    tab.locator("input[name=query]").first.click()
    tab.locator("input[name=query]").first.press_sequentially("noise scale", delay=30)
    tab.locator(".md-search-result__item").first.wait_for(timeout=15_000)


SEARCHES = {
    "validation": "guides/validation",
    "wandb": "guides/loggers",
    "mlflow": "guides/loggers",
    "EMA": "guides/own-loop",
    "AMP": "guides/own-loop",
    "polynomial": "guides/schedules",
    "latex": "guides/runs-later",
    "huggingface": "guides/own-data",
    "own optimizer": "guides/own-optimizer",
    "custom model": "guides/own-model",
    "batch size": "guides/batch-size",
    "slurm": "many-processes",
}
"""Queries of readers, and the page that answers each."""
FIRST = 3


def test_search_leads_to_the_page_that_tells(browser: Any, site: Path) -> None:
    """The site's own search, since it alone knows how it ranks."""
    tab = browser.new_context(offline=True, viewport={"width": 1440, "height": 900}).new_page()
    found = {}
    for words in SEARCHES:
        tab.goto("about:blank")  # an address that differs in its query alone would not load the page anew
        tab.goto(f"file://{site / 'index.html'}?q={words}")
        links = tab.locator(".md-search-result__item > a")
        links.first.wait_for(state="attached", timeout=60_000)
        places = links.evaluate_all("all => all.map(a => new URL(a.href).pathname)")
        pages = [str(Path(place).relative_to(site).with_suffix("")) for place in places]
        found[words] = list(dict.fromkeys(pages))[:FIRST]
    assert {words: pages for words, pages in found.items() if SEARCHES[words] not in pages} == {}
