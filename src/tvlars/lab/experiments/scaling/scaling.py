"""Scaling study: every arm at every batch size, horizon and learning rate with every seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvlars.lab.data import Data
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.scaling.page import save_results
from tvlars.lab.experiments.scaling.result import ScalingConfig, ScalingResult
from tvlars.lab.experiments.studies.runs import do_study
from tvlars.lab.metrics import Metric
from tvlars.lab.models import Model

__all__ = ["ScalingConfig", "ScalingResult", "scaling"]


def scaling(
    config: ScalingConfig,
    *,
    data: Data | None = None,
    loaders: Any = None,
    model: Model | None = None,
    metrics: Mapping[str, Metric] | None = None,
    workers: int | None = None,
    retries: int = 1,
    ray: str | None = None,
    board: Board | None = None,
) -> ScalingResult:
    """Train every arm at every batch size, horizon and rate with every seed, and report the steps to the target.

    Each horizon is a separate run with a schedule over its whole length: the accuracy after N steps is never read
    from a longer run. At each batch size and horizon, the rate with the highest mean over seeds counts. The accuracy
    is measured on validation images if there are any, and then the test set is not read; otherwise on the test set.
    The critical batch size B_crit comes from the fit steps(B) = S_min (1 + B_crit / B) (McCandlish et al. 2018), with
    an interval over seeds; the figure follows Shallue et al. (2019).

    Args:
        config: options of the study. If its folder is that of an earlier call, finished runs are kept, and
            interrupted runs resume.
        data, loaders, model, metrics, workers, retries, ray, board: see :func:`tvlars.lab.compare`.

    Returns:
        The results. Their files are in ``result.folder``: scaling.html, .svg, .md, .tex, .csv and .json, horizons.csv,
        results.csv with one row per run, and the folders of the runs in runs/.

    Raises:
        UsageError: an option is bad, or does not fit the data; nothing has been written.
        KeyboardInterrupt: Ctrl-C; the results so far have been written, and the same call continues the study.
    """
    objects = dict(data=data, loaders=loaders, model=model, metrics=metrics)
    how: dict[str, Any] = dict(workers=workers, retries=retries, ray=ray, board=board)
    return do_study(config, ScalingResult, save_results, objects, **how)
