"""Studies that are done by their protocols, each resumable with the same command.

    python benchmarks/studies/run.py a3 --out /tmp/studies
    python benchmarks/studies/run.py a3 --out /tmp/studies --collect
    python benchmarks/studies/run.py a3

The protocol is protocols/NAME.yaml. Before the first run it is copied into the folder of the study. The first command
trains what is not over, by one process of one thread. The second one trains nothing, and writes the runs that are over
to docs/results/studies/NAME.csv. The third one makes the figure and the tables of the page from this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tvlars.lab import TrainConfig, sweep
from tvlars.lab.data import load_data
from tvlars.lab.experiments.grid import Grid
from tvlars.lab.experiments.yaml_file import read_yaml

HERE = Path(__file__).parent
ANALYSIS = ("within",)
"""Options of commands that say how results are read, not how runs are done."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(file.stem for file in (HERE / "protocols").glob("*.yaml")))
    parser.add_argument("--out", type=Path, help="folder of all studies; each has its own below")
    parser.add_argument("--collect", action="store_true", help="train nothing, write the CSV of the runs in --out")
    arguments = parser.parse_args()
    if arguments.collect and arguments.out is None:
        parser.error("--out must be given with --collect")
    torch.set_num_threads(1)
    file = HERE / "protocols" / f"{arguments.study}.yaml"
    protocol = read_yaml(file)
    if arguments.collect:
        collect(file, arguments.out / arguments.study)
        return
    if protocol["command"] != "robustness":
        parser.error(f"{arguments.study} is done by: tvlars protocol run {file}")
    if arguments.out is None:
        make_page(arguments.study, protocol)
        return
    folder = arguments.out / arguments.study
    record_protocol(file, folder)
    runs = runs_of(protocol)
    sweep(runs, folder / "runs", data=load_data(runs[0].data))


def collect(file: Path, folder: Path) -> None:
    """Write the runs of a study that are over to its CSV; raise ``SystemExit`` if they are of another protocol."""
    from results import RESULTS, rows_of

    copy = folder / "protocol.yaml"
    if not copy.is_file():
        raise SystemExit(f"{copy} must be there: it is copied into the folder of a study before its first run")
    if (mine := digest(read_yaml(copy))) != digest(read_yaml(file)):
        raise SystemExit(f"{copy} has another digest than {file}: these runs are of another protocol")
    rows = rows_of(folder, mine)
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows.to_csv(RESULTS / f"{file.stem}.csv", index=False)
    print(f"{len(rows)} runs in {RESULTS / f'{file.stem}.csv'}")


def make_page(name: str, protocol: dict[str, Any]) -> None:
    """Draw the figure of a study, and put its tables into its page."""
    from results import RESULTS, Robustness, draw, write_page

    frame = pd.read_csv(RESULTS / f"{name}.csv")
    found = Robustness(frame, list(protocol["arms"]), float(protocol["options"]["within"]))
    if not found.seeds:
        raise SystemExit(f"{RESULTS / f'{name}.csv'} must have all runs of a seed at least")
    draw(f"study-{name}", found.painter())
    planned = len(runs_of(protocol))
    seeds = " ".join(map(str, found.seeds))
    said = f"Protocol digest `{digest(protocol)}`. {len(found.frame)} of {planned} runs: seeds {seeds}."
    write_page(name, f"python benchmarks/studies/run.py {name}", f"{said}\n\n{found.tables()}")


def runs_of(protocol: dict[str, Any]) -> list[TrainConfig]:
    """Return all runs of a protocol of ``tvlars robustness``, seeds outermost."""
    base = {name: value for name, value in protocol["options"].items() if name not in ANALYSIS}
    grid = {"seed": protocol["seeds"], "lr": protocol["space"]["lr"]}
    return list(Grid.from_mapping({"base": {**base, "test": False}, "grid": grid, "arms": protocol["arms"]}).runs)


def record_protocol(file: Path, folder: Path) -> None:
    """Copy the protocol into the folder of its study; one that is there already must have the same digest."""
    mine, copy = digest(read_yaml(file)), folder / "protocol.yaml"
    if copy.is_file() and digest(read_yaml(copy)) != mine:
        raise SystemExit(f"{copy} has another digest than {file}: the protocol of a study that has begun stays")
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    print(f"protocol {file.stem}, digest {mine}", flush=True)


def digest(content: Any) -> str:
    """Return the sha256 of parsed content in canonical JSON, in which 8.0 and 8 are the same."""
    text = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    main()
