"""Real processes with gloo between them, without torchrun: they start from one that has imported everything."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.command import CONTEXT


def in_processes(count: int, work: Callable[..., None], *arguments: Any, log: Path) -> None:
    """Call ``work(*arguments)`` in ``count`` processes, as torchrun would; fails with what the first of them said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log.mkdir(exist_ok=True)
    started = [
        CONTEXT.Process(target=_rank, args=(rank, count, port, log / f"{rank}", work, arguments))
        for rank in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=240)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    said = "\n".join(f"rank {rank}: {(log / f'{rank}').read_text()}" for rank, code in enumerate(codes) if code)
    assert codes == [0] * count, said


def _rank(rank: int, count: int, port: int, log: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    torch.set_num_threads(1)
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            file.flush()
            sys.exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
