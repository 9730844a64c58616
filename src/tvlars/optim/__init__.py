"""The optimizers: one file each, on the mechanics in ``layerwise``."""

from tvlars.optim.lamb import LAMB
from tvlars.optim.lars import LARS
from tvlars.optim.tvlars import TVLARS

__all__ = ["LAMB", "LARS", "TVLARS"]
