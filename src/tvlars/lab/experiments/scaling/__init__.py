"""Scaling: steps of each arm to a target over the batch size."""
