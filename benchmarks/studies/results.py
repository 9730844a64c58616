"""Results of a study: a CSV with a row for each run, and the tables, the figure and the page that are made of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tvlars.lab import TrainConfig
from tvlars.lab.comparison.comparison import Comparison, RunRow
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.experiments.robustness.plateau import Plateau, plateau
from tvlars.lab.protocol import Protocol
from tvlars.lab.protocol.parse import family_of
from tvlars.lab.run_folder.loaded_run import LoadedRun, load_run
from tvlars.lab.run_folder.rows import TEST_SHARE

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results" / "studies"
"""Folder of the CSVs; pages are in the folder above."""
PAGES = {
    "p1": "published-lead",
    "a1": "large-batch",
    "a2": "sharpness",
    "a3": "robustness",
    "b1": "steps-to-target",
    "b2": "generalization",
    "b3": "warm-up",
    "b4": "ssl",
    "plan": "plan",
}
"""Pages in docs/results, by the first word of the studies' names."""
COLUMNS = (
    *("part", "arm", "batch_size", "horizon", "steps", "lr", "delay_factor", "seed", "status"),
    *(
        "train_accuracy",
        "validation_accuracy",
        "validation_best",
        "test_accuracy",
        "share_best",
        "share_last",
        "seconds",
        "protocol",
        "run",
    ),
)
"""``part`` is "trial" or "final" of a tuning; ``horizon`` is there for runs of a given number of steps, which one that
diverged does not reach; ``validation_best`` is the validation accuracy of the best epoch; ``share_best`` and
``share_last`` are accuracies on a random share of the test set, at the best epoch and at the last one, of runs with
``test_share``."""
PARTS = {"": "", "runs": "", "trials": "trial", "final": "final"}
"""Parts by the folders that a command has in that of its study."""
TEST_IMAGES = 10_000
GUESS, FAILED = 0.1, 0.19
"""Accuracy of guessing among ten classes, and the one that a run must be above, or it has failed."""
DRAWS = 10_000
DEPTH = 6.0
"""Points below the highest mean that a figure reaches."""
OVER = ("finished", "diverged")
Values = np.ndarray[Any, np.dtype[np.float64]]


def rows_of(folder: Path, protocol: str) -> pd.DataFrame:
    """Return a row with ``COLUMNS`` for each finished run in ``folder``; ``protocol`` is their protocol's digest."""
    rows = []
    for below, part in PARTS.items():
        for file in sorted((folder / below).glob("*/config.json")):
            run = load_run(file.parent)
            if run.config is not None and run.status in OVER:
                rows.append({"part": part, "protocol": protocol, "run": run.folder.name, **_row(run, run.config)})
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({name: float for name in COLUMNS if "accuracy" in name})
    frame = frame.sort_values(["part", "seed", "arm", "lr", "run"], ignore_index=True)
    return frame.drop(columns="horizon") if frame["horizon"].isna().all() else frame


def _row(run: LoadedRun, config: TrainConfig) -> dict[str, Any]:
    """Return what a row says of a run itself; the results of one that diverged are empty."""
    found: dict[str, Any] = dict(
        arm=config.arm_name,
        batch_size=config.batch_size,
        horizon=config.steps,
        steps=run.summary.get("steps"),
        lr=run.plan.get("lr"),
        delay_factor=config.delay_factor,
        seed=config.seed,
        status=str(run.status),
        seconds=run.summary.get("seconds"),
    )
    if run.status != "finished":
        return found
    share = run.epochs[TEST_SHARE] if TEST_SHARE in run.epochs else pd.Series([math.nan])
    return found | dict(
        train_accuracy=run.epochs["train_accuracy"].iloc[-1] if "train_accuracy" in run.epochs else None,
        validation_accuracy=run.validation_accuracy,
        validation_best=run.epochs["validation_accuracy"].max() if "validation_accuracy" in run.epochs else None,
        test_accuracy=run.test_accuracy,
        share_best=share.max(),
        share_last=share.iloc[-1],
    )


def compared(protocol: Protocol, frame: pd.DataFrame, folder: Path) -> Comparison:
    """Return the comparison of a study of ``tune``, by its final runs, or of ``compare``, over the declared family.

    Args:
        protocol: of the study.
        frame: rows with ``COLUMNS``.
        folder: of the study's runs, in which they say which test images they got right.
    """
    part = "final" if protocol.command == "tune" else ""
    runs = [
        RunRow(
            optimizer=str(row["arm"]),
            **{name: int(row[name]) for name in ("batch_size", "seed")},
            lr=float(row["lr"]),
            status=str(row["status"]),
            **{name: None if math.isnan(row[name]) else row[name] for name in ("test_accuracy", "validation_accuracy")},
            folder=str(row["run"]),
            test_images=TEST_IMAGES,
        )
        for row in frame[frame["part"].fillna("") == part].to_dict("records")
    ]
    margin = protocol.content.get("margin")
    return Comparison(folder / part, "", runs, family=family_of(protocol.content), margin=margin)


