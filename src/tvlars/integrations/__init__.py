"""What other frameworks need to find our optimizers by name; one file a framework, imported by whoever uses it."""
