"""Layer statistics: what each layer's norms, trust ratio and learning rate are while a model trains.

:class:`LayerStats` watches any torch optimizer. With ours it takes the norms that the step has computed anyway.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tvlars._checks import check_count
from tvlars.optim._norms import laid_out_like, layout, norms, norms_of_whole
from tvlars.optim.base import LayerwiseOptimizer, scalar
from tvlars.schedule import _sigmoid_decay

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = ("LWN", "LGN", "LNR", "trust_ratio", "phi", "effective_lr")
"""What is recorded, in this order."""
WRAPPERS = re.compile(r"\b(_orig_mod|_checkpoint_wrapped_module)\.")


class Writer(Protocol):
    """What is needed of TensorBoard's ``SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...


class LayerStats:
    r"""Records, for each layer and every ``every``-th optimizer step, what the step saw and did.

    ===============  ==========================================================================================
    quantity         meaning
    ===============  ==========================================================================================
    LWN              ‖w‖, layer weight norm, before the step
    LGN              ‖g‖, layer gradient norm, of the gradient as the optimizer is given it
    LNR              ‖w‖ / ‖g‖, layer-wise normalization ratio; absent where ‖g‖ is 0
    trust_ratio      q as it acted, of LARS, TVLARS and LAMB where the layer is adapted (with TVLARS's
                     ``phi_scope="ratio"`` φ is part of it)
    phi              the factor on the learning rate: φ(t) of TVLARS; lr over the initial lr where an LR
                     scheduler drives the group; absent otherwise
    effective_lr     what the direction is multiplied by: lr φ q; lr φ where the layer is not adapted, lr with
                     optimizers of others
    ===============  ==========================================================================================

    Step t is recorded where t = 1, 1 + every, 1 + 2 every, ... A layer without a gradient in a step is left out of it;
    a gradient that is not a number is recorded as such. Steps are calls of ``optimizer.step()``; one that a
    ``GradScaler`` makes a fused optimizer skip counts and is left out.
    Norms are those of the whole tensor where parameters are sharded (FSDP2, tensor parallel); every rank has to
    record then, gets the same numbers, and the first one writes.

    With our optimizers ‖w‖ and q of adapted layers come from the step, which has them; ‖g‖ alone is computed here. With
    others both norms are (one multi-tensor launch each). A step that is compiled does not tell ‖w‖ and q.

    Values stay on the device until ``buffer`` steps have been
    recorded, and are fetched together then: that is the only time the host waits.

    Args:
        optimizer: any torch optimizer.
        model: gives the layers their names; DDP, compile and activation checkpointing are looked through.
        every: optimizer steps from one record to the next. Default 10.
        path: a folder, made where it is missing. Each flush adds one complete Parquet file to it, so whatever a
            crash leaves is readable with :func:`read_layer_stats`. None (default) keeps what was flushed in
            memory, 4 bytes a number. Parquet wants pandas and pyarrow (``pip install 'tvlars[lab]'``).
        buffer: recorded steps between two flushes, which bounds what is held on the device. Default 64.
        writer: a TensorBoard ``SummaryWriter``, told at every flush, as ``LWN/<layer>`` and so on. Default None.
        start: optimizer steps taken before, for a run that is resumed. Default 0. Records of later steps that lie
            in ``path`` are dropped, since those steps are taken again.

    Raises:
        ValueError: a count is out of its range, ``path`` holds records and ``start`` is 0, the model has none of the
            optimizer's parameters, or it is wrapped in FSDP1, whose parameters are no layers.
        ImportError: ``path`` is given, and pandas or pyarrow is not installed.
        RuntimeError: in a step that a CUDA graph captures, since a replayed step tells nothing.

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
        check_count("every", every, unit="steps")
        check_count("buffer", buffer, unit="recorded steps")
        check_count("start", start, low=0, unit="steps")
        self.optimizer, self.model, self.every, self.buffer, self.writer = optimizer, model, every, buffer, writer
        self._name_layers()
        self.path = None if path is None else Path(path)
        self._discards = self.path is not None and not _is_first_rank()
        if self.path is not None and not self._discards:
            _open_folder(self.path, start)
        self.step = start
        """Optimizer steps taken so far."""
        self._open: _Record | None = None
        self._closure = False
        self._records: list[_Record] = []
        self._flushed: list[_Table] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _name_layers(self) -> None:
        """Name and number the layers: all of the model in its order, then what the optimizer has besides."""
        self._places, self._names = _layers(self.optimizer, self.model)
        self._groups = [group["params"] for group in self.optimizer.param_groups]

    # -- in a step ------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._open = None  # a step that failed may have left one
        self._watch(False)
        if self.step % self.every:
            return
        if len(optimizer.param_groups) != len(self._groups):
            self._name_layers()
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("LayerStats cannot record a step that a CUDA graph captures; detach it with close()")
        self._open = _Record(self.step + 1)
        self._watch(True)
        self._take_weight_norms(self._open)
        # torch hands the optimizer itself over first. A closure computes the gradients inside the step.
        self._closure = kwargs.get("closure", args[1] if len(args) > 1 else None) is not None
        if not self._closure:
            self._take_gradient_norms(self._open)

    def _watch(self, on: bool) -> None:
        """Be told of adapted layers, or no longer."""
        optimizer = self.optimizer
        if isinstance(optimizer, LayerwiseOptimizer) and (on or optimizer.observers):
            others = tuple(observer for observer in optimizer.observers if observer != self._observe)
            optimizer.observers = (*others, self._observe) if on else others

    def _observe(self, params: Sequence[Tensor], w_norms: Any, q: Any) -> None:
        if self._open is not None:
            places = [self._places[id(p)] for p in params]
            self._open.add("LWN", places, _as_vector(w_norms))
            self._open.add("trust_ratio", places, _as_vector(q))

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.step += 1
        record, self._open = self._open, None
        if record is None:
            return
        self._watch(False)
        if self._closure:
            self._take_gradient_norms(record)
        ours = isinstance(optimizer, LayerwiseOptimizer)
        record.rates = [_Rates.of(group, ours) for group in optimizer.param_groups]
        # GradScaler leaves unscaling, and skipping, to torch's fused optimizers.
        record.scale = getattr(optimizer, "grad_scale", None)
        record.skipped = getattr(optimizer, "found_inf", None)
        self._records.append(record)
        if len(self._records) >= self.buffer:
            self.flush()

    def _take_weight_norms(self, record: _Record) -> None:
        """‖w‖ of the layers that the step will not tell of."""
        ours = isinstance(self.optimizer, LayerwiseOptimizer)
        groups = [g for g in self.optimizer.param_groups if not (ours and g["layer_adaptation"])]
        self._take_norms(record, "LWN", {self._places[id(p)]: p for group in groups for p in group["params"]})

    def _take_gradient_norms(self, record: _Record) -> None:
        params = [p for p in _parameters(self.optimizer) if p.grad is not None]
        layers = {self._places[id(p)]: laid_out_like(p.grad, p) for p in params}
        self._take_norms(record, "LGN", layers)

    @torch.no_grad()
    def _take_norms(self, record: _Record, quantity: str, layers: dict[int, Tensor]) -> None:
        for places, values in _norms(layers):
            record.add(quantity, places, values)

    # -- out ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Fetch what has been recorded, and write it to ``path`` and ``writer``. Waits for the device.

        Raises:
            OSError: the file cannot be written; what was to be written is kept, for another flush.
        """
        if not self._records:
            return
        groups = {self._places[id(p)]: i for i, params in enumerate(self._groups) for p in params}
        records = [record for record in _on_host(self._records) if not record.skipped]
        done = [(record.step, *record.table(len(self._names), groups)) for record in records]
        if self.path is None:
            self._flushed += done
        elif done and not self._discards:
            _write_parquet(self.path / f"{done[0][0]:09d}-{done[-1][0]:09d}.parquet", _frame(done, self._names))
        self._records = []
        if self.writer is not None:
            for step, table, known in done:
                for i, j in known.nonzero().tolist():
                    self.writer.add_scalar(f"{QUANTITIES[j]}/{self._names[i]}", float(table[i, j]), step)

    def frame(self) -> pd.DataFrame:
        """All that was recorded, in long form: columns step, layer, quantity and value. Flushes first."""
        self.flush()
        return _frame(self._flushed, self._names) if self.path is None else read_layer_stats(self.path)

    def close(self) -> None:
        """Flush, and leave the optimizer alone from now on. Calling it again does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._watch(False)
        self.flush()

    def __enter__(self) -> LayerStats:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_layer_stats(path: str | Path) -> pd.DataFrame:
    """What a :class:`LayerStats` wrote to the folder ``path``: columns step, layer, quantity and value.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    pandas = _needed("pandas")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"path must be a folder of layer statistics, got {path}")
    parts = [pandas.read_parquet(file) for file in sorted(path.glob("*.parquet"))]
    frame: pd.DataFrame = pandas.concat(parts, ignore_index=True) if parts else _frame([], [])
    return frame


