"""Studies: arms at several learning rates with several seeds; the base of robustness and scaling."""
