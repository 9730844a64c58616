"""The evaluation of a finished run's features, whatever its task was: ``tvlars probe``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from tvlars.lab.errors import UsageError
from tvlars.lab.files.place import Place
from tvlars.lab.measure.run_data import as_loaded, changed_data, choose_device, data_of_run
from tvlars.lab.models import build_model
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult
from tvlars.lab.run_folder.record import write_json
from tvlars.lab.ssl.evaluations import Evaluated, check_labels, describe_evaluation, parse_evaluations
from tvlars.lab.ssl.probes import backbone_of, evaluate_features


def probe_run(
    run: LoadedRun | RunResult | Path | str,
    evaluations: str = "linear,knn,random",
    *,
    data: str | None = None,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    seed: int | None = None,
    device: str = "auto",
    announce: Callable[[str], None] = lambda line: None,
) -> dict[str, Evaluated]:
    """Measure what the features of a run's final weights are worth.

    Args:
        run: a run of any task, what ``train`` returned, or a folder.
        evaluations: as in ``TrainConfig``.
        data: data set to do it on; None (default) is the run's own. It needs as many channels, and may have other
            classes.
        data_dir: where it lies; None (default) is where the run looked, for the run's own.
        image_size: for imagefolder:PATH.
        skip_bad_images: for imagefolder:PATH, go on without images that cannot be read; so it does if the run did.
        seed: of label subsets, shuffles, new heads and the untrained network; None (default) is the run's own.
        device: "auto" (default: CUDA where there is one), "cpu" or any torch device.
        announce: is told each result, in words, as it comes.

    Returns:
        Results by name. What a self-supervised run on its own data did not have yet is entered into its
        evaluations.json.

    Raises:
        UsageError: the run has no weights, they are of another architecture, or the data do not fit, have
            no labels, or are the run's own and have changed.
        MovedFolderError: the run folder was moved or taken away meanwhile; what is there now is left as it is.
    """
    run, wanted = as_loaded(run), parse_evaluations(evaluations)
    place = Place(run.folder)
    facts = run.model_facts()
    own, sized = data is None, image_size is not None
    loaded = data_of_run(run, data, data_dir, image_size, skip_bad_images, same_classes=False)
    if own and not sized and (changed := changed_data(run, loaded, "train", "test")):
        raise UsageError(f"data must be given to measure {run.folder} on others than its own, but {changed}")
    check_labels(loaded, evaluations)
    init = run.config.init if run.config is not None else "default"
    seed = seed if seed is not None else run.config.seed if run.config is not None else 0
    target = torch.device(choose_device(device))
    backbone = backbone_of(run.model()).to(target)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh, _ = build_model(facts["model"], facts["channels"], facts["image_size"], facts["classes"], init)

    announce(f"run      {run.folder}, {run.status}")
    for line in (f"data     {loaded}", *loaded.account):
        announce(line)
    found, untrained = {}, backbone_of(fresh).to(target)
    for name, one, _ in evaluate_features(
        backbone, loaded.to(target), run.normalize, wanted, untrained=untrained, seed=seed
    ):
        found[name] = one
        announce(describe_evaluation(name, one, len(loaded.train_labels)))
    if own and run.config is not None and run.config.self_supervised:
        both = {**found, **run.evaluations}
        place.check()
        write_json(run.folder / "evaluations.json", {name: asdict(one) for name, one in both.items()})
    return found
