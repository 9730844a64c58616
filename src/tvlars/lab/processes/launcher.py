"""Launcher of a run's processes with torch's elastic agent: if one process fails, the others are stopped."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tvlars._checks import one_line
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.processes.processes import is_lost
from tvlars.lab.processes.signals import not_ignored
from tvlars.lab.processes.started import started

LAUNCHED = "TVLARS_LAUNCHED"
"""Environment variable of launched processes: the launcher's process id. The launcher reports their errors."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
HANDLED = [signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
"""Signals that torch's agent handles."""
GRACE = 300
"""Seconds in which processes may save and end after a signal."""
GRACE_OF_OTHERS = 30
"""Seconds in which the other processes may end after one has failed."""
LEFT_TO_OTHERS = 2
"""Exit code of a process that reports nothing, since another one reports the error."""
MAX_UNKNOWN = 60
"""Seconds for which a machine's name may be unknown, since the name may be registered when the machine starts."""
IN_VAIN = "has waited for the others in vain"
PR_SET_PDEATHSIG = 1


def wanted(config: TrainConfig) -> bool:
    """Return True if this process must launch the processes of the run."""
    return started() is None and ((config.devices or 1) > 1 or (config.nodes or 1) > 1)


def launch(words: list[str], config: TrainConfig) -> tuple[int, str]:
    """Run ``tvlars`` with the arguments ``words`` in every process of this machine.

    Returns:
        The exit code, and the first error ("" if there was none).

    Raises:
        UsageError: there are several machines without a rendezvous, or the rendezvous does not answer.
    """
    nodes, devices = config.nodes or 1, config.devices or 1
    if nodes > 1 and config.rendezvous is None:
        raise UsageError(
            f"rendezvous must be given with nodes {nodes}: HOST:PORT of the first machine, the same on all of them"
        )
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # one sentence below reports errors
    if config.rendezvous is not None and nodes > 1:
        _wait_for_first_machine(config.rendezvous, config.timeout)
    marks = {
        LAUNCHED: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or 1) // devices, 1)),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT") or str(GRACE),
    }
    with _in_environment(marks), tempfile.TemporaryDirectory(prefix="tvlars-") as logs:
        try:
            elastic_launch(_options(config, logs), sys.executable)("-m", "tvlars", *words)
        except ChildFailedError as error:
            return _first(error.failures, words[0] if config.checkpoint_every else "")
        except RendezvousError as error:
            return 1, _not_met(error, config, met=any(Path(logs).iterdir()))  # each process has a folder there
        except SignalException as error:
            number = signal.Signals(error.sigval)
            how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
            return 128 + number, f"{how}; what was measured is kept{way_on(words[0])}"
    return 0, ""


