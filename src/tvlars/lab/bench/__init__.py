"""Benchmark of this machine: medians, quartiles and ratios, measured in one run."""

from tvlars.lab.bench.measure import BenchConfig, bench
from tvlars.lab.bench.result import BenchResult, Row

__all__ = ["BenchConfig", "BenchResult", "Row", "bench"]
