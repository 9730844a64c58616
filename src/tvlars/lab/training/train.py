"""Training of one run: from its config to its results."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tvlars._checks import shown
from tvlars._machine import emulates_bf16
from tvlars._reading import is_regular
from tvlars.findings import check
from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import Data
from tvlars.lab.data.own.loaders import LoaderData
from tvlars.lab.errors import UsageError
from tvlars.lab.given import take
from tvlars.lab.metrics import Metric
from tvlars.lab.models import Model
from tvlars.lab.processes.signals import kept
from tvlars.lab.run_folder.checkpoints.checkpoint import finish_putting
from tvlars.lab.run_folder.loaded_run import RunResult
from tvlars.lab.run_folder.loggers import check_protocol
from tvlars.lab.run_folder.record import ASIDE, ENVIRONMENT, WARNINGS, NoRecord, Record, read_object
from tvlars.lab.run_folder.resuming import Finished, GoOn, New, opened
from tvlars.lab.tasks import Task
from tvlars.lab.training.description import changed_sources, describe, facts_of_run, model_facts, optimizer_facts
from tvlars.lab.training.learner import Classification, Learner, OwnTask
from tvlars.lab.training.optimizer_state import why_inexact
from tvlars.lab.training.optimizers import held_by
from tvlars.lab.training.prepare import Prepared, prepare
from tvlars.lab.training.pretraining import Pretraining
from tvlars.lab.training.progress import Reporter, choose_reporter
from tvlars.lab.training.run import Run

__all__ = ["RunResult", "train"]


def train(
    config: TrainConfig,
    *,
    data: Data | None = None,
    loaders: Any = None,
    model: Model | None = None,
    task: Task | None = None,
    metrics: Mapping[str, Metric] | None = None,
    folder: Path | None = None,
    reporter: Reporter | None = None,
    loggers: Sequence[Any] = (),
) -> RunResult:
    """Train one model and record the run in a folder.

    With ``config.resume`` training resumes from the newest good checkpoint in ``config.out``, or begins if there is
    none; if the run has finished already, its results are returned. If torchrun has started several processes, each
    calls this function, and the first one writes the record.

    Args:
        config: the run.
        data: the data: Datasets as (train, test), (train, validation, test) or a dictionary of them, which give images
            (PIL, or uint8 tensors or arrays) and integer labels; or ``ImageData``. The config's ``data`` is then
            given:NAME. None (default) loads ``config.data``.
        loaders: instead of ``data``, DataLoaders as (train, test), (train, validation, test) or a dictionary of them.
            They give (inputs, labels), normalized floats (n, C, H, W) and integers (n,); nothing is augmented here.
            Training batches are micro-batches: ``config.batch_size`` is a multiple of their size. If a run resumes in
            an epoch, the loader's new order is used.
        model: a module to train instead of ``config.model``, of which a copy is trained, or a function that builds one
            from ``channels``, ``image_size`` and ``classes``. A copy starts with the weights of the module, for any
            seed, unless ``config.init`` draws others. The run's ``config.model`` is then given:NAME, and resuming
            and :func:`load_run` need the module or function again.
        task: a task of your own in place of ``config.task``, see :class:`tvlars.lab.Task`; a copy of it is used;
            ``data`` are then Datasets of any samples, or tuples or dictionaries of tensors. Resuming needs it again.
        metrics: metrics of torchmetrics by name, or others with their interface, which are measured after every epoch
            besides the metrics of ``config.metrics``. Resuming needs them again.
        folder: an empty folder for the record; None (default) makes the folder that ``config.out`` names.
        reporter: shows progress; None (default) shows a bar on a terminal or in a notebook, and plain lines
            elsewhere. ``Reporter()`` is silent.
        loggers: further loggers besides ``config.log``, which get every row: objects with the methods of Lightning's
            ``Logger``. Default ().

    Returns:
        Results of the run; ``result.folder`` is its record.

    Raises:
        UsageError: config and data do not fit, the checkpoint is of another run or of other data, or processes were
            started with different runs.
        LockedError: another process trains in this folder.
        DivergedError: the loss was not finite. The record is kept.
        LostProcessError: another process ended or did not connect.
        MovedFolderError: the run folder was moved or replaced; nothing is written there.
        PreemptedError: SIGTERM or SIGHUP was received. A checkpoint is kept.
        KeyboardInterrupt: Ctrl-C was pressed. The record is kept.
    """
    loggers = check_protocol(loggers)
    if reporter is not None and (isinstance(reporter, type) or not hasattr(reporter, "start")):
        raise UsageError(f"reporter must be an object, as Reporter(), got {shown(reporter)}")
    given = take(config, data=data, loaders=loaders, model=model, task=task, metrics=metrics)
    config = given.named(config)
    prepared = prepare(config, given)
    processes = prepared.processes
    reporter = (reporter or choose_reporter()) if processes.first else Reporter()
    notes: list[str] = []

    with processes.lost_said(), contextlib.ExitStack() as held:
        place, found = processes.by_first(
            lambda: held.enter_context(opened(config, prepared.plan, prepared.data.fingerprint, folder, notes.append))
        )
        if isinstance(found, Finished):
            reporter.say(f"{place} has finished already")
            return found.result
        with kept(place):
            return _train(prepared, place, found, notes, reporter, loggers)


def _train(
    prepared: Prepared, folder: Path, found: New | GoOn, notes: list[str], reporter: Reporter, loggers: Sequence[Any]
) -> RunResult:
    config, processes = prepared.config, prepared.processes
    prepared.fabric.seed_everything(config.seed, verbose=False)
    record = Record(folder, reporter.note) if processes.first else NoRecord(folder)
    inexact = ""
    with memory.needed(f"model {config.model!r} must fit into memory with its data"):
        model, model_text = prepared.build_model()
        norms = {name: float(p.detach().norm()) for name, p in model.named_parameters() if p.ndim > 1}
        inexact = why_inexact(config, prepared.plan, model)
        kind = OwnTask if config.own_task else Pretraining if config.self_supervised else Classification
        learner: Learner = kind(prepared, model, record, reporter)
    plan = learner.plan
    run = Run(learner, loggers)
    facts = facts_of_run(prepared, model_text, learner.facts()) | optimizer_facts(
        config, learner.bare_optimizer, inexact
    )
    findings = check(
        learner.bare_model,
        learner.bare_optimizer,
        epochs=config.epochs,
        total_steps=plan.total_steps,
        batch_size=config.batch_size,
        micro_batch_size=config.batch_size // (learner.batches.count * processes.count),
        scheduler=learner.scheduler,
    )
    lines = describe(config, plan, facts, processes.count)
    said = [*map(str, findings), *notes]
    whole = sum(p.requires_grad for p in learner.bare_model.parameters())
    held = held_by(learner.bare_optimizer, learner.bare_model)
    if held < whole and not config.self_supervised:
        said.append(f"{config.arm_name} holds {held} of {whole} parameters of the model; the others stay as they are")
    if learner.averaging and any(
        isinstance(one, nn.modules.batchnorm._BatchNorm) for one in learner.bare_model.modules()
    ):
        said.append(
            f"{config.arm_name} is tested with batch norm's statistics computed anew for its averaged weights; other "
            "optimizers are tested with running statistics, which lag behind in the first hundred steps"
        )
    if prepared.precision == "bf16-mixed" and emulates_bf16(prepared.fabric.device):
        said.append("precision bf16-mixed is emulated on this CPU, which has no bfloat16 of its own: 32-true is faster")
    if inexact:
        said.append(f"a resumed run may not equal an uninterrupted one bit for bit: {inexact}")
    if isinstance(found, GoOn):
        said += changed_sources(read_object(folder / ENVIRONMENT), facts)
        run.resume(found)  # before anything is changed in the folder
        processes.each(run.open_logs)
        if processes.first:
            finish_putting(folder)
        if isinstance(prepared.data, LoaderData) and run.position:
            said.append("the run continues within an epoch, and the order of the loader is not restored bit for bit")
        facts[WARNINGS] = said
        rows = found.epochs, found.steps, run.sharpness.due
        said += record.reopen(config, plan, model_facts(prepared), facts, run.step, *rows)
        resumed = [f"resumed  after step {run.step} of {plan.total_steps}, from {found.place}"]
    else:
        facts[WARNINGS] = said
        record.begin(config, plan, model_facts(prepared), facts, norms)
        processes.each(run.open_logs)
        again = f", and repeats epochs: {found.epochs}" if found.epochs else ""
        again += f"; earlier weights are in {ASIDE}" if is_regular(folder / ASIDE) else ""
        resumed = [f"resumed  nothing: there is no checkpoint yet, so the run begins{again}"] * config.resume
    lines += [*(f"warning  {text}" for text in said), *resumed]
    processes.each(record.open_loggers)
    if processes.first:
        learner.before_training()
    reporter.start(config, plan, lines, folder, run.step)
    return run.train()
