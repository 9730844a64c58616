"""Which runs may stand in one table: those whose accuracies are of the same kind, task, length and test images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tvlars.lab.comparison.statistics import PAIR_COLUMNS, differences, table
from tvlars.lab.comparison.verdict import answers
from tvlars.lab.report.arms import Arm, config_of, frame_of, make_arms
from tvlars.lab.run_folder.loaded_run import LoadedRun
from tvlars.lab.run_folder.record import MODEL, read_object


@dataclass
class Part:
    """Runs that can be compared, with their table and differences. ``title`` says what sets it apart, "" if nothing."""

    title: str
    runs: list[LoadedRun]
    measure: str
    """Name of the reported accuracy, for example "test accuracy"."""
    differences: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(PAIR_COLUMNS)))
    """Adjusted for all comparisons of all parts."""

    def __post_init__(self) -> None:
        self.arms: list[Arm] = make_arms(self.runs)
        self.frame = frame_of(self.arms)
        self.table = table(self.frame)
        self.batch_sizes = sorted({config_of(run).batch_size for run in self.runs})

    def answers(self) -> list[str]:
        """The result in a sentence for each batch size; of several parts each says which it is."""
        said = answers(self.table, self.differences, self.measure)
        return [f"{self.title}. {sentence}" if self.title else sentence for sentence in said]


def parts_of(runs: list[LoadedRun]) -> list[Part]:
    """Runs in parts that can be compared, in the order in which they appear; those that do not say what they are, left
    out. All pairs of all parts are one family of comparisons."""
    known = [run for run in runs if run.config is not None]
    data = _data_of(known)
    grouped: dict[tuple[Any, ...], list[LoadedRun]] = {}
    for run, content in zip(known, data, strict=True):
        grouped.setdefault((content, *_facts(run).values()), []).append(run)
    titles = _titles(list(grouped.values()))
    parts = [
        Part(title, mine, _facts(mine[0])["accuracy"]) for title, mine in zip(titles, grouped.values(), strict=True)
    ]
    if parts:
        pairs = differences(pd.concat([part.frame.assign(part=i) for i, part in enumerate(parts)]))
        for i, part in enumerate(parts):
            part.differences = pairs[pairs["part"] == i].reset_index(drop=True)
    return parts


def _facts(run: LoadedRun) -> dict[str, str]:
    """Settings that have to agree for accuracies to be comparable, besides the content of the data."""
    assert run.config is not None
    epochs = run.config.epochs
    return {
        "task": run.config.task,
        "epochs": f"{epochs} epoch{'s' if epochs != 1 else ''}",
        "accuracy": run.accuracy_name if run.complete else run.config.accuracy_name(),
    }


def _size(run: LoadedRun) -> str:
    size = read_object(run.folder / MODEL).get("image_size")
    size = size if isinstance(size, int) and not isinstance(size, bool) else run.config and run.config.image_size
    return f"{size} x {size} pixels" if size else ""


def _data_of(runs: list[LoadedRun]) -> list[tuple[Any, ...]]:
    """For each run what its data are: equal where labels, files and pixels are, whatever they are called.

    Runs of versions that kept no fingerprint go by the name of the data.
    """
    prints = [run.fingerprint() for run in runs]
    found: list[tuple[Any, ...]] = []
    for run, print_ in zip(runs, prints, strict=True):
        if print_ is None:
            found.append(("", *_name(run)))
        else:
            splits = (print_.train, print_.test)
            found.append((_size(run), print_.class_names, *((one.counts, one.files, one.labels) for one in splits)))
    for content in set(found):
        mine = {i: print_ for i, print_ in enumerate(prints) if print_ is not None and found[i] == content}
        if len({print_.decoder for print_ in mine.values()}) == 1:  # decoders round in their own ways
            found = [
                (*content, mine[i].train.pixels, mine[i].test.pixels) if i in mine else other
                for i, other in enumerate(found)
            ]
    named: dict[tuple[str, int | None, bool], set[tuple[Any, ...]]] = {}
    for run, print_, content in zip(runs, prints, found, strict=True):
        if print_ is not None:
            named.setdefault(_name(run), set()).add((sum(print_.test.counts), content))
    for i, run in enumerate(runs):
        if prints[i] is None:
            images = run.test_images()
            same = [content for count, content in named.get(_name(run), ()) if images in (None, count)]
            found[i] = same[0] if len(same) == 1 else (*found[i], images)
    return found


def _name(run: LoadedRun) -> tuple[str, int | None, bool]:
    return (run.config.data, run.config.image_size, run.config.skip_bad_images) if run.config else ("", None, False)


def _titles(groups: list[list[LoadedRun]]) -> list[str]:
    """Return for each group the settings in which the groups differ."""
    if len(groups) < 2:
        return [""] * len(groups)
    facts = []
    for runs in groups:
        first, images = runs[0], runs[0].test_images()
        name = first.config.data if first.config else ""
        said = f"{images:,} test images" if images else ""
        facts.append({"data": name, "size": _size(first), **_facts(first), "images": said})
    differing = [name for name in facts[0] if len({one[name] for one in facts}) > 1]
    titles = [", ".join(one[name] for name in differing if one[name]) or "other runs" for one in facts]
    for title in {title for title in titles if titles.count(title) > 1}:
        same = [i for i, other in enumerate(titles) if other == title]
        for number, i in enumerate(same, 1):
            name = facts[i]["data"] if not differing else title
            titles[i] = f"{name}, data of content {number}"
    return titles


def version_notes(runs: list[LoadedRun]) -> list[str]:
    """A sentence for each program whose version is not the same for all runs."""
    notes = []
    for program in ("tvlars", "torch"):
        found: dict[str, int] = {}
        for run in runs:
            versions = run.environment.get("versions")
            if isinstance(versions, dict) and program in versions:
                found[str(versions[program])] = found.get(str(versions[program]), 0) + 1
        if len(found) > 1:
            each = ", ".join(f"{version} ({count} run{'s' if count > 1 else ''})" for version, count in found.items())
            notes.append(f"The runs were made by several versions of {program}: {each}.")
    return notes
