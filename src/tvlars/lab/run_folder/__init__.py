"""Folder of a run: its record, its checkpoints, and functions that read them back."""
