"""Robustness study: every arm at every learning rate with every seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvlars.lab.data import Data
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.robustness.page import save_results
from tvlars.lab.experiments.robustness.result import RobustnessConfig, RobustnessResult
from tvlars.lab.experiments.studies.runs import do_study
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
    """Train every arm at every learning rate with every seed, and report how the accuracy depends on the rate.

    The accuracy is measured on validation images if there are any, and then the test set is not read; otherwise on
    the test set. A run failed if its loss was not finite, or if its accuracy is not above 2 / classes (for fewer than
    11 classes: a tenth of the way from chance level, 1 / classes, to 100 %).

    Args:
        config: options of the study. If its folder is that of an earlier call, finished runs are kept, and
            interrupted runs resume.
        data, loaders, model, metrics, workers, retries, ray, board: see :func:`tvlars.lab.compare`.

    Returns:
        The results. Their files are in ``result.folder``: robustness.html, .svg, .md, .tex, .csv and .json, results.csv
        with one row per run, and the folders of the runs in runs/.

    Raises:
        UsageError: an option is bad, or does not fit the data; nothing has been written.
        KeyboardInterrupt: Ctrl-C; the results so far have been written, and the same call continues the study.
    """
    objects = dict(data=data, loaders=loaders, model=model, metrics=metrics)
    how: dict[str, Any] = dict(workers=workers, retries=retries, ray=ray, board=board)
    return do_study(config, RobustnessResult, save_results, objects, **how)
