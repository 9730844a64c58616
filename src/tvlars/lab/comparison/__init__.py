"""Comparison of runs: statistics, tables and verdicts."""