def whole_seeds(frame: pd.DataFrame, *columns: str) -> list[int]:
    """Return the seeds that have a run of each cell of ``columns`` which any seed has."""
    cells, runs = frame[list(columns)].drop_duplicates(), frame.groupby("seed").size()
    return [int(seed) for seed in runs.index[runs == len(cells)]]


def said_runs(protocol: Protocol, frame: pd.DataFrame) -> str:
    """Return in words of which protocol the runs of a page are, and how many of them there are."""
    seeds = " ".join(map(str, sorted(frame["seed"].unique())))
    planned = protocol.content["stopping"]["runs"]
    return f"Protocol digest `{protocol.digest}`. {len(frame)} of {planned} runs: seeds {seeds}."


class Robustness:
    """Accuracies over the rate, of whole seeds alone.

    Args:
        frame: rows with ``COLUMNS``.
        arms: in the order of the tables; the first one of those with the same rates is compared with the others.
        within: points that a plateau reaches below the best mean.
    """

    def __init__(self, frame: pd.DataFrame, arms: list[str], within: float) -> None:
        self.seeds = whole_seeds(frame, "arm", "lr")
        self.frame = frame[frame["seed"].isin(self.seeds)]
        self.arms, self.within = arms, within
        self.draws = np.random.default_rng(0).integers(len(self.seeds), size=(DRAWS, len(self.seeds)))
        self.cells = {arm: self._accuracies(arm) for arm in arms}

    @property
    def groups(self) -> list[list[str]]:
        """Arms by their rates: each group has a table and a panel of its own, and its first arm is compared with the
        others."""
        found: dict[tuple[float, ...], list[str]] = {}
        for arm in self.arms:
            found.setdefault(tuple(self.cells[arm][0]), []).append(arm)
        return list(found.values())

    def _accuracies(self, arm: str) -> tuple[list[float], Values]:
        """Return the rates of an arm, ascending, and accuracies in percent (rates, seeds)."""
        mine = self.frame[self.frame["arm"] == arm]
        counted = mine.assign(counted=mine["validation_accuracy"].where(mine["status"] == "finished", GUESS))
        table = counted.pivot(index="lr", columns="seed", values="counted").sort_index()
        return [float(lr) for lr in table.index], 100 * table[self.seeds].to_numpy(dtype=float)

    def plateau(self, arm: str) -> Plateau:
        """Return the plateau of the means over seeds."""
        rates, values = self.cells[arm]
        return self._plateau(rates, values.mean(1))

    def _plateau(self, rates: list[float], means: Values) -> Plateau:
        found = plateau(rates, means.tolist(), self.within)
        assert found is not None
        return found

    def drawn(self, arm: str) -> Values:
        """Return widths in octaves for seeds that are drawn with replacement, the same ones for all arms."""
        rates, values = self.cells[arm]
        means = values[:, self.draws].mean(-1)
        return np.array([self._plateau(rates, one).octaves for one in means.T])

    def failures(self, arm: str) -> dict[float, int]:
        """Return the number of failed runs by rate."""
        rates, _ = self.cells[arm]
        mine = self.frame[self.frame["arm"] == arm]
        bad = (mine["status"] == "diverged") | ~(mine["validation_accuracy"] > FAILED)
        return {lr: int(bad[mine["lr"] == lr].sum()) for lr in rates}

    def tables(self) -> str:
        """Return a table of plateaus and one of all rates for each group of arms, in Markdown."""
        return "\n\n".join(table for arms in self.groups for table in (self._plateaus(arms), self._rates(arms)))

    def _plateaus(self, arms: list[str]) -> str:
        widths = {arm: self.drawn(arm) for arm in arms}
        first = arms[0]
        head = f"within {self.within:g} point{'s' * (self.within != 1)}"
        lines = [
            f"| arm | best mean, % | at lr | {head}: lr | octaves | {first} less it, octaves | failed runs |",
            "|---|---|---|---|---|---|---|",
        ]
        for arm in arms:
            rates, values = self.cells[arm]
            best = int(values.mean(1).argmax())
            found, failed = self.plateau(arm), self.failures(arm)
            less = ""
            if arm != first:
                less = f"{self.plateau(first).octaves - found.octaves:+.2f} {_middle(widths[first] - widths[arm], '+')}"
            cells = [
                arm,
                _mean(values[best]),
                f"{rates[best]:g}",
                f"{found.low:.3g} to {found.high:.3g}",
                f"{'at least ' * (found.open_low or found.open_high)}{found.octaves:.2f} {_middle(widths[arm])}",
                less,
                f"{sum(failed.values())} of {values.size}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _rates(self, arms: list[str]) -> str:
        rates = self.cells[arms[0]][0]
        lines = [f"| arm | {' | '.join(f'{lr:g}' for lr in rates)} |", f"|---|{'---|' * len(rates)}"]
        for arm in arms:
            failed = self.failures(arm)
            shown = [
                _mean(one) + (f", {failed[lr]} failed" if failed[lr] else "")
                for lr, one in zip(rates, self.cells[arm][1], strict=True)
            ]
            lines.append(f"| {arm} | {' | '.join(shown)} |")
        return "\n".join(lines)

    def painter(self) -> Callable[[Any, Any], None]:
        """Return the function that draws the figure for a theme: a panel for each group of arms."""

        def paint(figure: Any, theme: Any) -> None:
            panels = figure.subplots(len(self.groups), 1, squeeze=False)[:, 0]
            for axes, arms in zip(panels, self.groups, strict=True):
                self._panel(axes, arms, theme, 0.06 * len(panels))
            title = f"Mean and range of {len(self.seeds)} seeds; bars: within {self.within:g} point of the best"
            panels[-1].set_xlabel("learning rate")
            if len(panels) == 1:
                panels[0].set_title(title)
                legend = dict(loc="outside lower center", ncols=3, frameon=False)
                figure.legend(*panels[0].get_legend_handles_labels(), **legend)
                return
            figure.suptitle(title, fontsize="medium")
            for axes in panels:
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0)

        return paint

    def _panel(self, axes: Any, arms: list[str], theme: Any, spacing: float) -> None:
        """Draw arms with the same rates, and below them bars for their plateaus, ``spacing`` of the height apart."""
        from matplotlib.patches import Rectangle

        means = [self.cells[arm][1].mean(1) for arm in arms]
        top, least = max(one.max() for one in means), min(one.min() for one in means)
        lowest = max(least, top - DEPTH)  # lines that fall below leave the figure
        gap = spacing * max(top - lowest, 0.1)
        above = Rectangle((0, lowest - gap / 2), 1, 2 * DEPTH, transform=axes.get_yaxis_transform())
        for i, arm in enumerate(arms):
            rates, values = self.cells[arm]
            color, dash = (theme.color(i), "-") if i < len(theme.series) else (theme.ink, "--")
            (line,) = axes.plot(rates, values.mean(1), dash, color=color, label=arm, marker="o", markersize=3)
            band = axes.fill_between(rates, values.min(1), values.max(1), color=color, alpha=0.12, linewidth=0)
            for drawn in (line, band):
                drawn.set_clip_path(above)
            found, at = self.plateau(arm), lowest - gap * (i + 1)
            axes.plot([found.low, found.high], [at, at], "-", color=color, linewidth=4, solid_capstyle="butt")
        bottom = lowest - gap * (len(arms) + 1)
        axes.set(xscale="log", ylabel="validation accuracy, %", ylim=(bottom, top + 2 * gap))
        axes.set_xticks(rates, [f"{lr:g}" for lr in rates])
        axes.minorticks_off()


