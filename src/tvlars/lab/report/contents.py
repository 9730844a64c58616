"""Contents of a report, independent of its file format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import plotly.graph_objects as go

from tvlars._reading import reason
from tvlars.lab.comparison.family import Declared, said_family
from tvlars.lab.comparison.paired import fewest_seeds
from tvlars.lab.comparison.paper import PaperTable, arm_notes, pairs_table, paper_table
from tvlars.lab.comparison.statistics import best_arms
from tvlars.lab.comparison.table import P_VALUE, against, pair_cells, table_cells
from tvlars.lab.comparison.verdict import remarks, untuned, with_verdicts
from tvlars.lab.registered.deviations import sentences
from tvlars.lab.report import figures, layers, sharpness, tuning
from tvlars.lab.report.arms import Arm, config_of
from tvlars.lab.report.parts import Part, parts_of, version_notes
from tvlars.lab.report.picture import picture_uri
from tvlars.lab.report.tables.intervals import Intervals, estimates, gaps
from tvlars.lab.report.tables.settings import settings
from tvlars.lab.report.tables.targets import Target, targets
from tvlars.lab.run_folder.loaded_run import LoadedRun


@dataclass(frozen=True)
class Section:
    """Figures and tables of a page. ``kind`` and ``detail`` determine the text above them; sections of one ``title``
    and ``part`` share one heading, one for each batch size ``size``."""

    kind: str
    title: str
    figures: list[go.Figure] = field(default_factory=list)
    detail: str = ""
    picture: str = ""
    """Data URI of a picture above the figures."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Table below the figures: cells by column."""
    intervals: list[Intervals] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    part: str = ""
    size: int | None = None

    def __bool__(self) -> bool:
        return bool(self.figures or self.picture or self.intervals or self.targets)


