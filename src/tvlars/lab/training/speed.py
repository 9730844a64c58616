"""Speed of a model on this machine, measured once and kept: ``precision`` and ``compile`` are chosen by it if they are
not given.

Times are those of forward and backward passes on random images, in turns, so that a busy machine slows all ways alike.
They are kept in a file, since all runs of a comparison, and a run that resumes, must make the same choice.
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tvlars._machine import cpu_name
from tvlars.lab.console import aside
from tvlars.lab.errors import LockedError, UsageError
from tvlars.lab.files.lock import locked
from tvlars.lab.run_folder.record import read_object, write_json

TURNS, TURN = 2, 0.5
"""Number of turns of each way that are measured, and the seconds that one may take."""
FEWEST, MOST = 8, 256
"""Range of the number of images in a turn; a micro-batch is the most."""
SMALL = 200
"""Minimum size of a run, as a multiple of the images used for measuring."""
FASTER = 1.05
"""Least gain for which a precision is chosen that rounds more, or a model is compiled."""
PRECISIONS = ("32-true", "bf16-mixed")
PATIENCE = 300.0
"""Seconds that a run waits for another one that measures."""
LONG = 600.0
"""Seconds of training from which on it is tried whether compiling pays: that takes a minute or two."""
GRAPHS = 2
"""Number of graphs that a run compiles, in training and in evaluation mode, while one is measured."""

Seconds = dict[str, float]


def cache_file() -> Path:
    """File of the measured times: ``speed.json`` in the folder ``TVLARS_CACHE``, by default ~/.cache/tvlars."""
    return Path(os.environ.get("TVLARS_CACHE", "~/.cache/tvlars")).expanduser() / "speed.json"


def kept(key: str, measure: Callable[[], Seconds]) -> Seconds | None:
    """Return the times of ``key`` in the cache file, where they are measured and written if they are missing; None if
    the file cannot be written, since the next run could then choose otherwise."""
    file = cache_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent, wait=PATIENCE):  # runs that begin together wait for the first one
            known = read_object(file)
            found = known.get(key)
            if isinstance(found, dict) and all(isinstance(value, float) for value in found.values()):
                return found
            write_json(file, known)
            times = measure()
            write_json(file, known | {key: times})
            return times
    except (OSError, LockedError, UsageError):
        return None


def key_of(model: nn.Module, device: torch.device, shape: tuple[int, ...], *more: str) -> str:
    """Return the key of what decides about times: machine, torch, and the model on images of this shape."""
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    size = sum(p.numel() for p in model.parameters())
    layers = sum(1 for _ in model.modules())
    said = (place, f"{torch.get_num_threads()} threads", f"torch {torch.__version__}", type(model).__name__)
    return ", ".join([*said, f"{size} parameters in {layers} modules", f"images {'x'.join(map(str, shape))}", *more])


def choose_precision(
    model: nn.Module, device: torch.device, shape: tuple[int, ...], most: int = MOST
) -> tuple[str, str]:
    """Return the faster precision of float32 and bfloat16 on a device that computes in both, and why; float32 if the
    model cannot be measured.

    Args:
        model: the model of the run, of which copies are used.
        device: the device of the run.
        shape: of an image, (C, H, W).
        most: images that a forward pass of the run has room for.
    """

    def measure() -> Seconds:
        passes = Passes(model, device, shape, most)
        return measured({name: passes.step(bf16=name != PRECISIONS[0]) for name in PRECISIONS}, passes.count)

    try:
        times = kept(key_of(model, device, shape, *PRECISIONS), measure)
    except Exception as error:  # of the user's model, or of memory: to measure must not end a run
        return PRECISIONS[0], f"no speed was measured: {why_not(error)}"
    if times is None:
        return PRECISIONS[0], f"{cache_file()} cannot be written, so no speed was measured"
    gain = times[PRECISIONS[0]] / times[PRECISIONS[1]]
    said = f"{PRECISIONS[1]} trains at {gain:.2f} times the speed of {PRECISIONS[0]} here (measured)"
    return PRECISIONS[gain >= FASTER], said


def choose_compile(
    model: nn.Module, device: torch.device, shape: tuple[int, ...], most: int = MOST, *, precision: str, images: int
) -> tuple[bool, str]:
    """Return whether compiling the model pays in a run of this many ``images``, and why; "" if the run is too short for
    the question. The other arguments are those of :func:`choose_precision`."""
    if images < SMALL * FEWEST:
        return False, ""
    try:
        passes = Passes(model, device, shape, most)
        if passes.each * images < LONG:  # a few images take longer, each, than many
            return False, ""
        key = key_of(model, device, shape, precision, "compiled")
        times = kept(key, lambda: _compiled(passes, bf16=precision != PRECISIONS[0]))
    except Exception as error:  # of compilers and the programs that they start, of the user's model, or of memory
        return False, f"not compiled: {why_not(error)}"
    if times is None:
        return False, ""
    gain, cost = times["eager"] / times["compiled"], GRAPHS * times["cost"]
    pays = gain >= FASTER and (times["eager"] - times["compiled"]) * images > 2 * cost
    said = f"the compiled model trains at {gain:.2f} times the speed here, and compiling takes {cost:.0f} s (measured)"
    return pays, f"{'compiled' if pays else 'not compiled'}: {said}"


def _compiled(passes: Passes, bf16: bool) -> Seconds:
    """Return seconds per image of both ways, and the seconds ("cost") of the first pass, in which torch compiles."""
    aside("compiling the model to measure whether that pays, once for this model and machine")
    eager, started = passes.step(bf16), time.perf_counter()
    try:
        passes.model = compiled(passes.bare)
    except UsageError as error:
        raise RuntimeError(why_not(error)) from None
    faster = passes.step(bf16)
    faster(passes.count)
    cost = time.perf_counter() - started
    return {**measured({"eager": eager, "compiled": faster}, passes.count), "cost": cost}


class Passes:
    """Forward and backward passes of a copy of a model on random images; random numbers of the run stay unused.

    Args:
        model, device, shape, most: as for :func:`choose_precision`.
    """

    def __init__(self, model: nn.Module, device: torch.device, shape: tuple[int, ...], most: int = MOST) -> None:
        self.device, self.shape = device, shape
        self.bare: nn.Module = copy.deepcopy(model)
        self.bare.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.model: Any = self.bare
        few, most = min(FEWEST, most), min(MOST, most)
        self.images = self._random(few)
        first = self.step(bf16=False)
        first(few)
        self.each = seconds(first, few)
        """Seconds per image of a few images, in float32."""
        fitting = int(TURN / self.each)
        self.count = max(few, min(most, 1 << fitting.bit_length() - 1 if fitting else 0))
        """Number of images of a turn: as many as there is time for in float32."""

    def _random(self, count: int) -> Tensor:
        images = torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(0), device="cpu")
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def step(self, bf16: bool) -> Callable[[int], None]:
        """Return a function that passes a number of images through the present ``model``, forward and backward."""
        model, cuda = self.model, [self.device] if self.device.type == "cuda" else []

        def step(count: int) -> None:
            if count > len(self.images):
                self.images = self._random(count)
            with torch.random.fork_rng(cuda):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    logits = model(self.images[:count])
                logits.float().logsumexp(1).sum().backward()
            self.bare.zero_grad()
            if cuda:
                torch.cuda.synchronize(self.device)

        return step


def measured(ways: Mapping[str, Callable[[int], None]], count: int) -> Seconds:
    """Return for each way the least seconds per image over turns of ``count`` images, after one that is not counted."""
    for step in ways.values():
        step(count)
    rounds = [{name: seconds(step, count) for name, step in ways.items()} for _ in range(TURNS)]
    return {name: min(one[name] for one in rounds) for name in ways}


def seconds(step: Callable[[int], None], count: int) -> float:
    """Return the seconds per image of one step."""
    started = time.perf_counter()
    step(count)
    return (time.perf_counter() - started) / count


def compiled(model: nn.Module) -> Any:
    """Return the model; torch compiles it on its first call."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of every machine without CUDA
    try:
        return torch.compile(model)
    except RuntimeError as error:  # Python is too new for torch's compiler
        raise cannot_compile(error) from error


def is_compilers(error: Exception) -> bool:
    """Return True if an error is one of torch's compiler."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    return isinstance(error, TorchDynamoException)


def cannot_compile(error: Exception) -> UsageError:
    """Return an error with the reason why the model cannot be compiled."""
    return UsageError(f"compile must be false on this machine, whose compiler does not work: {why_not(error)}")


def why_not(error: Exception) -> str:
    """Return the reason in an error of :func:`compiled` or of the compiled model's first call."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("backend=")), type(error).__name__)[:200]
