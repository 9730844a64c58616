"""A run: from a config to a trained model."""