@dataclass
class Report:
    """Contents of a report. ``notes`` are sentences on problems of runs.

    ``declared`` is the family of comparisons with the margin of equivalence.
    """

    title: str
    command: str
    runs: list[LoadedRun]
    notes: list[str] = field(default_factory=list)
    declared: Declared = field(default_factory=Declared)

    def __post_init__(self) -> None:
        self.parts = parts_of(self.runs, self.declared.family, self.declared.margin)
        self.notes += version_notes(self.runs)
        self.tuned = tuning.sentences(self.runs, self.notes)
        self.registered = sentences(folder for run in self.runs for folder in run.folder.resolve().parents[:2])
        if len(self.parts) > 1:
            self.notes.append(
                "The runs have several data sets, tasks, lengths or kinds of accuracy: each has its own table and "
                "figures, and results are not compared between them."
            )
        for part in self.parts:
            columns = ["arm", "batch_size", "seed"]
            for row in part.frame[part.frame.duplicated(columns)].drop_duplicates(columns).to_dict("records"):
                self.notes.append(
                    f"{f'{part.title}: ' if part.title else ''}{row['arm']}, batch size {row['batch_size']:,}, seed "
                    f"{row['seed']} appears more than once: the table uses the last run."
                )

    @property
    def alone(self) -> bool:
        """True for the page of a single run, which has no means and nothing to compare."""
        return len(self.runs) == 1

    @property
    def finished(self) -> int:
        """Number of complete runs."""
        return sum(int(part.table["seeds"].sum()) for part in self.parts)

    @property
    def comparisons(self) -> int:
        """Number of pairs of arms in the declared family."""
        found = [part.differences["comparisons"].max() for part in self.parts if len(part.differences)]
        return int(max(found, default=0))

    @property
    def fewest_seeds(self) -> int:
        """Number of seeds from which a difference can be significant."""
        return fewest_seeds(self.comparisons)

    def family(self) -> str:
        """Return the tested pairs of arms in words."""
        return said_family(self.declared.family, self.comparisons)

    @property
    def of_tasks(self) -> list[str]:
        """Names of measures of users' tasks."""
        return list(dict.fromkeys(part.measure.name for part in self.parts if part.measure.of_task))

    @property
    def arms(self) -> list[Arm]:
        """Arms of all parts, one per name."""
        return list({arm.name: arm for part in reversed(self.parts) for arm in reversed(part.arms)}.values())[::-1]

    @property
    def batch_sizes(self) -> list[int]:
        """Batch sizes of all parts."""
        return sorted({size for part in self.parts for size in part.batch_sizes})

    def answers(self) -> list[str]:
        """Return the results, one sentence per batch size and part."""
        return [sentence for part in self.parts for sentence in part.answers()]

    def protocols(self) -> list[str]:
        """Return the sentences on limits of the numbers and on held-out images; if parts differ, each names its own."""
        found = []
        for p in self.parts:
            rates = untuned({arm.name: vars(config_of(arm.runs[0])) for arm in p.arms})
            found += [(p.title, one) for one in (*remarks(p.table, p.frame, p.measure), *rates, p.protocol)]
        times = Counter(one for _, one in found)
        said = [f"{title}. {one}" if title and times[one] < len(self.parts) else one for title, one in found]
        return list(dict.fromkeys([*said, *self.tuned, *self.registered]))

    def lead(self) -> str:
        """Return the data, model and task that all runs share."""
        return _common(self.runs)

    def tables(self) -> list[dict[str, Any]]:
        """Return the tables of each part (results of the arms, all paired differences, and settings), and the drawings
        of estimates and differences, one pair per batch size."""
        found = []
        for part in self.parts:
            rows = table_cells(part.table, part.differences, part.measure)
            pairs = pair_cells(part.differences, part.measure)
            spare = [P_VALUE] + [against(part.measure)] * (not pairs) + ["each seed", "runs"] * self.alone
            rows = [{name: cell for name, cell in row.items() if name not in spare} for row in rows]
            common = _common(part.runs) if len(self.parts) > 1 else ""
            arms = arm_notes([asdict(config_of(run)) for run in part.runs])
            about = {"title": part.title, "about": common if common != self.lead() else "", "arms": arms}
            measure = {"measure": part.measure.name, "of_images": not part.measure.of_task}
            drawn = {"drawn": list(_drawn(part)), "settings": settings(part.arms, part.batch_sizes)}
            found.append({**about, **measure, **drawn, "rows": rows, "pairs": pairs})
        return found

    def papers(self) -> list[tuple[str, PaperTable]]:
        """Return title and table for papers of each part."""
        found = []
        for part in self.parts:
            rows = with_verdicts(part.table, part.differences, part.measure)
            configs = [asdict(config_of(run)) for run in part.runs]
            found.append((part.title, paper_table(rows, part.measure, configs, part.differences)))
        return found

    def pair_papers(self) -> list[PaperTable]:
        """Return the table of paired differences for papers of each part that has some."""
        return [pairs_table(part.differences, part.measure) for part in self.parts if len(part.differences)]

    def sections(self) -> list[Section]:
        """Return all figures that the runs have data for; add to ``notes`` files that cannot be shown."""
        found = [replace(section, part=part.title) for part in self.parts for section in self._sections(part)]
        arms = [arm for part in self.parts for arm in part.arms]
        found.append(Section("tuning", "Tuning", tuning.figures(self.runs, arms, self.notes)))
        found.append(self._views())
        return list(filter(None, found))

    def topics(self) -> list[tuple[str, str, list[Section]]]:
        """Return the sections under their headings: part, title, and one section for each batch size."""
        found: dict[tuple[str, str], list[Section]] = {}
        for section in self.sections():
            found.setdefault((section.part, section.title), []).append(section)
        return [(part, title, sections) for (part, title), sections in found.items()]

    def facts(self) -> dict[str, str]:
        """Return the facts that all runs share."""
        every = [_facts(run) for run in self.runs]
        first = every[0].items() if every else ()
        return {name: said for name, said in first if all(one[name] == said for one in every)}

    def made(self) -> list[dict[str, Any]]:
        """Return name, colour and runs of each arm, with the facts in which runs differ; an unknown arm comes last."""
        found: dict[str, tuple[str, list[LoadedRun]]] = {}
        for arm in (arm for part in self.parts for arm in part.arms):
            found.setdefault(arm.name, (arm.color, []))[1].extend(arm.runs)
        if unknown := [run for run in self.runs if run.config is None]:
            found["of an unknown arm"] = ("", unknown)
        shared, made = self.facts(), []
        for name, (color, runs) in found.items():
            facts = [{key: said for key, said in _facts(run).items() if key not in shared} for run in runs]
            made.append({"name": name, "color": color, "runs": list(zip(runs, facts, strict=True))})
        return made

    def _sections(self, part: Part) -> list[Section]:
        found = []
        if len(part.batch_sizes) > 1:
            drawn = figures.over_batch_sizes(part.arms, part.table, part.measure)
            found.append(Section("sizes", "Over batch sizes", drawn))
        samples = sorted({int(count) for run in part.runs for count in run.sharpness["samples"].dropna()})
        counts = " or ".join(f"{count:,}" for count in samples)
        for size in part.batch_sizes:
            arms = [replace(arm, runs=arm.at(size)) for arm in part.arms]
            curve = figures.held_out_curve(arms, part.measure)
            reached = targets(arms, curve.column, part.measure)
            sharp = figures.sharpness(arms), counts, "", sharpness.table(arms), sharpness.intervals(arms)
            mine = [
                Section("training", "Curves", figures.training(arms, part.measure)),
                Section("targets", "Time to a target", detail=curve.title.lower(), targets=reached),
                Section("features", "Features", figures.features(arms), intervals=figures.evaluated(arms)),
                Section("sharpness", "Sharpness", *sharp),
                Section("layers", "Layers", layers.heat_maps(arms, self.notes)),
                Section("slices", "Loss slices", figures.slices(arms, self.notes)),
                Section("noise", "Gradient noise", figures.noise(arms, size)),
                Section("time", "Speed", intervals=[] if self.alone else figures.speed(arms)),
            ]
            found += [replace(section, size=size) for section in mine]
        return found

    def _views(self) -> Section:
        """Return the picture of the first run that has a valid one."""
        for run in self.runs:
            file = run.folder / "views.png"
            if os.path.lexists(file):
                try:
                    about = str(run.environment.get("views", ""))
                    return Section("views", "Views", [], about, picture_uri(file, run.folder))
                except (OSError, ValueError) as error:
                    self.notes.append(f"{file} cannot be shown: {reason(error)}.")
        return Section("views", "Views")


