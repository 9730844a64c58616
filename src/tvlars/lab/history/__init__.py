"""Later analysis of runs: lists with settings and results, filters, and differences."""