# -- one recorded step ------------------------------------------------------------------------------------


_Table = tuple[int, Tensor, Tensor]
"""A step, the values [layers, quantities], and which of them are known."""


@dataclass(frozen=True)
class _Rates:
    """A parameter group's lr and φ, numbers or 0-d tensors on a device.

    ``separate`` says whether φ still has to be multiplied with lr, ``adapted`` whether a trust ratio acts too.
    """

    lr: Any
    phi: Any
    separate: bool
    adapted: bool

    @classmethod
    def of(cls, group: dict[str, Any], ours: bool) -> _Rates:
        lr, adapted = group["lr"], ours and bool(group["layer_adaptation"])
        lr = lr.detach().clone() if isinstance(lr, Tensor) else lr
        if "delay_factor" in group:
            step = scalar(group["step"], keep_tensor=group["capturable"])
            phi = _sigmoid_decay(step, group["delay_factor"], group["delay"], group["alpha"], group["gamma_min"])
            return cls(lr, phi, group["phi_scope"] == "all", adapted)
        initial = group.get("initial_lr")
        known = isinstance(initial, Tensor) or bool(initial)  # of a tensor the host would have to wait for the value
        return cls(lr, lr / cast(float, initial) if known else None, False, adapted)


@dataclass
class _Record:
    """What one step told: for some quantities, vectors of values with the layers they belong to."""

    step: int
    values: list[tuple[str, list[int], Tensor]] = field(default_factory=list)
    rates: list[_Rates] = field(default_factory=list)
    scale: Any = None
    """What gradients were multiplied by, where they still are."""
    skipped: Any = None
    """Not 0 where the step was not taken, since a gradient was not finite."""

    def add(self, quantity: str, places: list[int], values: Tensor) -> None:
        self.values.append((quantity, places, values.detach()))

    def table(self, layers: int, groups: dict[int, int]) -> tuple[Tensor, Tensor]:
        """Values and which are known, [layers, quantities] each; ``groups`` has the layers' parameter groups."""
        table, known = torch.zeros(layers, len(QUANTITIES)), torch.zeros(layers, len(QUANTITIES), dtype=torch.bool)
        column = {name: i for i, name in enumerate(QUANTITIES)}
        for quantity, places, values in self.values:
            scale = float(self.scale) if self.scale is not None and quantity == "LGN" else 1.0
            table[places, column[quantity]] = (values / scale).float()
            known[places, column[quantity]] = True
        lwn, lgn, lnr, ratio, phi, effective = range(len(QUANTITIES))
        table[:, lnr] = table[:, lwn] / table[:, lgn]
        known[:, lnr] = known[:, lwn] & known[:, lgn] & (table[:, lgn] != 0)
        for i, group in groups.items():
            if group >= len(self.rates):
                continue  # it was added later
            rates = self.rates[group]
            if rates.phi is not None:
                table[i, phi], known[i, phi] = float(rates.phi), True
            lr = float(rates.lr) * (float(rates.phi) if rates.separate else 1.0)
            table[i, effective] = lr * (float(table[i, ratio]) if rates.adapted else 1.0)
            known[i, effective] = bool(known[i, ratio]) or not rates.adapted
        return table, known & known[:, lgn, None]


