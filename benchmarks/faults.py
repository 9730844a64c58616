"""Fate of a run under faults: each fault on purpose, many times, and a table of what survived.

    python benchmarks/faults.py

Runs on digits, 2 steps per epoch, a checkpoint every 5 steps. A run has survived where it went on and ended with the
very rows and weights of one that nothing happened to (bit for bit), or, where it must not go on, where it said what was
wrong and kept what it had. Lost steps are those that had been taken and were taken again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tvlars.cli import main as tvlars
from tvlars.lab import Reporter, TrainConfig, load_run, train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tvlars.lab", "lightly.loss"])
CONFIG = TrainConfig(
    epochs=30, batch_size=512, precision="32-true", accelerator="cpu", checkpoint_every="5-steps", resume=True,
    timeout=5.0, out=Path("unset"),
)  # fmt: skip


class Counts(Reporter):
    """Tells another process which step was taken last, and says what happened on standard output."""

    def __init__(self, step: Synchronized[int]) -> None:
        self.last = step

    def step(self, row: Any) -> None:
        self.last.value = row.step

    def note(self, text: str) -> None:
        print(text, flush=True)

    def start(self, config: Any, plan: Any, lines: list[str], folder: Path, step: int = 0) -> None:
        print(*[line for line in lines if line.startswith(("warning", "resumed"))], sep="\n", flush=True)


def child(
    config: TrainConfig, step: Synchronized[int], log: Path, rank: int, count: int, port: int, limit: int
) -> None:
    """One process of a run."""
    torch.set_num_threads(1)
    if count > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="faults",
        )  # fmt: skip
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open(log, "a") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            train(config, reporter=Counts(step))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        out.flush()
        os._exit(0)


@dataclass
class Running:
    """A run in processes of its own."""

    config: TrainConfig
    log: Path
    count: int = 1
    limit: int = 0
    processes: list[Any] = field(default_factory=list)

    def start(self) -> Running:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.step = CONTEXT.Value("i", 0)
        self.log.touch()
        for rank in range(self.count):
            arguments = (self.config, self.step, self.log, rank, self.count, port, self.limit)
            self.processes.append(CONTEXT.Process(target=child, args=arguments))
            self.processes[-1].start()
        return self

    def reach(self, step: int) -> bool:
        """Wait until this step has been taken; False where it ended before."""
        while self.step.value < step:
            if not self.processes[0].is_alive():
                return False
            time.sleep(0.001)
        return True

    def end(self) -> list[int]:
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def said(self) -> str:
        return self.log.read_text()


def same(a: Path, b: Path) -> bool:
    """Return whether two runs have equal rows and weights, to the last bit."""
    for name in ("steps.csv", "epochs.csv"):
        frames = [pd.read_csv(folder / name, dtype=str) for folder in (a, b)]
        frames = [frame.drop(columns=["seconds", "images_per_second"], errors="ignore") for frame in frames]
        if not frames[0].equals(frames[1]):
            return False
    one, other = (torch.load(folder / "weights.pt", weights_only=True) for folder in (a, b))
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@dataclass
class Case:
    """A fault, and what came of it each time."""

    name: str
    tried: int = 0
    survived: int = 0
    lost: list[int] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def add(self, survived: bool, lost: int | None = None, why: str = "") -> None:
        self.tried += 1
        self.survived += survived
        if lost is not None:
            self.lost.append(lost)
        if not survived:
            print(f"{self.name}, number {self.tried}: {why}", flush=True)

    def row(self) -> str:
        lost = f"{statistics.mean(self.lost):.1f} (at most {max(self.lost)})" if self.lost else "-"
        return f"| {self.name} | {self.tried} | {self.survived} | {lost} |"


class Faults:
    """All cases, in a folder for their runs."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.whole: dict[int, Path] = {}
        for count in (1, 2):
            out = folder / f"whole-{count}"
            assert Running(self.config(out), folder / f"whole-{count}.log", count).start().end() == [0] * count
            self.whole[count] = out
        self.steps = int(load_run(self.whole[1]).summary["steps"])

    def config(self, out: Path, **options: Any) -> TrainConfig:
        return replace(CONFIG, out=out, **options)

    def fresh(self, name: str) -> tuple[Path, Path]:
        out = self.folder / name.replace(" ", "-")
        shutil.rmtree(out, ignore_errors=True)
        log = out.with_suffix(".log")
        log.unlink(missing_ok=True)
        return out, log

    def signalled(self, name: str, times: int, number: int, count: int = 1, pause: float = 0.0) -> Case:
        """Send the last process a signal at a random moment, and go on with what is there."""
        case = Case(name)
        for _ in range(times):
            out, log = self.fresh(name)
            running = Running(self.config(out), log, count).start()
            if not running.reach(self.random.randrange(1, self.steps - 5)):
                case.add(False, why=running.said())
                continue
            time.sleep(self.random.uniform(0, 0.03))
            targets = running.processes if number == signal.SIGTERM else running.processes[-1:]
            for process in targets:
                os.kill(process.pid, number)
            if number == signal.SIGSTOP:  # it comes back too late: the others have given up
                time.sleep(pause)
                os.kill(running.processes[-1].pid, signal.SIGCONT)
            running.end()
            taken = running.step.value
            again = Running(self.config(out), log, count).start()
            codes = again.end()
            resumed = load_run(out).environment.get("resumed", [])
            at = resumed[-1]["step"] if resumed else 0
            case.add(codes == [0] * count and same(out, self.whole[count]), taken - at, again.said())
        return case

    def corrupted(self, times: int) -> list[Case]:
        """Cut the newest checkpoint short, or change a bit of it, in a random file."""
        out, log = self.fresh("corrupted")
        running = Running(self.config(out), log).start()
        running.reach(43)
        running.processes[0].kill()
        running.end()
        cases = []
        for name in ("newest checkpoint cut short", "one bit of it changed"):
            case = Case(name)
            for _ in range(times):
                copy, log = self.fresh("damaged")
                shutil.copytree(out, copy)
                newest = max((copy / "checkpoints").glob("[0-9]*[0-9]"))
                file = self.random.choice(sorted(newest.iterdir()))
                content = bytearray(file.read_bytes())
                place = self.random.randrange(len(content))
                if "bit" in name:
                    content[place] ^= 1 << self.random.randrange(8)
                file.write_bytes(content if "bit" in name else content[:place])
                again = Running(self.config(copy), log).start()
                told = again.end() == [0] and f"checkpoint {newest.name} is damaged" in again.said()
                lost = int(newest.name) - load_run(copy).environment["resumed"][-1]["step"]
                case.add(told and same(copy, self.whole[1]), lost, again.said())
            cases.append(case)
        return cases

    def full_disk(self, times: int) -> Case:
        """No file may grow beyond a random size while the run goes on; then the disk has room again."""
        case = Case("disk full (a limit on file sizes) in every save")
        for _ in range(times):
            out, log = self.fresh("full")
            first = Running(self.config(out), log).start()
            first.reach(self.random.randrange(10, 20))
            first.processes[0].kill()
            first.end()
            limited = Running(self.config(out), log, limit=self.random.randrange(30_000, 700_000)).start()
            limited.reach(self.random.randrange(30, self.steps - 5))
            limited.processes[0].kill()
            limited.end()
            taken = limited.step.value
            again = Running(self.config(out), log).start()
            codes = again.end()
            told = "could not be saved (File too large); those before are kept" in again.said()
            lost = taken - load_run(out).environment["resumed"][-1]["step"]
            case.add(told and codes == [0] and same(out, self.whole[1]), lost, again.said())
        return case

    def power_cut(self, times: int) -> Case:
        """Of what was written after the newest checkpoint, and not synced, nothing sensible is left."""
        case = Case("power cut: rows after the newest checkpoint lost")
        for _ in range(times):
            out, log = self.fresh("power-cut")
            running = Running(self.config(out), log).start()
            running.reach(self.random.randrange(7, self.steps - 5))
            running.processes[0].kill()
            running.end()
            at = int(max((out / "checkpoints").glob("[0-9]*[0-9]")).name)
            rows = (out / "steps.csv").read_bytes().splitlines(keepends=True)
            (out / "steps.csv").write_bytes(b"".join(rows[: at + 1]) + bytes(self.random.randrange(200)))
            epochs = (out / "epochs.csv").read_bytes()
            (out / "epochs.csv").write_bytes(epochs[: self.random.randrange(len(epochs))])
            for name in self.random.sample(["config.json", "model.json", "plan.json", "environment.json"], 2):
                (out / name).write_bytes(b"")
            taken = running.step.value
            again = Running(self.config(out), log).start()
            case.add(again.end() == [0] and same(out, self.whole[1]), taken - at, again.said())
        return case

    def full_for_a_while(self, times: int) -> list[Case]:
        """A file system that is full from one step to another, in which the run goes on, or is killed."""
        cases = []
        small = self.folder / "small"
        small.mkdir()
        if os.system(f"mount -t tmpfs -o size=32m tmpfs {small} 2>/dev/null"):
            print("a full tmpfs is left out: mounting one needs root", flush=True)
            return []
        try:
            names = ("disk full (a tmpfs) for 15 steps", "the same, and killed while it is full")
            for name, killed in zip(names, (False, True), strict=True):
                case = Case(name)
                for _ in range(times):
                    out, log = small / "run", self.folder / "small.log"
                    shutil.rmtree(out, ignore_errors=True)
                    log.unlink(missing_ok=True)
                    running = Running(self.config(out), log).start()
                    running.reach(self.random.randrange(6, 30))
                    with contextlib.suppress(OSError), open(small / "filler", "wb", buffering=0) as filler:
                        while True:
                            filler.write(bytes(4096))
                    running.reach(running.step.value + 15)
                    taken = running.step.value
                    if killed:
                        running.processes[0].kill()
                        running.end()
                    (small / "filler").unlink()
                    again = Running(self.config(out), log).start() if killed else running
                    told = "could not be saved (No space left on device); those before are kept" in running.said()
                    codes = again.end()
                    resumed = load_run(out).environment.get("resumed", [])
                    lost = taken - (resumed[-1]["step"] if resumed else 0) if killed else 0
                    case.add(told and codes == [0] and same(out, self.whole[1]), lost, again.said())
                cases.append(case)
        finally:
            os.system(f"umount {small}")
        return cases

    def not_finite(self, times: int) -> Case:
        """A learning rate that makes the loss infinite: the run ends with 3 and keeps its rows."""
        case = Case("loss not finite")
        for seed in range(times):
            out, _ = self.fresh("nan")
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                options = f"--optimizer sgd --lr 1e18 --schedule constant --epochs 2 --seed {seed} --out {out}"
                code = tvlars(["train", *options.split()])
            rows = len(load_run(out).steps)
            kept = json.loads((out / "summary.json").read_text())["status"] == "diverged" and rows > 0
            case.add(code == 3 and kept and f"not finite at step {rows}" in said.getvalue(), None, said.getvalue())
        return case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="how often each fault happens (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    times = options.times
    print("| case | tried | survived | lost steps, mean |\n|---|---|---|---|", flush=True)

    def show(*cases: Case) -> None:
        for case in cases:
            print(case.row(), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(Path(folder), options.seed)
        work: list[Callable[[], Any]] = [
            lambda: show(faults.signalled("killed (SIGKILL)", times, signal.SIGKILL)),
            lambda: show(faults.signalled("preempted (SIGTERM)", times, signal.SIGTERM)),
            lambda: show(*faults.corrupted(times)),
            lambda: show(faults.power_cut(times)),
            lambda: show(faults.full_disk(times)),
            lambda: show(*faults.full_for_a_while(times)),
            lambda: show(faults.not_finite(times)),
            lambda: show(faults.signalled("one of two processes killed", times, signal.SIGKILL, 2)),
            lambda: show(
                faults.signalled("one of two processes hangs (SIGSTOP)", max(times // 4, 1), signal.SIGSTOP, 2, 8)
            ),
            lambda: show(faults.signalled("two processes preempted", times, signal.SIGTERM, 2)),
        ]
        for one in work:
            one()


if __name__ == "__main__":
    main()
