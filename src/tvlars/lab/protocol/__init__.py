"""Protocols of experiments: files that declare, before the first run, the runs, comparisons and budgets."""

from tvlars.lab.protocol.check import Check
from tvlars.lab.protocol.protocol import Protocol

__all__ = ["Check", "Protocol"]
