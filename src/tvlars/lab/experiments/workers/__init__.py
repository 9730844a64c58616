"""Workers that do the runs of an experiment."""
