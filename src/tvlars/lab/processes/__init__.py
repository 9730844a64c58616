"""Processes of one run: launcher, collectives, signals and synchronized batch norm."""
