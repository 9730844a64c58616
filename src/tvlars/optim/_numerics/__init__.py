"""Arithmetic of the optimizers: norms, norms over shards, trust ratios, and terms of numbers or tensors."""
