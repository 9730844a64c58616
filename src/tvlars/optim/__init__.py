"""The optimizers: one file each, on the mechanics in ``base``."""

from tvlars.optim.lamb import LAMB
from tvlars.optim.lars import LARS
from tvlars.optim.tvlars import TVLARS

__all__ = ["LAMB", "LARS", "TVLARS"]
