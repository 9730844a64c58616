"""Robustness: accuracy of each arm as a function of the learning rate."""
