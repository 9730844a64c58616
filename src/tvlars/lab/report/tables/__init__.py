"""Tables of a page besides the table of arms: estimates with intervals, settings, and the cost of a target."""
