"""The study of robustness: every arm at every learning rate with every seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvlars.lab.data import Data
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.robustness.page import save_results
from tvlars.lab.experiments.robustness.result import NAME, RobustnessConfig, RobustnessResult
from tvlars.lab.experiments.studies.runs import Objects, Ran, do_study, points_of
from tvlars.lab.metrics import Metric
from tvlars.lab.models import Model

__all__ = ["RobustnessConfig", "RobustnessResult", "robustness"]


def robustness(
    config: RobustnessConfig,
    *,
    data: Data | None = None,
    loaders: Any = None,
    model: Model | None = None,
    metrics: Mapping[str, Metric] | None = None,
    workers: int | None = None,
    retries: int = 1,
    ray: str | None = None,
    board: Board | None = None,
) -> RobustnessResult:
    """Train every arm at every learning rate with every seed, and write how accuracy depends on the rate.

    Accuracy is that on validation images if there are some, and the test set is not read; else it is the test accuracy.
    A run failed if its loss was not finite, or if its accuracy is not above 2 / classes (for fewer than 11 classes: a
    tenth of the way from guessing, 1 / classes, to 100 %).

    Args:
        config: options of the study. If its folder is that of an earlier call, runs that are over there are kept, and
            others resume.
        data, loaders, model, metrics: objects for all runs, see :func:`tvlars.lab.train`; runs are then done in this
            process.
        workers: number of runs at a time. With one (default) they are done in this process, one after the other; with
            more, each is a process of its own.
        retries: number of further attempts for a run that failed, from its newest checkpoint.
        ray: None (default): on this machine; else the address of a Ray cluster, see :func:`tvlars.lab.sweep`.
        board: shows progress; None (default): a bar on a terminal, and plain lines elsewhere.

    Returns:
        The results. Their files are in ``result.folder``: robustness.html, .svg, .md, .tex, .csv and .json, results.csv
        with a row per run, and the folders of the runs in runs/.

    Raises:
        UsageError: an option is bad, or does not fit the data; nothing has been written then.
        KeyboardInterrupt: by Ctrl-C; what is there is written, and the same call continues.
    """
    found: list[RobustnessResult] = []

    def save(folder: Path, ran: Ran) -> None:
        found.append(RobustnessResult(folder, config, ran))
        save_results(found[-1])

    do_study(
        config,
        lambda named, samples: points_of(named, samples, lambda run: [run]),
        Objects(data, loaders, model, metrics),
        save,
        mark=f"{NAME}.json",
        **dict(workers=workers, retries=retries, ray=ray, board=board),  # type: ignore[arg-type]
    )
    return found[-1]
