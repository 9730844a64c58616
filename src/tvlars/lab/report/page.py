"""The page of some runs: one HTML file that needs no network, made for reading first."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import os
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import plotly.graph_objects as go
import plotly.offline

from tvlars._reading import reason
from tvlars.lab.comparison.table import P_VALUE, pair_cells, table_cells
from tvlars.lab.files.disk import write_whole
from tvlars.lab.report import figures, layers
from tvlars.lab.report.arms import Arm, plan_number
from tvlars.lab.report.parts import Part, parts_of, version_notes
from tvlars.lab.report.picture import picture_uri
from tvlars.lab.run_folder.loaded_run import LoadedRun

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, a sentence or two on how to read it, and its figures."""

    title: str
    figures: list[go.Figure]
    text: str = ""
    picture: str = ""
    """A picture above the figures, as a data URI."""


@dataclass
class Report:
    """What a page says, before it is HTML."""

    title: str
    command: str
    runs: list[LoadedRun]
    notes: list[str] = field(default_factory=list)
    """What has to be said of runs that are not whole, a sentence each."""

    def __post_init__(self) -> None:
        self.parts = parts_of(self.runs)
        self.notes += version_notes(self.runs)
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
        """How many runs count."""
        return sum(int(part.table["seeds"].sum()) for part in self.parts if len(part.table))

    @property
    def comparisons(self) -> int:
        """How many pairs of arms are compared on the page."""
        return sum(len(part.differences) for part in self.parts)

    def answers(self) -> list[str]:
        """The results, a sentence for each batch size of each part."""
        return [sentence for part in self.parts for sentence in part.answers()]

    def tables(self) -> list[dict[str, Any]]:
        """The table of each part: title, measure, rows, and all differences."""
        return [
            {
                "title": part.title,
                "measure": part.measure,
                "rows": [
                    {name: cell for name, cell in row.items() if name != P_VALUE}
                    for row in table_cells(part.table, part.differences, part.measure)
                ],
                "pairs": pair_cells(part.differences),
            }
            for part in self.parts
        ]

    def sections(self) -> list[Section]:
        """All figures that the runs have something for."""
        found = []
        for part in self.parts:
            mine = []
            if len(part.batch_sizes) > 1 and len(part.table):
                mine.append(Section("Over batch sizes", [figures.accuracy_over_batch_size(part.arms, part.table)]))
            for batch_size in part.batch_sizes:
                mine += self._at(part, batch_size)
            if (speed := figures.speed(part.arms, part.frame)) is not None:
                text = "Each run is a point. What else the machine did then is not known."
                mine.append(Section("Time", [speed], text))
            found += [replace(one, title=f"{part.title}: {one.title}") for one in mine] if part.title else mine
        if (views := _views(self.runs, self.notes)) is not None:
            found.append(views)
        return [section for section in found if section.figures or section.picture]

    def _at(self, part: Part, batch_size: int) -> list[Section]:
        arms, where = part.arms, f"batch size {batch_size:,}"
        training = [figures.test_accuracy, figures.training_loss, figures.learning_rate, figures.factor]
        features = [figures.evaluations, figures.spread, figures.rank, figures.alignment, figures.uniformity]
        sharp = [figures.top_eigenvalue, figures.worst_case, figures.sharpness_and_accuracy]
        means = [layers.mean_layer_stats([r for r in arm.at(batch_size) if r.complete], self.notes) for arm in arms]
        ranges = layers.color_ranges([stats for stats in means if len(stats)]) if any(map(len, means)) else {}
        maps = [
            layers.heat_map(arm, stats, _steps_per_epoch(arm.at(batch_size)[0]), ranges)
            for arm, stats in zip(arms, means, strict=True)
            if len(stats)
        ]
        noise = figures.noise(arms, batch_size)
        return [
            Section(
                where[0].upper() + where[1:],
                _drawn(training, arms, batch_size),
                "Lines are means over seeds, bands reach from the lowest to the highest seed; dotted lines are runs "
                "that did not finish. A click in a legend switches a curve off and on.",
            ),
            Section(
                f"Features, {where}",
                _drawn(features, arms, batch_size),
                "Features are the backbone's, embeddings the projector's; of test images, two views each, the same in "
                "all runs. Linear probe: a linear classifier on frozen features of images as they are. Untrained: "
                "the same network before training, with batch norm statistics of the data.",
            ),
            Section(
                f"Layers, {where}",
                maps,
                "Each row is a layer, from input to output; colours are powers of ten, the same in all maps. The menu "
                "chooses the quantity. Mean over seeds.",
            ),
            Section(
                f"Sharpness, {where}",
                _drawn(sharp, arms, batch_size),
                f"Of the training loss, on {_samples(part.runs)} training images as they are, in evaluation mode. "
                "The adaptive form does not change when layers are rescaled; the eigenvalue does.",
            ),
            Section(f"Loss slices, {where}", figures.slices(arms, batch_size, self.notes)),
            Section(
                f"Noise, {where}",
                [noise] if noise is not None else [],
                "B_simple = tr(Σ)/‖G‖² of McCandlish et al. (2018), on some training images in evaluation mode; "
                "batches far above it save few steps. Geometric mean over seeds, as are the ends of their intervals "
                "(95 %). Where it cannot be told from infinite there is no point.",
            ),
        ]


