"""Hooks on an optimizer that record norms, trust ratios and learning rates of its layers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars._checks import check_count
from tvlars._notebook import Line, folded, page, paragraph, picture, table
from tvlars.optim._numerics.sharded import laid_out_like
from tvlars.optim.layerwise import LayerwiseOptimizer
from tvlars.stats._files import as_frame, open_folder, read_layer_stats, write_parquet
from tvlars.stats._record import QUANTITIES, Rates, Record, Table, as_vector, norms_of, on_host

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 200
"""Most records that a picture in a notebook shows."""
WRAPPERS = re.compile(r"\b(_orig_mod|_checkpoint_wrapped_module)\.")


class Writer(Protocol):
    """The method of TensorBoard's ``SummaryWriter`` that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write ``scalar_value`` as the point at ``global_step`` of the curve ``tag``."""


class LayerStats:
    r"""Record norms, trust ratio and learning rate of each layer, at every ``every``-th optimizer step.

    ===============  ==========================================================================================
    quantity         meaning
    ===============  ==========================================================================================
    LWN              ‖w‖, layer weight norm, before the step
    LGN              ‖g‖, layer gradient norm, of the gradient as the optimizer receives it
    LNR              ‖w‖ / ‖g‖, layer-wise normalization ratio; absent where ‖g‖ is 0
    trust_ratio      q as applied by LARS, TVLARS and LAMB, if the layer is adapted (with TVLARS's
                     ``phi_scope="ratio"`` φ is part of it)
    phi              the factor on the learning rate: φ(t) of TVLARS; lr over the initial lr where an LR
                     scheduler drives the group; absent otherwise
    effective_lr     factor of the direction: lr φ q; lr φ if the layer is not adapted, lr with other optimizers
    ===============  ==========================================================================================

    Step t is recorded where t = 1, 1 + every, 1 + 2 every, ... A layer without a gradient in a step is left out of it;
    a gradient that is not a number is recorded as such. Steps are calls of ``optimizer.step()``; one that a
    ``GradScaler`` makes a fused optimizer skip counts and is left out.
    Norms are those of the whole tensor where parameters are sharded (FSDP2, tensor parallel); every rank has to
    record then, gets the same numbers, and the first one writes.

    With our optimizers ‖w‖ and q of adapted layers come from the step; only ‖g‖ is computed here. With other optimizers
    both norms are computed here (one multi-tensor launch each). A compiled step does not provide ‖w‖ and q.

    Values stay on the device until ``buffer`` steps have been recorded, and are then fetched together: the host waits
    only then.

    Args:
        optimizer: any torch optimizer.
        model: gives the layers their names; DDP, compile and activation checkpointing are looked through. Parameters
            may be added, replaced and removed in optimizer and model between steps; a replaced one keeps
            the name that it has in the model.
        every: optimizer steps from one record to the next. Default 10.
        path: a folder, made where it is missing. Each flush adds one complete Parquet file to it, so whatever a
            crash leaves is readable with :func:`read_layer_stats`. None (default) keeps what was flushed in
            memory, 4 bytes per number. Parquet needs pandas and pyarrow (the extra ``lab``).
        buffer: recorded steps between two flushes, which bounds what is held on the device. Default 64.
        writer: a TensorBoard ``SummaryWriter``, which gets ``LWN/<layer>`` and so on at every flush. Default None.
        start: optimizer steps taken before, for a run that is resumed. Default 0. Records of later steps that lie
            in ``path`` are dropped, since those steps are taken again.

    Raises:
        ValueError: a count is out of its range, ``path`` holds records and ``start`` is 0, the model has none of the
            optimizer's parameters (in a step, where all were replaced, too), or it is wrapped in FSDP1, whose
            parameters are no layers.
        ImportError: ``path`` is given, and pandas or pyarrow is not installed.
        RuntimeError: in a step that a CUDA graph captures, since a replayed step cannot be recorded.

    Example:
        >>> with LayerStats(optimizer, model, every=10) as stats:
        ...     for x, y in loader:
        ...         loss_fn(model(x), y).backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> stats.frame()  # step, layer, quantity, value

    Source: LWN, LGN and LNR as in Do et al., arXiv 2309.14053, section 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        *,
        every: int = 10,
        path: str | Path | None = None,
        buffer: int = 64,
        writer: Writer | None = None,
        start: int = 0,
    ) -> None:
        every = check_count("every", every, unit="steps")
        buffer = check_count("buffer", buffer, unit="recorded steps")
        start = check_count("start", start, low=0, unit="steps")
        self.optimizer, self.model, self.every, self.buffer, self.writer = optimizer, model, every, buffer, writer
        self._places: dict[int, int] = {}
        self._names: list[str] = []
        """Names of all layers so far, by place; a removed layer keeps its place."""
        self._name_layers()
        self.path = None if path is None else Path(path)
        self._discards = self.path is not None and not _is_first_rank()
        if self.path is not None and not self._discards:
            open_folder(self.path, start)
        self.step = start
        """Optimizer steps taken so far."""
        self._open: Record | None = None
        self._closure = False
        self._records: list[Record] = []
        self._flushed: list[Table] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _name_layers(self) -> None:
        """Give the layers places by name: the model's in its order, then other parameters of the optimizer."""
        named = _layers(self.optimizer, self.model)
        place = {name: i for i, name in enumerate(self._names)}
        for name in named.values():
            if place.setdefault(name, len(self._names)) == len(self._names):
                self._names.append(name)
        self._places = {key: place[name] for key, name in named.items()}
        # Kept until the next check, so that no other tensor gets the id of one of them.
        self._params = [tuple(group["params"]) for group in self.optimizer.param_groups]
        self._groups = {self._places[id(p)]: i for i, params in enumerate(self._params) for p in params}

    def _is_as_named(self) -> bool:
        """Return whether the optimizer has the parameters that it had when layers were last named."""
        groups = self.optimizer.param_groups
        return len(groups) == len(self._params) and all(
            len(group["params"]) == len(params) and all(map(is_, group["params"], params))
            for group, params in zip(groups, self._params, strict=True)
        )

    # -- in a step ------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._open = None  # a failed step may have left a record
        self._watch(False)
        if self.step % self.every:
            return
        if not self._is_as_named():
            self._name_layers()
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("LayerStats cannot record a step that a CUDA graph captures; detach it with close()")
        self._open = Record(self.step + 1)
        self._watch(True)
        self._take_weight_norms(self._open)
        # The first argument is the optimizer itself. A closure computes the gradients inside the step.
        self._closure = kwargs.get("closure", args[1] if len(args) > 1 else None) is not None
        if not self._closure:
            self._take_gradient_norms(self._open)

    def _watch(self, on: bool) -> None:
        """Start or stop observing adapted layers."""
        if torch.compiler.is_compiling():  # such a step calls no observer, and torch 2.9 cannot compile the assignment
            return
        optimizer = self.optimizer
        if isinstance(optimizer, LayerwiseOptimizer) and (on or optimizer.observers):
            others = tuple(observer for observer in optimizer.observers if observer != self._observe)
            optimizer.observers = (*others, self._observe) if on else others

    def _observe(self, params: Sequence[Tensor], w_norms: Any, q: Any) -> None:
        if self._open is not None:
            places = [self._places[id(p)] for p in params]
            self._open.add("LWN", places, as_vector(w_norms))
            self._open.add("trust_ratio", places, as_vector(q))

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.step += 1
        record, self._open = self._open, None
        if record is None:
            return
        self._watch(False)
        if self._closure:
            self._take_gradient_norms(record)
        ours = isinstance(optimizer, LayerwiseOptimizer)
        record.groups = self._groups
        record.rates = [Rates.of(group, ours) for group in optimizer.param_groups]
        # GradScaler leaves unscaling, and skipping, to torch's fused optimizers.
        record.scale = getattr(optimizer, "grad_scale", None)
        record.skipped = getattr(optimizer, "found_inf", None)
        self._records.append(record)
        if len(self._records) >= self.buffer:
            self.flush()

    def _take_weight_norms(self, record: Record) -> None:
        """Record ‖w‖ of the layers that are not observed in the step."""
        ours = isinstance(self.optimizer, LayerwiseOptimizer)
        groups = [g for g in self.optimizer.param_groups if not (ours and g["layer_adaptation"])]
        self._take_norms(record, "LWN", {self._places[id(p)]: p for group in groups for p in group["params"]})

    def _take_gradient_norms(self, record: Record) -> None:
        params = [p for p in _parameters(self.optimizer) if p.grad is not None]
        layers = {self._places[id(p)]: laid_out_like(p.grad, p) for p in params}
        self._take_norms(record, "LGN", layers)

    @torch.no_grad()
    def _take_norms(self, record: Record, quantity: str, layers: dict[int, Tensor]) -> None:
        for places, values in norms_of(layers):
            record.add(quantity, places, values)

    # -- out ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Fetch what has been recorded, and write it to ``path`` and ``writer``. Waits for the device.

        Raises:
            OSError: the file cannot be written; the records are kept for another flush.
        """
        if not self._records:
            return
        done = self._tables()
        if self.path is None:
            self._flushed += done
        elif done and not self._discards:
            write_parquet(self.path / f"{done[0][0]:09d}-{done[-1][0]:09d}.parquet", as_frame(done, self._names))
        self._records = []
        if self.writer is not None:
            for step, table, known in done:
                for i, j in known.nonzero().tolist():
                    self.writer.add_scalar(f"{QUANTITIES[j]}/{self._names[i]}", float(table[i, j]), step)

    def _tables(self) -> list[Table]:
        """Return the tables of the records since the last flush."""
        records = [record for record in on_host(self._records) if not record.skipped]
        return [(record.step, *record.table(len(self._names))) for record in records]

    def frame(self) -> pd.DataFrame:
        """Return all records in long form: columns step, layer, quantity and value. Flushes first."""
        self.flush()
        return as_frame(self._flushed, self._names) if self.path is None else read_layer_stats(self.path)

    def __repr__(self) -> str:
        name = type(self.optimizer).__name__
        where = "" if self.path is None else f", path={str(self.path)!r}"
        return f"LayerStats({name}, {len(self._names)} layers, every={self.every}, step={self.step}{where})"

    def _repr_html_(self) -> str:
        """Return the last records in memory, and the trust ratio or LNR over steps, for notebooks.

        Waits for the device. Nothing is flushed.
        """
        tables = [*self._flushed, *self._tables()]
        if not tables:
            return page(paragraph(self))
        step, values, known = tables[-1]
        shown = "trust_ratio" if known[:, QUANTITIES.index("trust_ratio")].any() else "LNR"
        j, drawn = QUANTITIES.index(shown), tables[:: -(-len(tables) // MOST_POINTS)]
        columns = [one[:, j].where(there[:, j], math.nan).tolist() for _, one, there in drawn]
        curves = zip_longest(*columns, fillvalue=math.nan)  # later records may have more layers
        lines = [Line([at for at, _, _ in drawn], curve, opacity=0.5) for curve in curves]
        rows = [
            (name, *(f"{x:.4g}" if there else "" for x, there in zip(row, have, strict=True)))
            for name, row, have in zip(self._names, values.tolist(), known.tolist(), strict=False)
        ]
        last = folded(f"all quantities at step {step}", table(("layer", *QUANTITIES), rows))
        title = f"{shown.replace('_', ' ')} of each layer"
        return page(paragraph(self), picture(lines, title, "optimizer step", log="y"), last)

    def close(self) -> None:
        """Flush, and stop recording. Calling it again does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._watch(False)
        self.flush()

    def __enter__(self) -> LayerStats:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _layers(optimizer: Optimizer, model: nn.Module) -> dict[int, str]:
    """Return unique names of parameters by id."""
    inner: Any = model
    while inner is not None:  # in any order of wrapping
        model = inner
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        compiled = type(model).__name__ == "OptimizedModule"  # importing it takes a second
        inner = model.module if parallel else model._orig_mod if compiled else None
    if any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules()):
        raise ValueError("model must not be wrapped in FSDP1, whose parameters are no layers: take fully_shard (FSDP2)")
    named = {id(p): WRAPPERS.sub("", name) for name, p in model.named_parameters()}
    if not any(id(p) in named for p in _parameters(optimizer)):
        raise ValueError("model must hold the optimizer's parameters, got one that holds none of them")
    if len(set(named.values())) < len(named):  # a module of that name that wraps nothing
        named = {id(p): name for name, p in model.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            named.setdefault(id(p), f"group {i}, parameter {j}")
    return named


def _is_first_rank() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
