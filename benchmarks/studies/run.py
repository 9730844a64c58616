"""Studies that are done by their protocols, each resumable with the same command.

    python benchmarks/studies/run.py a3 --out /tmp/studies
    python benchmarks/studies/run.py a3 --out /tmp/studies --collect
    python benchmarks/studies/run.py a3

The first command does what is not over of protocols/a3.yaml, in the folder /tmp/studies/a3, by two processes of one
thread. The second one trains nothing, and writes finished runs to docs/results/studies/a3.csv; of tunings and
comparisons it writes the tests of differences to NAME-pairs.csv too. The third one makes figure and tables of the page
from these files; p1.py makes the waterfall of p1.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.protocol import Protocol
from tvlars.lab.registered.record import digest_of

HERE = Path(__file__).parent
PAGES = {"a2": "sharpness", "b1": "steps_to_target", "b3": "warmup"}
"""Modules that make the pages of studies in a way of their own, by the first letters of the studies' names."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(file.stem for file in (HERE / "protocols").glob("*.yaml")))
    parser.add_argument("--out", type=Path, help="folder of all studies; each has its own below")
    parser.add_argument("--collect", action="store_true", help="train nothing, write the CSV of the runs in --out")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (default: 2)")
    arguments = parser.parse_args()
    if arguments.collect and arguments.out is None:
        parser.error("--out must be given with --collect")
    out = None if arguments.out is None else arguments.out.resolve()
    os.chdir(HERE.parents[1])  # protocols name files from here
    protocol = Protocol.read(HERE / "protocols" / f"{arguments.study}.yaml")
    if out is None:
        make_page(protocol)
    elif arguments.collect:
        collect(protocol, out / protocol.name)
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
        protocol.run(out / protocol.name, workers=arguments.workers)


def collect(protocol: Protocol, folder: Path) -> None:
    """Write the finished runs of a study to its CSV, and the differences of arms to another one, if there are
    any; raise ``SystemExit`` if they are of another protocol."""
    from results import RESULTS, compared, rows_of

    copy = folder / "protocol.yaml"
    if not copy.is_file():
        raise SystemExit(f"{copy} must be there: it is copied into the folder of a study before its first run")
    if digest_of(read_yaml(copy)) != protocol.digest:
        raise SystemExit(f"{copy} has another digest than {protocol.digest}: these runs are of another protocol")
    rows = rows_of(folder, protocol.digest)
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows.to_csv(RESULTS / f"{protocol.name}.csv", index=False)
    print(f"{len(rows)} runs in {RESULTS / f'{protocol.name}.csv'}")
    if protocol.name == "a2":
        importlib.import_module("sharpness").collect(protocol, folder)
    elif protocol.command in ("tune", "compare"):  # p-values need the predictions, which are in the runs' folders
        pairs = compared(protocol, rows, folder).differences()
        pairs.to_csv(RESULTS / f"{protocol.name}-pairs.csv", index=False, float_format="%.6g")


def make_page(protocol: Protocol) -> None:
    """Draw the figure of a study, and put its tables into its page."""
    from results import RESULTS, draw, write_page

    if (module := PAGES.get(protocol.name[:2])) is not None:
        return importlib.import_module(module).make_page(protocol)
    made = {"robustness": robustness, "tune": tuned}.get(protocol.command)
    if made is None:
        raise SystemExit(f"{protocol.name} must be a study of robustness or tune, not of {protocol.command}")
    frame = pd.read_csv(RESULTS / f"{protocol.name}.csv")
    tables, painter, words, said = made(protocol, frame)
    figure = draw(f"study-{protocol.name}", painter, words)
    command = f"python benchmarks/studies/run.py {protocol.name}"
    write_page(protocol.name, command, f"Protocol digest `{protocol.digest}`. {said}\n\n{tables}\n\n{figure}")


Made = tuple[str, Callable[[Any, Any], None], str, str]
"""Tables, the function that draws the figure, the figure in words, and a sentence on the runs."""


def robustness(protocol: Protocol, frame: pd.DataFrame) -> Made:
    """Return the parts of a page of a study of ``robustness``."""
    from results import RESULTS, Robustness

    found = Robustness(frame, list(protocol.content["arms"]), protocol.config.within)
    if not found.seeds:
        raise SystemExit(f"{RESULTS / f'{protocol.name}.csv'} must have all runs of a seed at least")
    words = f"Accuracy over the learning rate for {len(found.arms)} schedules, and bars for their plateaus"
    seeds = " ".join(map(str, found.seeds))
    said = f"{len(found.frame)} of {protocol.check().runs} runs: seeds {seeds}."
    return found.tables(), found.painter(), words, said


def tuned(protocol: Protocol, frame: pd.DataFrame) -> Made:
    """Return the parts of a page of a study of ``tune``."""
    from results import RESULTS
    from tuned import Tuned

    pairs = pd.read_csv(RESULTS / f"{protocol.name}-pairs.csv")
    found = Tuned(frame, pairs, list(protocol.content["arms"]))
    words = f"Validation accuracy over the learning rate for {len(found.arms)} arms, and differences in test accuracy"
    spent = f"{len(found.trials)} runs of the search, {len(found.final)} final ones."
    return found.tables(), found.painter(), words, spent


if __name__ == "__main__":
    main()
