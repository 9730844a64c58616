"""Runs looked at later: listed with settings and results, filtered, and told apart."""