def _drawn(part: Part) -> Iterator[tuple[Intervals, Intervals]]:
    """Yield estimates and differences of a part for each batch size at which a run has finished."""
    colors, best = {arm.name: arm.color for arm in part.arms}, best_arms(part.table, part.measure.lower)
    for size in part.batch_sizes:
        here = part.table[(part.table["batch_size"] == size) & (part.table["seeds"] > 0)]
        pairs = part.differences[part.differences["batch_size"] == size]
        title = f"Batch size {size:,}" if len(part.batch_sizes) > 1 else ""
        if size in best:
            means = estimates(here, colors, part.measure, title)
            yield means, gaps(pairs, colors, part.measure, best[size], title)


def _facts(run: LoadedRun) -> dict[str, str]:
    """Return facts on how a run was made, in words."""
    said, missing = run.environment, "not recorded"
    versions, precision = said.get("versions"), said.get("precision")
    programs = (
        ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    )
    return {
        "command": str(said.get("command", missing)),
        "device": str(said.get("device", missing)) + (f", {precision}" if precision else ""),
        "hardware": f"{said.get('system', missing)}, {said.get('cpu_cores', '?')} CPU cores",
        "versions": programs or missing,
        "started": str(said.get("started", missing)),
    }


def _common(runs: list[LoadedRun]) -> str:
    """Return the data, model and task that all runs with this information share."""
    found = []
    for name in ("data", "model", "task"):
        values = {str(run.environment[name]) for run in runs if name in run.environment}
        if len(values) == 1:
            found.append(values.pop())
    return "; ".join(found)
