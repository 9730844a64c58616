"""Data of users: Datasets, and functions and classes that return them."""
