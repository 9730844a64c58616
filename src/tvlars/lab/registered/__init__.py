"""Protocol of a folder of runs, recorded before the first of them, and the deviations of the runs from it."""
