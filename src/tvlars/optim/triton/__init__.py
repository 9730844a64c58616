"""Triton kernels on CUDA devices: availability, forms of the rules, the launcher, and the kernels themselves."""
