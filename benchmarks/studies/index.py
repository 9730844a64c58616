"""Table of all studies in docs/results/studies/index.md, made of their protocols: python benchmarks/studies/index.py"""

from __future__ import annotations

from pathlib import Path

from results import PAGES

from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.registered.record import digest_of

PAGE = Path(__file__).parents[2] / "docs" / "results" / "studies" / "index.md"
HEAD = "|---|---|---|---|---|\n"


def table() -> str:
    """Return a line for each protocol."""
    lines = []
    for file in sorted((Path(__file__).parent / "protocols").glob("*.yaml")):
        content = read_yaml(file)
        page = PAGES.get(file.stem.split("-")[0])
        name = file.stem if page is None else f"[{file.stem}](../{page}.md)"
        question = " ".join(content["question"].split())
        runs = PAGE.parent / f"{file.stem}.csv"
        done = str(len(runs.read_text(encoding="utf-8").splitlines()) - 1) if runs.is_file() else ""
        lines.append(f"| {name} | {question} | {content['stopping']['runs']} | {done} | `{digest_of(content)[:12]}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(HEAD)
    PAGE.write_text(f"{before}{HEAD}{table()}\n\n{rest.split(chr(10) * 2, 1)[1]}", encoding="utf-8")
