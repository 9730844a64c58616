"""Tuning: the same number of sampled trials for each optimizer, then the best of each with fresh seeds."""
