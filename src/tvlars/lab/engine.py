"""From a config to a finished run: data, model, plan and record are made here, the loop does the rest."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tvlars.doctor import check
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.diagnostics import check_extra
from tvlars.lab.errors import UsageError
from tvlars.lab.loop import Run, RunResult
from tvlars.lab.models import build_model, head_of
from tvlars.lab.progress import Reporter, choose_reporter
from tvlars.lab.record import Record, new_folder
from tvlars.lab.setup import check_task, choose_precision, describe, device_name, make_fabric, micro_batches
from tvlars.lab.ssl.picture import draw_views
from tvlars.lab.ssl.presets import describe_preset
from tvlars.lab.ssl.pretrain import Pretraining, around
from tvlars.lab.ssl.views import describe_views

__all__ = ["RunResult", "train"]


def train(
    config: TrainConfig, *, data: ImageData | None = None, folder: Path | None = None, reporter: Reporter | None = None
) -> RunResult:
    """Train one model and keep a record of it.

    Args:
        config: the run.
        data: the data set, where the caller has it already; None (default) loads ``config.data``.
        folder: an empty folder for the record; None (default) makes the one that ``config.out`` names.
        reporter: shows progress; None (default) takes a bar on a terminal or in a notebook, and plain lines
            elsewhere. ``Reporter()`` is silent.

    Returns:
        What came out; the record lies in ``result.folder``.

    Raises:
        UsageError: config and data do not go together.
        DivergedError: the loss was not finite. The record is kept.
        KeyboardInterrupt: as it came. The record is kept.
    """
    reporter = choose_reporter() if reporter is None else reporter
    data = load_data(config.data, config.data_dir, config.image_size) if data is None else data
    check_task(config, data)
    plan = config.plan(len(data.train_labels))
    precision = choose_precision(config)
    if config.sharpness is not None:
        check_extra()
    fabric = make_fabric(config, precision)
    fabric.seed_everything(config.seed, verbose=False)
    if config.crop_padding is not None and config.crop_padding >= data.image_size:
        raise UsageError(f"crop_padding must be < the image size, {data.image_size}, got {config.crop_padding}")
    model, model_text = build_model(config.model, data.channels, data.image_size, data.classes, config.init)
    facts = {"device": device_name(fabric.device), "precision": precision, "model": model_text, "data": str(data)}
    kind: Any = Run
    if config.task != "classification":
        kind = partial(Pretraining, head=head_of(model)[0])
        model, facts["task"] = around(config, model, on_cpu=fabric.device.type == "cpu")
        if config.preset is not None:
            facts["preset"] = describe_preset(config.preset, config.optimizer_preset())
        facts["views"] = describe_views(data.channels, data.image_size, data.flip)
    folder = new_folder(config.out, config.label()) if folder is None else folder
    mean, std = data.mean_and_std()
    shape = {
        "model": config.model,
        "data": data.name,
        "channels": data.channels,
        "image_size": data.image_size,
        "classes": data.classes,
        "class_names": data.class_names,
    }
    record = Record(folder, config, plan, {**shape, "mean": mean.tolist(), "std": std.tolist()}, facts)
    run = kind(config, plan, data, (mean, std), fabric, model, record, reporter)
    findings = check(
        model,
        run.bare_optimizer,
        epochs=config.epochs,
        total_steps=plan.total_steps,
        batch_size=config.batch_size,
        micro_batch_size=min(config.batch_size // micro_batches(config), config.batch_size),
        scheduler=run.scheduler,
    )
    lines = describe(config, plan, facts) + [f"warning  {finding}" for finding in findings]
    if config.task != "classification":
        draw_views(data, folder / "views.png", min(8, len(data.train_labels)), config.seed)
    reporter.start(config, plan, lines, folder)
    result: RunResult = run.train()
    return result
