"""Tuning behind the runs of a report: sentences on its budget and its warnings, and a figure of its trials.

The files of the tuning are beside the folder of the runs: ``tune.json``, ``arms.csv``, ``trials.csv``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from tvlars._reading import read_text, reason
from tvlars.lab.comparison.colors import OKABE_ITO
from tvlars.lab.errors import listed
from tvlars.lab.report.arms import Arm
from tvlars.lab.report.drawing import figure_of, numbers, text
from tvlars.lab.run_folder.loaded_run import LoadedRun
from tvlars.lab.run_folder.record import read_object

BEHIND = ("direction", "epochs")
"""Columns of trials.csv after the column of the value."""


def folders_of(runs: Sequence[LoadedRun]) -> list[Path]:
    """Return the folders of the tunings that made the runs."""
    parents = dict.fromkeys(run.folder.resolve().parent for run in runs)
    return [folder.parent for folder in parents if folder.name == "final" and (folder.parent / "tune.json").is_file()]


def sentences(runs: Sequence[LoadedRun], problems: list[str]) -> list[str]:
    """Return sentences on the value by which options were chosen, the budgets of the arms, and chosen values at an end
    of the searched range; add to ``problems`` tables that cannot be read."""
    found = []
    for folder in folders_of(runs):
        stored = read_object(folder / "tune.json")
        better = {"minimize": "lower", "maximize": "higher"}.get(str(stored.get("direction")))
        if better and isinstance(name := stored.get("objective"), str):
            found.append(f"Options were chosen in a tuning, by {name[:80]}: {better} is better.")
        table = _table(folder, "arms.csv", problems)
        if table is None:
            continue
        try:
            found += _budgets(table)
            found += [f"Alarm: {one}." for one in table["alarm"].dropna().astype(str) if one]
        except (KeyError, ValueError, TypeError) as error:
            problems.append(f"{folder / 'arms.csv'} cannot be read: {reason(error)}.")
    return found


def _budgets(table: pd.DataFrame) -> list[str]:
    counts = table[["trials", "reruns", "before"]].astype(int)
    words = {}
    for arm, row in zip(table["arm"].astype(str), counts.to_dict("records"), strict=True):
        again, before = row["reruns"], row["before"]
        parts = [f"{row['trials']} trial{'s' * (row['trials'] != 1)}"]
        parts += [f"{again} run{'s' * (again != 1)} of the best with other tuning seeds"] * bool(again)
        parts += [f"{before} earlier trial{'s' * (before != 1)}"] * bool(before)
        words[arm] = listed(parts)
    if len(words) > 1 and len(set(words.values())) == 1:
        return [f"Each of {listed(words)} had {next(iter(words.values()))}."]
    unequal = "The budgets differ: " if counts.sum(axis=1).nunique() > 1 else ""
    return [unequal + "; ".join(f"{arm} had {said}" for arm, said in words.items()) + "."]


def figures(runs: Sequence[LoadedRun], arms: Sequence[Arm], problems: list[str]) -> list[go.Figure]:
    """Draw the value of each trial over its learning rate, for each tuning with learning rates; stars are chosen
    trials, framed if they lie at an end of the searched range."""
    found = []
    for folder in folders_of(runs):
        table = _table(folder, "trials.csv", problems)
        if table is None or "lr" not in table:
            continue
        try:
            found += _drawn(table, arms)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            problems.append(f"{folder / 'trials.csv'} cannot be read: {reason(error)}.")
    return found


def _drawn(table: pd.DataFrame, arms: Sequence[Arm]) -> list[go.Figure]:
    column = next((str(name) for name in table if str(name).startswith("validation_")), "validation_")
    if column not in table:
        raise KeyError(column)
    scale, unit = (100, "%") if column == "validation_accuracy" else (1, "")
    words = column.replace("_", " ")
    figure = figure_of(f"Trials: {words} over the learning rate", "learning rate", unit)
    figure.update_xaxes(type="log", dtick="D2")
    table = table[table["lr"].astype(float) > 0]
    colors = {arm.name.partition(" (")[0]: arm.color for arm in reversed(arms)}
    for number, (name, mine) in enumerate(table.groupby("arm", sort=False)):
        color = colors.get(str(name), OKABE_ITO[number % len(OKABE_ITO)])
        whole = mine[mine["status"].isin(("finished", "pruned", "diverged"))]
        means = whole.groupby(["trial", "lr"], as_index=False).agg({column: "mean"}).sort_values("lr")
        first = whole.drop_duplicates("trial").set_index("trial")
        status, edge = first["status"][means["trial"]], first["edge"].astype(object).fillna("")[means["trial"]]
        chosen = first["chosen"][means["trial"]].astype(str).eq("True").tolist()
        signs = {"pruned": "circle-open", "diverged": "x"}
        symbols = ["star" if c else signs.get(s, "circle") for c, s in zip(chosen, status, strict=True)]
        marker = {"color": color, "symbol": symbols, "size": [16 if one else 7 for one in chosen]}
        said = [f"trial {t}: {s}{', chosen' * c}" for t, s, c in zip(means["trial"], status, chosen, strict=True)]
        figure.add_scatter(
            x=numbers(means["lr"]),
            y=numbers(scale * means[column]),
            name=text(str(name)),
            mode="lines+markers" if _is_one_dimensional(whole, column) else "markers",
            line={"color": color, "width": 1},
            marker=marker,
            text=said,
            hovertemplate="lr %{x:.4g}: %{y:.4g} (%{text})",
        )
        for x, y, at in zip(numbers(means["lr"]), numbers(scale * means[column]), edge, strict=True):
            if at and x is not None and y is not None:
                about = {"mode": "markers", "hoverinfo": "skip", "name": text(f"{name}: at an edge ({at})")}
                frame = {"symbol": "square-open", "size": 26, "color": color, "line": {"width": 2}}
                figure.add_scatter(x=[x], y=[y], marker=frame, **about)
    figure.update_layout(hovermode="closest")
    return [figure] if figure.data else []


def _is_one_dimensional(trials: pd.DataFrame, column: str) -> bool:
    """Return whether trials differ only in the learning rate."""
    head = ("arm", "trial", "seed", "status", column, *BEHIND, "chosen", "edge", "folder", "lr")
    return all(trials[name].nunique(dropna=False) <= 1 for name in trials if name not in head)


def _table(folder: Path, name: str, problems: list[str]) -> pd.DataFrame | None:
    """Return a table of a tuning; None if it is missing, as in folders of earlier versions, or cannot be read."""
    file = folder / name
    if not file.is_file():
        return None
    try:
        return pd.read_csv(io.StringIO(read_text(file, folder)))
    except (OSError, ValueError) as error:
        problems.append(f"{file} cannot be read: {reason(error)}.")
        return None
