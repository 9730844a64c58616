"""The study of robustness: every arm at every learning rate with every seed."""

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
    """Train every arm at every learning rate with every seed, and write how accuracy depends on the rate.

    Accuracy is that on validation images if there are some, and the test set is not read; else it is the test accuracy.
    A run failed if its loss was not finite, or if its accuracy is not above 2 / classes (for fewer than 11 classes: a
    tenth of the way from guessing, 1 / classes, to 100 %).

    Args:
        config: options of the study. If its folder is that of an earlier call, runs that are over there are kept, and
            others resume.
        data, loaders, model, metrics, workers, retries, ray, board: see :func:`tvlars.lab.compare`.

    Returns:
        The results. Their files are in ``result.folder``: robustness.html, .svg, .md, .tex, .csv and .json, results.csv
        with a row per run, and the folders of the runs in runs/.

    Raises:
        UsageError: an option is bad, or does not fit the data; nothing has been written then.
        KeyboardInterrupt: by Ctrl-C; what is there is written, and the same call continues.
    """
    objects = dict(data=data, loaders=loaders, model=model, metrics=metrics)
    how: dict[str, Any] = dict(workers=workers, retries=retries, ray=ray, board=board)
    return do_study(config, lambda run: [run], RobustnessResult, save_results, objects, **how)
