"""Tuning: the same number of trials for each optimizer, then runs of the best options with fresh seeds."""
