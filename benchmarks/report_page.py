"""Size of the report of some runs, and the time in which a browser draws all of it.

    pip install '.[lab,dev]'
    python benchmarks/report_page.py RUN...

Wants Debian's chromium. Each load is a new page of one headless browser, from file://, until every figure is drawn.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tvlars.lab import report

DRAWN = "document.querySelectorAll('.js-plotly-plot .main-svg').length"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--loads", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        page = report(arguments.runs, Path(folder) / "report.html", command="tvlars report")
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        seconds: list[float] = []
        parts = None
        for _ in range(arguments.loads + 1):
            tab, start = browser.new_page(), time.perf_counter()
            tab.goto(page.as_uri())
            if parts is None:  # the first load counts what there is to be drawn
                tab.wait_for_timeout(10_000)
                parts = tab.evaluate(DRAWN)
                figures = tab.evaluate("document.querySelectorAll('.js-plotly-plot').length")
            else:
                tab.wait_for_function(f"{DRAWN} >= {parts}", polling=50, timeout=60_000)
                seconds.append(time.perf_counter() - start)
            tab.close()
        size = page.stat().st_size / 1e6
    print(f"{len(arguments.runs)} runs, {figures} figures, {size:.2f} MB")
    middle = statistics.median(seconds)
    print(f"drawn after {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} loads)")


if __name__ == "__main__":
    main()
