"""Description of a run: lines for its user, and facts about model and machine for its folder."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from tvlars._words import counted
from tvlars.lab.config import TrainConfig
from tvlars.lab.imported import is_import_path, said_path, source_digest
from tvlars.lab.optimizers import is_class, is_known
from tvlars.lab.run_folder.identity import FINGERPRINT
from tvlars.lab.tasks import chosen_by
from tvlars.lab.training.batches import micro_batches
from tvlars.lab.training.optimizers import CombinedOptimizer
from tvlars.lab.training.prepare import Prepared
from tvlars.plan import Plan


def describe(config: TrainConfig, plan: Plan, facts: dict[str, Any], processes: int = 1) -> list[str]:
    """Return lines to show before a run starts; ``facts`` come from :func:`facts_of_run`."""
    return [
        f"data     {facts['data']}",
        *facts.get("account", ()),
        f"model    {facts['model']}",
        *(f"{name:<9}{facts[name]}" for name in ("task", "recipe", "views", "preset", "measured") if name in facts),
        f"device   {facts['device']}, {facts['precision']}{', compiled' * facts.get('compiled', False)}",
        *(f"speed    {text}" for text in facts.get("speed", ())),
        *([f"parallel {facts['processes']}"] if "processes" in facts else []),
        f"batch    {describe_batch(config, processes)}",
        *(line if line.startswith(" ") else f"plan     {line}" for line in str(plan).splitlines()),
        *([f"options  {facts['optimizer']}"] if "optimizer" in facts else []),
    ]


def describe_batch(config: TrainConfig, processes: int = 1) -> str:
    """Return the parts of a batch: micro-batch x accumulation x processes = batch size."""
    count = micro_batches(config, processes)
    short, longer = divmod(config.batch_size, count * processes)
    parts = f"{short:,} x {count} accumulation"
    if longer and processes > 1:
        parts = f"{short:,} or {short + 1:,} x {count} accumulation"
    elif longer:  # tensor_split makes the first parts one sample longer
        parts = f"({short + 1:,} x {longer} + {short:,} x {count - longer}) accumulation"
    if config.self_supervised and count > 1:
        parts += " of exact gradients (batch norm: statistics of a part)"
    return f"{parts} x {counted(processes, 'process', 'processes')} = {config.batch_size:,} samples per optimizer step"


def describe_device(device: torch.device) -> str:
    """Return the name of a device of this process, with the threads of a CPU."""
    names = {"cpu": f"cpu, {counted(torch.get_num_threads(), 'thread')}"}
    return torch.cuda.get_device_name(device) if device.type == "cuda" else names.get(device.type, device.type)


def facts_of_run(prepared: Prepared, model: str, task: dict[str, str]) -> dict[str, Any]:
    """Return facts about machine, model, data and task by name, for :func:`describe` and environment.json."""
    config, device, count = prepared.config, prepared.fabric.device, prepared.processes.count
    facts: dict[str, Any] = {
        "device": describe_device(device),
        "precision": prepared.precision,
        "compiled": prepared.chosen_compile[0],
        "speed": [text for _, text in (prepared.chosen_precision, prepared.chosen_compile) if text],
        "model": model,
        "data": str(prepared.data),
        "account": prepared.data.account,
    }
    if count > 1:
        how = "FSDP2, parameters spread" if config.shard else "DDP"
        norms = "of all processes together" if config.sync_batch_norm else "of each process"
        facts["processes"] = f"{count} processes ({how}; batch norm's statistics {norms})"
    if prepared.task is not None:
        facts["measure"] = dict(zip(("name", "better"), chosen_by(prepared.task), strict=True))
    return facts | task


def model_facts(prepared: Prepared) -> dict[str, Any]:
    """Return the content of model.json: arguments of the model's builder, and facts about its training data."""
    data, (mean, std) = prepared.data, prepared.mean_and_std
    return {
        "model": prepared.config.model,
        "stem": prepared.config.stem,
        "data": data.name,
        **{name: getattr(data, name) for name in ("channels", "image_size", "classes", "class_names")},
        "mean": mean.tolist(),
        "std": std.tolist(),
        FINGERPRINT: data.fingerprint.as_json(),
    }


def optimizer_facts(config: TrainConfig, optimizer: Any, inexact: str) -> dict[str, Any]:
    """Return facts about the user's own code: an imported optimizer with its arguments, and files with their digests.

    ``inexact`` is the reason why a resumed run may differ from an uninterrupted one, "" if it does not.
    """
    facts: dict[str, Any] = {}
    if not is_known(config.optimizer):
        parts = optimizer.optimizers if isinstance(optimizer, CombinedOptimizer) else [optimizer]
        calls = [_described(part) for part in parts]
        if is_class(config.optimizer):
            calls = [f"{said_path(config.optimizer)}({calls[0].partition('(')[2]}"]
        facts["optimizer"] = "; ".join(calls)
        facts["resume"] = inexact or "bit for bit"
        package = type(parts[0]).__module__.partition(".")[0]
        version = getattr(sys.modules.get(package), "__version__", None)
        facts |= {"optimizer_package": f"{package} {version}"} if version is not None else {}
    paths = [value for value in vars(config).values() if isinstance(value, str) and is_import_path(value)]
    if sources := {path: digest for path in paths if (digest := source_digest(path))}:
        facts["sources"] = sources
    return facts


def _described(optimizer: Any) -> str:
    """Return an optimizer as a call: its class and the options of its first group."""
    group = dict(optimizer.param_groups[0])
    group["lr"] = group.pop("initial_lr", group.get("lr"))  # the lr of the first step may belong to a warm-up
    numbers = {name: value.item() if isinstance(value, Tensor) else value for name, value in group.items()}
    said = [f"{name}={value!r:.60}" for name, value in numbers.items() if name != "params"]
    return f"{type(optimizer).__name__}({', '.join(said)})"


def changed_sources(before: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """Return a sentence about each file of the user that has changed since the run began.

    Args:
        before: environment.json of the run.
        facts: present result of :func:`optimizer_facts`.
    """
    there, here = (found if isinstance(found := one.get("sources"), dict) else {} for one in (before, facts))
    return [
        f"{path.rpartition(':')[0]} has changed since the run began" for path in here if there.get(path) != here[path]
    ]