def write_page(report: Report, file: Path, refresh: int | None = None) -> Path:
    """Write the page, whole or not at all; ``refresh`` makes a browser load it anew every so many seconds.

    Raises:
        OSError: it could not be written; a page that is there is untouched.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tvlars.lab.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    sections = report.sections()  # first, since it may add notes
    numbers = itertools.count()
    parts = [
        {
            "title": s.title,
            "text": s.text,
            "picture": s.picture,
            "figures": [{"number": next(numbers), "file": _file_name(s, figure)} for figure in s.figures],
        }
        for s in sections
    ]
    page = environment.get_template("report.html.j2").render(
        report=report,
        tables=report.tables(),
        sections=parts,
        runs=[_run(run) for run in report.runs],
        facts=_facts(report.runs),
        plotly=_plotly() if any(s.figures for s in sections) else "",
        figures=_packed(f"[{','.join(figure.to_json() for s in sections for figure in s.figures)}]"),
        refresh=refresh,
    )
    write_whole(file, page.encode("utf-8", errors="replace"))  # a folder's name may be no text
    return file


def _views(runs: list[LoadedRun], notes: list[str]) -> Section | None:
    """The picture of the first run that has a good one; ``notes`` get those that are none."""
    for run in runs:
        file = run.folder / "views.png"
        if os.path.lexists(file):
            try:
                uri = picture_uri(file, run.folder)
            except (OSError, ValueError) as error:
                notes.append(f"{file} cannot be shown: {reason(error)}.")
                continue
            about = str(run.environment.get("views", ""))
            return Section("Views", [], f"Training images, and first and second views of them: {about}.", uri)
    return None


def _samples(runs: list[LoadedRun]) -> str:
    """On how many images sharpness was measured, in words."""
    counts = sorted({int(count) for run in runs for count in run.sharpness["samples"].dropna()})
    return " or ".join(f"{count:,}" for count in counts)


def _steps_per_epoch(run: LoadedRun) -> float:
    """Optimizer steps an epoch; where the plan is not there, what the record shows."""
    planned = plan_number(run, "steps_per_epoch")
    if planned > 0:
        return planned
    first = run.epochs.iloc[0] if len(run.epochs) else {"step": 1, "epoch": 1}
    return max(float(first["step"]) / float(first["epoch"]), 1.0)


def _drawn(make: list[Any], arms: list[Arm], batch_size: int) -> list[go.Figure]:
    return [figure for f in make if (figure := f(arms, batch_size)) is not None]


def _run(run: LoadedRun) -> dict[str, Any]:
    """One run for the list at the end: everything somebody needs who wants it again."""
    stored, config = run.environment, run.config
    versions = stored.get("versions")
    facts = {
        "status": run.status,
        "command": stored.get("command", "not recorded"),
        "seed": str(config.seed) if config else "not recorded",
        "device": f"{stored.get('device', 'not recorded')}, {stored.get('precision', '')}".rstrip(", "),
        "hardware": f"{stored.get('system', 'not recorded')}, {stored.get('cpu_cores', '?')} CPU cores",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items())
        if isinstance(versions, dict)
        else "not recorded",
        "started": str(stored.get("started", "not recorded")),
    }
    return {"name": run.folder.name, "facts": facts, "problems": [*run.problems], "ok": run.status == "finished"}


def _facts(runs: list[LoadedRun]) -> dict[str, str]:
    """What is the same for all runs that say it: data, model, device, versions."""
    found: dict[str, str] = {}
    for name in ("data", "model", "task", "device", "precision", "python"):
        values = {str(run.environment[name]) for run in runs if name in run.environment}
        if len(values) == 1:
            found[name] = values.pop()
    return found


def _file_name(section: Section, figure: Figure) -> str:
    """A name for the file of a figure's data."""
    title = f"{section.title} {figure.layout.title.text or ''}"
    return re.sub(r"\W+", "-", html.unescape(title).lower()).strip("-")[:90] or "figure"


def _packed(text: str) -> str:
    """Compressed, in base64: browsers unpack it themselves, and the page stays small."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


@cache
def _plotly() -> str:
    return _packed(plotly.offline.get_plotlyjs())
