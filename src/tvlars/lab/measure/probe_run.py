"""Evaluation of the features of a finished run of any task: ``tvlars probe``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tvlars.lab.data import Data
from tvlars.lab.errors import UsageError
from tvlars.lab.measure.run_data import as_loaded, changed_data, choose_device, data_of_run
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult
from tvlars.lab.run_folder.record import Record
from tvlars.lab.ssl.evaluations import Evaluated, check_labels, describe_evaluation, parse_evaluations
from tvlars.lab.ssl.probes import backbone_of, evaluate_features


def probe_run(
    run: LoadedRun | RunResult | Path | str,
    evaluations: str = "linear,knn,random",
    *,
    data: str | Data | None = None,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    seed: int | None = None,
    device: str = "auto",
    announce: Callable[[str], None] = lambda line: None,
) -> dict[str, Evaluated]:
    """Evaluate the features of a run's final weights.

    Args:
        run: a loaded run of any task, a result of ``train``, or a folder.
        evaluations: as in ``TrainConfig``.
        data: data set to use: a name, or Datasets or ``ImageData`` as for :func:`tvlars.lab.train`. None (default):
            the run's own data. Other data must have the same number of channels, and may have other classes.
        data_dir: folder of the data; None (default): the run's folder, for its own data.
        image_size: pixels to scale images to; None (default): the run's size, for its own data.
        skip_bad_images: for imagefolder:PATH, skip images that cannot be read; True by default if the run did so.
        seed: seed of label subsets, shuffles, new heads and the untrained network; None (default): the run's seed.
        device: "auto" (default: CUDA if available), "cpu" or any torch device.
        announce: called with one line per result, as soon as the result is available.

    Returns:
        Results by name. New results of a self-supervised run on its own data are added to its evaluations.json.

    Raises:
        UsageError: the run has no weights or weights of another architecture, or the data do not fit, have no labels,
            or are the run's own data and have changed.
        MovedFolderError: the run folder was moved or replaced in the meantime; nothing is written there.
    """
    run, wanted = as_loaded(run), parse_evaluations(evaluations)
    record = Record(run.folder, announce)
    own, sized = data is None, image_size is not None
    loaded = data_of_run(run, data, data_dir, image_size, skip_bad_images, same_classes=False)
    if own and not sized and (changed := changed_data(run, loaded, "train", "test")):
        raise UsageError(f"data must be given to measure {run.folder} on other data than its own, but {changed}")
    if own and run.config is not None and not run.config.test:
        loaded = loaded.with_validation_as_test()  # as in the run, which reports results on validation images
    check_labels(loaded, evaluations)
    init = run.config.init if run.config is not None else "default"
    seed = seed if seed is not None else run.config.seed if run.config is not None else 0
    target = torch.device(choose_device(device))
    backbone = backbone_of(run.model()).to(target)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = run.build_model(init=init)

    announce(f"run      {run.folder}, {run.status}")
    for line in (f"data     {loaded}", *loaded.account):
        announce(line)
    split = "validation" if own and run.config is not None and not run.config.test else "test"
    found, untrained = {}, backbone_of(fresh).to(target)
    for name, one, _ in evaluate_features(
        backbone, loaded.to(target), run.normalize, wanted, untrained=untrained, seed=seed
    ):
        found[name] = one
        announce(describe_evaluation(name, one, len(loaded.train_labels), split))
    if own and run.config is not None and run.config.self_supervised:
        record.add_evaluations({**found, **run.evaluations})
    return found
