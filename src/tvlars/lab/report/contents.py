"""Contents of a report, independent of its file format."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import plotly.graph_objects as go

from tvlars._reading import reason
from tvlars.lab.comparison.family import Declared, said_family
from tvlars.lab.comparison.paired import fewest_seeds
from tvlars.lab.comparison.paper import PaperTable, arm_notes, pairs_table, paper_table
from tvlars.lab.comparison.table import P_VALUE, pair_cells, table_cells
from tvlars.lab.comparison.verdict import with_verdicts
from tvlars.lab.registered.deviations import sentences
from tvlars.lab.report import figures, layers, sharpness, tuning
from tvlars.lab.report.arms import config_of
from tvlars.lab.report.parts import Part, parts_of, version_notes
from tvlars.lab.report.picture import picture_uri
from tvlars.lab.run_folder.loaded_run import LoadedRun


@dataclass(frozen=True)
class Section:
    """Figures of a page under one heading. ``kind`` and ``detail`` determine the text above them."""

    kind: str
    title: str
    figures: list[go.Figure]
    detail: str = ""
    picture: str = ""
    """Data URI of a picture above the figures."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Table below the figures: cells by column."""


@dataclass
class Report:
    """Contents of a report. ``notes`` are sentences on problems of runs.

    ``declared`` is the family of comparisons, and the margin of their equivalence.
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
                "The runs are of several data sets, tasks, lengths or kinds of accuracy: each has a table and figures "
                "of its own, and nothing is compared between them."
            )
        for part in self.parts:
            columns = ["arm", "batch_size", "seed"]
            for row in part.frame[part.frame.duplicated(columns)].drop_duplicates(columns).to_dict("records"):
                self.notes.append(
                    f"{f'{part.title}: ' if part.title else ''}{row['arm']}, batch size {row['batch_size']:,}, seed "
                    f"{row['seed']} is there more than once: the table counts the last."
                )

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
        """Return in words which pairs of arms are tested."""
        return said_family(self.declared.family, self.comparisons)

    @property
    def of_tasks(self) -> list[str]:
        """Names of measures of users' tasks."""
        return list(dict.fromkeys(part.measure.name for part in self.parts if part.measure.of_task))

    def answers(self) -> list[str]:
        """Return the results, one sentence per batch size and part."""
        return [sentence for part in self.parts for sentence in part.answers()]

    def protocols(self) -> list[str]:
        """Return the sentences about images that were held out; with several kinds of them, each names its part."""
        said = [part.protocol for part in self.parts]
        if len(set(said)) > 1:
            said = [f"{part.title}. {part.protocol}" if part.title else part.protocol for part in self.parts]
        return list(dict.fromkeys([*said, *self.tuned, *self.registered]))

    def lead(self) -> str:
        """Return data, model and task of all runs, as far as they agree."""
        return _common(self.runs)

    def tables(self) -> list[dict[str, Any]]:
        """Return the table of each part: title, measure, rows of cells, and all paired differences."""
        found = []
        for part in self.parts:
            rows = table_cells(part.table, part.differences, part.measure)
            for row in rows:
                del row[P_VALUE]
            pairs = pair_cells(part.differences, part.measure)
            common = _common(part.runs) if len(self.parts) > 1 else ""
            arms = arm_notes([asdict(config_of(run)) for run in part.runs])
            about = {"title": part.title, "about": common if common != self.lead() else "", "arms": arms}
            measure = {"measure": part.measure.name, "of_images": not part.measure.of_task}
            found.append({**about, **measure, "rows": rows, "pairs": pairs})
        return found

    def papers(self) -> list[tuple[str, PaperTable]]:
        """Return title and table for papers of each part."""
        found = []
        for part in self.parts:
            rows = with_verdicts(part.table, part.differences, part.measure)
            settings = [asdict(config_of(run)) for run in part.runs]
            found.append((part.title, paper_table(rows, part.measure, settings, part.differences)))
        return found

    def pair_papers(self) -> list[PaperTable]:
        """Return the table of paired differences for papers of each part that has some."""
        return [pairs_table(part.differences, part.measure) for part in self.parts if len(part.differences)]

    def sections(self) -> list[Section]:
        """Return all figures that the runs have data for; add to ``notes`` files that cannot be shown."""
        found = []
        for part in self.parts:
            start = f"{part.title}: " if part.title else ""
            found += [replace(section, title=start + section.title) for section in self._sections(part)]
        arms = [arm for part in self.parts for arm in part.arms]
        found.append(Section("tuning", "Tuning", tuning.figures(self.runs, arms, self.notes)))
        found.append(self._views())
        return [section for section in found if section.figures or section.picture]

    def _sections(self, part: Part) -> list[Section]:
        found = []
        if len(part.batch_sizes) > 1:
            found.append(
                Section("sizes", "Over batch sizes", figures.over_batch_sizes(part.arms, part.table, part.measure))
            )
        samples = sorted({int(count) for run in part.runs for count in run.sharpness["samples"].dropna()})
        counts = " or ".join(f"{count:,}" for count in samples)
        for size in part.batch_sizes:
            arms, where = [replace(arm, runs=arm.at(size)) for arm in part.arms], f"batch size {size:,}"
            found += [
                Section("training", where.capitalize(), figures.training(arms, part.measure)),
                Section("features", f"Features, {where}", figures.features(arms)),
                Section("layers", f"Layers, {where}", layers.heat_maps(arms, self.notes)),
                Section(
                    "sharpness", f"Sharpness, {where}", figures.sharpness(arms), counts, rows=sharpness.table(arms)
                ),
                Section("slices", f"Loss slices, {where}", figures.slices(arms, self.notes)),
                Section("noise", f"Noise, {where}", figures.noise(arms, size)),
            ]
        return [*found, Section("time", "Time", figures.speed(part.arms, part.batch_sizes))]

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
        return Section("views", "Views", [])


def _common(runs: list[LoadedRun]) -> str:
    """Return data, model and task of runs if all that name them agree."""
    found = []
    for name in ("data", "model", "task"):
        values = {str(run.environment[name]) for run in runs if name in run.environment}
        if len(values) == 1:
            found.append(values.pop())
    return "; ".join(found)
