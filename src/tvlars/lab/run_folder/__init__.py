"""The folder of a run: written as the run goes on, checked, and read back."""
