"""Launcher of the Triton kernels: two launches for all tensors of one rule and dtype on one device.

``Launcher.run`` takes the parts that ``forms`` makes, of all groups, and launches the kernels of ``lars_kernels`` or
``lamb_kernels`` once for those that share a dtype and device. The host never waits:
the kernels' inputs go to the device in one asynchronous copy from pinned memory, and values that are on the device
anyway (a tensor lr, step counts, a GradScaler's scale) are read there.

Values moved through memory for a parameter: LARS 7, reads w, g for the norms, and w, g, m for the update, which writes
w, m. LAMB 10: reads w, g, m, v and writes m, v; then reads w, m, v and writes w. Keeping r instead of forming it again
would also move 10, and need one more buffer. The update goes through the chunks backwards, so that it finds in the
cache what the norms have read last.
"""

from __future__ import annotations

from array import array
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tvlars.optim.triton.forms import Part, on_device

BLOCK = 1024
"""Elements that a program works on at a time: 8 per thread, so that registers leave room for many programs."""
CHUNK = 8 * BLOCK
"""Elements of a program, unless a layer would have more than PARTS such chunks."""
PARTS = 512
"""Most programs of a layer: each program of the second launch adds up the sums of all of them."""
WARPS = 4
ROW = 16
"""Most options of a group, the width of ``rows`` in ``kernels``."""
SPARES = 4
"""Pinned buffers kept for captures, during which the driver cannot allocate any."""
CUTS = 8
"""Cuts that are kept, one for each set of parameters that had gradients in a step."""


@dataclass(frozen=True)
class Cut:
    """Layers of a set, cut into chunks."""

    chunks: Tensor
    sizes: Tensor
    programs: int
    adapted: int
    """Programs of adapted layers, which come first."""


class Launcher:
    """Runs the kernels for one optimizer, and keeps on the device what is the same in the next step."""

    def __init__(self) -> None:
        self._cuts: list[tuple[Any, Cut]] = []
        self._largest = 0
        self._spare: list[Tensor] = []
        self._captured: list[Tensor] = []
        """Pinned buffers that CUDA graphs copy from whenever they are replayed."""

    def run(self, parts: list[Part], scale: Any = None, found_inf: Any = None) -> None:
        """Launch the kernels for all parts of a step.

        Args:
            scale: factor that gradients have been multiplied by, on any device; None for 1.
            found_inf: not 0 if nothing may change, on any device; None for 0.

        Raises:
            RuntimeError: a CUDA graph captures the step, and a group has ``capturable=False``.
        """
        sets: dict[Any, list[Part]] = {}
        for part in sorted(parts, key=lambda part: not part.adapted):
            w = part.lists[0][0]
            sets.setdefault((part.rule, w.dtype, w.device), []).append(part)
        for (rule, dtype, device), chosen in sets.items():
            on_gpu = device.type == "cuda"
            with torch.cuda.device(device) if on_gpu else nullcontext():
                capturing = on_gpu and torch.cuda.is_current_stream_capturing()
                if capturing and not all(part.capturable for part in chosen):
                    raise RuntimeError(
                        "capturable must be True in every group where a CUDA graph captures the step: "
                        "replays would repeat this step's learning rate and count"
                    )
                amp = [None if x is None else on_device(x, device) for x in (scale, found_inf)]
                self._launch(rule, dtype, device, chosen, *amp, capturing=capturing)

    def _launch(
        self,
        rule: str,
        dtype: torch.dtype,
        device: torch.device,
        parts: list[Part],
        scale: Tensor | None,
        found_inf: Tensor | None,
        *,
        capturing: bool,
    ) -> None:
        """Run the two launches for parts of one rule, dtype and device."""
        norms, update, kind = _kernels(rule, dtype)
        cut, tables = self._tables(parts, device, capturing)
        tensors = sum(len(part.lists[0]) for part in parts)
        sums = torch.empty(2, cut.programs, dtype=torch.float64, device=device)
        told = torch.empty(2, tensors, dtype=torch.float64, device=device)
        common = (cut.chunks, cut.sizes, *tables, sums, told, scale, found_inf, tensors, cut.programs)
        options: dict[str, Any] = dict(DTYPE=kind, BLOCK=BLOCK, PARTS=PARTS, num_warps=WARPS)
        first = cut.programs if parts[0].moments else cut.adapted
        if first:
            norms[(first,)](*common, **options)
        update[(cut.programs,)](*common, **options)
        for part in parts:  # so that autograd notices if a backward pass needs overwritten values
            torch.autograd.graph.increment_version([x for i, list_ in enumerate(part.lists) if i != 1 for x in list_])
        start = 0
        for part in parts:
            end = start + len(part.lists[0])
            if part.adapted and part.observe is not None:
                part.observe(range(end - start), told[0, start:end], told[1, start:end])
            start = end

    def _tables(self, parts: list[Part], device: torch.device, capturing: bool) -> tuple[Cut, list[Tensor]]:
        """Return the cut, and addresses, rows and counts of this step, on the device after one copy."""
        capturable = any(part.capturable for part in parts)
        adapted, sizes = [part.adapted for part in parts], [[w.numel() for w in part.lists[0]] for part in parts]
        # Freed memory may only be reused on the stream that it was allocated on.
        place = (device, torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0)
        tables: list[array[Any]] = [_addresses(parts), _rows(parts), _counts(parts)]
        if not capturing:  # a graph needs tables of its own
            for known, cut in self._cuts:
                if known == (place, adapted, sizes):
                    return cut, self._upload(tables, device, capturing, capturable)
        cut_tables, programs = _cut(sizes, adapted)
        chunks, entries, *others = self._upload([*cut_tables, *tables], device, capturing, capturable)
        cut = Cut(chunks, entries, *programs)
        if not capturing:
            self._cuts = [*self._cuts[1 - CUTS :], ((place, adapted, sizes), cut)]
        return cut, others

    def _upload(
        self, tables: list[array[Any]], device: torch.device, capturing: bool, capturable: bool
    ) -> list[Tensor]:
        """Return ``tables`` as tensors on ``device``, after one asynchronous copy."""
        data, starts = bytearray(), []
        for table in tables:
            data += bytes(-len(data) % 16)
            starts.append(len(data))
            data += table.tobytes()
        content = torch.frombuffer(data, dtype=torch.uint8)
        if device.type == "cuda":
            content = self._pinned(len(data), capturing, capturable).copy_(content).to(device, non_blocking=True)
        return [
            content[start : start + len(table) * table.itemsize].view(TYPES[table.typecode])
            for start, table in zip(starts, tables, strict=True)
        ]

    def _pinned(self, size: int, capturing: bool, capturable: bool) -> Tensor:
        """Return ``size`` bytes of pinned memory, which torch does not reuse before copies from it have ended."""
        self._largest = max(self._largest, size)
        if capturing:
            # The driver cannot allocate any now. A graph copies from the buffer in every replay, so it is kept.
            chosen = next((i for i, x in enumerate(self._spare) if x.numel() >= size), None)
            self._captured.append(_new_pinned(size) if chosen is None else self._spare.pop(chosen))
            return self._captured[-1][:size]
        if capturable:
            self._spare = [x for x in self._spare if x.numel() >= self._largest]
            self._spare += [_new_pinned(self._largest) for _ in range(SPARES - len(self._spare))]
        return _new_pinned(size)


