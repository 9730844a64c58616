"""Integrations with other frameworks: one module per framework, which users import."""
