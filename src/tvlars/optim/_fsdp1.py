"""The parameters that FSDP1 makes are no layers, and are refused."""

from __future__ import annotations

from collections.abc import Iterable

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
