"""One recorded step of a :class:`~tvlars.stats.LayerStats`: on the device, on the host, and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from tvlars.optim._numerics.norms import norms
from tvlars.optim._numerics.sharded import layout, norms_of_whole
from tvlars.optim.phi import Phi

QUANTITIES = ("LWN", "LGN", "LNR", "trust_ratio", "phi", "effective_lr")
"""Quantities that are recorded, in this order."""


Table = tuple[int, Tensor, Tensor]
"""A step, the values [layers, quantities], and a mask of known values."""


@dataclass(frozen=True)
class Rates:
    """A parameter group's lr and φ, numbers or 0-d tensors on a device.

    ``separate`` is True if φ still has to be multiplied with lr, ``adapted`` if a trust ratio acts too.
    """

    lr: Any
    phi: Any
    separate: bool
    adapted: bool

    @classmethod
    def of(cls, group: dict[str, Any], ours: bool) -> Rates:
        lr, adapted = group["lr"], ours and bool(group["layer_adaptation"])
        lr = lr.detach().clone() if isinstance(lr, Tensor) else lr
        if "delay_factor" in group:
            phi = Phi.of(group)
            return cls(lr, phi.value(), phi.phi_scope == "all", adapted)
        initial = group.get("initial_lr")
        known = isinstance(initial, Tensor) or bool(initial)  # for a tensor's value the host would have to wait
        return cls(lr, lr / cast(float, initial) if known else None, False, adapted)


@dataclass
class Record:
    """Values of one step: for some quantities, vectors of values with the layers they belong to."""

    step: int
    values: list[tuple[str, list[int], Tensor]] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    groups: dict[int, int] = field(default_factory=dict)
    """Parameter group of each layer, by its place."""
    scale: Any = None
    """Factor of gradients that are still scaled."""
    skipped: Any = None
    """Not 0 if the step was skipped, since a gradient was not finite."""

    def add(self, quantity: str, places: list[int], values: Tensor) -> None:
        self.values.append((quantity, places, values.detach()))

    def table(self, layers: int) -> tuple[Tensor, Tensor]:
        """Return values, and a mask of those that are known, [layers, quantities] each."""
        shape = layers, len(QUANTITIES)
        table, known = (torch.zeros(shape, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.bool))
        column = {name: i for i, name in enumerate(QUANTITIES)}
        for quantity, places, values in self.values:
            scale = float(self.scale) if self.scale is not None and quantity == "LGN" else 1.0
            table[places, column[quantity]] = (values / scale).float()
            known[places, column[quantity]] = True
        lwn, lgn, lnr, ratio, phi, effective = range(len(QUANTITIES))
        table[:, lnr] = table[:, lwn] / table[:, lgn]
        known[:, lnr] = known[:, lwn] & known[:, lgn] & (table[:, lgn] != 0)
        for i, group in self.groups.items():
            rates = self.rates[group]
            if rates.phi is not None:
                table[i, phi], known[i, phi] = float(rates.phi), True
            lr = float(rates.lr) * (float(rates.phi) if rates.separate else 1.0)
            table[i, effective] = lr * (float(table[i, ratio]) if rates.adapted else 1.0)
            known[i, effective] = bool(known[i, ratio]) or not rates.adapted
        return table, known & known[:, lgn, None]


def on_host(records: list[Record]) -> list[Record]:
    """Return the records with all values on the host: one transfer for each device."""
    vectors = [values for record in records for _, _, values in record.values]
    single = [x for record in records for x in _single(record) if isinstance(x, Tensor)]
    host = iter(_fetch([*vectors, *(x.detach().reshape(1) for x in single)]))
    fetched = [
        Record(
            record.step, [(quantity, places, next(host)) for quantity, places, _ in record.values], groups=record.groups
        )
        for record in records
    ]
    for record, done in zip(records, fetched, strict=True):
        *rates, done.scale, done.skipped = [float(next(host)) if isinstance(x, Tensor) else x for x in _single(record)]
        for old, lr, phi in zip(record.rates, rates[::2], rates[1::2], strict=True):
            done.rates.append(Rates(lr, phi, old.separate, old.adapted))
    return fetched


def _single(record: Record) -> list[Any]:
    return [*(x for rates in record.rates for x in (rates.lr, rates.phi)), record.scale, record.skipped]


def _fetch(vectors: list[Tensor]) -> list[Tensor]:
    host: dict[int, Tensor] = {}
    for device in {x.device for x in vectors}:
        here = [i for i, x in enumerate(vectors) if x.device == device]
        dtype = torch.float32 if device.type == "mps" else torch.float64
        whole = torch.cat([vectors[i].to(dtype) for i in here]).cpu()
        host.update(zip(here, torch.split(whole, [len(vectors[i]) for i in here]), strict=True))
    return [host[i] for i in range(len(vectors))]


def norms_of(layers: dict[int, Tensor]) -> list[tuple[list[int], Tensor]]:
    """Return places and norms of whole tensors, as a vector for each device and kind of tensor."""
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


def as_vector(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return (
        torch.stack(list(values))
        if isinstance(values[0], Tensor)
        else torch.tensor(values, dtype=torch.float64, device="cpu")
    )
