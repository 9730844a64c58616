"""Sets of runs: comparisons, sweeps on this machine or on a Ray cluster, and tuning with equal budgets."""
