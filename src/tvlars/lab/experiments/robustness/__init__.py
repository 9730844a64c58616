"""Robustness: accuracy of each arm over the learning rate."""
