"""What a run is set up with: device, precision and micro-batches, and a line on each for its user."""

from __future__ import annotations

from typing import Any

import torch

from tvlars._machine import faster_in_bf16
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.errors import UsageError
from tvlars.lab.measure.layer_stats import check_extra, check_layer_stats
from tvlars.lab.run_folder.tensorboard import check_tensorboard
from tvlars.lab.ssl.evaluations import check_labels
from tvlars.plan import Plan


def check_run(config: TrainConfig, data: ImageData) -> Plan:
    """The plan of a run whose options go with its data, all of them: whoever runs it asks this first.

    Raises:
        UsageError: an option does not, or the data lack what the task needs: labels to learn, or to evaluate by.
    """
    if config.task != "classification":
        check_labels(data, config.evaluations)
        if len(data.test_labels) < 2:
            raise UsageError(f"{data.name} must have at least two test images for {config.task}, got 1")
    elif data.classes < 2:
        raise UsageError(f"{data.name} must have images of at least two classes, a folder each, got {data.classes}")
    if config.crop_padding is not None and config.crop_padding >= data.image_size:
        raise UsageError(f"crop_padding must be < the image size, {data.image_size}, got {config.crop_padding}")
    return config.plan(len(data.train_labels))


def check_machine(config: TrainConfig) -> None:
    """Raise ``UsageError`` unless a run can be done here: its device is there, and what it measures with."""
    choose_precision(config)
    name = config.accelerator
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise UsageError(f"accelerator must be auto or cpu on this machine, which has no such device, got {name!r}")
    if config.sharpness is not None:
        check_extra()
    if config.tensorboard:
        check_tensorboard()
    if config.layer_stats:
        check_layer_stats()


def describe(config: TrainConfig, plan: Plan, facts: dict[str, Any], processes: int = 1) -> list[str]:
    """What a user wants to read before a run starts, a line each."""
    return [
        f"data     {facts['data']}",
        *facts.get("account", ()),
        f"model    {facts['model']}",
        *(f"{name:<9}{facts[name]}" for name in ("task", "views", "preset") if name in facts),
        f"device   {facts['device']}, {facts['precision']}",
        *([f"parallel {facts['processes']}"] if "processes" in facts else []),
        f"batch    {describe_batch(config, processes)}",
        *(line if line.startswith(" ") else f"plan     {line}" for line in str(plan).splitlines()),
    ]


def describe_batch(config: TrainConfig, processes: int = 1) -> str:
    """What a batch is made of: micro-batch x accumulation x processes = batch size."""
    count = micro_batches(config, processes)
    short, longer = divmod(config.batch_size, count * processes)
    parts = f"{short:,} x {count} accumulation"
    if longer and processes > 1:
        parts = f"{short:,} or {short + 1:,} x {count} accumulation"
    elif longer:  # tensor_split makes the first ones a sample longer
        parts = f"({short + 1:,} x {longer} + {short:,} x {count - longer}) accumulation"
    if config.task != "classification" and count > 1:
        parts += " of exact gradients (batch norm: statistics of a part)"
    which = "1 process" if processes == 1 else f"{processes} processes"
    return f"{parts} x {which} = {config.batch_size:,} samples per optimizer step"


def describe_processes(config: TrainConfig, processes: int) -> str:
    """How many processes train, and how."""
    how = "FSDP2, parameters spread" if config.shard else "DDP"
    norms = "of all processes together" if config.sync_batch_norm else "of each process"
    return f"{processes} processes ({how}; batch norm's statistics {norms})"


def micro_batches(config: TrainConfig, processes: int = 1) -> int:
    """Into how many micro-batches a process's share of a batch is split, evenly: batch norm then sees about as much in
    each."""
    share = -(-config.batch_size // processes)
    return -(-share // config.micro_batch_size)


def choose_precision(config: TrainConfig) -> str:
    """The precision of a run: ``auto`` is bf16-mixed where that is expected to be faster than float32."""
    if config.precision == "16-mixed" and not (config.accelerator in ("auto", "cuda") and torch.cuda.is_available()):
        raise UsageError("precision must be bf16-mixed or 32-true without a CUDA device, got '16-mixed'")
    if config.precision != "auto":
        return config.precision
    on_cuda = config.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    on_mps = config.accelerator in ("auto", "mps") and torch.backends.mps.is_available()
    device = torch.device("cuda" if on_cuda else "mps" if on_mps else "cpu")
    return "bf16-mixed" if faster_in_bf16(device) else "32-true"


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
