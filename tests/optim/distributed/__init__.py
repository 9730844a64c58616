"""Checks that need several processes, a file a topic; ``tests/optim/test_distributed.py`` runs them."""
