"""Scaling: steps that each arm needs to reach a target accuracy, as a function of the batch size."""
