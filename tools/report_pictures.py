"""Take the pictures of the report in docs/laboratory.md: ``python tools/report_pictures.py [COMPARISON]``.

COMPARISON is the folder of a comparison with layer statistics. Without one, 21 runs on digits are trained, which takes
some minutes. Wants Debian's chromium. ``report-light.png`` has the page down to the first curves, ``report-dark.png``
the layers over time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tvlars.lab import CompareConfig, Comparison, TrainConfig, compare
from tvlars.lab.report import write_report

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, MARGIN = 1200, 12
BASE = TrainConfig(data="digits", epochs=12, layer_stats=2, precision="32-true", compile=False)
CONFIG = CompareConfig(BASE, seeds=tuple(range(7)), batch_sizes=(256,))


def take(browser: Any, page: Path, theme: str, first: str, last: str) -> None:
    """Write the part of a page from the element ``first`` to the end of ``last`` as a picture."""
    tab = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=theme)
    tab.goto(page.resolve().as_uri(), timeout=120_000)  # the page has loaded when its figures are drawn
    top = tab.locator(first).first.bounding_box()["y"]
    box = tab.locator(last).first.bounding_box()
    clip = {"x": 0, "y": top - MARGIN, "width": WIDTH, "height": box["y"] + box["height"] - top + 2 * MARGIN}
    file = DOCS / f"report-{theme}.png"
    tab.screenshot(path=file, full_page=True, clip=clip)
    print(file)


def main() -> None:
    """Take both pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        made = Comparison.load(sys.argv[1]) if sys.argv[1:] else compare(replace(CONFIG, out=Path(folder) / "digits"))
        page = write_report(made)
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        take(browser, page, "light", "header", ".training .chart:nth-child(2)")
        take(browser, page, "dark", ".layers h2", ".layers .block")


if __name__ == "__main__":
    main()
