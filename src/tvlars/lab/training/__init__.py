"""Training of a model, from its config to its results."""
