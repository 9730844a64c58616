"""Sets of runs: comparisons, sweeps on this machine or on a Ray cluster, studies, and tuning with equal budgets."""
