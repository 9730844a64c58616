"""How fast this is, on the machine at hand: ratios measured in one run, with medians and quartiles.

measure     what ``tvlars bench`` measures
loops       the laboratory's loop, and a DataLoader's
steps       an optimizer's step
timing      contestants in turn; medians and quartiles
result      rows, as JSON and as a table
"""

from tvlars.lab.bench.measure import BenchConfig, bench
from tvlars.lab.bench.result import BenchResult, Row

__all__ = ["BenchConfig", "BenchResult", "Row", "bench"]
