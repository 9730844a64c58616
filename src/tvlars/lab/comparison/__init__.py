"""Comparison of runs: statistics, tables and a verdict."""
