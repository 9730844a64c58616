"""How fast this is, on the machine at hand: ratios measured in one run, with medians and quartiles.

``tvlars bench`` and the scripts in benchmarks/ share what is here:

    timing      contestants in turn; medians, quartiles, slopes
    machine     the machine in words; memory of processes
    apart       a contestant in a process of its own
    loops       the laboratory's loop, and a DataLoader's
    steps       an optimizer's step; a training step with this switch or that
    parts       what tvlars bench measures
    result      its rows, as JSON and as a table
"""

from tvlars.lab.bench.parts import BenchConfig, bench
from tvlars.lab.bench.result import BenchResult, Row

__all__ = ["BenchConfig", "BenchResult", "Row", "bench"]
