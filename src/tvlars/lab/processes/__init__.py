"""Processes of one run: started, met, and kept alike."""
