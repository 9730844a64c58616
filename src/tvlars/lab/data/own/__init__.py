"""Data that users bring: Datasets, and functions and classes that return them."""
