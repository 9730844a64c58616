"""Tuning: trials that a sampler chooses, equally many for each optimizer, then the best of each with fresh seeds."""
