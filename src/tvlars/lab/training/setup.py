"""A run set up on its device and in its processes: batches, model, optimizer and schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tvlars.lab.errors import UsageError
from tvlars.lab.processes.processes import Processes
from tvlars.lab.processes.sync_batch_norm import synchronize_batch_norm
from tvlars.lab.run_folder.record import Record
from tvlars.lab.training.batches import Batches
from tvlars.lab.training.optimizers import build_optimizer
from tvlars.lab.training.prepare import Prepared
from tvlars.lab.training.profile import Phases
from tvlars.lab.training.progress import Reporter


class Setup:
    """Everything that a task computes with, and that a checkpoint takes apart.

    Args:
        prepared: the run.
        network: what is trained; it has its initial weights.
        record: written by the run.
        reporter: shows the run.
    """

    def __init__(self, prepared: Prepared, network: nn.Module, record: Record, reporter: Reporter) -> None:
        config, fabric = prepared.config, prepared.fabric
        self.config, self.plan, self.fabric = config, prepared.plan, fabric
        self.record, self.reporter = record, reporter
        self.processes = Processes(fabric)
        profiled = record.folder if config.profile and self.processes.first else None
        self.phase = Phases(profiled, fabric.device, record.check_place)
        self.batches = Batches(prepared, self.phase)
        self.data, self.normalize = self.batches.data, self.batches.normalize
        self.fingerprint = prepared.data.fingerprint
        self.batch_norms: dict[str, type[nn.Module]] = {}
        """Classes of batch norms before they were synchronized."""
        if self.processes.several and config.sync_batch_norm:
            self.batch_norms = synchronize_batch_norm(network, on_cpu=fabric.device.type == "cpu")
        # FSDP2 wants parameters in the usual order.
        self.bare_model = network if config.shard else network.to(memory_format=torch.channels_last)
        compiled: Any = _compiled(self.bare_model) if config.compile else self.bare_model
        self.model = fabric.setup_module(compiled)
        # Groups by role want the bare model, and shards in place of parameters where there are any.
        self.bare_optimizer = build_optimizer(config, prepared.plan, self.bare_model)
        self.scheduler = prepared.plan.scheduler(self.bare_optimizer)
        self.optimizer: Any = fabric.setup_optimizers(self.bare_optimizer)
        if self.processes.rank:  # the same initial weights everywhere, but not the same dropout
            torch.manual_seed((config.seed + self.processes.rank) % 2**32)


def _compiled(model: nn.Module) -> Any:
    """Return the model, to be compiled when it is first called."""
    try:
        return torch.compile(model)
    except RuntimeError as error:  # of a Python that torch's compiler does not know yet
        raise cannot_compile(error) from error


def is_compilers(error: Exception) -> bool:
    """Return whether an error is one of torch's compiler."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import, where nothing has been compiled

    return isinstance(error, TorchDynamoException)


def cannot_compile(error: Exception) -> UsageError:
    """Return the error that says in one sentence why a model cannot be compiled."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if not line.startswith("backend=")), type(error).__name__)
    return UsageError(f"compile must be false on this machine, whose compiler does not work: {reason:.200}")
