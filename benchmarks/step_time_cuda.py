"""Time of one optimizer step on a GPU: ratios to torch's fused SGD and AdamW, and to what memory traffic allows.

    python benchmarks/step_time_cuda.py --dtypes float32 bfloat16 --published ../tvlars --json step-time-cuda.json
    python benchmarks/step_time_cuda.py --tune        # the kernels' block, chunk and warps, against each other

Every optimizer takes its steps in turn with torch's fused SGD and fused AdamW, on the same parameters and gradients in
the shapes of a model. There are two times of a step, each a median over rounds:

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
import importlib
import importlib.util
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tvlars import LAMB, LARS, TVLARS
from tvlars.optim.triton import launcher

Shapes = list[tuple[int, ...]]
Params = list[torch.nn.Parameter]

SGD, ADAMW = "torch SGD fused", "torch AdamW fused"
FLOORS = {"sgd": 5, "adamw": 7, "lars": 7, "lamb": 9}
FLUSH = 2**28
"""Bytes that are written to empty the L2 cache; more where they are not four times as many as it holds."""


# -- what is measured -----------------------------------------------------------------------------------------


def shapes_of(model: str) -> Shapes:
    if model != "transformer_1b":
        import torchvision

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
    """Every optimizer by name; those of libraries that are not there are left out, and named on stderr."""
    momentum: dict[str, Any] = dict(lr=1e-3, momentum=0.9, weight_decay=1e-4)
    adam: dict[str, Any] = dict(lr=1e-3, weight_decay=0.01)
    found = {
        SGD: Contestant(lambda p, graph: torch.optim.SGD(p, **momentum, fused=True), "sgd", True, 5),
        ADAMW: Contestant(
            lambda p, graph: torch.optim.AdamW(p, **adam, fused=True, capturable=graph), "adamw", True, 7
        ),
    }
    for path in ("fused", "foreach"):
        options: dict[str, Any] = {path: True}
        for name, cls, arguments in (
            ("LARS", LARS, momentum),
            ("TVLARS", TVLARS, {**momentum, "total_steps": 1000}),
            ("LAMB", LAMB, adam),
        ):

            def ours(p: Params, graph: bool, cls: Any = cls, arguments: Any = arguments, options: Any = options) -> Any:
                return cls(p, **arguments, **options, capturable=graph)

            rule, moved = ("lamb", 10) if cls is LAMB else ("lars", 7)
            found[f"tvlars {name} {path}"] = Contestant(ours, rule, True, moved if path == "fused" else None)
    for label, module, name, arguments in (
        ("timm Lars", "timm.optim", "Lars", momentum),
        ("timm Lamb", "timm.optim", "Lamb", adam),
        ("lightly LARS", "lightly.utils.lars", "LARS", momentum),
        ("pytorch-optimizer LARS", "pytorch_optimizer", "LARS", momentum),
        ("pytorch-optimizer Lamb", "pytorch_optimizer", "Lamb", adam),
        ("apex FusedLAMB", "apex.optimizers", "FusedLAMB", adam),
    ):
        try:
            cls = getattr(importlib.import_module(module), name)
            cls([torch.nn.Parameter(torch.ones(1))], **arguments)  # apex says here that its kernels were not built
        except (ImportError, RuntimeError) as error:
            print(f"{label} is left out: {error}", file=sys.stderr)
            continue
        rule = "lamb" if name.upper().endswith("LAMB") else "lars"
        found[label] = Contestant(lambda p, graph, cls=cls, arguments=arguments: cls(p, **arguments), rule)
    if published is not None:
        found.update(of_authors(published, momentum, adam))
    return found


def of_authors(folder: Path, momentum: dict[str, Any], adam: dict[str, Any]) -> dict[str, Contestant]:
    """The published optimizers; TVLARS's step wants a count."""

    def load(module: str, name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"published_{module}", folder / "opt" / f"{module}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    lars, lamb, tvlars = load("lars", "LARS"), load("lamb", "LAMB"), load("tvlars", "TVLARS")
    return {
        "published LARS": Contestant(lambda p, graph: lars(p, **momentum), "lars"),
        "published TVLARS": Contestant(lambda p, graph: tvlars(p, **momentum), "lars", step=lambda o: o.step(1)),
        "published LAMB": Contestant(lambda p, graph: lamb(p, **adam), "lamb"),
    }


# -- measuring ------------------------------------------------------------------------------------------------


class Clock:
    """Times on the GPU, which the host fetches when a round is over."""

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(0)
        size = max(FLUSH, 4 * getattr(properties, "L2_cache_size", 0))
        self.cache = torch.empty(size, dtype=torch.uint8, device="cuda")

    def seconds(self, work: Callable[[], Any], times: int = 1, *, cold: bool = False) -> float:
        """Of one ``work``, ``times`` in a row."""
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
    """A replay of ``step``, after three to warm up."""
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
    """Bytes read and written a second by copies of 2 GiB, or of a quarter of what is free."""
    size = min(2**31, torch.cuda.mem_get_info()[0] // 4)
    source, target = (torch.ones(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    clock.seconds(lambda: target.copy_(source))
    return [2 * size / clock.seconds(lambda: target.copy_(source), 5) for _ in range(rounds)]


@dataclass
class Times:
    """Seconds of a step in each round, and of the baselines in the same rounds; ``graph`` is empty without capture."""

    eager: list[float] = field(default_factory=list)
    graph: list[float] = field(default_factory=list)
    eager_of: dict[str, list[float]] = field(default_factory=lambda: {SGD: [], ADAMW: []})
    graph_of: dict[str, list[float]] = field(default_factory=lambda: {SGD: [], ADAMW: []})


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


def measure(
    shapes: Shapes, dtype: torch.dtype, field_: dict[str, Contestant], rounds: int, inner: int
) -> Iterator[Any]:
    """Name and times of every contestant, in turn with the baselines."""
    clock = Clock()
    params = [torch.nn.Parameter(0.02 * torch.randn(shape, device="cuda").to(dtype)) for shape in shapes]
    for p in params:
        p.grad = 1e-3 * torch.randn_like(p)
    baselines = {name: Runner(field_[name], params) for name in (SGD, ADAMW)}
    for name, contestant in field_.items():
        try:
            own, times = Runner(contestant, params), Times()
        except torch.OutOfMemoryError:
            print(f"{name} is left out: the GPU's memory is too small", file=sys.stderr)
            continue
        for _ in range(rounds):
            for p in params:  # some libraries change them
                p.grad.normal_(0.0, 1e-3)
            for base, runner in baselines.items():
                times.eager_of[base].append(clock.seconds(runner.eager, inner))
            times.eager.append(clock.seconds(own.eager, inner))
            if own.graph is not None:
                for base, runner in baselines.items():
                    times.graph_of[base].append(clock.seconds(runner.graph, cold=True))
                times.graph.append(clock.seconds(own.graph, cold=True))
        yield name, times
        del own  # its memory is the next one's


# -- reporting ------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def ratio(values: list[float], others: list[float]) -> str:
    return spread([a / b for a, b in zip(values, others, strict=True)]) if values else "-"


def row(name: str, times: Times, contestant: Contestant, size: int, bandwidth: float) -> str:
    """A line of the table; ``size`` is the parameters' bytes, ``bandwidth`` in bytes a second."""
    floor = FLOORS[contestant.rule] * size / bandwidth
    cells = [
        name,
        f"{1e3 * statistics.median(times.eager):.3f}",
        ratio(times.eager, times.eager_of[SGD]),
        ratio(times.eager, times.eager_of[ADAMW]),
        f"{1e3 * statistics.median(times.graph):.3f}" if times.graph else "-",
        ratio(times.graph, times.graph_of[SGD]),
        ratio(times.graph, times.graph_of[ADAMW]),
        spread([t / floor for t in times.graph]) if times.graph else "-",
        spread([t / floor for t in times.eager]),
        share_of_copy(statistics.median(times.graph), contestant.moved, size, bandwidth) if times.graph else "-",
    ]
    return f"| {' | '.join(cells)} |"


def share_of_copy(seconds: float, moved: int | None, size: int, bandwidth: float) -> str:
    """Bytes moved per second, and their ratio to the bandwidth of a copy."""
    if moved is None:
        return "-"
    speed = moved * size / seconds
    return f"{speed / 1e9:.0f} GB/s, {speed / bandwidth:.0%}"


HEAD = [
    *("eager ms", "to SGD", "to AdamW", "graph ms", "to SGD", "to AdamW"),
    *("graph / floor", "eager / floor", "moved in the graph"),
]


def report(arguments: argparse.Namespace, bandwidths: list[float]) -> dict[str, Any]:
    bandwidth, field_, everything = statistics.median(bandwidths), contestants(arguments.published), {}
    for model, dtype in itertools.product(arguments.models, arguments.dtypes):
        shapes, kind = shapes_of(model), getattr(torch, dtype)
        count = sum(torch.Size(shape).numel() for shape in shapes)
        size = count * kind.itemsize
        print(f"\n| {model}, {dtype}: {count / 1e6:.1f} M in {len(shapes)} tensors | {' | '.join(HEAD)} |")
        print("|---" * (len(HEAD) + 1) + "|")
        try:
            for name, times in measure(shapes, kind, field_, arguments.rounds, arguments.inner):
                everything.setdefault(f"{model} {dtype}", {})[name] = asdict(times)
                print(row(name, times, field_[name], size, bandwidth), flush=True)
        except torch.OutOfMemoryError:
            print(f"{model} is left out: the GPU's memory is too small for the baselines", file=sys.stderr)
        torch.cuda.empty_cache()
    print("\nTo SGD and to AdamW: time over that of torch's fused kernels in the same round; medians (quartiles).")
    print(f"Floor: values a parameter that have to be moved, over the bandwidth of the copy: {FLOORS}.")
    print(
        "Moved: what the kernels read and write (SGD 5, AdamW 7, LARS 7, LAMB 10), and that over the copy's bandwidth."
    )
    return everything


def tune(arguments: argparse.Namespace, bandwidths: list[float]) -> None:
    """Graph time over floor of our kernels for other blocks, chunks and warps than the package's."""
    usual = (launcher.BLOCK, launcher.CHUNK, launcher.WARPS)
    ours = {name: c for name, c in contestants().items() if name in ("tvlars LARS fused", "tvlars LAMB fused")}
    print("| model, dtype | block | chunk | warps | LARS / floor | LAMB / floor |\n|---|---|---|---|---|---|")
    for model, dtype in itertools.product(arguments.models, arguments.dtypes):
        shapes, kind = shapes_of(model), getattr(torch, dtype)
        size = sum(torch.Size(shape).numel() for shape in shapes) * kind.itemsize
        settings = itertools.product((512, 1024, 2048, 4096), (4, 8, 16), (4, 8))
        for block, blocks, warps in [(usual[0], usual[1] // usual[0], usual[2]), *settings]:
            launcher.BLOCK, launcher.CHUNK, launcher.WARPS = block, blocks * block, warps
            cells = []
            for contestant in ours.values():
                clock, params = Clock(), [torch.nn.Parameter(torch.randn(s, device="cuda").to(kind)) for s in shapes]
                for p in params:
                    p.grad = 1e-3 * torch.randn_like(p)
                replay = Runner(contestant, params).graph
                floor = FLOORS[contestant.rule] * size / statistics.median(bandwidths)
                cells.append(spread([clock.seconds(replay, cold=True) / floor for _ in range(arguments.rounds)]))
            print(f"| {model}, {dtype} | {block} | {blocks * block} | {warps} | {' | '.join(cells)} |", flush=True)
    launcher.BLOCK, launcher.CHUNK, launcher.WARPS = usual


def machine(bandwidths: list[float]) -> str:
    triton = "without Triton"
    if importlib.util.find_spec("triton") is not None:
        triton = f"Triton {importlib.import_module('triton').__version__}"
    copied = spread([b / 1e9 for b in bandwidths])
    return (
        f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}, torch {torch.__version__}, {triton}; "
        f"a copy moves {copied} GB/s, read and written"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_b_16", "transformer_1b"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--inner", type=int, default=10, help="eager steps in a row; default: 10")
    parser.add_argument("--published", type=Path, metavar="FOLDER", help="a clone of the published code")
    parser.add_argument("--tune", action="store_true", help="compare settings of our kernels, and nothing else")
    parser.add_argument("--json", type=Path, help="write all times here, in seconds")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("step_time_cuda.py needs a CUDA GPU, and torch finds none here.", file=sys.stderr)
        return 2
    bandwidths = copy_bandwidth(Clock(), arguments.rounds)
    torch.cuda.empty_cache()
    print(machine(bandwidths))
    if arguments.tune:
        tune(arguments, bandwidths)
        return 0
    everything = report(arguments, bandwidths)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(bandwidths), "copy": bandwidths, **everything}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