def _on_host(records: list[_Record]) -> list[_Record]:
    """The records with all values on the host: one transfer for each device."""
    vectors = [values for record in records for _, _, values in record.values]
    single = [x for record in records for x in _single(record) if isinstance(x, Tensor)]
    host = iter(_fetch([*vectors, *(x.detach().reshape(1) for x in single)]))
    fetched = [
        _Record(record.step, [(quantity, places, next(host)) for quantity, places, _ in record.values])
        for record in records
    ]
    for record, done in zip(records, fetched, strict=True):
        *rates, done.scale, done.skipped = [float(next(host)) if isinstance(x, Tensor) else x for x in _single(record)]
        for old, lr, phi in zip(record.rates, rates[::2], rates[1::2], strict=True):
            done.rates.append(_Rates(lr, phi, old.separate, old.adapted))
    return fetched


def _single(record: _Record) -> list[Any]:
    return [*(x for rates in record.rates for x in (rates.lr, rates.phi)), record.scale, record.skipped]


def _fetch(vectors: list[Tensor]) -> list[Tensor]:
    host: dict[int, Tensor] = {}
    for device in {x.device for x in vectors}:
        here = [i for i, x in enumerate(vectors) if x.device == device]
        dtype = torch.float32 if device.type == "mps" else torch.float64
        whole = torch.cat([vectors[i].to(dtype) for i in here]).cpu()
        host.update(zip(here, torch.split(whole, [len(vectors[i]) for i in here]), strict=True))
    return [host[i] for i in range(len(vectors))]


