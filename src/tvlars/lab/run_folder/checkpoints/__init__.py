"""Checkpoints of a run: written atomically, and checked before use."""
