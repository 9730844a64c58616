"""TVLARS, LARS and LAMB for JAX, as optax gradient transformations; they need the extra ``jax``.

Update rules, argument names and defaults are the same as in :class:`tvlars.TVLARS`, :class:`tvlars.LARS` and
:class:`tvlars.LAMB`. A ``mask`` replaces parameter groups.
"""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib", "optax"):
        raise
    raise ImportError(f"tvlars.jax needs {error.name}: pip install '.[jax]' in the source folder") from error

from tvlars.jax._lamb import lamb
from tvlars.jax._lars import lars
from tvlars.jax._masks import layer_mask
from tvlars.jax._schedule import as_optax, sigmoid_decay
from tvlars.jax._tvlars import tvlars

__all__ = ["as_optax", "lamb", "lars", "layer_mask", "sigmoid_decay", "tvlars"]
