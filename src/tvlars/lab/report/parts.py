"""Parts of a report: runs of one kind of accuracy, task, length and data set, which may share a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tvlars.lab.comparison.chance import classes_of
from tvlars.lab.comparison.family import ALL
from tvlars.lab.comparison.held_out import held_out
from tvlars.lab.comparison.statistics import PAIR_COLUMNS, differences, table
from tvlars.lab.comparison.verdict import answers
from tvlars.lab.imported import GIVEN, said_path
from tvlars.lab.report.arms import Arm, colored, config_of, frame_of, make_arms
from tvlars.lab.run_folder.loaded_run import LoadedRun
from tvlars.lab.run_folder.record import MODEL, read_object
from tvlars.lab.tasks import Measure


@dataclass
class Part:
    """Comparable runs with their table and differences. ``title`` names the difference from other parts, if any."""

    title: str
    runs: list[LoadedRun]
    measure: Measure
    """Measure by which runs are compared, for example the test accuracy."""
    differences: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(PAIR_COLUMNS)))
    """Paired differences, with p-values adjusted for the declared comparisons of all parts."""

    def __post_init__(self) -> None:
        self.arms: list[Arm] = make_arms(self.runs)
        self.frame = frame_of(self.arms)
        self.table = table(self.frame)
        configs = list(map(config_of, self.runs))
        self.batch_sizes = sorted({config.batch_size for config in configs})
        best = all(config.keep_best for config in configs)
        images = max(run.validation_images() or 0 for run in self.runs)
        said = dict(test=all(config.test for config in configs), keep_best=best, of_task=self.measure.of_task)
        share = next((config.test_share for config in configs if config.test_share is not None), None)
        every = min(config.validate_every for config in configs)
        self.protocol = held_out(images, test_share=share, every=every, **said)
        """Sentence about the images held out for validation."""

    def answers(self) -> list[str]:
        """Return the results, one sentence per batch size; with several parts, each sentence names its part."""
        said = answers(self.table, self.differences, self.measure, classes_of(run.folder for run in self.runs))
        return [f"{self.title}. {sentence}" if self.title else sentence for sentence in said]


def parts_of(runs: list[LoadedRun], family: str = ALL, margin: float | None = None) -> list[Part]:
    """Return runs in parts that can be compared, in order of appearance; runs without a config are left out.

    The declared pairs of all parts are one family of comparisons; ``family`` and ``margin`` as for
    :func:`tvlars.lab.comparison.statistics.differences`.
    """
    known = [run for run in runs if run.config is not None]
    groups: dict[tuple[Any, ...], list[LoadedRun]] = {}
    for run, content in zip(known, _contents(known), strict=True):
        facts = _facts(run)
        key = content, *(facts[name] for name in ("task", "length", "weights")), _measure(run)
        groups.setdefault(key, []).append(run)
    titles = _titles(pd.DataFrame([_facts(mine[0]) for mine in groups.values()]))
    parts = [Part(title, mine, key[-1]) for title, (key, mine) in zip(titles, groups.items(), strict=True)]
    if parts:
        arms = iter(colored([arm for part in parts for arm in part.arms]))  # one colour on the whole page
        for part in parts:
            part.arms = [next(arms) for _ in part.arms]
        frame = pd.concat([part.frame.assign(part=i) for i, part in enumerate(parts)])
        pairs = differences(frame, family, margin)
        for i, part in enumerate(parts):
            part.differences = pairs[pairs["part"] == i].reset_index(drop=True)
    return parts


def _facts(run: LoadedRun) -> dict[str, str]:
    """Return facts that may distinguish parts, in words."""
    config, images = config_of(run), run.test_images()
    return {
        "data": said_path(config.data).removeprefix(GIVEN),
        "size": _size(run),
        "task": config.task,
        "length": config.length,
        "accuracy": _measure(run).name,
        "weights": f"of the {'best' if config.keep_best else 'last'} epoch",
        "images": f"{images:,} test {'samples' if config.own_task else 'images'}" if images else "",
        "validation": _held_out(run),
    }


def _measure(run: LoadedRun) -> Measure:
    config = config_of(run)
    return run.measure if run.complete or config.own_task else Measure(config.accuracy_name())


def _size(run: LoadedRun) -> str:
    size = read_object(run.folder / MODEL).get("image_size")
    size = size if isinstance(size, int) and not isinstance(size, bool) else config_of(run).image_size
    return f"{size} x {size} pixels" if size else ""


def _held_out(run: LoadedRun) -> str:
    """Return the images for validation in words."""
    config, images = config_of(run), run.validation_images()
    if images is None or config.validation is None:
        return f"{images:,} validation images" if images else "no validation images" if images == 0 else ""
    return f"{images:,} validation images of seed {config.validation_seed}"


def _contents(runs: list[LoadedRun]) -> list[tuple[Any, ...]]:
    """Return an identity of each run's data: equal if labels, files and pixels are, for any name of the data.

    Runs of versions without fingerprints are identified by the name of the data.
    """
    prints = [run.fingerprint() for run in runs]
    names = [(c.data, c.image_size, c.skip_bad_images, c.validation, c.validation_seed) for c in map(config_of, runs)]
    found: list[tuple[Any, ...]] = []
    decoders: dict[tuple[Any, ...], set[str]] = {}
    for run, print_, name in zip(runs, prints, names, strict=True):
        if print_ is None:
            found.append(("", *name))
        else:
            splits = ((split.counts, split.files, split.labels) for split in (print_.train, print_.test))
            found.append((_size(run), print_.class_names, *splits))
            decoders.setdefault(found[-1], set()).add(print_.decoder)
    named: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for i, (print_, name) in enumerate(zip(prints, names, strict=True)):
        if print_ is not None:
            if len(decoders[found[i]]) == 1:  # decoders round differently
                found[i] = (*found[i], print_.train.pixels, print_.test.pixels)
            named.setdefault(name, set()).add((sum(print_.test.counts), found[i]))
    for i, (run, print_, name) in enumerate(zip(runs, prints, names, strict=True)):
        if print_ is None:
            images = run.test_images()
            same = [content for count, content in named.get(name, ()) if images in (None, count)]
            found[i] = same[0] if len(same) == 1 else (*found[i], images)
    return found


def _titles(facts: pd.DataFrame) -> list[str]:
    """Return for each row, of one part, the facts in which the parts differ."""
    if len(facts) < 2:
        return [""] * len(facts)
    varied = facts.loc[:, facts.nunique() > 1]
    titles = pd.Series([", ".join(filter(None, row)) or "other runs" for row in varied.to_numpy()])
    names = titles if len(varied.columns) else facts["data"]
    numbers = (titles.groupby(titles).cumcount() + 1).astype(str)
    return titles.where(~titles.duplicated(keep=False), names + ", data of content " + numbers).tolist()


def version_notes(runs: list[LoadedRun]) -> list[str]:
    """Return a sentence for each program whose version differs between runs."""
    notes = []
    stored = [run.environment.get("versions") for run in runs]
    for program in ("tvlars", "torch"):
        found = Counter(str(one[program]) for one in stored if isinstance(one, dict) and program in one)
        if len(found) > 1:
            each = ", ".join(f"{version} ({count} run{'s' * (count != 1)})" for version, count in found.items())
            notes.append(f"The runs were made by several versions of {program}: {each}.")
    return notes
