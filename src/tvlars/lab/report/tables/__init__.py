"""Tables of a page beside that of the arms: estimates with intervals, settings, and the cost of a target."""
