"""Refuse the flat parameters that FSDP1 and DeepSpeed's ZeRO make: their norms are not those of layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def refuse_flat_parameters(who: str, params: Iterable[Tensor]) -> None:
    """Raise ValueError where ``FullyShardedDataParallel`` has flattened one of ``params``.

    It marks its flat parameter and, with ``use_orig_params=True``, the pieces of that too. Both are of the type
    ``nn.Parameter``, so that the mark is all there is to go by; and it can be looked for without an import of FSDP.
    """
    if any(getattr(p, "_fsdp_flattened", False) or getattr(p, "_is_flat_param", False) for p in params):
        raise ValueError(
            f"{who} needs whole layers, and FullyShardedDataParallel (FSDP1) has made flat shards of them, whose norms "
            "are not the layers': shard the model with torch.distributed.fsdp.fully_shard (FSDP2)"
        )


def refuse_flat_group(who: str, group: dict[str, Any]) -> None:
    """Raise ValueError where DeepSpeed has put one flat tensor in place of a group's layers.

    It does so behind the optimizer's back and marks nothing, so that names are what tells: a group with several has a
    single vector left, and not even as a ``nn.Parameter``. (torch's ``ZeroRedundancyOptimizer`` leaves some of several
    too, but whole parameters.) Without names, as :func:`tvlars.layer_groups` gives, nothing can be told.
    """
    params, names = group["params"], group.get("param_names", ())
    if len(params) == 1 and len(names) > 1 and type(params[0]) is Tensor and params[0].ndim == 1:
        raise ValueError(
            f"{who} needs whole layers, and {', '.join(names[:2])}{', ...' if len(names) > 2 else ''} have become one "
            "flat tensor, as DeepSpeed's ZeRO makes, whose norm is not the layers': take ZeRO stage 0, or shard the "
            "model with torch.distributed.fsdp.fully_shard (FSDP2)"
        )
