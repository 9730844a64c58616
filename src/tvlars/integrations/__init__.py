"""Names under which other frameworks find our optimizers: one file per framework, imported by its users."""
