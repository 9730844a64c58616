"""Time of one optimizer step on a GPU: ratios to torch's fused SGD and AdamW, and to what memory traffic allows.

    python benchmarks/step_time_cuda.py --published ../tvlars
    python benchmarks/step_time_cuda.py --tune        # the kernels' block, chunk and warps, against each other

Every optimizer takes its steps in turn with torch's fused SGD and fused AdamW, on the same parameters and gradients in
the shapes of a model. There are two times of a step, each a median over rounds, in random order with the baselines:

- eager: CUDA events around several steps in a row, as a training loop calls them, the host's part included;
- graph: CUDA events around the replay of a captured step, after the L2 cache has been filled with something else, as a
  backward pass does. It is the GPU's part alone, for optimizers that can be captured.

The floor of a step is the time of moving its values once at the bandwidth of a large copy (bytes read and written over
time), which is measured in the same run. Values of a parameter that have to be moved:

- SGD with momentum 5: reads w, g, m, writes w, m. AdamW 7: v as well.
- LARS and TVLARS 7: nothing can be written before two norms are known, so w and g are read once more.
- LAMB 9: the seven of AdamW, and two for a second pass, which has to read w and something that gives r. It is a bound
  below what two passes can do: our kernels move 10 (read w, g, m, v, write m, v; read w, m, v, write w). Where a layer
  is still in the cache in the second pass, fewer values reach memory.

Libraries are taken along where they are installed: timm, lightly and pytorch-optimizer (``pip install
'.[lab,bench]'``), and apex; ``--published FOLDER`` is a clone of https://github.com/KhoiDOO/tvlars.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import Cell, Results, Spread, Table, Turn, asked, options, ratios, spread
from step_time import ADAM, ADAMW, BASELINE, MOMENTUM, OURS, libraries

from tvlars.optim.triton import launcher

Shapes = list[tuple[int, ...]]
Params = list[torch.nn.Parameter]

FLOORS = {"sgd": 5, "adamw": 7, "lars": 7, "lamb": 9}
FLUSH = 2**28
"""Bytes that are written to empty the L2 cache; more where they are not four times as many as it holds."""
MODELS, DTYPES = ("resnet50", "vit_b_16", "transformer_1b"), ("float32", "bfloat16")
TABLES = [f"{model}-{dtype}" for dtype in DTYPES for model in MODELS]


# -- contestants ----------------------------------------------------------------------------------------------


def shapes_of(model: str) -> Shapes:
    """Return the shapes of a model of torchvision, or of a transformer with a billion parameters."""
    if model != "transformer_1b":
        import torchvision

        with torch.device("meta"):
            return [tuple(p.shape) for p in getattr(torchvision.models, model)(weights=None).parameters()]
    width, vocabulary, shapes = 2048, 50_304, []
    for _ in range(18):
        shapes += [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
        shapes += [(width,)] * 4  # two norms
        shapes += [(3 * width,), (width,), (4 * width,), (width,)]
    return [(vocabulary, width), *shapes, (width,), (width,)]


@dataclass(frozen=True)
class Contestant:
    """An optimizer: how it is made (for a graph or not), how it steps, and the kind of rule that gives its floor.

    ``moved`` is how many values of a parameter its kernels read and write, where that is known.
    """

    make: Callable[[Params, bool], torch.optim.Optimizer]
    rule: str
    captured: bool = False
    moved: int | None = None
    step: Callable[[Any], Any] = lambda optimizer: optimizer.step()


def contestants(published: Path | None = None) -> dict[str, Contestant]:
    """Return every optimizer by name."""
    adamw = partial(torch.optim.AdamW, **ADAM, fused=True)
    found = {
        BASELINE: Contestant(lambda p, graph: torch.optim.SGD(p, **MOMENTUM, fused=True), "sgd", True, 5),
        ADAMW: Contestant(lambda p, graph: adamw(p, capturable=graph), "adamw", True, 7),
    }
    for path, (name, make) in itertools.product(("fused", "foreach"), OURS.items()):
        rule, moved = ("lamb", 10) if name == "LAMB" else ("lars", 7)
        built = partial(built_on, partial(make, **{path: True}))
        found[f"tvlars {name} {path}"] = Contestant(built, rule, True, moved if path == "fused" else None)
    for name, make_theirs in libraries().items():
        rule = "lamb" if name.upper().endswith("LAMB") else "lars"
        found[name] = Contestant(lambda p, graph, make=make_theirs: make(p), rule)
    return found if published is None else found | of_authors(published)


def built_on(make: Callable[..., torch.optim.Optimizer], params: Params, graph: bool) -> torch.optim.Optimizer:
    """Return our optimizer, for a graph or not."""
    return make(params, capturable=graph)


def of_authors(folder: Path) -> dict[str, Contestant]:
    """Return the published optimizers; TVLARS's step wants a count."""

    def load(module: str, name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"published_{module}", folder / "opt" / f"{module}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    lars, lamb, tvlars = load("lars", "LARS"), load("lamb", "LAMB"), load("tvlars", "TVLARS")
    return {
        "published LARS": Contestant(lambda p, graph: lars(p, **MOMENTUM), "lars"),
        "published TVLARS": Contestant(lambda p, graph: tvlars(p, **MOMENTUM), "lars", step=lambda o: o.step(1)),
        "published LAMB": Contestant(lambda p, graph: lamb(p, **ADAM), "lamb"),
    }


# -- measuring ------------------------------------------------------------------------------------------------


class Clock:
    """Times on the GPU, which the host fetches at the end of a round."""

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(0)
        size = max(FLUSH, 4 * getattr(properties, "L2_cache_size", 0))
        self.cache = torch.empty(size, dtype=torch.uint8, device="cuda")

    def seconds(self, work: Callable[[], Any], times: int = 1, *, cold: bool = False) -> float:
        """Return the seconds of one ``work``, of ``times`` in a row."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if cold:
            self.cache.zero_()
        start.record()
        for _ in range(times):
            work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / times


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """Return a replay of ``step``, after three to warm up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def copy_bandwidth(clock: Clock, rounds: int) -> list[float]:
    """Return the bytes read and written per second by copies of 2 GiB, or of a quarter of what is free."""
    size = min(2**31, torch.cuda.mem_get_info()[0] // 4)
    source, target = (torch.ones(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    clock.seconds(lambda: target.copy_(source))
    return [2 * size / clock.seconds(lambda: target.copy_(source), 5) for _ in range(rounds)]


class Runner:
    """One optimizer on the given parameters, eagerly and, where that is possible, as a graph."""

    def __init__(self, contestant: Contestant, params: Params) -> None:
        optimizer = contestant.make(params, False)
        self.eager = lambda: contestant.step(optimizer)
        for _ in range(3):
            self.eager()
        self.graph: Callable[[], Any] | None = None
        if contestant.captured:
            optimizer = contestant.make(params, True)
            self.graph = captured(lambda: contestant.step(optimizer))


def parameters(model: str, dtype: torch.dtype) -> Params:
    """Return parameters with gradients, small random numbers."""
    params = [torch.nn.Parameter(0.02 * torch.randn(shape, device="cuda").to(dtype)) for shape in shapes_of(model)]
    for p in params:
        p.grad = 1e-3 * torch.randn_like(p)
    return params


def turns(clock: Clock, params: Params, runners: dict[str, Runner], inner: int) -> dict[str, Turn]:
    """Return turns "eager NAME" of each runner, and "graph NAME" of each if the runner "own" can be captured."""

    def turn(work: Callable[[], Any], times: int, cold: bool) -> float:
        for p in params:  # some libraries change them
            p.grad.normal_(0.0, 1e-3)  # type: ignore[union-attr]
        return clock.seconds(work, times, cold=cold)

    found: dict[str, Turn] = {f"eager {name}": partial(turn, one.eager, inner, False) for name, one in runners.items()}
    if runners["own"].graph is not None:
        found |= {f"graph {name}": partial(turn, one.graph, 1, True) for name, one in runners.items() if one.graph}
    return found


# -- tables ---------------------------------------------------------------------------------------------------


def row(times: dict[str, list[float]], contestant: Contestant, size: int, bandwidth: float) -> dict[str, Cell]:
    """Return the cells of a row; ``size`` is the parameters' bytes, ``bandwidth`` in bytes per second."""
    floor, cells = FLOORS[contestant.rule] * size / bandwidth, {}
    for kind in ("eager", "graph"):
        if own := times.get(f"{kind} own"):
            cells[f"{kind}, ms"] = 1e3 * Spread.of(own).median
            for label, base in (("SGD", BASELINE), ("AdamW", ADAMW)):
                cells[f"{kind}, to {label}"] = ratios(own, times[f"{kind} {base}"])
            cells[f"{kind} / floor"] = spread([t / floor for t in own])
    if contestant.moved is not None and (own := times.get("graph own")):
        speed = contestant.moved * size / Spread.of(own).median
        cells["moved in the graph"] = f"{speed / 1e9:.0f} GB/s, {speed / bandwidth:.0%}"
    return cells


def measure(results: Results, table: Table, name: str, arguments: argparse.Namespace, bandwidth: float) -> None:
    """Measure the contestants of a table, in turn with the baselines, and enter their rows."""
    model, _, dtype = name.rpartition("-")
    field, clock = contestants(arguments.published), Clock()
    params = parameters(model, getattr(torch, dtype))
    size = sum(p.numel() * p.element_size() for p in params)
    baselines = {base: Runner(field[base], params) for base in (BASELINE, ADAMW)}
    for label, contestant in field.items():
        if results.late or not results.missing(table, label):
            continue
        try:
            runners = {"own": Runner(contestant, params), **baselines}
            times = results.measure(table, turns(clock, params, runners, arguments.inner), label)
        except torch.OutOfMemoryError:
            table.rounds.pop(label, None)
            print(f"{label} is left out: the GPU's memory is too small", file=sys.stderr)
            continue
        results.row(table, label, **row(times, contestant, size, bandwidth))
        del runners  # its memory is the next one's


def tune(results: Results, table: Table, name: str, bandwidth: float) -> None:
    """Measure graph time over floor of our kernels for other blocks, chunks and warps than the package's."""
    usual = (launcher.BLOCK, launcher.CHUNK, launcher.WARPS)
    model, _, dtype = name.removeprefix("tune-").rpartition("-")
    clock, params = Clock(), parameters(model, getattr(torch, dtype))
    size = sum(p.numel() * p.element_size() for p in params)
    ours = {label: one for label, one in contestants().items() if label in ("tvlars LARS fused", "tvlars LAMB fused")}
    settings = itertools.product((512, 1024, 2048, 4096), (4, 8, 16), (4, 8))
    for block, blocks, warps in [(usual[0], usual[1] // usual[0], usual[2]), *settings]:
        label = f"block {block}, chunk {blocks * block}, {warps} warps"
        if results.late or not results.missing(table, label):
            continue
        launcher.BLOCK, launcher.CHUNK, launcher.WARPS = block, blocks * block, warps
        replays = {one: Runner(contestant, params).graph for one, contestant in ours.items()}
        times = results.measure(table, {k: partial(clock.seconds, r, cold=True) for k, r in replays.items()}, label)
        floors = {one: FLOORS[contestant.rule] * size / bandwidth for one, contestant in ours.items()}
        cells = {f"{one} / floor": spread([t / floors[one] for t in seconds]) for one, seconds in times.items()}
        results.row(table, label, **cells)
    launcher.BLOCK, launcher.CHUNK, launcher.WARPS = usual


def main() -> int:
    parser = options(__doc__, TABLES, count=15, devices=False)
    parser.add_argument("--inner", type=int, default=10, help="eager steps in a row; default: 10")
    parser.add_argument("--published", type=Path, metavar="FOLDER", help="a clone of the published code")
    parser.add_argument("--tune", action="store_true", help="compare settings of our kernels, and nothing else")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("step_time_cuda.py needs a CUDA GPU, and torch finds none here.", file=sys.stderr)
        return 2
    bandwidths = copy_bandwidth(Clock(), arguments.rounds)
    bandwidth = Spread.of(bandwidths).median
    torch.cuda.empty_cache()
    results = Results(arguments.json, "cuda", arguments.rounds, arguments.seconds)
    copy = results.table("copy")
    results.row(copy, "a copy of 2 GiB", **{"GB/s, read and written": spread([b / 1e9 for b in bandwidths])})
    if arguments.tune:
        arguments.rows = [f"tune-{name}" for name in arguments.rows]
    for _, name in asked(arguments, results):
        table = results.table(name, inner=arguments.inner)
        try:
            if arguments.tune:
                tune(results, table, name, bandwidth)
            else:
                measure(results, table, name, arguments, bandwidth)
        except torch.OutOfMemoryError:
            print(f"{name} is left out: the GPU's memory is too small for the baselines", file=sys.stderr)
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
