"""Protocols of experiments: files that say before the first run what is run, compared and counted."""

from tvlars.lab.protocol.check import Check
from tvlars.lab.protocol.protocol import Protocol

__all__ = ["Check", "Protocol"]
