"""DistributedDataParallel: two processes with half of each batch follow one with all of it."""

from __future__ import annotations

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.conftest import PATHS
from tests.optim.distributed.harness import check
from tests.optim.distributed.problems import assert_same_weights, backward, batches, network, optimizer_for


@check(2)
def halves_of_a_batch(name: str) -> None:
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    for kind, path in PATHS.items():
        alone, ours = network(), network()
        parallel = DistributedDataParallel(ours, gradient_as_bucket_view=kind == "foreach")
        a, b = optimizer_for(name, alone), optimizer_for(name, parallel, **path)
        for batch in batches(6):
            backward(alone, batch)
            a.step()
            backward(parallel, batch, half)
            b.step()
        assert_same_weights(ours, alone)
