"""Layer statistics: norms, trust ratio and learning rate of each layer while a model trains.

:class:`LayerStats` watches any torch optimizer. With ours it reuses the norms that the step has computed anyway.
:func:`read_layer_stats` reads its files.
"""

from tvlars.stats._files import read_layer_stats
from tvlars.stats._layer_stats import LayerStats, Writer
from tvlars.stats._record import QUANTITIES

__all__ = ["QUANTITIES", "LayerStats", "Writer", "read_layer_stats"]
