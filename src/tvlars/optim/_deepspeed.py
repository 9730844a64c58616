"""The parameters that DeepSpeed's ZeRO makes are no layers, and are refused."""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
