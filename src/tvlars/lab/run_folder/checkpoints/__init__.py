"""Checkpoints: written whole, checked before any of them is used."""
