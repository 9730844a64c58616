"""Measurements on a model: accuracy, sharpness, noise scale, loss landscape, layer statistics."""
