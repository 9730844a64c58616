"""Multi-tensor forms of all groups, run together, so that their norms are taken at once.

A form on ``torch._foreach_*`` works out its directions, and then needs norms to go on. It is a generator: it yields the
tensors whose norms it wants, once, and ``run_together`` sends them back when it has seen what all forms of a step want.
So the sharded layers of all groups share one collective for each dimension of a mesh, where a form that took its norms
by itself would cost one for each group.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tvlars.optim._numerics.norms import Tensors, norms, on_host
from tvlars.optim._numerics.sharded import Layout, norms_of_whole

MultiTensor = Generator[tuple[Tensors, Tensors], tuple[Any, ...], None]
"""A multi-tensor form: it yields parameters and directions once, is sent their norms, and updates.

Norms of layers on the host are two lists of numbers, others two vectors on their device.

Where nothing is adapted it ends without a yield. So the norms of all groups of a step are taken together.
"""


def run_together(pending: list[tuple[MultiTensor, list[Layout]]]) -> None:
    """Run multi-tensor forms up to their norms, take all norms, and let the forms end.

    Sharded layers of all of them share one collective a mesh dimension.
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
