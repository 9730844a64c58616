"""Augmentation of whole batches on their device, and of single samples."""
