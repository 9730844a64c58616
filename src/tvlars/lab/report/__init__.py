"""Reports on runs and comparisons: pages, or tables in other formats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tvlars._reading import is_inside, is_regular
from tvlars.lab.comparison.comparison import Comparison
from tvlars.lab.comparison.family import ALL, Declared, check_family, check_margin
from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import write_whole
from tvlars.lab.files.marked import check_output, write_output
from tvlars.lab.report.contents import Report
from tvlars.lab.report.forms import FORMS, MARKS, page
from tvlars.lab.report.tuning import folders_of
from tvlars.lab.run_folder.loaded_run import LoadedRun, load_run
from tvlars.lab.run_folder.record import read_object, warnings_in
from tvlars.lab.run_folder.status import Status

__all__ = ["report", "write_report"]
MOST_NAMES = 6
"""Most arms that a title names."""


def report(
    folders: list[Path] | list[str],
    out: Path | str,
    *,
    command: str = "",
    refresh: int | None = None,
    family: str | None = None,
    margin: float | None = None,
) -> Path:
    """Write one page of runs and comparisons.

    Args:
        folders: folders of runs and of comparisons; a comparison's folder stands for all runs in it. Crashed and
            unfinished runs, and runs of other versions, are shown as far as possible, with a note.
        out: the file to write, a new one or an earlier report: a page (.html), or a table for papers in Markdown (.md)
            or LaTeX (.tex), or the numbers of the table in CSV (.csv).
        command: the command that the page names as its source.
        refresh: seconds until a browser loads the page again; None (default): never.
        family: pairs of arms to test, whose p-values are adjusted together: "all", the name of an arm to compare all
            others with, or pairs as in "tvlars:lars,tvlars:lamb". None (default): the family that the folder of a
            comparison or sweep declares, or all.
        margin: margin of equivalence, in points of accuracy, or in the unit of a task's measure. None (default): the
            folder's margin, or 0.3 points.

    Returns:
        The path of the page.

    Raises:
        UsageError: a folder is neither a run nor a comparison; ``out`` has another suffix, is a file other than a
            report, or cannot be written; ``family`` names an unknown arm, or ``margin`` is not > 0.
    """
    out = Path(out)
    suffix = out.suffix.lower()
    check_output(out, "out", tuple(FORMS), MARKS.get(suffix, ()))
    if refresh is not None and FORMS[suffix] is not page:
        raise UsageError(f"out must end in .html with watch, since only pages are reloaded, got {str(out)!r}")
    notes: list[str] = []
    by_place: dict[Path, LoadedRun] = {}
    for folder in map(Path, folders):
        is_run = any(os.path.lexists(folder / name) for name in ("epochs.csv", "steps.csv"))
        if not is_run and (is_regular(folder / "comparison.json", folder) or any(folder.glob("*/config.json"))):
            inside = _in_order([path for path in folder.iterdir() if path.is_dir()], folder)
            why = f"it is a link that leaves {folder}; name the run itself to include it"
            runs_in = [path for path in inside if is_inside(path, folder) or os.path.lexists(path / "config.json")]
            found = _load(runs_in, folder, why, notes)
            if not found:
                raise UsageError(f"{str(folder)!r} must be a run or comparison folder, but no run in it can be read")
        else:
            found = [load_run(folder)]
        by_place.update({run.folder.resolve(): run for run in found})
    runs = list(by_place.values())
    names = [run.config.arm_name if run.config else run.folder.name for run in runs]
    title = _title("Run" if len(runs) == 1 else "Tuning" if folders_of(runs) else "Runs", names)
    notes += _notes(runs)
    stored = _stored(folders, notes)
    declared = Declared(stored.family if family is None else family, check_margin(margin) or stored.margin)
    made = Report(title, command, runs, [*notes], declared)
    arms = [arm.name for part in made.parts for arm in part.arms]
    try:
        check_family(declared.family, arms)
    except UsageError as error:
        if family is not None:
            raise
        notes.append(f"All pairs of arms are tested instead of the declared family: {error}")
        made = Report(title, command, runs, notes, Declared(ALL, declared.margin))
    content = FORMS[suffix](made) if refresh is None else page(made, refresh)
    write_output(out, content.encode(errors="replace"), "out")  # a folder's name may be invalid UTF-8
    return out


def write_report(comparison: Comparison) -> Path:
    """Write report.html into the comparison's folder and return its path."""
    notes = [
        f"{run.optimizer}, batch size {run.batch_size:,}, seed {run.seed}: {run.status}, {run.note}."
        for run in comparison.runs
        if run.note
    ]
    folders = [comparison.folder / run.folder for run in comparison.runs]
    runs = _load(folders, comparison.folder, f"it is not in {comparison.folder}", notes)
    declared = Declared(comparison.family, comparison.margin)
    notes += _notes(runs, but=(Status.DIVERGED,))
    title = _title("Comparison", [run.optimizer for run in comparison.runs])
    made = Report(title, comparison.command, runs, notes, declared)
    file = comparison.folder / "report.html"
    write_whole(file, page(made).encode(errors="replace"))
    return file