def _norms(layers: dict[int, Tensor]) -> list[tuple[list[int], Tensor]]:
    """Places and norms of whole tensors, as a vector for each device and kind of tensor."""
    buckets: dict[Any, list[tuple[int, Tensor, Any]]] = {}
    for place, x in layers.items():
        if x.layout != torch.strided:
            x = x.coalesce().values()
        lies = layout(x)
        local = x if lies is None else x.to_local()  # type: ignore[attr-defined]
        buckets.setdefault((lies is not None, x.device, x.dtype), []).append((place, local, lies))
    vectors = {key: norms([x for _, x, _ in bucket]) for key, bucket in buckets.items()}
    sharded = [key for key in buckets if key[0]]
    if sharded:
        layouts = [[lies for _, _, lies in buckets[key]] for key in sharded]
        vectors.update(zip(sharded, norms_of_whole([vectors[key] for key in sharded], layouts), strict=True))
    return [([place for place, _, _ in bucket], vectors[key]) for key, bucket in buckets.items()]


def _as_vector(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.stack(list(values)) if isinstance(values[0], Tensor) else torch.tensor(values, dtype=torch.float64)


# -- names and files --------------------------------------------------------------------------------------


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _layers(optimizer: Optimizer, model: nn.Module) -> tuple[dict[int, int], list[str]]:
    """Places of parameters by their id, and the names of all places."""
    inner: Any = model
    while inner is not None:  # in whatever order they were wrapped
        model = inner
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
    if any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules()):
        raise ValueError("model must not be wrapped in FSDP1, whose parameters are no layers: take fully_shard (FSDP2)")
    named = {id(p): WRAPPERS.sub("", name) for name, p in model.named_parameters()}
    if not any(id(p) in named for p in _parameters(optimizer)):
        raise ValueError("model must hold the optimizer's parameters, got one that holds none of them")
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            named.setdefault(id(p), f"group {i}, parameter {j}")
    return {key: place for place, key in enumerate(named)}, list(named.values())


def _is_first_rank() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _open_folder(path: Path, start: int) -> None:
    """Make the folder, or take the records of steps after ``start`` out of it."""
    pandas = _needed("pandas")
    _needed("pyarrow")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if files and not start:
        raise ValueError(f"path must hold no records where start is 0, got {path} with {files[0].name}")
    for file in files:
        frame = pandas.read_parquet(file)
        kept = frame[frame["step"] <= start]
        if kept.empty:
            file.unlink()
        elif len(kept) < len(frame):
            _write_parquet(file, kept)
    path.mkdir(parents=True, exist_ok=True)


def _frame(done: list[_Table], names: list[str]) -> pd.DataFrame:
    pandas = _needed("pandas")
    parts = [known.nonzero() for _, _, known in done]
    places = torch.cat([torch.empty(0, 2, dtype=torch.int64), *parts])
    steps = torch.tensor([step for step, _, _ in done], dtype=torch.int64)
    counts = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    frame: pd.DataFrame = pandas.DataFrame(
        {
            "step": steps.repeat_interleave(counts).numpy(),
            "layer": pandas.Categorical.from_codes(places[:, 0].numpy(), categories=names),
            "quantity": pandas.Categorical.from_codes(places[:, 1].numpy(), categories=QUANTITIES),
            "value": torch.cat([torch.empty(0), *(table[known] for _, table, known in done)]).numpy(),
        }
    )
    return frame


def _write_parquet(file: Path, frame: pd.DataFrame) -> None:
    """Write ``frame`` so that the file is there whole or not at all."""
    part = file.with_suffix(".part")
    frame.to_parquet(part, index=False)
    with open(part, "r+b") as written:
        os.fsync(written.fileno())
    os.replace(part, file)


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"layer statistics as a frame or in files need {name}: pip install 'tvlars[lab]'") from error
