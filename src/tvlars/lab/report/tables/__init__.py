"""Further tables of a page: estimates with intervals, settings, and the cost of a target."""