@contextlib.contextmanager
def _in_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes started in this context, and restore the environment afterwards.

    The signal handlers that the agent replaces are restored too.
    """
    before = dict(os.environ)  # the agent also sets variables
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    os.environ.update(values)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: a handler that was not set from Python
                signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(before)


def die_with_launcher() -> None:
    """Make the kernel send SIGTERM to this process when its launcher dies; called when the process starts."""
    launcher = os.environ.get(LAUNCHED)
    if launcher is None or sys.platform != "linux":  # only Linux can do this
        return
    # The kernel watches the thread that started this process: the launcher's main thread.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(launcher):  # the launcher has died already
        sys.exit(128 + signal.SIGTERM)


def report(message: str, code: int) -> bool:
    """Report an error of this process to its launcher; return False if the launcher is gone."""
    file = os.environ.get(ERROR_FILE)
    if not file or os.environ.get(LAUNCHED) != str(os.getppid()):
        return False
    extra = {"timestamp": str(int(time.time())), "exit_code": code}
    Path(file).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
    return True


def report_unexpected(error: Exception) -> bool:
    """Report an unexpected error to the launcher; this process prints the traceback."""
    lost = isinstance(error, RuntimeError) and is_lost(error)
    what = f"{IN_VAIN}:" if lost else "ended with"
    return report(f"process {os.environ.get('RANK', '0')} {what} {one_line(error)}", 1)


def _wait_for_first_machine(place: str, timeout: float) -> None:
    """Wait until the first machine, which may start later, answers; torch alone would log a page per attempt.

    Raises:
        UsageError: the machine does not answer.
    """
    from torch.distributed.elastic.rendezvous.utils import _matches_machine_hostname

    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    if _matches_machine_hostname(host):  # this is the first machine
        return
    begun = time.monotonic()
    while True:
        try:
            with socket.create_connection((host, int(port)), max(begun + timeout - time.monotonic(), 0.1)):
                return
        except OSError as error:
            waited = time.monotonic() - begun
            if waited >= (min(timeout, MAX_UNKNOWN) if isinstance(error, socket.gaierror) else timeout):
                raise UsageError(
                    f"rendezvous must be HOST:PORT of the first machine, where the same command runs, but nobody "
                    f"answered at {place} for {waited:.3g} s: {error.strerror or error}"
                ) from error
        time.sleep(min(1.0, max(begun + timeout - time.monotonic(), 0.0)))


def _options(config: TrainConfig, logs: str) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    nodes = config.nodes or 1
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=config.devices or 1,
        run_id=f"tvlars-{uuid.uuid4()}" if nodes == 1 else f"tvlars-{config.rendezvous}",
        rdzv_backend="c10d",
        rdzv_endpoint=config.rendezvous or "localhost:0",
        rdzv_configs={} if nodes == 1 else {"join_timeout": math.ceil(config.timeout)},
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=logs),
        signals_to_handle=",".join(signal.Signals(number).name for number in not_ignored()),
    )


def _not_met(error: Exception, config: TrainConfig, met: bool) -> str:
    """Return a sentence about an error between machines, before or after their processes ``met``.

    Raises:
        UsageError: another program answers at the rendezvous.
    """
    from torch.distributed.elastic.rendezvous import api

    place = config.rendezvous
    if isinstance(error, api.RendezvousTimeoutError):
        return (
            f"{config.nodes} machines did not all reach {place} within {config.timeout:g} s: "
            "start the same command on all of them"
        )
    if met:
        return f"the machine at {place}, which coordinates the others, has ended or can no longer be reached"
    if isinstance(error, api.RendezvousConnectionError):
        raise UsageError(
            f"rendezvous must be HOST:PORT of the first machine, where the same command runs, but no run answers at "
            f"{place}"
        ) from error
    if isinstance(error, api.RendezvousClosedError):
        return f"the run at {place} has ended: this machine came too late"
    return f"machines cannot meet at {place}: {one_line(error)}"


def way_on(command: str) -> str:
    """Return a clause about --resume for messages; "" for commands without this option."""
    return ", and --resume continues" if command in ("train", "ssl") else ""


def _first(failures: dict[int, Any], command: str = "train") -> tuple[int, str]:
    """Return the exit code and message of the failure that caused the others.

    The order is: failures with a message; killed processes and processes without a message; processes that waited for
    another one; processes that the launcher stopped; processes that leave the report to others.
    """
    begun = min(failure.timestamp for failure in failures.values())

    def order(rank: int) -> tuple[int, int, int]:
        failure, (code, words) = failures[rank], _said(failures[rank])
        late_kill = code == -signal.SIGKILL and failure.timestamp >= begun + GRACE_OF_OTHERS
        if late_kill or code in (128 + signal.SIGTERM, -signal.SIGTERM):
            kind = 3
        elif words:
            kind = 2 if IN_VAIN in words else 0
        else:
            kind = 4 if code == LEFT_TO_OTHERS else 1
        return kind, failure.timestamp, rank

    rank = min(failures, key=order)
    code, words = _said(failures[rank])
    if code < 0:
        on = f"{way_on(command)} from a checkpoint" if way_on(command) else ""
        return 1, f"process {rank} was killed by {signal.Signals(-code).name}; the others were stopped{on}"
    if not words and code == LEFT_TO_OTHERS:
        return code, f"process {rank} stopped since a process of another machine could not continue"
    return code, words or f"process {rank} ended with exit code {code}"


def _said(failure: Any) -> tuple[int, str]:
    """Return the exit code and message that a process reported, even if it was stopped afterwards."""
    message = failure.message  # torch's text if the process reported nothing
    if not isinstance(message, dict):
        return failure.exitcode, ""
    return int(message["extraInfo"].get("exit_code", failure.exitcode)), str(message.get("message", ""))
