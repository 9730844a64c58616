"""Starting the processes of a run, by torch's elastic launcher: one that fails ends the others."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.processes import started

LAUNCHED = "TVLARS_LAUNCHED"
"""Set in processes that were started here: they leave it to us to say what went wrong."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
GRACE = 300
"""Seconds that processes have to save and end after a signal."""


def wanted(config: TrainConfig) -> bool:
    """Whether this process has to start others for the run."""
    return started() is None and ((config.devices or 1) > 1 or (config.nodes or 1) > 1)


def launch(words: list[str], config: TrainConfig) -> tuple[int, str]:
    """Run ``tvlars`` with the arguments ``words`` in every process of this machine.

    Returns:
        The exit code, 0 if all went well, and what went wrong first.

    Raises:
        UsageError: several machines have no place to meet.
    """
    nodes, devices = config.nodes or 1, config.devices or 1
    if nodes > 1 and config.rendezvous is None:
        raise UsageError(
            f"rendezvous must be given with nodes {nodes}: HOST:PORT of the first machine, the same on all of them"
        )
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would tell is said below, in a sentence
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // devices, 1)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE))
    with tempfile.TemporaryDirectory(prefix="tvlars-") as logs:
        options = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=devices,
            run_id=f"tvlars-{uuid.uuid4()}" if nodes == 1 else f"tvlars-{config.rendezvous}",
            rdzv_backend="c10d",
            rdzv_endpoint=config.rendezvous or "localhost:0",
            rdzv_configs={"timeout": config.timeout},
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(options, sys.executable)("-m", "tvlars", *words)
        except ChildFailedError as error:
            return _first(error.failures)
        except SignalException as error:
            if error.sigval == signal.SIGTERM:
                return 128 + signal.SIGTERM, "stopped by SIGTERM; what was measured is kept, and --resume goes on"
            return 128 + signal.SIGINT, "interrupted; what was measured is kept"
    return 0, ""


def report(message: str, code: int) -> bool:
    """Tell the launcher what went wrong in this process; False where there is none."""
    file = os.environ.get(ERROR_FILE)
    if not (file and os.environ.get(LAUNCHED)):
        return False
    extra = {"timestamp": str(int(time.time())), "exit_code": code}
    Path(file).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
    return True


def _first(failures: dict[int, Any]) -> tuple[int, str]:
    """Exit code and words of the failure that others followed from: one that was killed comes before those that
    waited for it in vain."""

    def order(rank: int) -> tuple[bool, int, int]:
        failure = failures[rank]
        return "has waited for the others in vain" in _message(failure), failure.timestamp, rank

    rank = min(failures, key=order)
    failure = failures[rank]
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return (
            1,
            f"process {rank} was killed by {name}; the others were stopped, and --resume goes on from a checkpoint",
        )
    return failure.exitcode, _message(failure) or f"process {rank} ended with exit code {failure.exitcode}"


def _message(failure: Any) -> str:
    message = failure.message
    if isinstance(message, dict):
        return str(message.get("message", ""))
    return "" if "elastic/errors" in str(message) else str(message)
