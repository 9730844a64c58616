"""Multi-tensor forms of all groups, run together, so that their norms are taken at once.

A form on ``torch._foreach_*`` computes its directions, and then needs norms to continue. It is a generator: it yields,
once, the tensors whose norms it needs, and ``run_together`` sends the norms back after all forms of a step have
yielded. So the sharded layers of all groups share one collective per mesh dimension, instead of one for each group.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tvlars.optim._numerics.norms import Tensors, norms, on_host
from tvlars.optim._numerics.sharded import Layout, norms_of_whole

MultiTensor = Generator[tuple[Tensors, Tensors], tuple[Any, ...], None]
"""A multi-tensor form: it yields parameters and directions once, is sent their norms, and updates.

Norms of layers on the host are two lists of numbers, others two vectors on their device.

A form without adapted layers ends without a yield.
"""


def run_together(pending: list[tuple[MultiTensor, list[Layout]]]) -> None:
    """Run multi-tensor forms up to their norms, compute all norms, and let the forms finish.

    Sharded layers of all forms share one collective per mesh dimension.
    """
    waiting = []
    for form, layouts in pending:
        request = next(form, None)
        if request is not None:
            params, directions = request
            waiting.append((form, norms([*params, *directions]), layouts * 2))
    sharded = [(parts, layouts) for _, parts, layouts in waiting if layouts]
    whole = iter(norms_of_whole(*map(list, zip(*sharded, strict=True))) if sharded else ())
    for form, parts, layouts in waiting:
        values = next(whole) if layouts else parts
        halves: Any = values.chunk(2)
        if on_host((values,)):
            halves = [half.tolist() for half in halves]
        try:  # noqa: SIM105  # torch 2.9 cannot compile contextlib.suppress, and would break the graph
            form.send(halves)
        except StopIteration:
            pass