def _mean(values: Values) -> str:
    mean, half = mean_and_interval(values.tolist())
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def _middle(values: Values, sign: str = "") -> str:
    """Return the interval of the middle 95 % of values in brackets."""
    low, high = np.quantile(values, [0.025, 0.975])
    return f"({low:{sign}.2f} to {high:{sign}.2f})"


def write_page(name: str, command: str, generated: str) -> None:
    """Put what ``command`` made of a CSV into the page of a study, between two comments of which one names it.

    A study in several parts has one page, see ``PAGES``.
    """
    page = RESULTS.parent / f"{PAGES[name.split('-')[0]]}.md"
    if not page.is_file():
        raise SystemExit(f"{page} must be there, the page of {name}")
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- made by {command} -->\n", "\n<!-- end -->"
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{page} must have {begin.strip()} and {end.strip()} on lines of their own")
    page.write_text(f"{before}{begin}{generated}{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def log_ticks(axis: Any) -> None:
    """Give a logarithmic axis ticks at 1, 2 and 5 times powers of ten, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def draw(name: str, painter: Callable[[Any, Any], None], said: str, height: float = 4.2) -> str:
    """Write docs/figures/NAME.svg, and NAME-dark.svg for the dark theme; return the line that shows it on a page.

    ``said`` describes it for those who do not see it; ``height`` is in inches.
    """
    sys.path.insert(0, str(DOCS / "figures"))
    from _style import draw as draw_figure

    draw_figure(name, height, painter)
    return f"![{said}](../figures/{name}.svg)"
