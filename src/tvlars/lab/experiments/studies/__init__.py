"""Studies: arms at several learning rates with several seeds, which robustness and scaling are made of."""