def _title(what: str, names: list[str]) -> str:
    """Return the title of a page, with the names of the arms unless there are many."""
    arms = list(dict.fromkeys(names))
    return f"{what} of {', '.join(arms) or 'no runs'}" if len(arms) <= MOST_NAMES else f"{what} of {len(arms)} arms"


def _stored(folders: Sequence[Path | str], notes: list[str]) -> Declared:
    """Return the family and margin that all folders declare, or the comparisons and sweeps that their runs belong to;
    the defaults if they differ. Adds to ``notes`` if a file is damaged."""
    found = set()
    for folder in map(Path, folders):
        for file in (place / name for place in (folder, folder.parent) for name in ("comparison.json", "sweep.json")):
            if is_regular(file):
                try:
                    found.add(Declared.of(read_object(file)))
                except UsageError as error:
                    notes.append(f"{file} is damaged: {error}.")
                break
        else:
            found.add(Declared())
    return found.pop() if len(found) == 1 else Declared()


def _in_order(inside: list[Path], folder: Path) -> list[Path]:
    """Return the folders in a folder in the order of its comparison, or sorted if it is none."""
    stored = read_object(folder / "comparison.json").get("runs")
    rows = [run for run in stored if isinstance(run, dict)] if isinstance(stored, list) else []
    places = {str(run.get("folder")): number for number, run in reversed(list(enumerate(rows)))}
    return sorted(inside, key=lambda path: (places.get(path.name, len(places)), path.name))


def _load(folders: list[Path], inside: Path, why: str, notes: list[str]) -> list[LoadedRun]:
    """Load runs; add to ``notes`` runs that cannot be read or, with the reason ``why``, lie outside ``inside``."""
    runs = []
    for folder in folders:
        try:
            if not is_inside(folder, inside):  # a link could show any run of the reader
                raise UsageError(why)
            runs.append(load_run(folder))
        except UsageError as error:
            notes.append(f"{folder.name} is left out: {error}.")
    return runs


def _notes(runs: list[LoadedRun], but: tuple[Status, ...] = ()) -> list[str]:
    """Return sentences on problems of runs; one sentence for all runs that share a problem."""
    notes = []
    having: dict[str, list[str]] = {}
    for run in runs:
        if run.status == Status.FINISHED and not run.complete:
            notes.append(f"{run.folder.name} finished, but some results are missing; means do not include it.")
        elif run.config is None:
            notes.append(f"{run.folder.name} has no record of its options; tables and figures do not include it.")
        elif run.status not in (Status.FINISHED, *but):
            epochs = f"it has {len(run.epochs)} epoch{'s' * (len(run.epochs) != 1)}"
            notes.append(f"{run.folder.name} is {run.status}: {epochs}; means do not include it.")
        for problem in (*run.problems, *warnings_in(run.environment)):
            if "summary.json is missing" not in problem:
                having.setdefault(problem.removesuffix("."), []).append(run.folder.name)
    for problem, names in having.items():
        who = ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} other runs"
        notes.append(f"{who}: {problem}.")
    return notes
