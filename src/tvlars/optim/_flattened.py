"""Refuse the flat parameters that FSDP1 and DeepSpeed's ZeRO make: their norms are not those of layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def refuse_flat_parameters(who: str, params: Iterable[Tensor]) -> None:
    """Raise ValueError where ``FullyShardedDataParallel`` has flattened one of ``params``.

    FSDP1 marks its flat parameter and, with ``use_orig_params=True``, the pieces of it. Both are of the type
    ``nn.Parameter``, so that the mark is the only evidence. Checking it needs no import of FSDP.
    """
    if any(getattr(p, "_fsdp_flattened", False) or getattr(p, "_is_flat_param", False) for p in params):
        raise ValueError(
            f"{who} needs whole layers, and FullyShardedDataParallel (FSDP1) has made flat shards of them, whose norms "
            "are not the layers': shard the model with torch.distributed.fsdp.fully_shard (FSDP2)"
        )


def refuse_flat_group(who: str, group: dict[str, Any]) -> None:
    """Raise ValueError where DeepSpeed has put one flat tensor in place of a group's layers.

    DeepSpeed changes the group without a mark, so that names are the only evidence: a group with several names has a
    single vector left, which is no ``nn.Parameter``. (torch's ``ZeroRedundancyOptimizer`` also leaves fewer parameters
    than names, but whole ones.) A group without the names that :func:`tvlars.layer_groups` gives cannot be checked.
    """
    params, names = group["params"], group.get("param_names", ())
    if len(params) == 1 and len(names) > 1 and type(params[0]) is Tensor and params[0].ndim == 1:
        raise ValueError(
            f"{who} needs whole layers, and {', '.join(names[:2])}{', ...' if len(names) > 2 else ''} have become one "
            "flat tensor, as DeepSpeed's ZeRO makes, whose norm is not the layers': use ZeRO stage 0, or shard the "
            "model with torch.distributed.fsdp.fully_shard (FSDP2)"
        )
