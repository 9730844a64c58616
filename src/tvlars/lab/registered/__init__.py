"""Record of a protocol, written into the folder of runs before the first run, and deviations of the runs from it."""