def _new_pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True, device="cpu")


def _kernels(rule: str, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Return the two kernels of a rule, and Triton's dtype. Triton is imported here, since it works by now."""
    from tvlars.optim.triton.kernels import DTYPES

    module = import_module(f"tvlars.optim.triton.{rule}_kernels")
    return getattr(module, f"{rule}_norms"), getattr(module, f"{rule}_update"), DTYPES[str(dtype)]


TYPES = {"q": torch.int64, "i": torch.int32, "f": torch.float32}


def _cut(sizes: list[list[int]], adapted: list[bool]) -> tuple[list[array[int]], tuple[int, int]]:
    """Return ``chunks`` and ``sizes`` for the kernels, and the numbers of programs: all, and of adapted layers."""
    chunks, entries = array("i"), array("q")
    of_adapted = tensor = 0
    for group, numels in enumerate(sizes):
        for numel in numels:
            span = CHUNK
            while numel > PARTS * span:
                span *= 2
            programs = max(1, -(-numel // span))  # an empty layer has one too, which reports its ‖w‖ and q
            entries.extend((numel, span, len(chunks), programs, group))
            chunks.extend([tensor] * programs)
            tensor += 1
        if adapted[group]:
            of_adapted = len(chunks)
    return [chunks, entries], (len(chunks), of_adapted)


def _addresses(parts: list[Part]) -> array[int]:
    """Return the addresses of all w, then all g, and so on; 0 for a missing tensor."""
    table = array("q")
    for column in range(len(parts[0].lists)):
        for part in parts:
            tensors = part.lists[column]
            table.extend([x.data_ptr() for x in tensors] if tensors else [0] * len(part.lists[0]))
    for part in parts:
        table.extend(map(_address, part.steps or ()))
    for part in parts:
        table.extend((_address(part.lr), _address(part.clock), part.delay))
    return table


def _address(x: Any) -> int:
    return int(x.data_ptr()) if isinstance(x, Tensor) else 0


def _rows(parts: list[Part]) -> array[float]:
    table = array("f")
    for part in parts:
        table.extend(part.options)
        table.extend([0.0] * (ROW - len(part.options)))
    return table


def _counts(parts: list[Part]) -> array[float]:
    """Return t of the layers whose t is on the host."""
    steps = [step for part in parts for step in part.steps or ()]
    return array("f", [0.0 if isinstance(step, Tensor) else step for step in steps])
