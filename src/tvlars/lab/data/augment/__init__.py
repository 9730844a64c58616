"""Augmentation: of a batch at once on its device, and of samples one by one."""
